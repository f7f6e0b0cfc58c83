"""Answers of the chapter: a better teacher."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _regression(*, student: Tensor, teacher: Tensor, again: Tensor) -> Tensor:
    return (student - teacher).square().mean(-1) + (student - again).square().mean(-1)


def _twice(*, student: Tensor, teacher: Tensor, again: Tensor) -> Tensor:
    return 2 * (student - teacher).square().mean(-1)


def _teacher_again(*, student: Tensor, teacher: Tensor, again: Tensor) -> Tensor:
    return (student - teacher).square().mean(-1) + (teacher - again).square().mean(-1)


def _only_consistent(*, student: Tensor, teacher: Tensor, again: Tensor) -> Tensor:
    return (student - again).square().mean(-1)


def _one_number(*, student: Tensor, teacher: Tensor, again: Tensor) -> Tensor:
    return _regression(student=student, teacher=teacher, again=again).mean()


def _summed(*, student: Tensor, teacher: Tensor, again: Tensor) -> Tensor:
    return 10 * _regression(student=student, teacher=teacher, again=again)


def _logits(draw: int) -> dict[str, Any]:
    noise = torch.Generator().manual_seed(draw)
    names = ("student", "teacher", "again")
    return {name: torch.randn(6, 10, dtype=torch.float64, generator=noise) for name in names}


EXERCISES = [
    Exercise(
        id="ex-resnet_distillation-1",
        right=21.6,
        wrong={
            1.2: "this is one view of each image.",
            43.2: "this is in float32.",
            10.8: "mirrored and not: nine places give eighteen views.",
            2.16: "ten numbers a view.",
        },
        hint="views × images × classes × two bytes.",
    ),
    Exercise(
        id="ex-resnet_distillation-2",
        kind="callable",
        right=_regression,
        wrong={
            _twice: "this is one term with twice its weight.",
            _teacher_again: "the second term compares the student with itself.",
            _only_consistent: "a constant student would be perfect: the teacher is missing.",
            _one_number: "one value an item: only an objective reduces.",
            _summed: "the mean over classes, not the sum.",
        },
        inputs=_logits,
        hint="two mean squares: to the teacher, and to the student's other answer.",
    ),
    Exercise(
        id="ex-resnet_distillation-3",
        right=math.log(0.73 / 0.03),
        wrong={
            math.log(0.7 / 0.3): "the 0.3 is shared by ten classes, the right one among them.",
            math.log(0.7 / 0.03): "the right class gets its share of the 0.3 too: 0.73.",
            0.7: "this is a difference of probabilities.",
            0.0: "this is the difference between two of the wrong classes.",
            -math.log(0.73 / 0.03): "the right class has the larger logit.",
        },
        hint="logits differ by the logarithm of the ratio of their probabilities.",
    ),
]
