"""Labels of every kind, and where the classes are: the last axis only where nothing else fits."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distill_lib.losses import full_precision
from distill_lib.masks import IGNORE
from distill_lib.masks.axes import class_axis, ends
from distill_lib.signals import Signals, pick

__all__ = [
    "answers_of",
    "as_labels",
    "beside",
    "class_axis",
    "class_numbers",
    "classes_last",
    "distributions",
    "find_labels",
    "is_soft",
    "needs_classes",
    "same_shape",
    "view_of",
]


def as_labels(found: Any, who: str) -> Tensor:
    """Labels as a tensor: integers of any kind as int64, real numbers as they are.

    Raises:
        TypeError: for what no tensor can hold.
    """
    if not isinstance(found, Tensor):
        try:
            found = torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{who} expected labels as a tensor of int64 (class numbers) or of floats, got "
                f"{type(found).__name__}; number the classes first"
            ) from None
    if found.is_complex():
        raise TypeError(f"{who} expected labels as whole or real numbers, got {found.dtype}")
    if found.layout != torch.strided:
        raise TypeError(f"{who} expected dense labels, got {found.layout}; call .to_dense() first")
    labels: Tensor = found if found.is_floating_point() else found.long()
    return labels


def beside(batch: Mapping[str, Any], key: str) -> Tensor | None:
    """Labels that lie beside answers which need none; None where there are none, or only words."""
    found = batch.get(key)
    if found is None or isinstance(found, Tensor):
        return found
    with contextlib.suppress(TypeError):
        return as_labels(found, key)
    return None


def answers_of(student: Signals, path: str, who: str) -> Tensor:
    """The student's answers, in full precision.

    Raises:
        TypeError: whole or complex numbers, which no loss of labels is for.
    """
    found = pick(student, path, "student")
    if not found.is_floating_point():
        raise TypeError(
            f"{who} expected the student's {path} as real numbers, got {found.dtype}; are these "
            "class numbers, where logits are meant?"
        )
    return full_precision(found)


def find_labels(batch: Mapping[str, Any], key: str, who: str, device: torch.device) -> Tensor:
    """The labels of a batch."""
    if batch.get(key) is None:
        raise ValueError(
            f"{who} needs batch[{key!r}]; the batch has: {', '.join(batch) or 'nothing'}"
        )
    labels = as_labels(batch[key], who)
    if not labels.ndim:
        raise ValueError(f"{who} expected batch[{key!r}] with a label an item, got one number")
    return labels if isinstance(batch[key], Tensor) else labels.to(device)


def view_of(batch: Mapping[str, Any], key: str, ignore: float | None) -> Mapping[str, Any]:
    """The batch with -100 under ``labels`` where the labels say that there is none.

    Args:
        batch: The batch.
        key: Where the labels are.
        ignore: The label that says so; None: -100, for integers.
    """
    found = batch.get(key)
    plain = isinstance(found, Tensor) and found.dtype == torch.int64
    if key == "labels" and (found is None or (plain and ignore in (None, IGNORE))):
        return batch
    rest = {k: v for k, v in batch.items() if k != "labels"}
    if found is None:
        return rest
    labels = as_labels(found, "the objective")
    if ignore is None and not labels.is_floating_point():
        ignore = IGNORE
    if ignore is None:
        left_out = torch.zeros_like(labels, dtype=torch.bool)
    else:
        left_out = labels.isnan() if math.isnan(ignore) else labels == ignore
    return {**rest, "labels": torch.where(left_out, IGNORE, 0)}


def classes_last(x: Tensor, axis: int) -> Tensor:
    """The tensor with the classes on its last axis."""
    return x if axis == -1 else x.movedim(axis, -1)


def needs_classes(who: str, logits: Tensor) -> None:
    """A softmax needs two classes to say anything.

    Raises:
        ValueError: for fewer.
    """
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise ValueError(
            f"{who}: logits {list(logits.shape)} hold one number an item, and the softmax of one "
            "number is 1 whatever it is. For a yes or no use BCE() and KD(losses.bernoulli_kl), "
            "for regression Label(F.mse_loss) and KD(losses.mse_logits)"
        )


def is_soft(labels: Tensor, shape: torch.Size, axis: int) -> bool:
    """Whether labels have the shape of the logits, and so a number for each class."""
    items = torch.Size([n for i, n in enumerate(shape) if i != len(shape) + axis])
    whole = labels.ndim > 1 and ends(shape, labels.shape)
    return whole and (labels.is_floating_point() or not ends(items, labels.shape))


def distributions(labels: Tensor, who: str) -> Tensor:
    """Soft labels [..., C], once they are known to sum to 1.

    Raises:
        ValueError: for others.
    """
    # half precision rounds the sum over many classes
    if labels.is_complex() or not bool(
        ((labels.sum(-1) - 1).abs() < 0.05).all() & (labels >= 0).all()
    ):
        raise ValueError(
            f"{who}: labels {list(labels.shape)}, a number for each class, do not sum to 1. Where "
            "labels do not exclude each other, use BCE() and KD(losses.bernoulli_kl), for "
            "regression Label(F.mse_loss) and KD(losses.mse_logits)"
        )
    return labels


def class_numbers(
    labels: Tensor, shape: torch.Size, ignore: float | None, who: str, look: bool = True
) -> Tensor:
    """[...] class numbers for logits [..., C]; ``look`` at each of them.

    Raises:
        TypeError: labels that are not integers.
        ValueError: another shape, or numbers outside the classes.
    """
    items = shape[:-1]
    if not ends(items, labels.shape):
        raise ValueError(
            f"{who}: logits {tuple(shape)} expect labels {tuple(items)}, got {tuple(labels.shape)}"
        )
    if labels.is_floating_point():
        raise TypeError(
            f"{who} expected labels as class numbers of int64, got {labels.dtype}: try "
            "labels.long(); for yes or no use BCE(), for regression Label(F.mse_loss)"
        )
    if not look:
        return labels.expand(items)
    bad = torch.as_tensor(labels != ignore) & ((labels < 0) | (labels >= shape[-1]))
    if bool(bad.any()):
        wrong = labels[bad]
        raise ValueError(
            f"{who}: labels {int(wrong.min())} to {int(wrong.max())} are none of the classes 0 to "
            f"{shape[-1] - 1}; number the classes from 0, or leave a label out: "
            f"ignore_index={int(wrong[0])}"
        )
    return labels.expand(items)  # several students, one set of labels


def same_shape(z: Tensor, y: Tensor, students: bool = False) -> tuple[Tensor, Tensor] | None:
    """Answers and labels in one shape, where they are numbers of the same things.

    An axis of length 1 may be missing on one side. Nothing is broadcast, as [B, 1] against [B]
    would be [B, B]; with ``students``, labels [B, C] serve several of them, [S, B, C].
    """
    if y.shape == (*z.shape, 1):
        z = z.unsqueeze(-1)
    for axis in (-1, 1):
        if z.ndim > max(1, y.ndim) and z.shape[axis] == 1 and y.ndim:
            short = z.squeeze(axis)
            if short.shape == y.shape or (students and short.shape[1:] == y.shape):
                return short, y.expand(short.shape)
    if z.shape == y.shape or (students and z.ndim == 3 and z.shape[1:] == y.shape):
        return z, y.expand(z.shape)
    return None
