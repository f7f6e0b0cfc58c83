"""Batch normalization by the statistics of the batch, for the time of one answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

__all__ = ["batch_statistics"]


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize by the batch, without touching the running statistics; afterwards as before.

    The model is the user's: left so, it would never again learn statistics, nor would its copies.

    Example:
        >>> norm = nn.BatchNorm1d(3).eval()
        >>> with batch_statistics(norm):
        ...     norm.training, norm.track_running_stats
        (True, False)
        >>> norm.training, norm.track_running_stats
        (False, True)
    """
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [part for part in model.modules() if isinstance(part, kinds)]
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, mode, tracks in before:
            norm.training, norm.track_running_stats = mode, tracks
