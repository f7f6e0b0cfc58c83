"""Weights that share a few values: k-means codebooks, trained on as such."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked

from ._layers import compute_weight, users_of, weights_of
from .clusters import kmeans

__all__ = ["Codebook", "Shared", "codebook_bits", "share"]


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
) -> dict[str, Codebook]:
    r"""Let the weights of each layer share :math:`2^b` values, in place.

    They begin as the values of the least squared error, by :func:`kmeans`, and stay trainable. Each
    learns from all weights that share it,

    .. math:: \frac{\partial L}{\partial c_k} = \sum_{i : a_i = k} \frac{\partial L}{\partial w_i}

    so that :func:`distill_lib.distill` trains the codebooks. Weights that are exactly zero, as
    pruned ones are, stay zero and are no part of it. :func:`bake` makes plain weights of it, and
    :func:`save_packed` writes them in about ``bits`` bits each. A weight that several layers use
    has one codebook, and all of them use it.

    Args:
        model: The model, in place.
        bits: 1 to 8.
        layers: Names of modules; all linear layers and convolutions by default.

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
        centroids, codes = kmeans(weight[kept], 2**bits)
        full = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
        full[kept] = codes.int() + 1
        compute_weight(users[name], Shared(full, centroids))
        original = users[name][0].get_parameter("parametrizations.weight.original")
        books[name] = Codebook(original, full)
    return books
