"""What the losses share: checks as cheap as a comparison of shapes, and safe arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import told

__all__ = [
    "as_count",
    "check_axis",
    "check_items",
    "check_logits",
    "check_number",
    "check_same",
    "check_tensors",
    "check_values",
    "correlation",
    "differences",
    "floor",
    "full_precision",
    "log_probs",
    "products",
    "soften",
    "unit",
]

_HALF = (torch.float16, torch.bfloat16)


def _positive(number: float) -> bool:
    return 0 < number < math.inf


def full_precision(x: Tensor) -> Tensor:
    """Half precision as float32; every other type as it is.

    Args:
        x: [...], of any type.

    Returns:
        [...], float32 if ``x`` was float16 or bfloat16.

    Raises:
        TypeError: what is no tensor.

    Example:
        >>> full_precision(torch.zeros(2, dtype=torch.float16)).dtype
        torch.float32
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"expected a tensor, got {type(x).__name__}; from a model's output take the tensor, "
            "such as output.logits"
        )
    return x.float() if x.dtype in _HALF else x


def floor(x: Tensor) -> float:
    """Stands for log 0: finite, so that 0 · log 0 is 0, and far below any other logarithm."""
    return torch.finfo(x.dtype).min / 2


def log_probs(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """[..., C] logits to log softmax(logits / T); a masked class (-inf) gets ``floor``."""
    logits = soften(logits, temperature)
    return logits.clamp_min(floor(logits)).log_softmax(-1)


def differences(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[..., C] differences of logits, 0 where both exclude a class; which they do not; how many."""
    known = ~(student.isneginf() & teacher.isneginf())
    z, v = (torch.where(known, full_precision(x), 0.0) for x in (student, teacher))
    return z - v, known, known.sum(-1, keepdim=True).clamp_min(1)


def soften(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """[..., C] logits / T, in full precision."""
    # The type of a float is asked first: a comparison of a tensor waits for its device.
    if isinstance(temperature, Tensor):
        _check_temperature(logits, temperature)
    else:
        check_number("temperature", temperature, "a number > 0", _positive, "1 leaves logits alone")
    logits = full_precision(logits)
    if isinstance(temperature, Tensor):
        return logits / temperature
    return logits if temperature == 1 else logits / float(temperature)


def _check_temperature(logits: Tensor, temperature: Tensor) -> None:
    shape = temperature.shape
    if temperature.ndim and shape[-1] != 1:
        raise ValueError(
            f"temperature of shape {list(shape)} would divide each class by another "
            "number; one temperature an item has shape [..., 1], so call unsqueeze(-1)"
        )
    pairs = zip(reversed(shape), reversed(logits.shape), strict=False)
    if temperature.ndim > logits.ndim or any(mine not in (1, n) for mine, n in pairs):
        raise ValueError(
            f"temperature of shape {list(shape)} does not fit logits {list(logits.shape)}; give a "
            "number, or one an item, of shape [..., 1]"
        )
    if temperature.is_complex() or not bool(((temperature > 0) & temperature.isfinite()).all()):
        raise ValueError(f"temperature expected numbers > 0 and finite, got {temperature}")


def check_number(
    name: str,
    value: Any,
    wanted: str = "a finite number",
    fits: Callable[[float], bool] = math.isfinite,
    hint: str = "1 is usual",
) -> None:
    """A real number, or a tensor that holds one.

    Args:
        name: For the message.
        value: What was given.
        wanted: What was expected, for the message.
        fits: Whether a number will do.
        hint: The way out, for the message.

    Raises:
        TypeError: for what is no number.
        ValueError: for one that will not do.
    """
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} expected {wanted}, got {told(value)}; {hint}")
    if not fits(float(value)):
        raise ValueError(f"{name} expected {wanted}, got {value}; {hint}")


def check_axis(who: object, signals: Mapping[str, Tensor], axis: int | None) -> None:
    """Signals have the axis that was named, if one was.

    Raises:
        ValueError: it does not.
    """
    for name, x in signals.items():
        if axis is not None and not -x.ndim <= axis < x.ndim:
            raise ValueError(f"{who}: {name} {list(x.shape)} has no axis {axis}; the last is -1")


def check_values(who: object, values: Any) -> None:
    """One value an item, and no mean over them, of which a mask could leave none out.

    Raises:
        TypeError: what is no tensor.
        ValueError: a single number.
    """
    wanted = 'one value an item, such as with reduction="none" and a mean over the last axis'
    if not isinstance(values, Tensor):
        raise TypeError(f"{who}: the loss gave {told(values)}; return a tensor, {wanted}")
    if not values.ndim:
        raise ValueError(
            f"{who} averages by itself, and only the objective does that: return {wanted}"
        )


def as_count(denom: Any) -> Tensor | float:
    """The number of items that a sum is divided by; a tensor [1] is one number, too.

    Raises:
        TypeError: what is no number.
    """
    if isinstance(denom, Tensor) and denom.numel() == 1:
        return denom.reshape(())
    check_number("denom", denom, hint="one for the whole sum, or an objective.Step")
    return float(denom)


def check_tensors(name: str, student: Any, teacher: Any) -> None:
    """Both are tensors of real numbers.

    Raises:
        TypeError: for other things, and for integers, which may be labels.
    """
    if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
        raise TypeError(
            f"{name} expected two tensors, got student {type(student).__name__} and teacher "
            f"{type(teacher).__name__}; from a model's output take the tensor, such as "
            "output.logits"
        )
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise TypeError(
            f"{name} expected real numbers, got student {list(student.shape)} of {student.dtype} "
            f"and teacher {list(teacher.shape)} of {teacher.dtype}: if they are labels, use CE, "
            "else call .float()"
        )


def check_logits(name: str, student: Tensor, teacher: Tensor) -> None:
    """Shapes are equal, or the teacher lacks leading axes (several students, one answer)."""
    check_tensors(name, student, teacher)
    if student.ndim and student.shape == teacher.shape:
        return
    if 0 < teacher.ndim < student.ndim and student.shape[-teacher.ndim :] == teacher.shape:
        return
    have = f"{name}: student logits {list(student.shape)} and teacher logits {list(teacher.shape)}"
    if not student.ndim:
        raise ValueError(f"{have} have no axis of classes: give [C], or [..., C] of several items")
    if teacher.ndim and student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"{have} differ in the number of classes, {student.shape[-1]} and {teacher.shape[-1]}. "
            "Nothing is padded or cut silently: select the classes that both know, in the same "
            "order, for example teacher[..., classes], or use a teacher with the student's classes"
        )
    raise ValueError(
        f"{have} have the same classes but not the same items; show both the same batch, "
        "and if one teacher answer serves several students, leave out its leading axes only"
    )


def check_same(name: str, student: Tensor, teacher: Tensor) -> None:
    """Features have exactly the same shape."""
    check_tensors(name, student, teacher)
    if student.shape != teacher.shape:
        layer = "nn.Conv2d(mine, theirs, 1)" if student.ndim == 4 else "nn.Linear(mine, theirs)"
        raise ValueError(
            f"{name}: student features {list(student.shape)} and teacher features "
            f"{list(teacher.shape)} differ; map the student's to the teacher's shape first, for "
            f"example with Match(..., project={layer}) for widths, or a pooling layer for sizes"
        )


def check_items(name: str, student: Tensor, teacher: Tensor) -> None:
    """Features may differ in width, and are of the same items."""
    check_tensors(name, student, teacher)
    if min(student.ndim, teacher.ndim) < 2 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"{name} compares relations between the items of one batch and expected features "
            f"[B, ...] with the same B, got student {list(student.shape)} and teacher "
            f"{list(teacher.shape)}; show both the same batch"
        )


def unit(x: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Vectors along the last axis at length 1; those no longer than ``noise`` stay as they are."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > noise, length, 1.0)


def products(rows: Tensor) -> Tensor:
    """[..., N, N] of [..., N, D], each row times each; in the rows' type also under autocast.

    Autocast would multiply in half precision, whose largest number is soon passed by a square.
    """
    if not torch.amp.is_autocast_available(rows.device.type):
        return rows @ rows.mT
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ rows.mT


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation along the last axis; 0 where one side is constant."""
    return (_standing(x) * _standing(y)).sum(-1)


def _standing(x: Tensor) -> Tensor:
    # a constant minus its own mean is rounding noise, which correlates with anything
    length = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)
    return unit(x - x.mean(-1, keepdim=True), 4 * torch.finfo(x.dtype).eps * length)
