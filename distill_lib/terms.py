"""The terms of distillation: labels, the teacher's answers, its features, its relations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from . import losses
from .masks import IGNORE
from .objective import Term
from .schedules import Schedule, as_schedule
from .signals import Signals, accepts, pick

__all__ = ["CE", "DKD", "KD", "Match", "Relation"]

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
                f"{_name(loss)} takes no temperature, got {self.temperature}; leave it out"
            )
        for option in options:
            if not accepts(loss, option):
                raise TypeError(f"{_name(loss)} takes no argument {option!r}")

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
            inside.append(_name(self.transform))
        return _SYMBOLS.get(self.loss, _name(self.loss)) + (
            f"({', '.join(inside)})" if inside else ""
        )

    def latex(self) -> str:
        """The typeset term."""
        name = _SYMBOLS.get(self.loss, _name(self.loss))
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


class Match(Term):
    """An inner signal of the student against one of the teacher.

    Args:
        student: Path of the student's signal, such as ``"layer3"`` or ``"hidden_states/2"``.
        teacher: Path of the teacher's; the same by default.
        loss: A feature-based loss.
        project: A module that maps the student's signal to the teacher's shape. It is trained
            along.
        **options: More arguments of the loss, such as ``heads=12`` for ``losses.minilm_relation``.
            A loss that takes a ``mask`` gets ``batch["attention_mask"]``.

    Raises:
        ValueError: an empty path.
        TypeError: a projector that is not a module; an option that the loss does not take.

    Reference:
        Romero et al., *FitNets: hints for thin deep nets*, 2015.

    Example:
        >>> import torch
        >>> term = 50 * Match("layer3", "layer2", project=nn.Conv2d(8, 16, 1))
        >>> sum(p.numel() for p in term.parameters())
        144
    """

    key = "match"
    default: Loss = staticmethod(losses.hint)

    def __init__(
        self,
        student: str,
        teacher: str | None = None,
        loss: Loss | None = None,
        project: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        theirs = student if teacher is None else teacher
        for who, path in (("student", student), ("teacher", theirs)):
            if not isinstance(path, str) or not path:
                raise ValueError(
                    f"{type(self).__name__} has nothing to match: the {who}'s signal is {path!r}; "
                    "name one, such as 'layer3' or 'hidden_states/2'"
                )
        if project is not None and not isinstance(project, nn.Module):
            raise TypeError(
                f"project is a module, so that it can be trained, got {type(project).__name__}"
            )
        self.paths = (student, theirs)
        self.loss = self.default if loss is None else loss
        self.project = project
        self.options = options
        self.masked = accepts(self.loss, "mask")
        self.reads = {"student": (student,), "teacher": (theirs,)}
        for option in options:
            if not accepts(self.loss, option):
                raise TypeError(f"{_name(self.loss)} takes no argument {option!r}")

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """One value an item, or a token."""
        assert teacher is not None
        mine = pick(student, self.paths[0], "student")
        theirs = pick(teacher, self.paths[1], "teacher").detach()
        mine = mine if self.project is None else self.project(mine)
        options = dict(self.options)
        if self.masked:
            options.setdefault("mask", batch.get("attention_mask"))
        return self.loss(student=mine, teacher=theirs, **options)

    def text(self) -> str:
        """Such as ``hint(layer3~layer2)``."""
        mine, theirs = self.paths
        return f"{_name(self.loss)}({mine if mine == theirs else f'{mine}~{theirs}'})"

    def latex(self) -> str:
        """The typeset term."""
        mine, theirs = (p.replace("_", r"\_") for p in self.paths)
        name = _name(self.loss).replace("_", r"\_")
        return rf"\mathrm{{{name}}}(\mathtt{{{mine}}}, \mathtt{{{theirs}}})"


class Relation(Match):
    """The geometry of a batch: what is near to what, whatever the space.

    Takes no account of widths, so that no projector is needed.

    Args:
        student: Path of the student's signal.
        teacher: Path of the teacher's; the same by default.
        loss: A loss over the relations in a batch, such as ``losses.similarity``.

    Reference:
        Park et al., *Relational knowledge distillation*, 2019.
    """

    key = "relation"
    default = staticmethod(losses.rkd_distance)

    def __init__(self, student: str, teacher: str | None = None, loss: Loss | None = None) -> None:
        super().__init__(student, teacher, loss)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


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
