"""Which states are drawn more often."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["weights_of_states"]


def weights_of_states(
    priority: Callable[[Mapping[str, Tensor]], Tensor],
    states: Mapping[str, Tensor],
    episodes: Mapping[str, Tensor],
) -> Tensor:
    """A positive weight for each state [N], from a function that weighs episodes or states.

    Raises:
        ValueError: It weighs neither, or some weight is not positive and finite.
    """
    count, sizes = len(states["owner"]), len(episodes["return"])
    with torch.no_grad():
        heavy = torch.as_tensor(priority({**states, **episodes})).double().cpu()
    fits = heavy.shape in {(sizes,), (count,)}
    if not (fits and bool((heavy > 0).all()) and bool(heavy.isfinite().all())):
        least = heavy.min().item() if heavy.numel() else "nothing"
        raise ValueError(
            f"priority gives a positive weight to each of {sizes} episodes or {count} states, "
            f"got {list(heavy.shape)}, the least {least}"
        )
    return heavy if heavy.shape == (count,) else heavy[states["episode"]]
