r"""The terms of learning by reinforcement, so that a teacher is one more term beside them.

>>> from distill_lib import KD, PPO, linear
>>> print(PPO(clip=0.2) + linear(0.5, 0) * KD())
clip(ε=0.2) + 0.5·value + 0.5→0·KL
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from distill_lib import losses
from distill_lib.arguments import checked, told
from distill_lib.losses import policy
from distill_lib.masks import kept_of
from distill_lib.objective import Objective, Term, name_of
from distill_lib.signals import Signals, accepts, pick

from .answers import check_softmax

__all__ = ["PPO", "Consistency", "Entropy", "Surrogate", "Value"]


def _need(batch: Mapping[str, Any], name: str, who: str, device: torch.device) -> Tensor:
    if name not in batch:
        raise ValueError(
            f"{who} needs batch[{name!r}], which rl.OnPolicy gives; "
            f"the batch has: {', '.join(batch) or 'nothing'}"
        )
    try:
        return torch.as_tensor(batch[name], device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        got = told(batch[name])
        raise TypeError(f"{who} expected batch[{name!r}] to be a tensor, got {got}") from error


def _filled(values: Tensor, kept: Tensor | None) -> Tensor:
    """Numbers of a batch, 0 where a mask leaves items out: their gradient would be 0 · nan."""
    if kept is None or values.shape[: kept.ndim] != kept.shape:
        return values
    out = ~kept.to(values.device).reshape(*kept.shape, *[1] * (values.ndim - kept.ndim))
    return values.masked_fill(out, 0)


def _is_gaussian(on: str, who: str) -> bool:
    """Whether a signal is a Gaussian policy, by the last part of its name; else it is logits."""
    name = on.rpartition("/")[2]
    if name == "mean":
        raise ValueError(
            f"{who}: a mean alone has no probabilities, and is no logits; let the policy say "
            "'gaussian', the mean and the log standard deviation one after the other"
        )
    return name == "gaussian"


@checked
class Surrogate(Term):
    """The clipped surrogate of PPO: :func:`distill_lib.losses.policy.surrogate`.

    Reads ``actions``, ``log_prob`` and ``advantages`` of the batch. Actions [..., A] of several
    heads, logits [..., A, n], have the probability of all heads together.

    Args:
        clip: ε in (0, 1).
        on: The student's signal, ``logits`` or ``gaussian``.

    Raises:
        ValueError: an ε outside (0, 1), a mean as the signal, or a batch without what the term
            reads, or with it in another shape.
    """

    clip: float
    gaussian: bool
    on: str

    key = "surrogate"

    def __init__(self, clip: float = 0.2, on: str = "logits") -> None:
        super().__init__()
        if not 0 < clip < 1:
            raise ValueError(f"clip lies in (0, 1), got {clip}; 0.2 is usual")
        self.clip, self.on, self.gaussian = clip, on, _is_gaussian(on, "Surrogate")
        self.reads: Mapping[str, tuple[str, ...]] = {"student": (on,), "teacher": ()}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] losses."""
        said = pick(student, self.on, "student")
        given = [
            _need(batch, name, "Surrogate", said.device)
            for name in ("actions", "log_prob", "advantages")
        ]
        kept = kept_of(given[1].shape, False, self.about(batch))
        actions, old, advantages = (_filled(x, kept) for x in given)
        of = policy.gaussian_log_prob if self.gaussian else policy.log_prob
        now = policy.whole(of(said, actions), old)
        return policy.surrogate(log_prob=now, old=old, advantages=advantages, clip=self.clip)

    def text(self) -> str:
        """Such as ``clip(ε=0.2)``."""
        return f"clip(ε={self.clip:g})"

    def latex(self) -> str:
        """The typeset term."""
        return rf"L^{{\mathrm{{clip}}}}_{{\epsilon={self.clip:g}}}"


