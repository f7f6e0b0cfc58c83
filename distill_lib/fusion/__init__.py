"""Several models made into one: votes, joined features, averaged weights, folded layers."""

from __future__ import annotations

from .alignment import Axes, align, permute, symmetries
from .batchnorm import fold_batchnorm, refresh_batchnorm
from .combine import Barrier, Vote, barrier, greedy_soup, soup
from .joined import Concatenate

__all__ = [
    "Axes",
    "Barrier",
    "Concatenate",
    "Vote",
    "align",
    "barrier",
    "fold_batchnorm",
    "greedy_soup",
    "permute",
    "refresh_batchnorm",
    "soup",
    "symmetries",
]


def __dir__() -> list[str]:
    return __all__
