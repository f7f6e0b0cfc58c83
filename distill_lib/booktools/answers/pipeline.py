"""Answers of the chapter: the whole way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _places(s: float) -> float:
    return -s * math.log2(s) - (1 - s) * math.log2(1 - s)


def _file(zeros: float, bits: float) -> float:
    return 68_000 * ((_places(zeros) if zeros else 0.0) + (1 - zeros) * bits) / 8 + 410 * 4


def _beaten(*, size: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """[n, n] whether j is at least as good as i in both, and better in one of them."""
    no_larger, no_worse = size <= size[:, None], quality >= quality[:, None]
    return no_larger & no_worse, (size < size[:, None]) | (quality > quality[:, None])


def _front(*, size: Tensor, quality: Tensor) -> Tensor:
    weakly, somewhere = _beaten(size=size, quality=quality)
    return ~(weakly & somewhere).any(1)


def _turned(*, size: Tensor, quality: Tensor) -> Tensor:
    return ~_front(size=size, quality=quality)


def _best_ratio(*, size: Tensor, quality: Tensor) -> Tensor:
    return quality / size == (quality / size).max()


def _itself(*, size: Tensor, quality: Tensor) -> Tensor:
    return ~_beaten(size=size, quality=quality)[0].any(1)


def _ties(*, size: Tensor, quality: Tensor) -> Tensor:
    return ~((size < size[:, None]) & (quality > quality[:, None])).any(1)


def _larger_is_better(*, size: Tensor, quality: Tensor) -> Tensor:
    return _front(size=-size, quality=quality)


def _networks(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    # rounded, so that there are networks of equal size, and of equal quality
    size = (8 * torch.rand(12, generator=generator, dtype=torch.float64) + 1).ceil()
    spread = torch.rand(12, generator=generator, dtype=torch.float64)
    quality = (size.sqrt() + spread).mul(10).round() / 10
    return {"size": size, "quality": quality}


BEST_OF_20 = 1.8675  # expected maximum of 20 draws of a standard normal distribution

EXERCISES = [
    Exercise(
        id="ex-pipeline-1",
        right=_places(0.9) / 0.9,
        tolerance=2e-3,
        wrong={
            _places(0.9): "this is what the places cost; divide by the share that is saved on.",
            _places(0.9) / 0.1: "divided by what is kept; bits are saved on what is removed.",
            2.0: "this is for half of the weights.",
            1.0: "for nine in ten the places are cheap: H(0.9) is far below one bit.",
        },
        hint="Pruning gains if H(s) + (1 - s) h < h.",
    ),
    Exercise(
        id="ex-pipeline-2",
        right=_file(0.4, 3.5),
        tolerance=2e-3,
        wrong={
            68_000 * 0.6 * 3.5 / 8 + 1640: "this file does not say where its zeros are.",
            _file(0.0, 3.5): "the zeros have been written in 3.5 bits each.",
            8 * _file(0.4, 3.5): "these are bits.",
            _file(0.4, 3.5) - 1640: "the biases have to be in the file, too: 4 bytes each.",
            _file(0.4, 3.5) - 410 * 3: "a bias is a float of 4 bytes here.",
        },
        hint="68,000 times b(s, h), in bytes, and 410 floats.",
    ),
    Exercise(
        id="ex-pipeline-3",
        kind="callable",
        right=_front,
        inputs=_networks,
        wrong={
            _turned: "these are the networks that are beaten.",
            _best_ratio: "a ratio picks one network; the front has all that nothing beats.",
            _itself: "every network is as good as itself: ask for one that is better somewhere.",
            _ties: "a network of equal size and better quality beats another, too.",
            _larger_is_better: "a small file is good: the comparison of sizes is turned round.",
        },
        hint="Network i is out if some j is no larger and no worse, and better in one of them.",
    ),
    Exercise(
        id="ex-pipeline-4",
        right=0.8 * BEST_OF_20,
        tolerance=0.03,
        wrong={
            0.8 / math.sqrt(20): "this is the error of the mean of all twenty.",
            0.8 * math.sqrt(2 * math.log(20)): "this is the bound; draw and take the mean.",
            0.8: "this is the spread of one score; the best of twenty is further out.",
            0.0: "no setting is better than another, but the best score is that of a lucky one.",
        },
        hint="Draw 20 normal numbers, take the largest, and average over many draws.",
    ),
]
