"""What channels are worth, and which of them go."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_numbers, told

from ._channels import refused
from ._layers import check_scores

if TYPE_CHECKING:
    from .structured import Group

__all__ = ["global_shares", "importance_of", "lowest", "scored"]

IMPORTANCE = {
    "magnitude": "GroupMagnitudeImportance",
    "taylor": "GroupTaylorImportance",
    "random": "RandomImportance",
}


def importance_of(tp: Any, importance: str | Callable[[Any], Tensor], model: nn.Module) -> Any:
    if not isinstance(importance, str):
        return importance
    if importance not in IMPORTANCE:
        raise ValueError(f"importance is one of {', '.join(IMPORTANCE)}, got {importance!r}")
    if importance == "taylor" and all(p.grad is None for p in model.parameters()):
        raise ValueError("taylor weighs weights by gradients: call backward() on a loss first")
    if importance == "random":
        return tp.importance.RandomImportance()
    return getattr(tp.importance, IMPORTANCE[importance])(normalizer=_by_mean)


def _by_mean(worth: Tensor) -> Tensor:
    """In units of their mean, as torch-pruning has it by default; zeros stay zeros."""
    return worth / worth.mean().clamp_min(torch.finfo(worth.dtype).tiny)


def scored(tp: Any, importance: Any, score: Callable[[Any], Any], group: Group) -> Tensor:
    """[places] what the channels of a group are worth, those at one place of all blocks as one."""
    if isinstance(importance, (str, tp.importance.Importance)):
        with refused(group.names):
            worth = score(group.found)
    else:
        worth = score(group.found)
    if not isinstance(worth, Tensor) or worth.ndim != 1:
        raise TypeError(f"importance expected to score channels [C], got {told(worth)}")
    check_numbers("the scores of importance", worth)
    if len(worth) != (width := len(group.found[0].idxs)):
        raise ValueError(
            f"importance gave {len(worth)} scores for the {width} channels of "
            f"{', '.join(group.names)}: it has to be one a channel"
        )
    check_scores(", ".join(group.names), worth)
    return worth.detach().view(group.blocks, -1).mean(0)


def lowest(worth: Tensor, share: float, blocks: int, round_to: int) -> list[int]:
    """The channels that go, at the same places of each block."""
    step = round_to // gcd(round_to, blocks)  # blocks times places is then a multiple of round_to
    left = max(round((1 - share) * len(worth) / step), 1) * step
    places = worth.argsort()[: max(len(worth) - left, 0)].cpu()
    gone: list[int] = (places + len(worth) * torch.arange(blocks)[:, None]).flatten().tolist()
    return gone


def global_shares(scores: list[Tensor], ratio: float) -> list[float]:
    """The share of each group when the least important channels of all are taken out."""
    total = torch.cat(scores)
    bar = total.sort().values[max(round(ratio * len(total)) - 1, 0)]
    return [float((worth <= bar).sum()) / len(worth) for worth in scores]
