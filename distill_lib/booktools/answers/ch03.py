"""Answers of chapter 3, the first distillation."""

from __future__ import annotations

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


EXERCISES = [
    Exercise(
        id="ex-3-1",
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
]
