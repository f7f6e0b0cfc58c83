"""How many values the batches of one optimizer step have together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from . import MASKS, kept_of, laid

__all__ = ["count_like"]


def count_like(
    values: Tensor, labeled: bool, batch: Mapping[str, Any], other: Mapping[str, Any]
) -> Tensor:
    """How many values a term keeps of another batch, given those it had for this one.

    Raises:
        ValueError: nothing in the two batches tells how many values the other one will have.
    """
    shape = _like(values.shape, batch, other)
    kept = kept_of(shape, labeled, other)
    return torch.tensor(float(shape.numel())) if kept is None else kept.sum().float()


def _like(shape: torch.Size, batch: Mapping[str, Any], other: Mapping[str, Any]) -> torch.Size:
    """The shape that values will have for another batch: as its entries are to those of this one.

    An entry decides that has as many places as the values: texts [B, L], images [B, C, H, W] beside
    values [B, H, W]; after the axis of several students. Else the batches may differ in their
    number of items alone. Masks and labels decide before others, and what differs between the
    batches before what both share, such as a prior of the classes.
    """
    pairs = list(_pairs(batch, other))
    laid_out = [(name, laid(one, shape), laid(two, shape)) for name, one, two in pairs]
    alike = all(one.shape[1:] == two.shape[1:] for _, one, two in pairs)
    for tell in (_by_places, _by_number)[: 1 + alike]:
        told = [(name, tell(shape, one, two)) for name, one, two in laid_out]
        found = [(name, there) for name, there in told if there is not None]
        sure = {there for name, there in found if name in (*MASKS, "labels")}
        sure = sure or {there for _, there in found}
        if sure and len(differing := sure - {shape} or sure) == 1:
            return differing.pop()
        if sure:
            break
    raise ValueError(
        f"values {list(shape)} fit no entry of their batch, or several that disagree, and batches "
        "of one step differ in more than their number of items: give each a mask in the shape of "
        "the values, or batches alike"
    )


def _by_places(shape: torch.Size, one: Tensor, two: Tensor) -> torch.Size | None:
    """What an entry says that has as many places as the values."""
    for at in (0, 1):
        n = len(shape) - at
        for left in (one.shape, one.shape[:1] + one.shape[2:]) if n else ():
            if left[:n] == shape[at:]:
                there = two.shape if left == one.shape else two.shape[:1] + two.shape[2:]
                return torch.Size([*shape[:at], *there[:n]])
    return None


def _by_number(shape: torch.Size, one: Tensor, two: Tensor) -> torch.Size | None:
    """What an entry says that has as many items, or so many times fewer."""
    for at in range(min(2, len(shape))):
        if shape[at] % len(one) == 0 < len(one):  # views of an item are several
            size = shape[at] // len(one) * len(two)
            return torch.Size([*shape[:at], size, *shape[at + 1 :]])
    return None


def _pairs(batch: Any, other: Any, name: str = "") -> Iterator[tuple[str, Tensor, Tensor]]:
    """Tensors of at least one axis that stand at the same place in two batches."""
    if isinstance(batch, Tensor) and isinstance(other, Tensor):
        if batch.ndim and batch.ndim == other.ndim:
            yield name, batch, other
    elif isinstance(batch, Mapping) and isinstance(other, Mapping):
        for key in batch:
            if key in other:
                yield from _pairs(batch[key], other[key], str(key))
    elif isinstance(batch, (tuple, list)) and isinstance(other, (tuple, list)):
        for one, two in zip(batch, other, strict=False):
            yield from _pairs(one, two, name)
