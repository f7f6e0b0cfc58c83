"""What a model said of a batch, item by item: its networks, its classes, and what counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distill_lib.arguments import told
from distill_lib.losses import full_precision
from distill_lib.masks import IGNORE, MASKS, about, kept_of, weighted
from distill_lib.masks.tokens import aligned, decoder_inputs, said_by
from distill_lib.signals import Forward, Signals, call, eval_mode, pick, place
from distill_lib.stacked import Stacked
from distill_lib.teachers.live import Source, models_of
from distill_lib.teachers.peers import Peers
from distill_lib.teachers.shown import Shown

from .classes import class_axis, classes_last, distributions

__all__ = [
    "UNSTACK",
    "Asked",
    "Said",
    "check_classes",
    "check_finite",
    "check_fit",
    "check_real",
    "numbers_of",
    "soft_of",
    "walk",
    "way",
]

Asked = nn.Module | Source | Callable[[Any], Signals]
DESCRIBED = (*MASKS, "labels", "index", "input_ids", "decoder_input_ids")
UNSTACK = "of several networks in one: take one at a time, such as each of model.unstack()"
# what a function has for those whose labels are no classes
LABELS = 'for labels that do not exclude each other, or a yes or no, say task="labels"'
WAYS = {
    "evaluate": f'{LABELS}, for numbers task="regression"',
    "calibration_error": "write a yes or no as two classes: F.pad(logits, (1, 0))",
}


def way(who: str) -> str:
    """The way out of a function for what is not one class of many."""
    return WAYS.get(who, LABELS)


class Said(NamedTuple):
    """What a model said of a batch, [*networks, *items, ...] real numbers in full precision."""

    who: str  # the function that asked, and whom: for messages
    whose: str
    answers: Tensor
    networks: int  # how many axes, the first ones, are those of several networks in one
    batch: Mapping[str, Any]

    def classes(self, axis: int | None, labels: Any) -> tuple[Tensor, int]:
        """[*networks, *items, C] answers, and the axis, from the end, where the classes were.

        Raises:
            ValueError: an axis that is not there, or of networks or items; a doubt about it; one
                class.
        """
        logits, k = self.answers, self.networks
        shape = logits.shape if axis is not None else logits.shape[k:]
        at = class_axis(shape, axis, labels, self.who)
        if k and logits.ndim + at <= k:
            raise ValueError(
                f"{self.who}: axis {axis} of the logits {list(logits.shape)} of several networks "
                "is not that of the classes; count from the end: axis=-3 for images, -1 for "
                "classes last"
            )
        last = classes_last(logits, at)
        check_classes(self.who, last.shape[k:])
        return last, at

    def of_text(self, items: torch.Size) -> bool:
        """Whether items [B, L] are a text's tokens."""
        shapes = (items, (*self.answers.shape[: self.networks], *items))
        keys = ("input_ids", "decoder_input_ids", "attention_mask")
        found = (self.batch.get(key) for key in keys)
        return len(items) == 2 and any(isinstance(x, Tensor) and x.shape in shapes for x in found)

    def kept(
        self, shape: torch.Size, of_text: bool, labels: Any = None, labeled: bool = True
    ) -> Tensor:
        """What counts by masks and, of tokens, by padding: in the shape, or by networks as well.

        Args:
            shape: [*items, ...].
            of_text: Whether the items are tokens.
            labels: Those of -100 leave tokens out.
            labeled: Whether labels are what answers are compared with, as for CE; else labels of
                places leave out as they do for KD.

        Raises:
            ValueError: a mask that says nothing of this shape.
        """
        mask = self.batch.get("mask")
        finer = isinstance(mask, Tensor) and mask.ndim > len(shape)
        if self.networks and (finer or _rows(self.batch)):
            shape = torch.Size([*self.answers.shape[: self.networks], *shape])
        seen: Mapping[str, Any] = {**self.batch, "labels": labels, "weight": None}
        weighted(lambda: self.who, seen, torch.ones(()).expand(shape))  # has the mask fit
        if of_text:
            seen = about(seen, ("logits",), labeled)
        else:  # labels that are compared with are left out by who compares
            seen = {"mask": mask, "labels": None if labeled else labels}
        kept = kept_of(shape, labeled, seen)
        return torch.ones(shape, dtype=torch.bool) if kept is None else kept


def check_classes(who: str, shape: torch.Size) -> None:
    """Logits [*items, C] are of at least two classes.

    Raises:
        ValueError: they are not, and a softmax would say nothing.
    """
    if len(shape) < 2 or shape[-1] < 2:
        raise ValueError(
            f"{who}: logits {list(shape)} hold one number an item, and the softmax of one number "
            f"is 1 whatever it is; {way(who)}"
        )


def check_finite(answers: Tensor, what: str, kind: str = "classes") -> None:
    """No nan and no infinity, but the -inf of a class or of a label that a model never names.

    Args:
        answers: [..., C] for ``classes``, of which one at least is finite; else of any shape.
        what: Whose they are, for the message.
        kind: ``classes``, ``labels`` or ``regression``, where -inf is none, too.

    Raises:
        ValueError: others, and what that usually means.
    """
    bad = ~answers.isfinite() if kind == "regression" else ~(answers < math.inf)
    if kind == "classes":
        bad |= answers.amax(-1, keepdim=True) == -math.inf
    if bool(bad.any()):
        raise ValueError(
            f"{max(bad.double().mean().item(), 0.001):.1%} of {what} are not finite: half "
            "precision that overflows, broken weights, or inputs that are not what it was trained "
            "on (Teacher(preprocess=…))"
        )


