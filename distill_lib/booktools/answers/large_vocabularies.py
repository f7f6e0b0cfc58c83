"""Answers of the chapter: large vocabularies."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _inputs(draw: int) -> dict[str, Any]:
    """Student logits [6, 9], and a teacher's 3 log-probabilities with their ids.

    Some of the students are surer of the list than the teacher, so that a sum without a tail is
    negative.
    """
    generator = torch.Generator().manual_seed(draw)
    student, teacher = 2 * torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    log_p, ids = teacher.log_softmax(-1).topk(3)
    sure = teacher.scatter_add(-1, ids, torch.full_like(log_p, 2.0))
    return {"student": torch.cat([student[:3], sure[3:]]), "log_p": log_p, "ids": ids}


def _coarse_kl(*, student: Tensor, log_p: Tensor, ids: Tensor) -> Tensor:
    inside = student.gather(-1, ids)
    outside = student.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    log_q = torch.cat([inside, outside], -1).log_softmax(-1)
    rest = torch.log1p(-log_p.exp().sum(-1, keepdim=True))
    log_p = torch.cat([log_p, rest], -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _truncated(*, student: Tensor, log_p: Tensor, ids: Tensor) -> Tensor:
    log_q = student.log_softmax(-1).gather(-1, ids)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _renormalized(*, student: Tensor, log_p: Tensor, ids: Tensor) -> Tensor:
    log_q, log_p = student.log_softmax(-1).gather(-1, ids), log_p.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _conditional(*, student: Tensor, log_p: Tensor, ids: Tensor) -> Tensor:
    log_q, log_p = student.gather(-1, ids).log_softmax(-1), log_p.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _clamped(*, student: Tensor, log_p: Tensor, ids: Tensor) -> Tensor:
    return _truncated(student=student, log_p=log_p, ids=ids).clamp_min(0)


def _reverse(*, student: Tensor, log_p: Tensor, ids: Tensor) -> Tensor:
    log_q = student.log_softmax(-1).gather(-1, ids)
    both = [torch.cat([x, torch.log1p(-x.exp().sum(-1, keepdim=True))], -1) for x in (log_q, log_p)]
    return F.kl_div(both[1], both[0], log_target=True, reduction="none").sum(-1)


def _survives(function: Any) -> str | None:
    """A sure student: the sum of its listed probabilities rounds to 1."""
    student = torch.tensor([[60.0, 0.0, 0.0, 0.0]], requires_grad=True)
    given = {"log_p": torch.tensor([[math.log(0.5)]]), "ids": torch.tensor([[0]])}
    value = function(student=student, **given).sum()
    (gradient,) = torch.autograd.grad(value, student)
    if not (value.isfinite() and gradient.isfinite().all()):
        return (
            f"right for mild logits, but a sure student gives {value.item():g}: sum the logits "
            "outside of the list by logsumexp, and do not subtract a sum from 1."
        )
    return None


EXERCISES = [
    Exercise(
        id="ex-large_vocabularies-1",
        right=152_000 / 2_048,
        wrong={
            152_000 / (2 * 2_048): "the states take two bytes a number as well.",
            152_000 * 2 / 2_048: "the logits take two bytes a number, and so do the states.",
            2_048 / 152_000: "the other way round: how many times smaller.",
            152_000 / 122: "this is top 20 with a tail, of six bytes a token and two for the tail.",
        },
        tolerance=1e-3,
        hint="Numbers of a row of logits over numbers of a state; both have two bytes a number.",
    ),
    Exercise(
        id="ex-large_vocabularies-2",
        kind="tensor",
        right=torch.tensor(
            [
                0.5 * math.log(0.5 / 0.8),
                0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2),
                0.9 / math.e,
            ],
            dtype=torch.float64,
        ),
        wrong={
            torch.tensor(
                [
                    0.8 * math.log(0.8 / 0.5),
                    0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5),
                    0.9 / math.e,
                ],
                dtype=torch.float64,
            ): "these are the reverse sums: the teacher's probabilities are the weights here.",
            torch.tensor(
                [
                    0.0,
                    0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2),
                    0.9 / math.e,
                ],
                dtype=torch.float64,
            ): "the truncated sum was clamped at 0; it is negative.",
            torch.tensor(
                [
                    0.5 * math.log(0.5 / 0.8),
                    0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2),
                    1 / math.e,
                ],
                dtype=torch.float64,
            ): "the mass is P / e, and P is 0.9.",
            torch.tensor(
                [
                    0.5 * math.log(0.5 / 0.8),
                    0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2),
                    0.9,
                ],
                dtype=torch.float64,
            ): "P is where the teacher is, and not where the truncated reverse sum is smallest.",
        },
        hint="p log(p / q) for the token; then the same for the tail, added; then P / e.",
    ),
    Exercise(
        id="ex-large_vocabularies-3",
        kind="callable",
        right=_coarse_kl,
        wrong={
            _truncated: "the tail is missing: this sum can be negative.",
            _renormalized: "the teacher was renormalized on its list: that is another teacher, who "
            "gives nothing to the tail.",
            _conditional: "both were renormalized on the list: nothing says how much mass the "
            "student gives to it.",
            _clamped: "a clamp hides the sign, and with it the gradient; add the tail instead.",
            _reverse: "this is the reverse KL: the teacher's probabilities are the weights here.",
        },
        inputs=_inputs,
        properties=(_survives,),
        tolerance=1e-6,
        hint="k classes and one for all others: log_softmax over the listed logits and the "
        "logsumexp of the others.",
    ),
    Exercise(
        id="ex-large_vocabularies-4",
        kind="tensor",
        right=torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0], dtype=torch.float64),
        wrong={
            torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64): "a span ends only where "
            "both end a token.",
            torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64): "at character 9 both end "
            "a token.",
            torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64): "at character 11 both "
            "end a token.",
            torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64): "the student's first "
            "token ends at 4, where the teacher is inside of a token.",
        },
        hint="Mark the places where both end a token, and count.",
    ),
]
