"""Which states are drawn more often."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from distill_lib.arguments import told

__all__ = ["labeled", "weights_of_states"]


def labeled(owner: Tensor, students: int, labels: int | None, generator: torch.Generator) -> Tensor:
    """Which of the visited states are kept, of each student at most so many."""
    if labels is None:
        return torch.arange(len(owner))
    kept = []
    for one in range(students):
        mine = (owner == one).nonzero().squeeze(-1)
        order = torch.randperm(len(mine), generator=generator)
        kept.append(mine[order[:labels]])
    return torch.cat(kept)


def weights_of_states(
    priority: Callable[[Mapping[str, Tensor]], Tensor],
    states: Mapping[str, Tensor],
    episodes: Mapping[str, Tensor],
) -> Tensor:
    """A positive weight for each state [N], from a function that weighs episodes or states.

    Where there are as many states as episodes, it is asked once more, about one state more, and
    what becomes longer was of states.

    Raises:
        TypeError: It gives no numbers.
        ValueError: It weighs neither, or some weight is not positive and finite.
    """
    count, sizes = len(states["owner"]), len(episodes["return"])

    def ask(seen: Mapping[str, Tensor]) -> Tensor:
        found = priority({**seen, **episodes})
        try:
            return torch.as_tensor(found).double().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"priority gives weights as a tensor, got {told(found)}") from error

    with torch.no_grad():
        heavy = ask(states)
        of_states = count != sizes
        if heavy.shape == (count,) and not of_states:
            longer = ask({k: torch.cat([v, v[-1:]]) for k, v in states.items()})
            of_states = longer.shape != heavy.shape
    fits = heavy.shape in {(sizes,), (count,)}
    if not (fits and bool((heavy > 0).all()) and bool(heavy.isfinite().all())):
        least = heavy.min().item() if heavy.numel() else "nothing"
        raise ValueError(
            f"priority gives a positive weight to each of {sizes} episodes or {count} states, "
            f"got {list(heavy.shape)}, the least {least}"
        )
    return heavy if heavy.shape == (count,) and of_states else heavy[states["episode"]]
