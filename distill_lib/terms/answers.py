"""Terms on answers: what the teacher says of each item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from distill_lib import losses
from distill_lib.losses._common import check_number
from distill_lib.masks import IGNORE, kept_of, masks_of
from distill_lib.objective import Term, name_of
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.signals import Signals, accepts

from .classes import (
    beside,
    class_axis,
    class_numbers,
    classes_last,
    distributions,
    find_labels,
    is_soft,
    needs_classes,
    view_of,
)
from .given import (
    both,
    check_call,
    check_name,
    takes,
    temperature_at,
    times_squared,
    whole,
    wrapped,
)
from .relations import among_kept, is_relational

__all__ = ["DKD", "KD"]

Loss = Callable[..., Tensor]


class KD(Term):
    r"""The student's answer against the teacher's, softened by a temperature.

    .. math:: \ell = T^2 \, D(p_T, q_T), \qquad
       p_T = \mathrm{softmax}(v/T),\; q_T = \mathrm{softmax}(z/T)

    This is the one place that multiplies by :math:`T^2`: the gradient of the bare divergence falls
    like :math:`1/T^2`, so that without the factor a higher temperature would switch the term off.

    Args:
        loss: A response-based loss with ``student`` and ``teacher``; ``temperature`` is passed when
            it takes one, ``labels`` likewise. Independent labels and binary models want
            ``losses.bernoulli_kl``, regression ``losses.mse_logits``. One of your own gets the
            classes last, and returns a value an item.
        temperature: :math:`T > 0`, a number or a schedule; a pair is the student's and the
            teacher's, and their product stands for :math:`T^2`. Above about 1,000 it is refused
            in float32, whose rounding would be as large as the loss.
        on: The signal of both, or a pair: the student's and the teacher's.
        transform: Applied to both logits first, such as :func:`distill_lib.losses.standardize`.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last; where the
            shapes leave a doubt, as all of more than three axes do, it has to be said: -1 leaves
            them as they are.
        labels: The name of the labels in the batch, for losses that take them.
        ignore_index: The label of what is left out, where there is one a position.
        within_micro_batch: Of a loss over the relations of a batch (``losses.dist``): that they are
            those within a micro-batch, where gradients are accumulated. Else that is refused.
        **options: More arguments of the loss, such as ``beta=0.1`` for ``losses.jsd``.

    Raises:
        ValueError: a temperature for a loss that takes none, or one that is not positive; a softmax
            over one class, or over an axis that may be none of classes; labels that are no
            distributions beside a softmax.
        TypeError: a loss that is none, or an option that it does not take or lacks; a setting of
            another kind.

    Reference:
        Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015.

    Example:
        >>> import torch
        >>> loss, parts = KD(temperature=4)(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        >>> loss.item()
        0.0
    """

    ignore_index: int
    labels: str
    on: Any
    teacher_on: Any

    key = "kd"

    def __init__(
        self,
        loss: Loss = losses.kl,
        temperature: Schedule | float | tuple[Schedule | float, Schedule | float] = 1.0,
        on: str | tuple[str, str] = "logits",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        axis: int | None = None,
        labels: str = "labels",
        ignore_index: int = IGNORE,
        within_micro_batch: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        _check_loss(loss, type(self).__name__)
        self.loss = loss
        bare = getattr(loss, "func", loss)
        self.softmax: bool = bare in _SOFTMAX
        self.classed: bool = bare not in _OF_MAPS
        mine, theirs = _two(temperature, "temperature")
        self.temperature: Schedule = as_schedule(mine)
        self.teacher_temperature: Schedule = (
            self.temperature if theirs is mine else as_schedule(theirs)
        )
        self.on, self.teacher_on = _two(on, "on")
        check_softmax(loss, self.on, type(self).__name__)
        if transform is not None and not callable(transform):
            raise TypeError(f"transform is a function, such as losses.standardize, got {transform}")
        check_name("labels", labels, type(self).__name__)
        self.transform = transform
        self.axis = None if axis is None else whole("axis", axis, "the last is -1")
        self.labels = labels
        self.ignore_index = whole("ignore_index", ignore_index, "-100 is usual")
        self.options = options
        self.relational: bool = is_relational(loss, options)
        self.within_micro_batch = within_micro_batch
        self.tempered: bool = accepts(loss, "temperature")
        self.labeled: bool = accepts(loss, "labels")
        self.reads: Mapping[str, tuple[str, ...]] = {
            "student": (self.on,),
            "teacher": (self.teacher_on,),
        }
        if axis is not None and not self.classed:
            raise TypeError(f"{name_of(loss)} takes maps [B, C, H, W] as they are; leave out axis=")
        for T in (self.temperature, self.teacher_temperature):
            if not self.tempered and T.fixed != 1.0:
                raise ValueError(f"{name_of(loss)} takes no temperature, got {T}; leave it out")
            if not T(0.0) > 0 or T(0.5) < 0 or T(1.0) < 0:
                raise ValueError(f"temperature expected numbers > 0, got {T}; 1 leaves logits")
        for option in options:
            if not takes(loss, option):
                hint = "; the temperature is temperature=" if option in ("T", "tau", "temp") else ""
                raise TypeError(f"{name_of(loss)} takes no argument {option!r}{hint}")
        more = ["temperature"] * self.tempered + ["labels"] * self.labeled
        check_call(loss, type(self).__name__, "student", "teacher", *more, *options)

    @cached_property
    def _who(self) -> str:
        """The term in an error; printing schedules takes as long as a small loss."""
        return self.text()

    def view(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with these labels, and -100 where they are left out."""
        known = self.labeled or beside(batch, self.labels) is not None
        return view_of(batch, self.labels, self.ignore_index) if known else batch

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] values of T² times the divergence."""
        z, v = both(student, teacher, self.on, self.teacher_on)
        z, v = self._classes_last(z, v, batch)
        if self.transform is not None:
            z, v = self.transform(z), self.transform(v)
        options = dict(self.options)
        if self.labeled:
            found = find_labels(batch, self.labels, self._who, z.device)
            numbers = class_numbers(found, z.shape, self.ignore_index, self._who)
            # any class will do for items that the mask leaves out
            options["labels"] = torch.where(numbers == self.ignore_index, 0, numbers)
        loss: Loss = self.loss
        if self.relational:
            loss = partial(self._among_kept, self.about(batch))
        if not self.tempered:
            return loss(student=z, teacher=v, **options)
        T = temperature_at(self.temperature, progress, self._who)
        theirs = temperature_at(self.teacher_temperature, progress, self._who)
        if theirs != T:
            v = losses.full_precision(v) * (T / theirs)
        values = loss(student=z, teacher=v, temperature=T, **options)
        return times_squared(values, T, theirs)

    def _among_kept(
        self, batch: Mapping[str, Any], *, student: Tensor, teacher: Tensor, **options: Any
    ) -> Tensor:
        """The relations of the kept items: of each student of several, or of all tokens, pixels."""
        shape = student.shape[:-1]
        masks = masks_of(shape, self.labeled, batch)
        kept = kept_of(shape, self.labeled, batch)
        ids = (batch.get(key) for key in ("input_ids", "decoder_input_ids"))
        pooled = self.axis is not None or "attention_mask" in masks
        if pooled or any(isinstance(x, Tensor) and x.shape == shape for x in ids):
            kept = torch.ones_like(student[..., 0], dtype=torch.bool) if kept is None else kept
            return among_kept(self.loss, student, teacher, kept, **options)
        if student.ndim < 3 or kept is None:
            return among_kept(self.loss, student, teacher, kept, **options)
        each = zip(student, teacher.expand_as(student), kept, strict=True)
        return torch.stack([among_kept(self.loss, z, v, k, **options) for z, v, k in each])

    def _classes_last(
        self, z: Tensor, v: Tensor, batch: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Both with the classes last, for any loss; what can be none is refused for a softmax."""
        if z.ndim == v.ndim == 1:  # one number an item
            z, v = z.unsqueeze(-1), v.unsqueeze(-1)
        if self.axis is None and not self.classed:
            return z, v
        who, labels = self._who, beside(batch, self.labels)
        axis = class_axis(v.shape, self.axis, labels, who, batch)
        if self.softmax and isinstance(labels, Tensor) and is_soft(labels, v.shape, axis):
            distributions(classes_last(labels, axis), who)
        z, v = classes_last(z, axis), classes_last(v, axis)
        if self.softmax:
            needs_classes(who, z)
        return z, v

    def text(self) -> str:
        """Such as ``KL(T=8→1)``."""
        both = self.temperature, self.teacher_temperature
        one = both[0] is both[1]
        inside = [f"T={both[0] if one else both}"] if any(T.fixed != 1.0 for T in both) else []
        inside += [
            f"{k}={float(v):g}" if isinstance(v, Real) and not isinstance(v, bool) else f"{k}={v}"
            for k, v in self.options.items()
        ]
        if self.transform is not None:
            inside.append(name_of(self.transform))
        if self.on != self.teacher_on:
            inside.append(f"{self.on}~{self.teacher_on}")
        inside += [] if self.axis is None else [f"axis={self.axis}"]
        return _SYMBOLS.get(self.loss, name_of(self.loss)) + (
            f"({', '.join(inside)})" if inside else ""
        )

    def latex(self) -> str:
        """The typeset term."""
        name = _SYMBOLS.get(self.loss, name_of(self.loss))
        T, theirs = self.temperature, self.teacher_temperature
        if not self.tempered or T.fixed == theirs.fixed == 1.0:
            return rf"\mathrm{{{name}}}(p \,\|\, q)"
        if theirs is not T:
            both = rf"_{{T={T.latex()},\,T'={theirs.latex()}}}"
            return rf"T\,T'\,\mathrm{{{name}}}(p_{{T'}} \,\|\, q_T)\big|{both}"
        return rf"T^2\,\mathrm{{{name}}}(p_T \,\|\, q_T)\big|_{{T={T.latex()}}}"


