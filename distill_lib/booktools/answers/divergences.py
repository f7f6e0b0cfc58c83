"""Answers of the chapter: divergences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.booktools.answers.mistakes import draw_logits, learns_like
from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

# The target of the first exercise: 0.8 N(0, 1) + 0.2 N(5, 1); an answer: (mean, deviation).
_FORWARD = torch.tensor([1.0, 5.0**0.5], dtype=torch.float64)


def _logs(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return F.log_softmax(student, -1), F.log_softmax(teacher, -1)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def _mixture(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    """log(β p + (1 - β) q)."""
    return torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))


def _jsd(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    log_q, log_p = _logs(student, teacher)
    log_m = _mixture(log_q, log_p, beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _log_space(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    log_q, log_p = _logs(student, teacher)
    log_m = beta * log_p + (1 - beta) * log_q
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _exchanged_mixture(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    log_q, log_p = _logs(student, teacher)
    log_m = _mixture(log_q, log_p, 1 - beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _exchanged_coefficients(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    log_q, log_p = _logs(student, teacher)
    log_m = _mixture(log_q, log_p, beta)
    return (1 - beta) * _kl(log_p, log_m) + beta * _kl(log_q, log_m)


def _exchanged_models(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    return _jsd(student=teacher, teacher=student, beta=beta)


def _even_mixture(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    log_q, log_p = _logs(student, teacher)
    log_m = _mixture(log_q, log_p, 0.5)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _from_the_mixture(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    log_q, log_p = _logs(student, teacher)
    log_m = _mixture(log_q, log_p, beta)
    return beta * _kl(log_m, log_p) + (1 - beta) * _kl(log_m, log_q)


def _batchmean(*, student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    return _jsd(student=student, teacher=teacher, beta=beta).mean()


def _steep(function: Callable[..., Tensor]) -> str | None:
    """A property: the gradient is right where student and teacher are 30 logits apart.

    The gradient is small there because the divergence is bounded, and Adam makes it large again.
    A constant inside a logarithm, or a clamp, leaves something else of it.
    """
    teacher = torch.tensor([[0.0, 30.0]], dtype=torch.float64)
    gradients = []
    both: tuple[Callable[..., Tensor], ...] = (_jsd, function)
    for loss in both:
        student = torch.tensor([[30.0, 0.0]], dtype=torch.float64, requires_grad=True)
        value = loss(student=student, teacher=teacher, beta=0.5).sum()
        known = value.requires_grad
        found = torch.autograd.grad(value, student, allow_unused=True)[0] if known else None
        gradients.append(0.0 if found is None else found[0, 1].item())
    right, given = gradients
    if abs(given - right) <= 1e-2 * abs(right):
        return None
    return (
        f"right for mild logits, but at a gap of 30 the gradient of the class that the teacher "
        f"wants is {given:.3g} in the place of {right:.3g}: a small constant or a clamp inside a "
        "logarithm bends it. Use log_softmax and logaddexp."
    )


def _draw(draw: int) -> dict[str, Any]:
    drawn = draw_logits(draw)
    return {
        "student": drawn["student"],
        "teacher": drawn["teacher"],
        "beta": (0.1, 0.5, 0.9)[draw % 3],
    }


EXERCISES = [
    Exercise(
        id="ex-divergences-1",
        kind="tensor",
        right=_FORWARD,
        tolerance=1e-3,
        wrong={
            torch.tensor([0.0, 1.0]): "this is the larger mode: the reverse KL would choose it.",
            torch.tensor([1.0, 5.0]): "this is the variance; the standard deviation is its root.",
            torch.tensor([1.0, 1.0]): "the spread between the two means counts as well.",
            torch.tensor([2.5, 7.25**0.5]): "the two components do not weigh the same.",
            torch.tensor([1.0, 2.0]): "the width of each mode counts as well: add its variance.",
        },
        hint="The forward KL matches mean and variance of the target.",
    ),
    Exercise(
        id="ex-divergences-2",
        kind="callable",
        right=_jsd,
        inputs=_draw,
        wrong={
            _log_space: "the mixture is made of logarithms: that is a geometric mean and has a "
            "mass below 1. Add probabilities, in log space, with logaddexp.",
            _exchanged_mixture: "the weights of the mixture are exchanged: m = β p + (1 - β) q, "
            "and p is the teacher.",
            _exchanged_coefficients: "the coefficients are exchanged: this sum tends to the two "
            "KLs by itself, and is another objective.",
            _exchanged_models: "teacher and student are exchanged: this is D with 1 - β.",
            _even_mixture: "the mixture has weights of one half; they are β and 1 - β here too.",
            _from_the_mixture: "the average is over p and over q, not over the mixture: "
            "KL(p‖m), not KL(m‖p).",
            _batchmean: "right on average, but it is a mean over the batch: return one value per "
            "item and leave the mean to the objective.",
        },
        properties=(learns_like(_jsd, beta=0.5), _steep),
        hint="β KL(p‖m) + (1 - β) KL(q‖m) with m = β p + (1 - β) q, one value per item.",
    ),
    Exercise(
        id="ex-divergences-3",
        right=-0.1 * math.log(0.1) - 0.9 * math.log(0.9),
        tolerance=1e-3,
        wrong={
            math.log(2): "log 2 is the bound for every β, and is reached at one half only.",
            -math.log(0.1): "this bounds KL(p‖m) alone; it enters with the weight 0.1.",
            -0.1 * math.log(0.1): "the part of the student counts as well.",
            -0.1 * math.log2(0.1) - 0.9 * math.log2(0.9): "in bits; divergences are in nats here.",
        },
        hint="The two exclude each other: what are KL(p‖m) and KL(q‖m) then?",
    ),
    Exercise(
        id="ex-divergences-4",
        right=0.02,
        tolerance=1e-4,
        wrong={
            0.125: "the lead is the distance from the first class to the second: 0.5 - 0.3.",
            0.045: "the lead is over the second class, not over the third.",
            0.04: "λ² bounds 2 KL: divide by two.",
            0.1: "λ/2 bounds the total variation; Pinsker turns that into a bound on KL.",
            0.2: "this is the lead itself; it bounds √(2 KL).",
        },
        hint="2 TV ≤ √(2 KL) must stay below the lead.",
    ),
    Exercise(
        id="ex-divergences-5",
        right=800.0,  # 8 in the place of 1 - 0.99
        wrong={
            8.0: "this is the weight in DKD; in the KL it is not 1 but 1 - p_y.",
            8 / 0.99: "the rest has the mass 1 - p_y, not p_y.",
            100.0: "this sets the weight to 1; the question is about 8.",
            0.08: "this multiplies the two weights; how many times larger is 8 than 1 - p_y?",
            8 * 0.99: "this multiplies by p_y; divide 8 by the weight that the rest has in the KL.",
        },
        hint="In the KL the rest has the weight 1 - p_y.",
    ),
]
