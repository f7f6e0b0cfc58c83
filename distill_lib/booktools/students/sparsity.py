"""``{student} sparsity``: which weights of one layer magnitude pruning keeps."""

from __future__ import annotations

from functools import cache
from typing import Any

from distill_lib.booktools.sliders import _fragment
from distill_lib.booktools.students import Figure
from distill_lib.booktools.students.bits import LAYER, NETWORK, histogram, weights

__all__ = ["SPARSITIES", "figure"]

SPARSITIES = (*(i / 20 for i in range(1, 19)), 0.95, 0.98)


@cache
def fits() -> list[dict[str, Any]]:
    """For each sparsity: the smallest weight that stays, and shares of weights and of squares."""
    from distill_lib import compress, zoo

    net, w, found = zoo.load_teacher(NETWORK), weights(), []
    whole = histogram(w)
    for sparsity in SPARSITIES:
        masks = compress.magnitude(net, sparsity, "layer", layers=[LAYER])
        kept = masks[f"{LAYER}.weight"].flatten()
        squares = w.square()
        left = histogram(w[kept])
        # The bins are those of all weights: the largest weight always stays.
        assert left["reach"] == whole["reach"]
        found.append(
            {
                "kept": kept.float().mean().item(),
                "squares": (squares[kept].sum() / squares.sum()).item(),
                "threshold": w[kept].abs().min().item(),
                "left": left["counts"],
            }
        )
    return found


def figure() -> Figure:
    """The figure: the histogram with what stays of it, and the two shares."""
    config = {
        "label": "Sparsity",
        "positions": SPARSITIES,
        "start": SPARSITIES.index(0.7),
        "fits": fits(),
        **histogram(weights()),
    }
    fallback = f"The weights of {LAYER}, and which of them magnitude pruning keeps."
    return Figure(_fragment("dlSparsity", "knobs.js", config, fallback))
