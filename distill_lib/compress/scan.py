"""Which layers bear to be pruned: one layer at a time, before a share is given to each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from distill_lib.arguments import checked
from distill_lib.ties import copied

from ._layers import check_share
from .criteria import Masks, magnitude

__all__ = ["sensitivity"]


def _in_each_layer(model: nn.Module, sparsity: float) -> Masks:
    return magnitude(model, sparsity, "layer")


@checked
@torch.no_grad()
def sensitivity(
    model: nn.Module,
    measure: Callable[[nn.Module], Any],
    sparsities: Sequence[float] = (0.5, 0.7, 0.9),
    choose: Callable[[nn.Module, float], Masks] = _in_each_layer,
) -> dict[str, list[float]]:
    r"""What becomes of a model when a single layer is pruned, one layer after the other.

    .. math:: c_l(s) = \text{measure}(\text{the model without the share } s \text{ of layer } l)

    Give more sparsity to the layers whose curve stays flat; the chapter on pruning does it in ten
    lines.

    Args:
        model: Any module; it is not changed.
        measure: ``measure(model)``, a number: an accuracy, a loss, or a divergence from the dense
            model, on data that is not the test set. It gets a copy that it may change, for
            instance to measure the statistics of batch normalization anew.
        sparsities: Shares to remove, each in (0, 1).
        choose: ``choose(model, sparsity) -> Masks``, which removes the same share of each layer;
            by default the smallest weights of each.

    Returns:
        For the name of each weight, a number for each sparsity.

    Raises:
        TypeError: a measure that is no function, or returns no number.
        ValueError: no sparsities, one outside (0, 1), masks that remove different shares of
            different layers, or a measure that is not a finite number.

    Reference:
        Han et al., *Learning both weights and connections*, 2015, section 4.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
        >>> zeros = lambda m: sum(int((p == 0).sum()) for p in m.parameters())
        >>> sensitivity(net, zeros, (0.25, 0.5))
        {'0.weight': [8.0, 16.0], '1.weight': [2.0, 4.0]}
    """
    if not len(sparsities):
        raise ValueError("sparsities expected one share at least, got none")
    if isinstance(measure, nn.Module | type):
        raise TypeError(f"measure expected a function of a model, got {measure!r:.80}")
    found: dict[str, list[float]] = {}
    for sparsity in sparsities:
        check_share(sparsity, "sparsities")
        masks = choose(model, sparsity)
        for name, mask in masks.items():
            if int((~mask).sum()) != round(sparsity * mask.numel()):
                raise ValueError(
                    f"choose removed {1 - float(mask.double().mean()):.1%} of {name!r} where "
                    f"{sparsity:.1%} of each layer were asked for: let weights compete in their "
                    'layer, with scope="layer"'
                )
            said = measure(Masks({name: mask}).apply(copied(model)))
            try:
                value = float(said)
            except (TypeError, ValueError) as error:
                raise TypeError(f"measure expected to return a number, got {said!r:.80}") from error
            if not math.isfinite(value):
                raise ValueError(f"measure is {value} without {sparsity:.1%} of {name!r}")
            found.setdefault(name, []).append(value)
    return found
