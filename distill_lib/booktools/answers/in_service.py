"""Answers of the chapter: in service."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _clipped(*, scaled: Tensor, scale: float, most: float) -> Tensor:
    gradient = scaled / scale
    return gradient * torch.clamp(most / gradient.norm(), max=1)


def _clipped_first(*, scaled: Tensor, scale: float, most: float) -> Tensor:
    return (scaled * torch.clamp(most / scaled.norm(), max=1)).div(scale)


def _not_clipped(*, scaled: Tensor, scale: float, most: float) -> Tensor:
    return scaled / scale


def _always_that_long(*, scaled: Tensor, scale: float, most: float) -> Tensor:
    gradient = scaled / scale
    return (gradient * most).div(gradient.norm())


def _each_number(*, scaled: Tensor, scale: float, most: float) -> Tensor:
    return (scaled / scale).clamp(-most, most)


def _gradients(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    scale = float(2 ** (10 + draw % 4))
    gradient = torch.randn(6, generator=generator, dtype=torch.float64)
    size = (0.2, 3.0, 12.0)[draw % 3]
    return {
        "scaled": scale * size * gradient / gradient.norm(),
        "scale": scale,
        "most": (1.0, 2.0, 0.5)[draw % 3],
    }


EXERCISES = [
    Exercise(
        id="ex-in_service-1",
        right=20 / 255 / 2 / 0.05,
        tolerance=2e-3,
        wrong={
            20 / 255 / 0.05: "this is a whole step; rounding is off by half of it at most.",
            20 / 255 / 2: "this is in the units of the observation; divide by its standard "
            "deviation.",
            10 / 255 / 2 / 0.05: "the grid covers the range from -10 to 10, which is 20.",
            20 / 127 / 2 / 0.05: "8 bits of an asymmetric grid are 256 values, 255 steps.",
            20 / 255 / 2 / 4: "this is for the observation with the large unit.",
        },
        hint="half a step of the common grid, divided by the standard deviation.",
    ),
    Exercise(
        id="ex-in_service-2",
        kind="callable",
        right=_clipped,
        inputs=_gradients,
        tolerance=1e-6,
        wrong={
            _clipped_first: "clipped before it is unscaled: every gradient comes out as short as "
            "most / scale.",
            _always_that_long: "every gradient comes out as long as most: it was clipped without "
            "being unscaled, or short ones were made longer.",
            _not_clipped: "unscaled, and not clipped.",
            _each_number: "the norm of the whole gradient is bounded, not each of its numbers.",
        },
        hint="divide by the scale, then shorten to the norm `most` where it is longer.",
    ),
    Exercise(
        id="ex-in_service-3",
        right=3,
        wrong={
            16: "this is the cost of training all shapes to the end.",
            5: "five rounds, but only the first is for all shapes, and it is short.",
            1: "only the last shape is trained to the end; the others have cost something, too.",
            31 / 16: "each round doubles the length of the training, but it goes on from where the "
            "last one ended: the second costs 150 batches a shape, not 300.",
            31: "16 + 8 + 4 + 2 + 1 shapes, of which most are trained for a short while only.",
        },
        hint="add up what each round costs: shapes that are left, times the batches it adds.",
    ),
]