def check_real(who: str, what: str, answers: Any) -> Tensor:
    """Real numbers, in full precision.

    Raises:
        TypeError: whole or complex ones.
    """
    found = full_precision(answers)
    if not found.is_floating_point():
        raise TypeError(
            f"{who} expected {what} as real numbers, got {found.dtype}; are these class numbers, "
            "where logits are meant?"
        )
    return found


def check_fit(who: str, labels: Tensor, shape: torch.Size) -> None:
    """Labels have the shape of what they are of.

    Raises:
        ValueError: another one.
    """
    if labels.shape != shape:
        several = len(shape) > labels.ndim and who != "calibration_error"
        raise ValueError(
            f"{who}: the logits expect labels {tuple(shape)}, got {tuple(labels.shape)}"
            + "; networks in one are known from Stacked and Peers" * several
        )


def numbers_of(labels: Tensor, classes: int, who: str) -> Tensor:
    """[n] class numbers.

    Raises:
        TypeError: labels that are none.
        ValueError: numbers outside the classes.
    """
    if labels.is_floating_point():
        raise TypeError(
            f"{who} expected labels as class numbers of int64, got {labels.dtype}: try "
            f"labels.long(); {way(who)}"
        )
    if labels.numel() and (labels.min() < 0 or labels.max() >= classes):
        out = f"as {IGNORE}" if who == "calibration_error" else "with ignore_index="
        raise ValueError(
            f"{who}: labels run from {int(labels.min())} to {int(labels.max())}, the model has "
            f"classes 0 to {classes - 1}; leave one out {out}"
        )
    return labels


def soft_of(labels: Tensor, who: str) -> Tensor:
    """[n, C] distributions.

    Raises:
        ValueError: labels that are none.
    """
    try:
        return distributions(labels, who)
    except ValueError:
        raise ValueError(
            f"{who}: labels {list(labels.shape)}, a number for each class, do not sum to 1; "
            f"{way(who)}"
        ) from None


@torch.no_grad()
def walk(
    who: str,
    models: Mapping[str, Asked],
    batches: Iterable[Any],
    forward: Forward | None,
    on: str,
    take: Callable[[list[Said]], Any],
    labels: str = "labels",
) -> None:
    """Give what each model says of each batch to ``take``.

    Args:
        who: The function that asks, for messages.
        models: By what messages call them.
        batches: Walked once.
        forward: How modules are called.
        on: Their signal.
        take: Is given what each of the models said, in their order.
        labels: The name of the labels in a batch.

    Raises:
        ValueError: no batches.
        TypeError: answers that are no real numbers.
    """
    empty = True
    for model in models.values():
        if isinstance(model, type):
            raise TypeError(f"expected a module or a teacher, got {told(model)}")
    if forward is not None and not any(isinstance(m, nn.Module) for m in models.values()):
        raise TypeError(
            f"{who}: forward= says how a module is called, and a teacher knows that itself: give "
            "the module, or Teacher(model, forward=…)"
        )
    first = next((m for model in models.values() for m in models_of(model)), None)
    networks = {whose: _networks(model) for whose, model in models.items()}
    with eval_mode(models.values()):
        for batch in batches:
            named, empty = aligned(batch, first), False
            seen = {
                k: v.cpu() if k in (*DESCRIBED, labels) and isinstance(v, Tensor) else v
                for k, v in named.items()
            }
            both, shown = [], Shown(named)
            for whose, model in models.items():
                signals = (
                    call(model, decoder_inputs(place(named, model), model), forward)
                    if isinstance(model, nn.Module)
                    else model(named)
                )
                shown.check(whose, model)
                said_by(signals, named)  # a wrapper around a causal model does not tell beforehand
                what = f"the {whose}'s {on}"
                answers = check_real(who, what, pick(signals, on, whose)).cpu()
                sizes = networks[whose] or _rows(seen)
                k = len(sizes)  # none where forward= made one answer of theirs
                k = k if answers.ndim > k + 1 and answers.shape[:k] == sizes else 0
                both.append(Said(who, what, answers, k, seen))
            take(both)
    if empty:
        raise ValueError("batches is empty: there is nothing to evaluate on")


def _networks(model: Any) -> tuple[int, ...]:
    """How many networks a model holds in one, an axis of its answers each."""
    for part in (part for found in models_of(model) for part in found.modules()):
        if isinstance(part, Peers):
            return (len(part.models), *_networks(part.models[0]))
        if isinstance(part, Stacked):
            return (part.size,)
    return ()


def _rows(batch: Mapping[str, Any]) -> tuple[int, ...]:
    """For how many networks a batch [S, B, ...] has items of their own."""
    index = batch.get("index")
    return (len(index),) if isinstance(index, Tensor) and index.ndim > 1 else ()
