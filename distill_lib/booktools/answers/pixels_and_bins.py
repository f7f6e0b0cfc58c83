"""Answers of the chapter: pixels and bins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _heads(*, student: Tensor, teacher: Tensor) -> Tensor:
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum((-1, -2))


def _mean_of_heads(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _heads(student=student, teacher=teacher) / student.shape[-2]


def _one_softmax(*, student: Tensor, teacher: Tensor) -> Tensor:
    log_p, log_q = teacher.flatten(-2).log_softmax(-1), student.flatten(-2).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _reverse(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _heads(student=teacher, teacher=student)


def _over_heads(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _heads(student=student.mT, teacher=teacher.mT)


def _each(*, student: Tensor, teacher: Tensor) -> Tensor:
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _logits(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    z, v = torch.randn(2, 8, 3, 16, generator=generator, dtype=torch.float64)
    return {"student": z, "teacher": v}


def _number(*, actions: Tensor, n: int) -> Tensor:
    return ((actions.clamp(-1, 1) + 1) / 2 * (n - 1)).round()


def _of_middles(*, actions: Tensor, n: int) -> Tensor:
    return ((actions.clamp(-1, 1) + 1) / 2 * n).floor().clamp(max=n - 1)


def _cut(*, actions: Tensor, n: int) -> Tensor:
    return ((actions.clamp(-1, 1) + 1) / 2 * (n - 1)).floor()


def _without_bounds(*, actions: Tensor, n: int) -> Tensor:
    return ((actions + 1) / 2 * (n - 1)).round()


def _one_too_many(*, actions: Tensor, n: int) -> Tensor:
    return ((actions.clamp(-1, 1) + 1) / 2 * n).round()


def _actions(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    return {"actions": 1.5 * torch.randn(50, 3, generator=generator), "n": 5 + draw}


EXERCISES = [
    Exercise(
        id="ex-pixels_and_bins-1",
        right=4096,
        wrong={
            48: "this is how many logits the bins need, and the reason to use bins.",
            16: "with 16 codes some action of the box is about 0.4 away in some joint.",
            256: "there are three joints.",
            32768: "at a distance of half a bin; a cube around a code reaches to both sides.",
        },
        hint="K cubes with sides of one bin have to cover the box.",
    ),
    Exercise(
        id="ex-pixels_and_bins-2",
        right=21,
        wrong={
            20: "this is right for the middles of the bins; with ends there is one gap less.",
            40: "the error is half of a gap.",
            41: "the error is half of a gap.",
            11: "the box is 2 wide.",
            10: "the box is 2 wide, and with ends there is one gap less than values.",
        },
        hint="half a gap, 1 / (n - 1), is 0.05 at most.",
    ),
    Exercise(
        id="ex-pixels_and_bins-3",
        kind="callable",
        right=_heads,
        wrong={
            _mean_of_heads: "the heads are independent: their divergences add, and no mean is "
            "taken over them.",
            _one_softmax: "each head has a softmax of its own; this is one over all 48 logits.",
            _reverse: "the teacher comes first: KL(p || q) with p the teacher's.",
            _over_heads: "the softmax runs over the bins, the last axis, and not over the heads.",
            _each: "one value a state: add the heads.",
        },
        inputs=_logits,
        hint="a softmax over the last axis, then the sum over bins and heads.",
    ),
    Exercise(
        id="ex-pixels_and_bins-4",
        kind="callable",
        right=_number,
        wrong={
            _of_middles: "these are the numbers of bins with middles; here the outermost values "
            "are -1 and 1.",
            _cut: "the nearest value, not the next lower one.",
            _without_bounds: "actions outside of the box have no number: clip first.",
            _one_too_many: "the numbers run from 0 to n - 1, and this reaches n.",
        },
        inputs=_actions,
        hint="clip, map [-1, 1] to [0, n - 1], round.",
    ),
]