class DKD(KD):
    r"""Decoupled distillation: the target class and the others, each with its own weight.

    .. math:: \ell = T^2 \left( \alpha\, \mathrm{TCKD} + \beta\, \mathrm{NCKD} \right)

    Args:
        alpha: Weight of the target-class part.
        beta: Weight of the non-target-class part.
        temperature: :math:`T > 0`, a number or a schedule.
        on: The signal of both, or a pair.
        **settings: ``axis``, ``labels`` and ``ignore_index`` as in :class:`KD`.

    Reference:
        Zhao et al., *Decoupled knowledge distillation*, 2022.
    """

    key = "dkd"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: Schedule | float = 4.0,
        on: str | tuple[str, str] = "logits",
        **settings: Any,
    ) -> None:
        for name, weight in (("alpha", alpha), ("beta", beta)):
            check_number(f"DKD: {name}", weight, hint="a schedule weighs the whole: linear(0, 1) *")
        weights: dict[str, Any] = {"alpha": float(alpha), "beta": float(beta)}
        super().__init__(losses.dkd, temperature, on, **weights, **settings)


def _two(value: Any, what: str) -> tuple[Any, Any]:
    """The student's and the teacher's: a pair, or one for both."""
    if not isinstance(value, (tuple, list)):
        value = (value, value)
    good = len(value) == 2 and (what != "on" or all(isinstance(v, str) and v for v in value))
    if not good:
        raise TypeError(f"{what} is one for both or a pair (student's, teacher's), got {value!r}")
    return value[0], value[1]


