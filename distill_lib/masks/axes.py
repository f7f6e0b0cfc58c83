"""Where the classes are: the last axis, unless one was named or the labels leave a doubt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["class_axis", "ends"]


def ends(shape: torch.Size, found: torch.Size) -> bool:
    """Whether a shape ends in another one."""
    return len(found) <= len(shape) and shape[len(shape) - len(found) :] == found


def class_axis(shape: torch.Size, axis: int | None, labels: Any, who: str) -> int:
    """The axis of the classes, counted from the end: the one that was named, else the last.

    Raises:
        ValueError: an axis that is not there; none was named, and the labels or the number of axes
            leave a doubt.
    """
    if axis is not None:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{who}: logits {list(shape)} have no axis {axis}")
        return axis - len(shape) if axis >= 0 else axis
    beside = labels.shape if isinstance(labels, Tensor) and labels.ndim > 1 else None
    last = beside is not None and ends(shape[:-1], beside)
    first = beside is not None and beside == (*shape[:1], *shape[2:])
    if (first and not last) or (len(shape) > 3 and (first or not last)):
        about = "" if beside is None else f" beside labels {list(beside)}"
        raise ValueError(
            f"{who}: which axis of the logits {list(shape)}{about} is the classes? Say axis=1 for "
            "images [B, C, H, W], axis=-1 for classes last"
        )
    return -1
