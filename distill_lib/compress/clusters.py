"""The best few numbers to stand for many: k-means of one dimension, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_lib.arguments import check_counts, check_numbers, checked

from .rounding import wide

__all__ = ["kmeans"]

TABLE = 1 << 24  # entries of the table of an exact search: four bytes each, and seconds to fill

Array = NDArray[Any]


@checked
def kmeans(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""The k numbers that stand for many with the least squared error.

    .. math:: \min_{c, a} \sum_i (w_i - c_{a_i})^2

    On a line each cluster is a stretch of the sorted values, so that dynamic programming finds the
    best of all cuts. With :math:`E_j(b)` the least error of the first b values in j stretches,

    .. math:: E_j(b) = \min_{a \le b} E_{j-1}(a) + \mathrm{sse}(a, b)

    and since the best a rises with b and with j, each j takes :math:`O(m \log m)` for m distinct
    values. It is exact up to :math:`k\,m = 2^{24}`, a million distinct values with k = 16. Beyond,
    close values are first joined in :math:`2^{24} / k` cells, and h, the width of a cell, bounds
    what that costs: the root of the mean squared error grows by 2 h at most, and h is at most
    :math:`2k / 2^{24}` of the whole range.

    Args:
        values: [n].
        k: Number of centroids; only as many are used as there are distinct values.

    Returns:
        [≤ k] centroids in ascending order, and [n] which of them each value belongs to.

    Raises:
        ValueError: no values, or values that are not finite.

    Reference:
        Wang and Song, *Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic
        programming*, 2011; Grønlund et al., *Fast exact k-means, k-medians and Bregman divergence
        clustering in 1D*, 2017.

    Example:
        >>> kmeans(torch.tensor([0.0, 0.2, 1.0, 1.2]), 2)
        (tensor([0.1000, 1.1000]), tensor([0, 0, 1, 1]))
    """
    check_numbers("values", values)
    flat = values.detach().flatten()
    if not bool(flat.isfinite().all()):
        raise ValueError("values expected finite numbers, got some that are not")
    check_counts(k=k)
    distinct, found = np.unique(flat.double().cpu().numpy(), return_counts=True)
    counts = found.astype(np.float64)
    if len(distinct) > k:
        cells = _cells(distinct, counts, TABLE // k)
        means = _means(distinct, counts, cells)
        begins = cells[_begins(means, np.add.reduceat(counts, cells), k)]
        distinct = _means(distinct, counts, begins)
    c = torch.from_numpy(distinct).to(flat)
    return c, torch.bucketize(wide(flat), (wide(c)[1:] + wide(c)[:-1]) / 2)


def _means(x: Array, counts: Array, begins: Array) -> Array:
    top = np.abs(x).max()  # so that no sum overflows
    sums = np.add.reduceat(counts * (x / top), begins)
    return np.asarray(top * (sums / np.add.reduceat(counts, begins)))


def _cells(x: Array, counts: Array, most: int) -> Array:
    """Where cells begin: each value its own, or half of the cuts by width and half by number."""
    if len(x) <= most:
        return np.arange(len(x))
    half = most // 2
    by_width = np.searchsorted(x, np.linspace(x[0], x[-1], half, endpoint=False))
    share = np.arange(half) * (counts.sum() / half)
    by_number = np.searchsorted(counts.cumsum() - counts, share)
    return np.unique(np.concatenate([by_width, by_number.clip(max=len(x) - 1)]))


def _sums(x: Array) -> Array:
    """[m + 1] sums of the first values, up to a constant that makes them zero in the middle.

    So a value that is far out at the left takes no digits from the sums of the others.
    """
    half = len(x) // 2
    left = -x[:half][::-1].cumsum()[::-1]
    return np.concatenate([left, [0.0], x[half:].cumsum()])


def _begins(x: Array, counts: Array, k: int) -> Array:
    """Where the clusters of the least squared error begin, of sorted values with their counts."""
    m = len(x)
    x = x / np.abs(x).max()
    x = x - x[m // 2]
    n, first, second = (_sums(counts * x**power) for power in range(3))
    places = np.arange(m + 1)
    levels = m.bit_length()
    error = _error(n, first, second, np.zeros(m + 1, dtype=np.intp), places)
    error[0] = 0.0
    table = np.zeros((k, m + 1), dtype=np.int32)
    for j in range(1, k):
        before = error - second
        error = np.zeros(m + 1)
        begin = np.full(m + 1 + (1 << levels), m)  # beyond the end: no bound
        begin[0] = 0
        for level in range(levels - 1, -1, -1):
            step = 1 << level
            b = np.arange(step, m + 1, 2 * step)  # between two whose best cut is known
            # no cluster is empty: where a value lies far off, rounding would make one look good
            high = np.minimum(begin[b + step], np.where(b > j, b - 1, b))
            low = np.minimum(np.maximum(begin[b - step], np.maximum(table[j - 1, b], j)), high)
            size = high - low + 1
            start = size.cumsum() - size
            a = np.arange(size.sum()) + np.repeat(low - start, size)
            part = np.repeat(first[b], size) - first[a]
            cost = before[a] - part * part / np.maximum(np.repeat(n[b], size) - n[a], 1.0)
            least = np.minimum.reduceat(cost, start)
            best = np.flatnonzero(cost == np.repeat(least, size))[::-1]
            begin[np.repeat(b, size)[best]] = a[best]  # of equals the first, which comes last
            error[b] = least + second[b]
        table[j] = begin[: m + 1]
    found, at = [], m
    for j in range(k - 1, -1, -1):
        at = int(table[j, at])
        found.append(at)
    return np.unique(found)


def _error(n: Array, first: Array, second: Array, a: Array, b: Array) -> Array:
    """The squared error of the values from a to b around their mean."""
    part = first[b] - first[a]
    return np.asarray(second[b] - second[a] - part * part / np.maximum(n[b] - n[a], 1.0))
