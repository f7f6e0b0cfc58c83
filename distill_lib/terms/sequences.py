"""Terms on the words that a model wrote itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import checked
from distill_lib.losses import full_precision, policy
from distill_lib.losses._common import check_logits
from distill_lib.masks import IGNORE, kept_of
from distill_lib.objective import Term
from distill_lib.signals import Signals, pick

from .classes import answers_of, class_numbers, find_labels

__all__ = ["LogRatio"]


@checked
class LogRatio(Term):
    r"""The reverse KL as a policy gradient: how much likelier the teacher finds what was written.

    .. math:: \ell_t = -\bar A_t \, \frac{q(y_t)}{\bar q(y_t)}, \qquad
       A_t = r_t + \gamma\, r_{t+1} + \gamma^2 r_{t+2} + \dots, \qquad
       r_t = \log \frac{p(y_t)}{q(y_t)}

    with words :math:`y_t` that the *student* wrote, its probability :math:`q` and the teacher's
    :math:`p`, each given the words before; what has a bar is held fixed. The value, with
    :math:`\gamma = 0`, is an estimate of :math:`\mathrm{KL}(q \,\|\, p)`, and the gradient
    :math:`-A_t \nabla \log q(y_t)`.

    - :math:`\gamma = 0`: over the student's own next words, given the words before, the mean of
      this gradient is that of ``KD(losses.reverse_kl)``, which has no variance from sampling.
    - :math:`\gamma = 1`: over whole texts, it is the gradient of the divergence of texts, in which
      a word also answers for where it leads.
    - On words that somebody else wrote it is neither, unless ``batch["weight"]`` holds
      :math:`q(y_t) / p(y_t)` or the like.
    - To backpropagate :math:`\log q - \log p` itself would not do: of that, the mean of the
      gradient is 0, whatever the teacher says.

    It needs of the teacher no more than the probability of each word: with a signal ``log_prob``,
    ``LogRatio(on=("logits", "log_prob"))`` serves a teacher behind an interface.

    Args:
        temperature: What the words were sampled with; both are softened by it. There is no
            :math:`T^2` in it.
        on: The signal of both, or a pair: the student's and the teacher's. The teacher's may be the
            log-probabilities of the words, in the shape of the labels.
        clip: Largest :math:`|r_t|`; None for no limit.
        discount: :math:`\gamma` in [0, 1].
        advantages: ``"raw"``; ``"centered"``, less their mean over the batch (of each student);
            ``"standardized"``, divided by their standard deviation as well.
        labels: The name of the words in the batch, each where it is predicted.
        within_micro_batch: That means are those of a micro-batch, where gradients are accumulated.
            Else that is refused.

    Raises:
        ValueError: a number out of its range, an unknown kind of advantages, a temperature for a
            teacher of whom only log-probabilities are known, signals of other words.
        TypeError: an argument of another type.

    Reference:
        Gu et al., *MiniLLM: knowledge distillation of large language models*, 2024; Schulman,
        *Approximating KL divergence*, 2020.

    Example:
        >>> student = torch.zeros(1, 1, 2, requires_grad=True)
        >>> said = {"logits": torch.tensor([[[2.0, 0.0]]])}
        >>> loss, _ = LogRatio()(student, said, {"labels": torch.tensor([[0]])})
        >>> loss.backward()
        >>> student.grad  # the word that the teacher likes becomes likelier
        tensor([[[-0.2831,  0.2831]]])
    """

    temperature: float
    clip: float | None
    discount: float
    advantages: str
    labels: str

    key = "log_ratio"
    labeled = True

    def __init__(
        self,
        temperature: float = 1.0,
        on: str | tuple[str, str] = "logits",
        *,
        clip: float | None = None,
        discount: float = 0.0,
        advantages: str = "raw",
        labels: str = "labels",
        within_micro_batch: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature expected a number > 0, got {temperature}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip expected a number > 0 or None, got {clip}")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount lies in [0, 1], got {discount}")
        if advantages not in ("raw", "centered", "standardized"):
            raise ValueError(
                f"advantages are 'raw', 'centered' or 'standardized', got {advantages!r}"
            )
        self.paths: tuple[str, ...] = tuple(on) if isinstance(on, (tuple, list)) else (on, on)
        if len(self.paths) != 2:
            raise ValueError(
                f"on is one signal for both or a pair (student's, teacher's), not {on}"
            )
        self.temperature, self.clip, self.discount = temperature, clip, discount
        self.advantages, self.labels = advantages, labels
        self.relational = advantages != "raw"
        self.within_micro_batch = within_micro_batch
        self.reads: Mapping[str, tuple[str, ...]] = {
            "student": self.paths[:1],
            "teacher": self.paths[1:],
        }

    def view(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with the words as its labels."""
        return batch if self.labels == "labels" else {**batch, "labels": batch.get(self.labels)}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] values whose gradients are those of the policy."""
        assert teacher is not None
        z = answers_of(student, self.paths[0], self.text())
        v = pick(teacher, self.paths[1], "teacher").detach()
        found = find_labels(batch, self.labels, self.text(), z.device)
        words = class_numbers(found, z.shape, IGNORE, self.text())
        words = torch.where(words == IGNORE, 0, words)  # what is left out becomes 0 below
        log_q = policy.log_prob(z / self.temperature, words)
        kept = kept_of(words.shape, True, self.about(batch))
        log_p = self._of_teacher(v, z, words, found.ndim, kept)
        reward = log_p - log_q.detach()
        if self.clip is not None:
            reward = reward.clamp(-self.clip, self.clip)
        if kept is not None:
            reward = reward.masked_fill(~kept, 0.0)
        advantage = self._normalized(self._returns(reward), kept)
        return -advantage * (log_q - log_q.detach()).exp()

    def _of_teacher(
        self, v: Tensor, z: Tensor, words: Tensor, spoken: int, kept: Tensor | None
    ) -> Tensor:
        """The teacher's log-probabilities of the words: computed, or given as they are."""
        if v.ndim > spoken:
            check_logits(self.text(), z, v)
            return policy.log_prob((full_precision(v) / self.temperature).expand(z.shape), words)
        fits = v.shape == words.shape[words.ndim - spoken :]
        if fits and kept is not None:  # at words that are left out stands anything
            v = v.expand(words.shape).masked_fill(~kept, 0.0)
        if not fits or not bool((v < 1e-3).all()):
            raise ValueError(
                f"{self.text()}: the teacher's {self.paths[1]} {list(v.shape)} are neither logits "
                f"{list(z.shape)} nor log-probabilities, below 0, of the words {list(words.shape)}"
            )
        if self.temperature != 1.0:
            raise ValueError(
                f"{self.text()}: log-probabilities of words alone cannot be softened; sample at "
                "temperature 1"
            )
        return full_precision(v).expand(words.shape)

    def _returns(self, reward: Tensor) -> Tensor:
        """The discounted sum of a word's reward and of those after it."""
        if self.discount == 0:
            return reward
        total, sums = torch.zeros_like(reward[..., 0]), []
        for one in reversed(reward.unbind(-1)):
            total = one + self.discount * total
            sums.append(total)
        return torch.stack(sums[::-1], -1)

    def _normalized(self, advantage: Tensor, kept: Tensor | None) -> Tensor:
        if self.advantages == "raw":
            return advantage
        axes = (-2, -1) if advantage.ndim > 1 else (-1,)  # of each of several students
        counts = torch.ones_like(advantage) if kept is None else kept.to(advantage.dtype)
        n = counts.sum(axes, keepdim=True).clamp(min=1)
        advantage = advantage - (advantage * counts).sum(axes, keepdim=True) / n
        if self.advantages == "centered":
            return advantage
        deviation = ((advantage.square() * counts).sum(axes, keepdim=True) / n).sqrt()
        return advantage / torch.where(deviation > 0, deviation, 1.0)

    def text(self) -> str:
        """Such as ``log-ratio(clip=5, standardized)``."""
        inside = [f"T={self.temperature:g}"] if self.temperature != 1.0 else []
        inside += [f"{self.paths[0]}~{self.paths[1]}"] if len({*self.paths}) > 1 else []
        inside += [] if self.clip is None else [f"clip={self.clip:g}"]
        inside += [f"γ={self.discount:g}"] if self.discount else []
        inside += [self.advantages] if self.advantages != "raw" else []
        return "log-ratio" + (f"({', '.join(inside)})" if inside else "")

    def latex(self) -> str:
        """The typeset term."""
        return r"-\bar{A} \, q / \bar{q}"
