"""Which values of a term count: by a mask, by labels, by padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["IGNORE", "count_like", "fits", "masks_of", "spread"]

IGNORE = -100  # the label of an item without a label, as in torch.nn.functional.cross_entropy


def _begin(key: str, found: torch.Size, shape: torch.Size) -> int | None:
    """The axis of the values at which those of a mask begin."""
    back = len(shape) - len(found)
    # [B] is an item's mask for all its tokens [B, L], or that of all students for theirs [S, B]
    for at in (0, back) if key == "mask" else (back, 0):
        if back >= 0 and shape[at : at + len(found)] == found:
            return at
    return None


def fits(mask: Tensor, values: Tensor) -> bool:
    """Whether a mask applies to the values, or is finer than they are and leaves them alone."""
    return mask.ndim > values.ndim or _begin("mask", mask.shape, values.shape) is not None


def spread(found: Tensor, shape: torch.Size) -> Tensor | None:
    """One number an item, in the shape of its values; None where the shapes have no such axes."""
    at = _begin("mask", found.shape, shape)
    if at is None:
        return None
    return found.reshape(*found.shape, *[1] * (len(shape) - found.ndim - at)).expand(shape)


def masks_of(shape: torch.Size, labeled: bool, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Which values are kept, by each key of the batch that says something of them.

    Args:
        shape: Of the values.
        labeled: Whether the values need a label. Else only labels with one entry a token speak:
            they mark padding, while one label an item says nothing of a teacher's targets.
        batch: The batch.

    Returns:
        Booleans in the shape of the values.
    """
    masks = {}
    for key in ("mask", "labels", "attention_mask"):
        found = batch.get(key)
        if not isinstance(found, Tensor):
            continue
        if found.ndim < 2 and key != "mask" and not (labeled and key == "labels"):
            continue
        at = _begin(key, found.shape, shape)
        if at is not None:
            kept = found != IGNORE if key == "labels" else found.bool()
            axes = len(shape) - found.ndim - at
            masks[key] = kept.reshape(*kept.shape, *[1] * axes).expand(shape)
            if key == "mask" and not labeled:
                break  # a mask has the last word: [S, B] labels are those of items, not of tokens
    return masks


def count_like(
    values: Tensor, labeled: bool, batch: Mapping[str, Any], other: Mapping[str, Any]
) -> Tensor:
    """How many values a term keeps of another batch, given those it had for this one."""
    keys = masks_of(values.shape, labeled, batch)
    if not keys:
        return torch.tensor(values.numel() * _length(other) / _length(batch))
    key = max(keys, key=lambda k: batch[k].ndim)
    at = _begin(key, batch[key].shape, values.shape)
    assert at is not None
    after = values.shape[at + batch[key].ndim :]
    shape = torch.Size([*values.shape[:at], *other[key].shape, *after])
    return torch.stack(list(masks_of(shape, labeled, other).values())).all(0).sum().float()


def _length(batch: Mapping[str, Any]) -> int:
    for key in ("labels", "inputs", "input_ids"):
        if key in batch:
            return len(batch[key])
    return len(next(iter(batch.values())))
