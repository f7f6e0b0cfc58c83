"""What the losses share: checks as cheap as a comparison of shapes, and safe arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "check_items",
    "check_logits",
    "check_same",
    "correlation",
    "floor",
    "full_precision",
    "log_probs",
    "soften",
    "unit",
]

_HALF = (torch.float16, torch.bfloat16)


def full_precision(x: Tensor) -> Tensor:
    """Half precision as float32; every other type as it is.

    Args:
        x: [...], of any type.

    Returns:
        [...], float32 if ``x`` was float16 or bfloat16.

    Example:
        >>> full_precision(torch.zeros(2, dtype=torch.float16)).dtype
        torch.float32
    """
    return x.float() if x.dtype in _HALF else x


def floor(x: Tensor) -> float:
    """Stands for log 0: finite, so that 0 · log 0 is 0, and far below any other logarithm."""
    return torch.finfo(x.dtype).min / 2


def log_probs(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """[..., C] logits to log softmax(logits / T); a masked class (-inf) gets ``floor``."""
    logits = soften(logits, temperature)
    return logits.clamp_min(floor(logits)).log_softmax(-1)


def soften(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """[..., C] logits / T, in full precision."""
    # The type of a float is asked first: a comparison of a tensor waits for its device.
    if isinstance(temperature, Tensor):
        _check_temperature(temperature)
    elif not temperature > 0:
        raise ValueError(
            f"temperature expected a number > 0, got {temperature}; 1 leaves logits alone"
        )
    logits = full_precision(logits)
    if isinstance(temperature, Tensor) or temperature != 1:
        logits = logits / temperature
    return logits


def _check_temperature(temperature: Tensor) -> None:
    if temperature.ndim and temperature.shape[-1] != 1:
        raise ValueError(
            f"temperature of shape {list(temperature.shape)} would divide each class by another "
            "number; one temperature an item has shape [..., 1], so call unsqueeze(-1)"
        )
    if not bool((temperature > 0).all()):
        raise ValueError(f"temperature expected numbers > 0, got {temperature.min().item()}")


def check_logits(name: str, student: Tensor, teacher: Tensor) -> None:
    """Shapes are equal, or the teacher lacks leading axes (several students, one answer)."""
    if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
        raise TypeError(_not_tensors(name, student, teacher))
    if student.shape == teacher.shape:
        return
    if 0 < teacher.ndim < student.ndim and student.shape[-teacher.ndim :] == teacher.shape:
        return
    have = f"{name}: student logits {list(student.shape)} and teacher logits {list(teacher.shape)}"
    if not teacher.is_floating_point():
        raise ValueError(f"{have}: the teacher's are {teacher.dtype}: if they are labels, use CE")
    if student.ndim and teacher.ndim and student.shape[-1] != teacher.shape[-1]:
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
    if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
        raise TypeError(_not_tensors(name, student, teacher))
    if student.shape != teacher.shape:
        layer = "nn.Conv2d(mine, theirs, 1)" if student.ndim == 4 else "nn.Linear(mine, theirs)"
        raise ValueError(
            f"{name}: student features {list(student.shape)} and teacher features "
            f"{list(teacher.shape)} differ; map the student's to the teacher's shape first, for "
            f"example with Match(..., project={layer}) for widths, or a pooling layer for sizes"
        )


def check_items(name: str, student: Tensor, teacher: Tensor) -> None:
    """Features may differ in width, and are of the same items."""
    if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
        raise TypeError(_not_tensors(name, student, teacher))
    if min(student.ndim, teacher.ndim) < 2 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"{name} compares relations between the items of one batch and expected features "
            f"[B, ...] with the same B, got student {list(student.shape)} and teacher "
            f"{list(teacher.shape)}; show both the same batch"
        )


def _not_tensors(name: str, student: object, teacher: object) -> str:
    return (
        f"{name} expected two tensors, got student {type(student).__name__} and teacher "
        f"{type(teacher).__name__}; from a model's output take the tensor, such as output.logits"
    )


def unit(x: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Vectors along the last axis at length 1; those no longer than ``noise`` stay as they are."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > noise, length, 1.0)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation along the last axis; 0 where one side is constant."""
    return (_standing(x) * _standing(y)).sum(-1)


def _standing(x: Tensor) -> Tensor:
    # a constant minus its own mean is rounding noise, which correlates with anything
    length = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)
    return unit(x - x.mean(-1, keepdim=True), 4 * torch.finfo(x.dtype).eps * length)