def check_softmax(loss: Loss, on: Any, who: str) -> None:
    """Whether a loss that takes a softmax is asked of logits, and not of real actions.

    Raises:
        ValueError: real actions, whose common shift it would not see.
    """
    name = on.rpartition("/")[2] if isinstance(on, str) else ""
    other = {"mean": "mse_logits", "gaussian": "gaussian_kl"}.get(name)
    if other and getattr(loss, "func", loss) in _SOFTMAX:
        raise ValueError(
            f"{who}: {name_of(loss)} takes a softmax, and {on!r} are real actions, of which it "
            f"would not see a common shift; {who}(losses.{other}, on={on!r})"
        )


def _check_loss(loss: Any, who: str) -> None:
    if isinstance(loss, (Real, Schedule)):
        raise TypeError(f"{who} expected a loss first, got {loss}; write temperature={loss}")
    if isinstance(loss, type):
        raise TypeError(f"{who} expected a loss, got the class; make one: {loss.__name__}(…)")
    if not callable(loss):
        raise TypeError(f"{who} expected a loss, got {loss!r}; for example losses.kl")
    if not (takes(loss, "student") and takes(loss, "teacher")):
        raise TypeError(
            f"{name_of(loss)} takes no student= and teacher=; {wrapped(loss)}; or use Label for a "
            "loss on labels"
        )


# of a softmax: blind to a single number, and wrong on an axis that is none of classes
_SOFTMAX: tuple[Any, ...] = (
    *(losses.kl, losses.reverse_kl, losses.jsd, losses.soft_cross_entropy, losses.tvd),
    *(losses.dkd, losses.dist, losses.nll, losses.policy_kl, losses.uld),
)

# all others are asked on which axis the classes are, those of a user among them
_OF_MAPS: tuple[Any, ...] = (losses.channel_kl,)

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
    losses.bernoulli_kl: "BKL",
    losses.channel_kl: "CWD",
}
