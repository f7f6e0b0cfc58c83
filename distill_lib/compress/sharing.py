"""Weights that share a few values: k-means codebooks, trained on as such."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import check_counts, check_numbers, checked

from ._layers import compute_weight, users_of, weights_of
from .rounding import wide

__all__ = ["Codebook", "Shared", "codebook_bits", "kmeans", "share"]


@checked
def codebook_bits(n: int, k: int, value_bits: int = 32) -> float:
    r"""Bits a weight costs when n weights share k values.

    .. math:: b = \log_2 k + \frac{32\,k}{n}

    Args:
        n: Number of weights.
        k: Number of values.
        value_bits: Bits of one value of the codebook.

    Reference:
        Han et al., *Deep compression*, 2016, equation 1.

    Example:
        >>> round(codebook_bits(10**6, 16), 6)
        4.000512
    """
    check_counts(n=n, k=k, value_bits=value_bits)
    return math.log2(k) + value_bits * k / n


@checked
def kmeans(
    values: Tensor, k: int, init: str = "linear", iterations: int = 100
) -> tuple[Tensor, Tensor]:
    r"""The k numbers that stand for many with a small squared error, by Lloyd's iteration.

    .. math:: \min_{c, a} \sum_i (w_i - c_{a_i})^2

    It ends in a local minimum near its start, which may be far from the least error: with one value
    far outside, ``linear`` leaves most centroids without values, and ``quantile`` does not.

    Args:
        values: [n].
        k: Number of centroids at most; some may belong to no value.
        init: ``linear``, evenly between the extremes, which serves the few large weights;
            ``quantile``, evenly in numbers.
        iterations: At most; it ends when nothing moves.

    Returns:
        [k] centroids in ascending order, and [n] which of them each value belongs to.

    Raises:
        ValueError: no values, values that are not finite, an unknown init.

    Reference:
        Lloyd, *Least squares quantization in PCM*, 1982.

    Example:
        >>> kmeans(torch.tensor([0.0, 0.2, 1.0, 1.2]), 2)
        (tensor([0.1000, 1.1000]), tensor([0, 0, 1, 1]))
    """
    check_numbers("values", values)
    flat = values.detach().flatten()
    if not bool(flat.isfinite().all()):
        raise ValueError("values expected finite numbers, got some that are not")
    if init not in ("linear", "quantile"):
        raise ValueError(f"init is 'linear' or 'quantile', got {init!r}")
    check_counts(k=k)
    check_counts(0, iterations=iterations)
    ordered = flat.double().sort().values
    if init == "linear":
        first, last = float(ordered[0]), float(ordered[-1])
        c = torch.linspace(first, last, k, dtype=torch.float64, device=flat.device)
    else:
        c = ordered[((torch.arange(k) + 0.5) * len(ordered) / k).long().to(flat.device)]
    c = torch.unique(c)
    # of sorted values a cluster is a stretch, and its sum a difference of two running sums
    sums = F.pad(ordered.cumsum(0), (1, 0))
    ends = torch.tensor([0, len(ordered)], device=flat.device)
    for _ in range(iterations):
        cuts = torch.searchsorted(ordered, (c[1:] + c[:-1]) / 2, right=True)
        at = torch.cat([ends[:1], cuts, ends[1:]])
        moved = torch.where(at.diff() > 0, sums[at].diff() / at.diff().clamp(min=1), c)
        if torch.equal(moved, c):
            break
        c = moved
    c = c.to(flat.dtype)
    return c, torch.bucketize(wide(flat), (wide(c)[1:] + wide(c)[:-1]) / 2)


class Shared(nn.Module):
    """Computes a weight from its codebook; code 0 is the zero of a removed weight."""

    codes: Tensor

    def __init__(self, codes: Tensor, centroids: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self._centroids: Tensor | None = centroids

    def forward(self, centroids: Tensor) -> Tensor:
        table = F.pad(centroids, (1, 0))
        return table.index_select(0, self.codes.flatten()).view(self.codes.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        centroids, self._centroids = self._centroids, None
        if centroids is None:
            raise ValueError("a shared weight is set by its centroids: parametrizations.weight")
        return centroids


@dataclass(frozen=True)
class Codebook:
    """The values that one weight consists of.

    Attributes:
        centroids: [k] the trainable values.
        codes: Which value each weight has, from 1, in the shape of the weight; 0 stands for the
            zero of a removed weight.
    """

    centroids: nn.Parameter
    codes: Tensor

    @property
    def bits(self) -> float:
        """Bits a kept weight costs, with the codebook and without Huffman's code."""
        return codebook_bits(int((self.codes > 0).sum()), len(self.centroids))


@checked
@torch.no_grad()
def share(
    model: nn.Module,
    bits: int,
    layers: Sequence[str] | None = None,
    init: str = "linear",
) -> dict[str, Codebook]:
    r"""Let the weights of each layer share :math:`2^b` values, in place.

    The values stay trainable. Each learns from all weights that share it,

    .. math:: \frac{\partial L}{\partial c_k} = \sum_{i : a_i = k} \frac{\partial L}{\partial w_i}

    so that :func:`distill_lib.distill` trains the codebooks. Weights that are exactly zero, as
    pruned ones are, stay zero and are no part of it. :func:`bake` makes plain weights of it, and
    :func:`save_packed` writes them in about ``bits`` bits each. A weight that several layers use
    has one codebook, and all of them use it.

    Args:
        model: The model, in place.
        bits: 1 to 8.
        layers: Names of modules; all linear layers and convolutions by default.
        init: As in :func:`kmeans`.

    Returns:
        The codebooks, by the name of the weight; a weight that is all zero has none.

    Raises:
        ValueError: bits outside 1 to 8, a weight that is already shared or not finite, or one that
            is used in another shape as well.

    Reference:
        Han et al., *Deep compression*, 2016.

    Example:
        >>> net = nn.Linear(32, 8)
        >>> books = share(net, bits=2)
        >>> len(net.weight.unique()), books["weight"].bits
        (4, 2.5)
    """
    if not 1 <= bits <= 8 or int(bits) != bits:
        raise ValueError(f"bits is a whole number from 1 to 8, got {bits}")
    books = {}
    weights = weights_of(model, layers, "share")
    users = {name: [module for _, module in users_of(model, name)] for name in weights}
    for name, weight in weights.items():
        kept = weight != 0
        if not bool(kept.any()):
            continue  # pruned away as a whole: there is nothing to share
        centroids, codes = kmeans(weight[kept], 2**bits, init)
        full = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
        full[kept] = codes.int() + 1
        compute_weight(users[name], Shared(full, centroids))
        original = users[name][0].get_parameter("parametrizations.weight.original")
        books[name] = Codebook(original, full)
    return books
