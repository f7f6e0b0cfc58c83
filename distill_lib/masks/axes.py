"""Where the classes are: the last axis, unless one was named or the labels leave a doubt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["class_axis", "ends"]

TEXT = ("input_ids", "decoder_input_ids", "attention_mask", "decoder_attention_mask", "inputs")


def ends(shape: torch.Size, found: torch.Size) -> bool:
    """Whether a shape ends in another one."""
    return len(found) <= len(shape) and shape[len(shape) - len(found) :] == found


def class_axis(
    shape: torch.Size,
    axis: int | None,
    labels: Any,
    who: str,
    batch: Mapping[str, Any] | None = None,
) -> int:
    """The axis of the classes, counted from the end: the one that was named, else the last.

    Args:
        shape: Of the logits.
        axis: The one that was named.
        labels: What lies beside the logits.
        who: For the message.
        batch: Where there is one, it says whether [B, L, L] are L classes of tokens.

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
    doubt = first and batch is not None and not _of_several(batch, labels)
    if (first and (doubt or not last)) or (len(shape) > 3 and (first or not last)):
        about = "" if beside is None else f" beside labels {list(beside)}"
        raise ValueError(
            f"{who}: which axis of the logits {list(shape)}{about} is the classes? Say axis=1 for "
            "images [B, C, H, W], axis=-1 for classes last"
        )
    return -1


def _of_several(batch: Mapping[str, Any], labels: Tensor) -> bool:
    """Whether labels [N, M] are of M tokens of N texts, of M items of N students, or soft."""
    index, items = batch.get("index"), labels.shape
    of_students = isinstance(index, Tensor) and index.shape == items
    if labels.is_floating_point() or "shift" in batch or of_students:
        return True
    found = {key: batch.get(key) for key in TEXT}
    return any(
        isinstance(x, Tensor) and x.shape == items and not (k == "inputs" and x.is_floating_point())
        for k, x in found.items()
    )