class Value(Term):
    r"""Squared error of the critic against the returns: :math:`(V(s) - R)^2`.

    Reads ``returns`` of the batch, [...], and the student's ``value``, [...] or [..., 1].

    Raises:
        ValueError: a batch without them, or with other shapes than the student's ``value``.
    """

    key = "value"

    def __init__(self) -> None:
        super().__init__()
        self.reads: Mapping[str, tuple[str, ...]] = {"student": ("value",), "teacher": ()}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] squared errors."""
        said = losses.full_precision(pick(student, "value", "student"))
        wanted = _need(batch, "returns", "Value", said.device)
        if said.shape == (*wanted.shape, 1):  # as a last layer says it; else [B, B] would be made
            said = said.squeeze(-1)
        wanted = _filled(wanted, kept_of(said.shape, False, self.about(batch)))
        return (said - policy.like("returns", wanted, said)) ** 2

    def text(self) -> str:
        """``value``."""
        return "value"

    def latex(self) -> str:
        """The typeset term."""
        return r"(V - R)^2"


class Entropy(Term):
    """Entropy of the policy; subtract it to keep exploration alive.

    Several heads, logits [..., A, n], have the sum of their entropies where the batch has a
    ``log_prob`` [...], as those of :class:`distill_lib.rl.OnPolicy` have; else one each, [..., A].

    Args:
        on: The student's signal, ``logits`` or ``gaussian``.

    Raises:
        ValueError: a mean as the signal.
    """

    gaussian: bool

    key = "entropy"

    def __init__(self, on: str = "logits") -> None:
        super().__init__()
        self.on, self.gaussian = on, _is_gaussian(on, "Entropy")
        self.reads: Mapping[str, tuple[str, ...]] = {"student": (on,), "teacher": ()}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] entropies in nats."""
        of = policy.gaussian_entropy if self.gaussian else policy.entropy
        found = of(pick(student, self.on, "student"))
        old = batch.get("log_prob")
        return found if old is None else policy.whole(found, torch.as_tensor(old))

    def text(self) -> str:
        """``H``."""
        return "H"

    def latex(self) -> str:
        """The typeset term."""
        return r"H(\pi)"


@checked
def PPO(
    clip: float = 0.2, value: float = 0.5, entropy: float = 0.0, on: str = "logits"
) -> Objective:
    r"""Proximal policy optimization as an objective.

    .. math:: L = L^{\mathrm{clip}} + c_v\,(V - R)^2 - c_H\, H(\pi)

    A teacher is one more term: ``PPO() + linear(0.5, 0) * KD()`` is kickstarting. Its batches come
    from :class:`distill_lib.rl.OnPolicy`. Of A heads, probability and entropy are those of the
    whole action, sums over the heads, and ``KD()`` is a mean over them: the divergence of whole
    actions is A times that.

    Args:
        clip: ε of the surrogate.
        value: Weight of the critic's error; 0 for a policy without a critic.
        entropy: Weight of the entropy.
        on: The student's signal, ``logits`` or ``gaussian``.

    Reference:
        Schulman et al., *Proximal policy optimization algorithms*, 2017; Schmitt et al.,
        *Kickstarting deep reinforcement learning*, 2018.
    """
    objective = 1.0 * Surrogate(clip, on)
    if value:
        objective = objective + value * Value()
    if entropy:
        objective = objective - entropy * Entropy(on)
    return objective


class Consistency(Term):
    r"""The student's answer to a changed view against its answer to the plain one.

    .. math:: \ell = D\left(\mathrm{sg}[\pi(\cdot \mid s)],\; \pi(\cdot \mid s')\right)

    :math:`s'` may be a noisy observation: the policy becomes smooth where the teacher says nothing.
    No gradient flows through the plain answer (sg). Both answers come from
    ``distill(..., forward=rl.two_views(change))``.

    Args:
        loss: A loss with ``student`` and ``teacher``.
        on: The signal that is compared.

    Raises:
        TypeError: a loss that takes other arguments.
        ValueError: a softmax over real actions, ``on="gaussian"`` or ``"mean"``: it is blind to a
            shift that all of them share.

    Example:
        >>> import torch
        >>> said = {"logits": torch.zeros(2, 3), "view": {"logits": torch.zeros(2, 3)}}
        >>> Consistency()(said)[0].item()
        0.0
    """

    loss: Any
    on: str

    key = "consistency"

    def __init__(self, loss: Any = losses.kl, on: str = "logits") -> None:
        super().__init__()
        known = callable(loss) and accepts(loss, "student") and accepts(loss, "teacher")
        if not known:
            raise TypeError(
                "Consistency expected a loss with the keywords student and teacher, "
                f"got {told(loss)}"
            )
        check_softmax(loss, on, "Consistency")
        self.loss, self.on = loss, on
        self.reads: Mapping[str, tuple[str, ...]] = {"student": (on, f"view/{on}"), "teacher": ()}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] divergences."""
        changed = pick(student, f"view/{self.on}", "student")
        plain = pick(student, self.on, "student").detach()
        return cast(Tensor, self.loss(student=changed, teacher=plain))

    def text(self) -> str:
        """Such as ``consistency(kl)``."""
        return f"consistency({name_of(self.loss)})"

    def latex(self) -> str:
        """The typeset term."""
        return r"D(\mathrm{sg}[\pi_s], \pi_{s'})"
