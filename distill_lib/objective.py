r"""An objective is a sum of weighted terms, written as on paper.

>>> from distill_lib import CE, KD, linear
>>> print(linear(0.9, 0.1) * CE() + linear(0.1, 0.9) * KD(temperature=linear(8, 1)))
0.9→0.1·CE + 0.1→0.9·KL(T=8→1)

A term reads named signals of student and teacher and returns one value an item. Only this module
reduces: to the sum of kept values over their number. Weights and temperatures may be schedules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .losses._common import as_count, check_axis, check_values
from .masks import about, check_tokens, kept_of, of_items, weighted, without_nan
from .masks.counting import count_like
from .masks.tokens import said_by
from .schedules import Schedule, as_schedule
from .signals import Batch, Signals, as_batch, pick

__all__ = ["Objective", "Step", "Term"]

Call = TypeVar("Call")


def _typed_as(_: Call) -> Callable[[Any], Call]:
    return lambda _: cast(Call, nn.Module.__call__)  # which says Callable[..., Any]


class Step:
    """The batches of one optimizer step, for denominators that do not depend on how it was cut.

    Args:
        batches: All micro-batches of the step, as mappings.
        total: Sums a count over processes and divides it by their number, where there are several.
    """

    def __init__(
        self,
        batches: Sequence[Mapping[str, Any]],
        total: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.batches = batches
        self.total = total

    def items(self, values: Tensor, term: Term, batch: Mapping[str, Any]) -> Tensor:
        """The kept items of the whole step, for a term that gave ``values`` for ``batch``."""
        counts = [term.count(values, batch, other) for other in self.batches]
        count = torch.stack(counts).sum().to(values.device)
        return self.total(count) if self.total is not None else count


class Term(nn.Module):
    """One summand: a loss and the signals it reads.

    A subclass sets ``reads`` (the signals it needs of ``student`` and ``teacher``) and implements
    :meth:`values`, :meth:`text` and :meth:`latex`. Terms are modules: ``parameters()`` finds
    projectors and discriminators, ``to()`` moves and ``state_dict()`` saves them.
    """

    key = "term"
    labeled = False  # whether items without a label are left out
    axis: int | None = None  # of the classes, where it is not the last
    relational = False  # whether the value of an item depends on the others of its batch
    within_micro_batch = False  # whether relations inside a part of a step are what is meant
    reads: Mapping[str, tuple[str, ...]]

    def values(
        self,
        student: Signals,
        teacher: Signals | None,
        batch: Mapping[str, Any],
        progress: float,
    ) -> Tensor:
        """One value an item, before any reduction."""
        raise NotImplementedError

    def view(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with the labels that say what this term leaves out, under ``labels``."""
        return batch

    def about(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with the labels and the padding of what this term speaks of."""
        return about(self.view(batch), self.paths_read(), self.labeled)

    def paths_read(self) -> tuple[str, ...]:
        """The signals of both."""
        return (*self.reads["student"], *self.reads["teacher"])

    def counts(
        self, values: Tensor, batch: Mapping[str, Any], other: Mapping[str, Any]
    ) -> Tensor | None:
        """How much each label of another batch counts in the denominator; None: 1."""
        return None

    def count(self, values: Tensor, batch: Mapping[str, Any], other: Mapping[str, Any]) -> Tensor:
        """What a batch adds to the denominator, for a term that gave ``values`` for ``batch``."""
        theirs, about = self.counts(values, batch, other), self.about(other)
        if theirs is None:
            return count_like(values, self.labeled, self.about(batch), about)
        shape = torch.Size([*values.shape[: values.ndim - theirs.ndim], *theirs.shape])
        kept = kept_of(shape, self.labeled, about)
        return (theirs.expand(shape) if kept is None else theirs * kept).sum()

    def text(self) -> str:
        """The term as it is printed."""
        raise NotImplementedError

    def latex(self) -> str:
        """The term as it is typeset."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The formula, in the list of a model's modules."""
        return self.text()

    def forward(
        self,
        student: Signals,
        teacher: Signals | None = None,
        batch: Batch | None = None,
        *,
        progress: float = 0.0,
        denom: Tensor | float | Step | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The term alone, as an objective of one summand."""
        return Objective([(1.0, self)])(student, teacher, batch, progress=progress, denom=denom)

    @_typed_as(forward)
    def __call__(self) -> Any: ...

    def __mul__(self, weight: Schedule | float) -> Objective:
        return Objective([(weight, self)])

    __rmul__ = __mul__

    def __truediv__(self, number: Schedule | float) -> Objective:
        return 1.0 * self / number

    def __neg__(self) -> Objective:
        return Objective([(-1.0, self)])

    def __add__(self, other: Term | Objective) -> Objective:
        return 1.0 * self + other

    def __sub__(self, other: Term | Objective) -> Objective:
        return 1.0 * self - other

    def __radd__(self, other: int) -> Objective:
        return 1.0 * self if other == 0 else NotImplemented

    def __str__(self) -> str:
        return self.text()

    def _repr_latex_(self) -> str:
        return f"${self.latex()}$"


class Objective(nn.Module):
    r"""A weighted sum of terms.

    .. math:: L = \sum_t w_t(s)\, \frac{\sum_{i \in K_t} \ell_{t,i}}{|K_t|}

    with progress :math:`s`, values :math:`\ell_{t,i}` of term :math:`t` for item :math:`i`, and the
    kept items :math:`K_t`. Items are left out

    - by ``batch["mask"]``, where its shape is that of a term's values, or begins or ends it;
    - by labels of -100, for terms that need labels;
    - for values that have one entry a token, also by labels of -100 and by
      ``batch["attention_mask"]``, unless there is a mask. Labels stand where they are answered: for
      a causal language model :func:`distill_lib.aligned` puts them there.

    ``batch["weight"]``, one number an item, multiplies the values, as importance sampling asks; the
    denominator stays the number of items.

    Args:
        pairs: ``(weight, term)``; usually written with ``*`` and ``+`` instead.

    Raises:
        TypeError: for what is not a pair, and for a summand that is not a term.
    """

    def __init__(self, pairs: Sequence[tuple[Schedule | float, Term]]) -> None:
        super().__init__()
        several = isinstance(pairs, Iterable) and not isinstance(pairs, Tensor)
        pairs = list(pairs) if several else [cast(Any, pairs)]
        for pair in pairs:
            fits = isinstance(pair, (tuple, list)) and len(pair) == 2
            term = pair[1] if fits else pair
            if not fits or not isinstance(term, Term):
                raise TypeError(
                    "an objective is made of pairs (weight, term), got "
                    f"{type(term).__name__}; a sum is written CE() + 0.5 * KD()"
                )
        self.weights: list[Schedule] = [as_schedule(weight) for weight, _ in pairs]
        self.terms: nn.ModuleList = nn.ModuleList(term for _, term in pairs)
        self.names: list[str] = []
        for _, term in pairs:
            names = itertools.chain([term.key], (f"{term.key}_{n}" for n in itertools.count(2)))
            taken = ("loss", "lr", "step", *self.names)  # a history has numbers of these names
            self.names.append(next(name for name in names if name not in taken))

    def pairs(self) -> list[tuple[Schedule, Term]]:
        """The weights and their terms."""
        return list(zip(self.weights, self.terms, strict=True))  # type: ignore[arg-type]

    def forward(
        self,
        student: Signals,
        teacher: Signals | None = None,
        batch: Batch | None = None,
        *,
        progress: float = 0.0,
        denom: Tensor | float | Step | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Args:
            student: Signals of the student.
            teacher: Signals of the teacher; may be None where no term of weight ≠ 0 reads them.
            batch: Labels and masks: a mapping or an ``(inputs, labels)`` pair.
            progress: Share of the training that is done, in [0, 1].
            denom: Divide every term's sum by this instead of by the number of its kept items. Takes
                Hugging Face's ``num_items_in_batch``, or a :class:`distill_lib.objective.Step`.

        Returns:
            The scalar loss, and the unweighted, detached value of each part by name.

        Raises:
            KeyError: a signal that is not there.
            ValueError: shapes that do not fit, no teacher, a loss that averages by itself.
        """
        named = said_by(student, as_batch(batch))
        loss: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for name, schedule, term in zip(self.names, self.weights, self.terms, strict=True):
            weight = schedule(progress)
            if weight == 0.0:
                continue
            part = _reduce(term, student, teacher, named, progress, denom)  # type: ignore[arg-type]
            parts[name] = part.detach()
            summand = part if weight == 1.0 else weight * part
            loss = summand if loss is None else loss + summand
        if loss is None:
            said = tree_leaves(dict(student) if isinstance(student, Mapping) else student)
            tensors = [x for x in said if isinstance(x, Tensor)] or [torch.zeros(1)]
            loss = max(tensors, key=lambda x: x.requires_grad).flatten()[:0].sum()
        return loss, parts

    @_typed_as(forward)
    def __call__(self) -> Any: ...

    def needs_teacher(self, progress: float = 0.0) -> bool:
        """Whether a term of weight ≠ 0 reads the teacher."""
        return any(term.reads["teacher"] and w(progress) != 0.0 for w, term in self.pairs())

    def reads(self, who: str) -> list[str]:
        """The signals that the terms read of ``"student"`` or ``"teacher"``."""
        return list(dict.fromkeys(path for _, term in self.pairs() for path in term.reads[who]))

    def __add__(self, other: Term | Objective) -> Objective:
        other = 1.0 * other if isinstance(other, Term) else other
        if not isinstance(other, Objective):
            return NotImplemented
        return Objective([*self.pairs(), *other.pairs()])

    def __radd__(self, other: int) -> Objective:
        return self if other == 0 else NotImplemented

    def __sub__(self, other: Term | Objective) -> Objective:
        return self + (-1.0 * other)

    def __mul__(self, weight: Schedule | float) -> Objective:
        return Objective([(as_schedule(weight) * w, term) for w, term in self.pairs()])

    __rmul__ = __mul__

    def __truediv__(self, number: Schedule | float) -> Objective:
        return self * (1.0 / as_schedule(number))

    def __neg__(self) -> Objective:
        return -1.0 * self

    def __str__(self) -> str:
        return _sum(t.text() if w.fixed == 1.0 else f"{w}·{t.text()}" for w, t in self.pairs())

    def _repr_latex_(self) -> str:
        def weight(w: Schedule) -> str:
            moving = rf"({w.latex()})\," if w.fixed is None else rf"{w.latex()}\,"
            return "" if w.fixed == 1.0 else moving

        return f"${_sum(weight(w) + t.latex() for w, t in self.pairs())}$"


def _sum(summands: Iterable[str]) -> str:
    return " + ".join(summands).replace("+ -", "− ")


def _reduce(
    term: Term,
    student: Signals,
    teacher: Signals | None,
    batch: Mapping[str, Any],
    progress: float,
    denom: Tensor | float | Step | None,
) -> Tensor:
    if teacher is None and term.reads["teacher"]:
        raise ValueError(
            f"{term.text()} reads the teacher, and none was given; pass its signals, or weight 0"
        )
    seen = batch  # what leaves values out; the term itself is given the whole batch
    if of_items(batch, term.labeled) is not batch and all(
        pick(student, path, "student").ndim < 3 for path in term.reads["student"]
    ):
        seen = of_items(batch, term.labeled)
        if isinstance(denom, Step):
            denom = Step([of_items(b, term.labeled) for b in denom.batches], denom.total)
    about = term.about(seen)
    if teacher is not None:
        found = {path: pick(teacher, path, "teacher") for path in term.reads["teacher"]}
        check_axis(term, found, term.axis)
        teacher = {k: without_nan(v, term.axis, term.labeled, about) for k, v in found.items()}
    values = term.values(student, teacher, batch, progress)
    check_values(term, values)
    check_tokens(term.text, values.shape, about, term.paths_read(), term.labeled, term.axis)
    values = weighted(term.text, batch, values)
    kept = kept_of(values.shape, term.labeled, about)
    if kept is not None:
        values = values.masked_fill(~kept, 0.0)  # filled: 0 * nan would be nan
    if isinstance(denom, Step):
        count: Tensor | float = denom.items(values, term, seen)
    elif denom is not None:
        count = as_count(denom)
    elif term.counts(values, seen, seen) is not None:
        count = term.count(values, seen, seen)
    else:
        count = values.numel() if kept is None else kept.sum()
    return values.sum() / (count + (count == 0))  # nothing kept: 0, with a path for the gradient


def name_of(function: Any) -> str:
    """What a loss is called in a formula: its own name, or that of its class."""
    return str(getattr(function, "__name__", type(function).__name__))
