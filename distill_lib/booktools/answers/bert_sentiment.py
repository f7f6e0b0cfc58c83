"""Answers of the chapter: from BERT to a model for a phone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _share(*, student: Tensor, twin: Tensor, teacher: float) -> Tensor:
    return (student.mean() - twin.mean()) / (teacher - twin.mean())


def _kept(*, student: Tensor, twin: Tensor, teacher: float) -> Tensor:
    return student.mean() / teacher


def _above_chance(*, student: Tensor, twin: Tensor, teacher: float) -> Tensor:
    return (student.mean() - 0.5) / (teacher - 0.5)


def _of_each(*, student: Tensor, twin: Tensor, teacher: float) -> Tensor:
    return ((student - twin) / (teacher - twin)).mean()


def _left(*, student: Tensor, twin: Tensor, teacher: float) -> Tensor:
    return (teacher - student.mean()) / (teacher - twin.mean())


def _points(*, student: Tensor, twin: Tensor, teacher: float) -> Tensor:
    return student.mean() - twin.mean()


def _accuracies(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    noise = 0.02 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return {"student": 0.78 + noise[0], "twin": 0.70 + noise[1], "teacher": 0.83}


def _pool(*, states: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(states)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp_min(1)


def _all_positions(*, states: Tensor, mask: Tensor) -> Tensor:
    return states.mean(1)


def _divided_by_length(*, states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask.to(states)[..., None]).mean(1)


def _first(*, states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def _sum(*, states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask.to(states)[..., None]).sum(1)


def _padded(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    states = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([6, 4, 1, 0])  # the last text is empty
    return {"states": states, "mask": (torch.arange(6) < lengths[:, None]).long()}


EXERCISES = [
    Exercise(
        id="ex-bert_sentiment-1",
        kind="callable",
        right=_share,
        inputs=_accuracies,
        wrong={
            _kept: "this is the share of the teacher that is kept, which a coin has too: start "
            "from the twin.",
            _above_chance: "this starts from chance; the student's own twin is where it would be "
            "without a teacher.",
            _of_each: "the mean of the shares of single seeds: a lucky twin makes its share wild. "
            "Take the means first.",
            _left: "this is the share of the gap that is left.",
            _points: "these are points of accuracy; divide by the gap.",
        },
        hint="(student - twin) / (teacher - twin), with the means over seeds.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-bert_sentiment-2",
        right=(0.934 * 85 - 50) / 35,
        tolerance=1e-3,
        wrong={
            0.934: "this is the share that is kept of all accuracy, the guessed half included.",
            (0.934 - 0.5) / 0.5: "93.4 percent is not the student's accuracy, but its share of the "
            "teacher's: multiply by 85 first.",
            0.934 * 0.85: "this is the student's accuracy; chance is to be taken off, here and "
            "from the teacher's.",
        },
        hint="The student's accuracy is 0.934 times 85; take 50 from it and from 85.",
    ),
    Exercise(
        id="ex-bert_sentiment-3",
        kind="callable",
        right=_pool,
        inputs=_padded,
        wrong={
            _all_positions: "padding is averaged in: the answer changes with the batch's longest "
            "text.",
            _divided_by_length: "divided by the padded length: short texts come out small.",
            _first: "this is the state of the first position, [CLS].",
            _sum: "this is the sum; long texts come out large.",
        },
        hint="Multiply by the mask, add up, and divide by how many positions there were; a text "
        "with none gives 0/0 unless that number is clamped.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-bert_sentiment-5",
        right=12.0,
        tolerance=1e-3,
        wrong={
            4.0: "the ids are stored too: eight bytes a text.",
            16.0: "the logits are in half precision: two bytes each.",
            10.0: "both logits are stored, 2 · 2 bytes.",
        },
        hint="2 · 2 + 8 bytes a text.",
    ),
]
