"""Answers of the chapter: what else is passed on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _left(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    now = (student - teacher).square().sum((1, 2))
    return now / (start - teacher).square().sum((1, 2))


def _not_squared(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return _left(start=start, student=student, teacher=teacher).sqrt()


def _absolute(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).abs().sum((1, 2)) / (start - teacher).abs().sum((1, 2))


def _gone(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - _left(start=start, student=student, teacher=teacher)


def _one_for_all(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum() / (start - teacher).square().sum()


def _item_by_item(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return ((student - teacher).square().sum(2) / (start - teacher).square().sum(2)).mean(1)


def _moved(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return (student - start).square().sum((1, 2)) / (start - teacher).square().sum((1, 2))


def _disagree(*, start: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.argmax(-1) != teacher.argmax(-1)).double().mean(1)


def _logits(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    start, teacher, noise = torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)
    return {"start": start, "student": teacher + 0.5 * noise, "teacher": teacher}


def _auc(*, scores: Tensor, member: Tensor) -> Tensor:
    gap = scores[member][:, None] - scores[~member]
    return ((gap > 0).double() + (gap == 0).double() / 2).mean()


def _reversed(*, scores: Tensor, member: Tensor) -> Tensor:
    return 1 - _auc(scores=scores, member=member)


def _ties_lost(*, scores: Tensor, member: Tensor) -> Tensor:
    return (scores[member][:, None] > scores[~member]).double().mean()


def _ties_won(*, scores: Tensor, member: Tensor) -> Tensor:
    return (scores[member][:, None] >= scores[~member]).double().mean()


def _at_the_median(*, scores: Tensor, member: Tensor) -> Tensor:
    return ((scores > scores.median()) == member).double().mean()


def _scores(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    member = torch.arange(40) % 3 == 0
    scores = torch.randn(40, generator=generator, dtype=torch.float64) + member
    return {"scores": (2 * scores).round() / 2, "member": member}


EXERCISES = [
    Exercise(
        id="ex-what_else_is_passed_on-1",
        right=0.045,  # η' η² (J g)² for J = (1, 0, 1), g = (2, 1, 1), η = 0.1, η' = 0.5
        tolerance=1e-5,
        wrong={
            0.45: "the teacher's step enters twice, in the target and in the product: η².",
            0.09: "the student's rate η' is missing.",
            -0.045: "the sign: both steps are downhill, and the product is a square.",
            0.015: "J g is squared: the student's step is η' Jᵀ J Δ_T.",
            0.06: "this is the bound |J|² |g|²; the product has (J g)².",
            0.005: "J g = 1·2 + 0·1 + 1·1; you have left out g.",
        },
        hint="η' η² (J g)².",
    ),
    Exercise(
        id="ex-what_else_is_passed_on-2",
        kind="callable",
        right=_left,
        wrong={
            _not_squared: "a share of the distance; the squared distance is asked for.",
            _absolute: "absolute differences; squared ones are asked for.",
            _gone: "this is the share that is gone.",
            _one_for_all: "one number for all networks; each has a share of its own.",
            _item_by_item: "a mean of ratios: items near to the teacher count too much. Sum first.",
            _moved: "how far the student went, not how far it has still to go.",
            _disagree: "a share of classes; accuracy flatters, the logits' error is asked for.",
        },
        inputs=_logits,
        hint="Two sums of squares over items and classes, and their ratio, for each network.",
    ),
    Exercise(
        id="ex-what_else_is_passed_on-3",
        kind="choice",
        right="different",
        wrong={"same": "the function is the same, its tangent is not: look at the gradients."},
        hint="By the chain rule, what happens to the gradient of a weight that is multiplied by 3?",
    ),
    Exercise(
        id="ex-what_else_is_passed_on-4",
        kind="callable",
        right=_auc,
        wrong={
            _reversed: "the members should have the larger scores: turn it round.",
            _ties_lost: "ties count half.",
            _ties_won: "ties count half, not whole.",
            _at_the_median: "accuracy at one threshold; the AUC looks at all pairs.",
        },
        inputs=_scores,
        hint="Compare each member's score with each non-member's.",
    ),
]
