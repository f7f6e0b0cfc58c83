"""``{student} bits``: one layer rounded to few values, by an even grid and by a codebook."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from distill_lib.booktools.sliders import _fragment
from distill_lib.booktools.students import Figure

if TYPE_CHECKING:  # the tools of the book are there before torch is
    from torch import Tensor

__all__ = ["BITS", "LAYER", "figure", "histogram", "rounded", "weights"]

NETWORK, LAYER, BITS = "fashion_resnet20", "layer2.0.conv1", range(1, 9)


@cache
def weights() -> Tensor:
    """[4,608] weights of a layer of the residual network in the zoo."""
    from distill_lib import zoo

    weight = zoo.load_teacher(NETWORK).get_parameter(f"{LAYER}.weight")
    return weight.detach().flatten()


def rounded(w: Tensor, bits: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and rounded weights, by an even grid and by k-means; one bit leaves the grid zero."""
    import torch

    from distill_lib import compress

    values, codes = compress.kmeans(w, 2**bits)
    if bits == 1:
        even = torch.zeros(1), torch.zeros_like(w)
    else:
        step, _ = compress.grid(w, bits)
        most = 2 ** (bits - 1) - 1
        even = step * torch.arange(-most, most + 1), compress.quantize(w, bits)
    return {"even": even, "kmeans": (values, values[codes])}


def histogram(w: Tensor, bins: int = 80) -> dict[str, Any]:
    """Counts of equal bins between minus and plus the largest weight."""
    import torch

    reach = w.abs().max().item()
    return {"reach": reach, "counts": torch.histc(w, bins, -reach, reach).int().tolist()}


@cache
def fits() -> list[dict[str, Any]]:
    """For each number of bits: how many values, and the quality in decibels."""
    import torch

    w, found = weights(), []
    for bits in BITS:
        row: dict[str, Any] = {}
        for name, (values, near) in rounded(w, bits).items():
            error = (near - w).square().mean()
            row[f"{name}_values"] = len(values)
            row[f"{name}_db"] = (10 * torch.log10(w.square().mean() / error)).item()
            row[name] = [round(v, 5) for v in values.tolist()]
        found.append(row)
    return found


def figure() -> Figure:
    """The figure: a histogram, the values that the bits allow, and the two qualities."""
    config = {
        "label": "Bits a weight",
        "positions": list(BITS),
        "start": 2,
        "fits": fits(),
        **histogram(weights()),
    }
    fallback = f"The weights of {LAYER}, rounded to 1 to 8 bits."
    return Figure(_fragment("dlBits", "knobs.js", config, fallback))
