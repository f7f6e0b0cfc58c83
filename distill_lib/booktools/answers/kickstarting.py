"""Answers of the chapter: kickstarting."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _leashed(*, teacher: Tensor, advantages: Tensor, leash: float) -> Tensor:
    low = advantages.amax(-1, keepdim=True)
    high = low + leash
    for _ in range(60):
        mu = (low + high) / 2
        much = (leash * teacher / (mu - advantages)).sum(-1, keepdim=True) > 1
        low, high = torch.where(much, mu, low), torch.where(much, high, mu)
    return leash * teacher / (high - advantages)


def _tilted(*, teacher: Tensor, advantages: Tensor, leash: float) -> Tensor:
    return (teacher.log() + advantages / leash).softmax(-1)


def _tilted_the_wrong_way(*, teacher: Tensor, advantages: Tensor, leash: float) -> Tensor:
    return (teacher.log() + advantages * leash).softmax(-1)


def _the_end_of_the_interval(*, teacher: Tensor, advantages: Tensor, leash: float) -> Tensor:
    return leash * teacher / (advantages.amax(-1, keepdim=True) + leash - advantages)


def _normalized_afterwards(*, teacher: Tensor, advantages: Tensor, leash: float) -> Tensor:
    bare = _the_end_of_the_interval(teacher=teacher, advantages=advantages, leash=leash)
    return bare / bare.sum(-1, keepdim=True)


def _mixed(*, teacher: Tensor, advantages: Tensor, leash: float) -> Tensor:
    best = torch.nn.functional.one_hot(advantages.argmax(-1), advantages.shape[-1])
    return (leash * teacher + best) / (leash + 1)


def _one_leash_for_all(*, teacher: Tensor, advantages: Tensor, leash: float) -> Tensor:
    return _leashed(
        teacher=teacher.flatten(), advantages=advantages.flatten(), leash=leash
    ).view_as(teacher)


def _states(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    teacher = torch.randn(8, 4, generator=generator, dtype=torch.float64).softmax(-1)
    advantages = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    return {"teacher": teacher, "advantages": advantages, "leash": (0.3, 2.0, 0.05)[draw % 3]}


EXERCISES = [
    Exercise(
        id="ex-kickstarting-1",
        kind="tensor",
        right=[0.25, 0.25, 0.5],
        wrong={
            (0.5, 0.5, 1.0): "multiplied by exp(A), but not yet divided by the sum.",
            (0.5, 0.25, 0.25): "this is the teacher; the leash is not infinite.",
            (0.0, 0.0, 1.0): "this is the best action alone, the limit of a leash of 0.",
            (8 / 11, 2 / 11, 1 / 11): "divided by exp(A): worse actions have become likelier.",
            (1 / 7, 2 / 7, 4 / 7): "the tilt of a uniform teacher; multiply by the teacher's "
            "probabilities too.",
        },
        hint="The teacher's probabilities times exp(A / λ), divided by their sum.",
        tolerance=1e-3,
    ),
    Exercise(
        id="ex-kickstarting-2",
        right=0.01 / 0.89,
        wrong={
            0.01 / 0.9: "this is λ / Δ, the upper bound; the question asks for the lower one.",
            0.01: "the student begins with a share of 0.9, not of 1.",
            0.01 / 0.99: "the student begins with a share of 0.9, not of 1.",
            0.89 / 0.01: "upside down.",
            1 / math.log(891): "this is the reverse leash, which lets go exponentially.",
            1 / math.log(90): "this is the reverse leash, and its sum is not yet 1.",
        },
        hint="Solve λ / (λ + 1) · 0.9 = 0.01.",
        tolerance=4e-5,
    ),
    Exercise(
        id="ex-kickstarting-3",
        kind="callable",
        right=_leashed,
        inputs=_states,
        wrong={
            _tilted: "this is the reverse leash; the forward one is a hyperbola.",
            _tilted_the_wrong_way: "this is a reverse leash with λ upside down.",
            _the_end_of_the_interval: "μ = max A + λ is only the upper end of where it can be: "
            "the sum is below 1.",
            _normalized_afterwards: "dividing by the sum is not the same as finding μ: λ would "
            "change.",
            _mixed: "a mixture of teacher and best action; the theorem's policy ranks all others "
            "by their advantages too.",
            _one_leash_for_all: "one μ for the whole batch: each state needs its own.",
        },
        hint="Halve the interval from max A to max A + λ until λ·Σ π/(μ - A) is 1.",
        tolerance=1e-6,
    ),
]
