"""Answers of the chapter: the first distillation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.answers.mistakes import draw_logits
from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _agreement(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.argmax(-1) == teacher.argmax(-1)).double().mean()


def _equal_logits(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student == teacher).double().mean()


def _wrong_axis(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.argmax(0) == teacher.argmax(0)).double().mean()


def _count(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.argmax(-1) == teacher.argmax(-1)).double().sum()


def _logits(draw: int) -> dict[str, Any]:
    drawn = draw_logits(draw)
    half = torch.arange(8) % 2 == 0  # agree on every second item, and on a few more by chance
    student = torch.where(half[:, None], drawn["teacher"] + 0.1, drawn["student"])
    return {"student": student, "teacher": drawn["teacher"]}


def _paired(*, a: Tensor, b: Tensor) -> Tensor:
    return (a - b).std() / math.sqrt(len(a))


def _spread(*, a: Tensor, b: Tensor) -> Tensor:
    return (a - b).std()


def _divided_twice(*, a: Tensor, b: Tensor) -> Tensor:
    return (a - b).std() / len(a)


def _population(*, a: Tensor, b: Tensor) -> Tensor:
    return (a - b).std(correction=0) / math.sqrt(len(a))


def _unpaired(*, a: Tensor, b: Tensor) -> Tensor:
    return ((a.var() + b.var()) / len(a)).sqrt()


def _of_the_means(*, a: Tensor, b: Tensor) -> Tensor:
    return (a.mean() - b.mean()).abs()


def _accuracies(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    luck = torch.randn(5, generator=generator, dtype=torch.float64)
    a, b = (0.02 * torch.randn(2, 5, generator=generator, dtype=torch.float64)).unbind()
    return {"a": 0.85 + 0.05 * luck + a, "b": 0.84 + 0.05 * luck + b}


EXERCISES = [
    Exercise(
        id="ex-first_distillation-1",
        kind="callable",
        right=_agreement,
        inputs=_logits,
        wrong={
            _equal_logits: "agreement compares the chosen classes, not the logits.",
            _wrong_axis: "argmax over the batch: the classes are the last axis.",
            _count: "this is how many agree; agreement is the share, between 0 and 1.",
        },
        hint="The share of items where both choose the same class.",
    ),
    Exercise(
        id="ex-first_distillation-2",
        kind="callable",
        right=_paired,
        inputs=_accuracies,
        wrong={
            _spread: "the spread of one difference; that of the mean of S is smaller by √S.",
            _divided_twice: "divided by S: variances fall like 1/S, standard errors like 1/√S.",
            _population: "divided by S instead of S - 1: with five seeds a tenth too small.",
            _unpaired: "this treats the runs as unrelated; they share their seeds, so take the "
            "differences first.",
            _of_the_means: "this is the difference itself; its error is asked for.",
        },
        hint="The standard deviation of the S differences, divided by √S.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-first_distillation-3",
        right=26 * 24 / 49,
        tolerance=1e-3,
        wrong={
            26.0: "this is one epoch of one student without the cost of asking once.",
            26 * 24 / 50: "asking once costs 25, not 26: no student takes a step then.",
            26 * 24 / 25: "with a cache the students' own steps still cost 4 · 6 units.",
            26 * 4 / 29: "this is for one student; the stored answers serve all six.",
            24.0: "the students' own steps do not become cheaper.",
            49 / (26 * 24): "this is the cost with a cache over the cost without it.",
        },
        hint="Live: (25 + 1) a step. Stored: 25 once, then 1 a step; 24 steps an image.",
    ),
]
