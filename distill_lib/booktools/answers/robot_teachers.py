"""Answers of the chapter: the teachers of robots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

EPS = 1e-2


def _fold(*, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return bias - (weight / (std + EPS)) @ mean


def _no_eps(*, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return bias - (weight / std) @ mean


def _added(*, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return bias + (weight / (std + EPS)) @ mean


def _raw(*, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return bias - weight @ mean


def _times(*, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return bias - (weight * (std + EPS)) @ mean


def _variance(*, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return bias - (weight / (std.square() + EPS)) @ mean


def _layer(draw: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(draw)
    weight = torch.randn(4, 3, generator=g, dtype=torch.float64)
    bias = torch.randn(4, generator=g, dtype=torch.float64)
    mean, std = torch.randn(2, 3, generator=g, dtype=torch.float64)
    return {"weight": weight, "bias": bias, "mean": mean, "std": 0.05 + std.abs()}


def _best(*, student: Tensor, teacher: Tensor, sigma: float) -> Tensor:
    return (sigma**2 + (student - teacher).square().mean()).sqrt()


def _only_error(*, student: Tensor, teacher: Tensor, sigma: float) -> Tensor:
    return (student - teacher).square().mean().sqrt()


def _sum_of_deviations(*, student: Tensor, teacher: Tensor, sigma: float) -> Tensor:
    return sigma + (student - teacher).square().mean().sqrt()


def _of_variance(*, student: Tensor, teacher: Tensor, sigma: float) -> Tensor:
    return sigma**2 + (student - teacher).square().mean()


def _of_spread(*, student: Tensor, teacher: Tensor, sigma: float) -> Tensor:
    return (sigma**2 + (student - teacher).var()).sqrt()


def _of_distance(*, student: Tensor, teacher: Tensor, sigma: float) -> Tensor:
    return (sigma**2 + (student - teacher).abs().mean() ** 2).sqrt()


def _means(draw: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(draw)
    student, teacher = torch.randn(2, 40, generator=g, dtype=torch.float64)
    return {"student": student, "teacher": teacher + 0.7, "sigma": (0.3, 0.5, 1.1)[draw % 3]}


EXERCISES = [
    Exercise(
        id="ex-robot_teachers-1",
        kind="callable",
        right=_fold,
        inputs=_layer,
        wrong={
            _no_eps: "RSL-RL divides by the deviation plus 0.01; without it every observation is a "
            "little off.",
            _added: "the mean is subtracted from the observation, so its image leaves the bias.",
            _raw: "the mean meets the new weights, which have been divided by the deviation.",
            _times: "divided, not multiplied: large deviations shrink the weights.",
            _variance: "the buffer is a standard deviation; do not square it.",
        },
        hint="Write W((x − m)/(s + 0.01)) + b as a layer of x; its bias is asked for.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-robot_teachers-2",
        kind="callable",
        right=_best,
        inputs=_means,
        wrong={
            _only_error: "the teacher's own deviation is missing: even a perfect mean has to "
            "spread as the teacher does.",
            _sum_of_deviations: "variances add, deviations do not.",
            _of_variance: "this is the variance; its root is asked for.",
            _of_spread: "a shift between the means counts too: take the mean square, not the "
            "variance, of the difference.",
            _of_distance: "the mean of squares is not the square of the mean distance.",
        },
        hint="The proposition: add the mean squared difference to the teacher's variance.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-robot_teachers-3",
        right=3.0,
        wrong={
            48.0: "these are all steps of an iteration; most are used.",
            9.0: "the epochs follow each other without a break: 2 · 24 steps are cut into chunks "
            "together, not 24 twice.",
            18.0: "the epochs follow each other without a break: 2 · 24 steps are cut into chunks "
            "together.",
            0.0: "48 is no multiple of 15.",
            15.0: "this is a chunk; less than one is left over.",
        },
        hint="2 · 24 steps in chunks of 15, and a rest.",
    ),
    Exercise(
        id="ex-robot_teachers-4",
        right=12 * 0.8**2 / (2 * 0.5**2),
        wrong={
            0.0: "this is what a softmax over the means would say: it does not see a common shift.",
            0.8**2 / (2 * 0.5**2): "this is one joint; the divergence adds over all twelve.",
            12 * 0.8**2: "the squared error; the divergence divides it by 2σ².",
            12 * 0.8**2 / 0.5**2: "the factor one half is missing.",
            12 * 0.8 / (2 * 0.5**2): "the difference enters squared.",
        },
        hint="For equal deviations: the sum over joints of (difference)² / (2σ²).",
        tolerance=1e-3,
    ),
]
