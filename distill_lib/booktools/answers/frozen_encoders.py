"""Answers of the chapter: frozen encoders."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _changed(*, before: Tensor, after: Tensor) -> Tensor:
    return (before.view(torch.int32) != after.view(torch.int32)).sum()


def _unequal(*, before: Tensor, after: Tensor) -> Tensor:
    return (before != after).sum()


def _far(*, before: Tensor, after: Tensor) -> Tensor:
    return (~torch.isclose(before, after, equal_nan=True)).sum()


def _far_and_nan(*, before: Tensor, after: Tensor) -> Tensor:
    return (~torch.isclose(before, after)).sum()


def _kept(*, before: Tensor, after: Tensor) -> Tensor:
    return (before.view(torch.int32) == after.view(torch.int32)).sum()


def _any(*, before: Tensor, after: Tensor) -> Tensor:
    return (before.view(torch.int32) != after.view(torch.int32)).any()


def _weights(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    before = torch.randn(40, generator=generator)
    before[:4] = torch.tensor([0.0, math.nan, math.nan, math.nan])
    after = before.clone()
    after[0] = -0.0  # equal, of other bits
    after[10:14] *= 1 + 2e-7  # closer than any tolerance
    after[20 : 21 + draw] += 1
    return {"before": before, "after": after}


EXERCISES = [
    Exercise(
        id="ex-frozen_encoders-1",
        right=math.log(0.99) / math.log(1 - 1e-5),
        tolerance=1e-2,
        wrong={
            1.0: "the decay is multiplied by the learning rate.",
            math.log(0.99) / math.log(1 - 1e-3): "this is the rate alone, without the decay.",
            math.log(0.01) / math.log(1 - 1e-5): "this is when one percent is left.",
            0.0: "the gradient is zero, and the step is not.",
        },
        hint="Solve (1 − ηλ)^n = 0.99.",
    ),
    Exercise(
        id="ex-frozen_encoders-2",
        right=292 / 10,
        wrong={
            292 / 106: "here the frozen encoder runs in each step; its tokens were kept.",
            300 / 10: "the lowest layer needs no gradient of its input.",
            300 / 12: "in neither step does the lowest trained layer pass a gradient on.",
            292 / 12: "the head's first layer is now the lowest: it passes no gradient on.",
            3.0: "this is the whole encoder against itself without a gradient.",
        },
        hint="3E + 3H − e against 3H − h.",
    ),
    Exercise(
        id="ex-frozen_encoders-3",
        kind="callable",
        right=_changed,
        inputs=_weights,
        wrong={
            _unequal: "NaN is unequal to itself, and 0 equals −0: compare the bits.",
            _far: "a tolerance hides small changes: compare the bits.",
            _far_and_nan: "a tolerance hides small changes, and NaN is not close to itself.",
            _kept: "these are the entries that did not change.",
            _any: "how many, not whether.",
        },
        hint="A float32 has the 32 bits of an int32: x.view(torch.int32).",
        tolerance=1e-6,
    ),
]
