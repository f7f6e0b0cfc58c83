"""Losses whose value of an item depends on the others of its batch, and which others those are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distill_lib import losses

__all__ = ["among_kept", "is_relational", "of_several"]

Loss = Callable[..., Tensor]
_RELATIONAL = (
    losses.dist,
    losses.pkt,
    losses.rkd_angle,
    losses.rkd_distance,
    losses.similarity,
)


def is_relational(loss: Any, options: dict[str, Any]) -> bool:
    """Whether a loss of the library compares the items of a batch with each other."""
    settings = {**(getattr(loss, "keywords", None) or {}), **options}
    return getattr(loss, "func", loss) in _RELATIONAL and settings.get("gamma") != 0


def of_several(x: Tensor, batch: Mapping[str, Any]) -> bool:
    """Whether a signal [S, B, ...] is that of several students, by the ids of the batch."""
    index = batch.get("index")
    if not isinstance(index, Tensor) or x.ndim < 3 or not index.ndim:
        return False
    each = index.ndim == 2 and x.shape[:2] == index.shape
    return each or (index.ndim == 1 and len(x) != len(index) == x.shape[1])


def among_kept(
    loss: Loss, student: Tensor, teacher: Tensor, kept: Tensor | None, **options: Any
) -> Tensor:
    """A loss over the relations of the kept items alone; 0 for the others.

    An item that is left out must not shape the relations of those that stay.

    Args:
        loss: One value an item.
        student: [..., F], items on the axes of ``kept``.
        teacher: The same items.
        kept: Booleans, one an item; None: all.
    """
    if kept is None:
        return loss(student=student, teacher=teacher, **options)
    nothing = student.flatten()[:0].sum() + torch.zeros(kept.shape, device=student.device)
    if int(kept.sum()) < 2:  # no relation is left
        return nothing
    values = loss(student=student[kept], teacher=teacher[kept], **options)
    return nothing.to(values.dtype).masked_scatter(kept, values)
