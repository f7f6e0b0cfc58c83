"""Terms on answers: the labels, and what the teacher says of each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor

from distill_lib import losses
from distill_lib.masks import IGNORE
from distill_lib.objective import Term, name_of
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.signals import Signals, accepts, pick

__all__ = ["CE", "DKD", "KD"]

Loss = Callable[..., Tensor]


def _labels(batch: Mapping[str, Any], logits: Tensor, who: str) -> Tensor:
    if "labels" not in batch:
        raise ValueError(
            f"{who} needs batch['labels']; the batch has: {', '.join(batch) or 'nothing'}"
        )
    labels = cast(Tensor, batch["labels"])
    shape = logits.shape[:-1]
    if labels.shape != shape:
        if labels.ndim > len(shape) or labels.shape != shape[len(shape) - labels.ndim :]:
            raise ValueError(
                f"{who}: logits {tuple(logits.shape)} expect labels {tuple(shape)}, "
                f"got {tuple(labels.shape)}"
            )
        labels = labels.expand(shape)  # several students, one set of labels
    return labels


class CE(Term):
    r"""Cross-entropy with the labels.

    .. math:: \ell = -\log q_y, \qquad q = \mathrm{softmax}(z)

    Labels of -100 are left out.

    Args:
        label_smoothing: :math:`\varepsilon`: the target becomes
            :math:`(1 - \varepsilon)\,\mathbf 1_y + \varepsilon / C`.
        on: The student's signal.

    Example:
        >>> import torch
        >>> loss, parts = CE()(torch.zeros(2, 4), batch={"labels": torch.tensor([1, -100])})
        >>> round(loss.item(), 4)
        1.3863
    """

    key = "ce"
    labeled = True

    def __init__(self, label_smoothing: float = 0.0, on: str = "logits") -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing lies in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.on = on
        self.reads = {"student": (on,), "teacher": ()}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] cross-entropies; 0 where there is no label."""
        logits = losses.full_precision(pick(student, self.on, "student"))
        labels = _labels(batch, logits, "CE")
        flat = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.reshape(-1),
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return flat.view(labels.shape)

    def text(self) -> str:
        """``CE`` or ``CE(ε=0.1)``."""
        return f"CE(ε={self.label_smoothing:g})" if self.label_smoothing else "CE"

    def latex(self) -> str:
        """The typeset term."""
        return r"\mathrm{CE}(y, q)"


class KD(Term):
    r"""The student's answer against the teacher's, softened by a temperature.

    .. math:: \ell = T^2 \, D(p_T, q_T), \qquad
       p_T = \mathrm{softmax}(v/T),\; q_T = \mathrm{softmax}(z/T)

    This is the one place that multiplies by :math:`T^2`: the gradient of the bare divergence falls
    like :math:`1/T^2`, so that without the factor a higher temperature would switch the term off.

    Args:
        loss: A response-based loss with ``student`` and ``teacher``; ``temperature`` is passed when
            it takes one, ``labels`` likewise.
        temperature: :math:`T > 0`, a number or a schedule.
        on: The signal of both.
        transform: Applied to both logits first, such as :func:`distill_lib.losses.standardize`.
        **options: More arguments of the loss, such as ``beta=0.1`` for ``losses.jsd``.

    Raises:
        ValueError: a temperature for a loss that takes none.
        TypeError: an option that the loss does not take.

    Reference:
        Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015.

    Example:
        >>> import torch
        >>> loss, parts = KD(temperature=4)(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        >>> loss.item()
        0.0
    """

    key = "kd"

    def __init__(
        self,
        loss: Loss = losses.kl,
        temperature: Schedule | float = 1.0,
        on: str = "logits",
        transform: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.temperature = as_schedule(temperature)
        self.on = on
        self.transform = transform
        self.options = options
        self.tempered = accepts(loss, "temperature")
        self.labeled = accepts(loss, "labels")
        self.reads = {"student": (on,), "teacher": (on,)}
        if not self.tempered and self.temperature.fixed != 1.0:
            raise ValueError(
                f"{name_of(loss)} takes no temperature, got {self.temperature}; leave it out"
            )
        for option in options:
            if not accepts(loss, option):
                raise TypeError(f"{name_of(loss)} takes no argument {option!r}")

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] values of T² times the divergence."""
        assert teacher is not None
        z, v = pick(student, self.on, "student"), pick(teacher, self.on, "teacher").detach()
        if self.transform is not None:
            z, v = self.transform(z), self.transform(v)
        options = dict(self.options)
        if self.labeled:
            # any class will do for items that the mask leaves out
            options["labels"] = _labels(batch, z, self.text()).clamp_min(0)
        if not self.tempered:
            return self.loss(student=z, teacher=v, **options)
        T = self.temperature(progress)
        values = self.loss(student=z, teacher=v, temperature=T, **options)
        return values if T == 1.0 else T * T * values

    def text(self) -> str:
        """Such as ``KL(T=8→1)``."""
        inside = [f"T={self.temperature}"] if self.temperature.fixed != 1.0 else []
        inside += [
            f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.options.items()
        ]
        if self.transform is not None:
            inside.append(name_of(self.transform))
        return _SYMBOLS.get(self.loss, name_of(self.loss)) + (
            f"({', '.join(inside)})" if inside else ""
        )

    def latex(self) -> str:
        """The typeset term."""
        name = _SYMBOLS.get(self.loss, name_of(self.loss))
        T = self.temperature
        if not self.tempered or T.fixed == 1.0:
            return rf"\mathrm{{{name}}}(p \,\|\, q)"
        return rf"T^2\,\mathrm{{{name}}}(p_T \,\|\, q_T)\big|_{{T={T.latex()}}}"


class DKD(KD):
    r"""Decoupled distillation: the target class and the others, each with its own weight.

    .. math:: \ell = T^2 \left( \alpha\, \mathrm{TCKD} + \beta\, \mathrm{NCKD} \right)

    Args:
        alpha: Weight of the target-class part.
        beta: Weight of the non-target-class part.
        temperature: :math:`T > 0`, a number or a schedule.
        on: The signal of both.

    Reference:
        Zhao et al., *Decoupled knowledge distillation*, 2022.
    """

    key = "dkd"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: Schedule | float = 4.0,
        on: str = "logits",
    ) -> None:
        super().__init__(losses.dkd, temperature, on, alpha=float(alpha), beta=float(beta))


_SYMBOLS: dict[Any, str] = {
    losses.kl: "KL",
    losses.reverse_kl: "RKL",
    losses.jsd: "JSD",
    losses.dkd: "DKD",
    losses.mse_logits: "MSE",
    losses.soft_cross_entropy: "SCE",
    losses.tvd: "TV",
    losses.dist: "DIST",
    losses.nll: "NLL",
    losses.gaussian_kl: "KL",
    losses.policy_kl: "KL",
}
