"""Answers of the chapter: online and mutual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

_P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])


def _others(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return ((p.sum(0) - p) / (len(p) - 1)).log()


def _all(logits: Tensor) -> Tensor:
    return logits.softmax(-1).mean(0).log().expand_as(logits)


def _mean_logits(logits: Tensor) -> Tensor:
    return ((logits.sum(0) - logits) / (len(logits) - 1)).log_softmax(-1)


def _probabilities(logits: Tensor) -> Tensor:
    return _others(logits).exp()


def _sum(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return (p.sum(0) - p).log()


def _peers(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    return {"logits": 2 * torch.randn(3 + draw % 2, 5, 4, generator=generator)}


def _targets(logits: Tensor, center: Tensor, tau: float) -> Tensor:
    return ((logits - center) / tau).softmax(-1)


def _not_centered(logits: Tensor, center: Tensor, tau: float) -> Tensor:
    return (logits / tau).softmax(-1)


def _added(logits: Tensor, center: Tensor, tau: float) -> Tensor:
    return ((logits + center) / tau).softmax(-1)


def _not_sharpened(logits: Tensor, center: Tensor, tau: float) -> Tensor:
    return (logits - center).softmax(-1)


def _sharpened_first(logits: Tensor, center: Tensor, tau: float) -> Tensor:
    return (logits / tau - center).softmax(-1)


def _multiplied(logits: Tensor, center: Tensor, tau: float) -> Tensor:
    return ((logits - center) * tau).softmax(-1)


def _answers(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    return {
        "logits": torch.randn(6, 5, generator=generator),
        "center": torch.randn(5, generator=generator),
        "tau": 0.2 + 0.1 * (draw % 3),
    }


EXERCISES = [
    Exercise(
        id="ex-online_and_mutual-1",
        kind="tensor",
        right=_P[0] - _P[1:].mean(0),
        wrong={
            _P[1:].mean(0) - _P[0]: "the sign: a gradient points away from the others.",
            _P[0] - _P.mean(0): "the mean is that of the others, without the peer itself.",
            _P[1:].mean(0): "this is the teacher; the gradient is the difference from it.",
            2 * _P[0] - _P[1:].sum(0): "the others are averaged, not summed.",
        },
        hint="p of the peer minus the mean p of the other two.",
    ),
    Exercise(
        id="ex-online_and_mutual-2",
        right=0.1 / 1.9 * 1.81 / 0.19,
        wrong={
            0.1 / 1.9: "this is the factor of independent values; iterates of SGD remember.",
            0.1: "1 - d is the weight of the newest value, not a variance.",
            0.9: "this is d.",
            1.9 / 0.1 * 0.19 / 1.81: "this is 1/r.",
            0.1 / 1.9 * 1.09 / 0.91: "a is 1 - ηh = 0.9, not 0.1.",
        },
        hint="(1 - d)(1 + ad) / ((1 + d)(1 - ad)) with a = 1 - ηh.",
    ),
    Exercise(
        id="ex-online_and_mutual-3",
        kind="callable",
        right=_others,
        wrong={
            _all: "a peer is no teacher of itself: leave it out of the mean.",
            _mean_logits: "mean logits are the geometric mean of the probabilities.",
            _probabilities: "these are the probabilities; their logarithm was asked for.",
            _sum: "this is the sum over the others; divide by K - 1.",
        },
        inputs=_peers,
        hint="softmax, sum over all minus the peer's own, divided by K - 1, logarithm.",
    ),
    Exercise(
        id="ex-online_and_mutual-4",
        kind="callable",
        right=_targets,
        wrong={
            _not_centered: "without the center one output takes all.",
            _added: "the center is subtracted.",
            _not_sharpened: "without sharpening every image gets the same answer.",
            _sharpened_first: "the center is one of logits: subtract it before dividing.",
            _multiplied: "a small temperature sharpens when one divides by it.",
        },
        inputs=_answers,
        hint="subtract the center, divide by tau, softmax.",
    ),
]
