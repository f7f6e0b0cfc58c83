"""Answers of the chapter: hints and attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _ratio(x: Tensor, y: Tensor) -> Tensor:
    return (x.T @ y).square().sum() / ((x.T @ x).square().sum() * (y.T @ y).square().sum()).sqrt()


def _cka(*, x: Tensor, y: Tensor) -> Tensor:
    return _ratio(x - x.mean(0), y - y.mean(0))


def _not_centered(*, x: Tensor, y: Tensor) -> Tensor:
    return _ratio(x, y)


def _over_features(*, x: Tensor, y: Tensor) -> Tensor:
    return _ratio(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))


def _root(*, x: Tensor, y: Tensor) -> Tensor:
    return _cka(x=x, y=y).sqrt()


def _by_lengths(*, x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).square().sum() / (x.square().sum() * y.square().sum())


def _layers(draw: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(draw)
    x = torch.randn(30, 4, generator=g, dtype=torch.float64)
    mixed = x @ torch.randn(4, 6, generator=g, dtype=torch.float64)
    y = mixed + torch.randn(30, 6, generator=g, dtype=torch.float64)
    return {"x": x + 2, "y": y - 1}


_TWICE = 2 * (math.log(256) + 255 * math.log(256 / 255))

EXERCISES = [
    Exercise(
        id="ex-hints_and_attention-1",
        right=128 / 82,
        tolerance=1e-3,
        wrong={
            0.8: "the activities are squared before they are summed over the channels.",
            128.0: "each map is divided by its own length first.",
            64 / 82: "this is the mean over the two places; the loss is the sum.",
            0.64: "each map is divided by its length, not by its sum.",
            (128 / 82) ** 0.5: "this is the distance; the loss is its square.",
        },
        hint="The maps are (9, 1) and (1, 9), each of length √82.",
    ),
    Exercise(
        id="ex-hints_and_attention-2",
        kind="callable",
        right=_cka,
        inputs=_layers,
        wrong={
            _not_centered: "the columns are not centered: then two layers are alike because both "
            "are positive.",
            _over_features: "the mean is over the items, not over the features.",
            _root: "the numerator is squared, or the whole is a root too many.",
            _by_lengths: "the norms below are those of x'x and y'y, not of x and y.",
        },
        hint="Center each feature over the items, then three Frobenius norms.",
    ),
    Exercise(
        id="ex-hints_and_attention-3",
        right=_TWICE,
        tolerance=1e-2,
        wrong={
            _TWICE / 2: "this is one of the two sides.",
            2 * math.log(256): "the 255 strangers cost something, too: each -log(1 - h).",
            2 * 256 * math.log(2): "h is not one half: the -log K in it makes it 1 / (K + 1).",
        },
        hint="Where all products are equal, c is that product over τ, and h = 1 / (K + 1).",
    ),
    Exercise(
        id="ex-hints_and_attention-4",
        kind="tensor",
        right=[0.0, 1.0],
        wrong={
            (1.0, 0.0): "exchanged: a softmax over the classes of a pixel does not see what all "
            "classes of that pixel share.",
            (0.0, 0.0): "a constant added to one channel changes which class wins.",
            (1.0, 1.0): "one of the two softmaxes is over the places of that channel.",
        },
        hint="Over which axis does each softmax run? It does not see a constant along that axis.",
    ),
]
