"""Answers of the chapter: the student's own states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _kl(mean_p: Tensor, log_p: Tensor, mean_q: Tensor, log_q: Tensor, half: float = 0.5) -> Tensor:
    """[..., A], one value a coordinate."""
    ratio = 2 * (log_p - log_q)
    return half * (ratio.exp() - 1 - ratio + (mean_p - mean_q) ** 2 * (-2 * log_q).exp())


def _halves(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and log standard deviation of the teacher, then of the student."""
    mean_p, log_p = teacher.chunk(2, -1)
    mean_q, log_q = student.chunk(2, -1)
    return mean_p, log_p, mean_q, log_q


def _gaussian_kl(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _kl(*_halves(student, teacher)).sum(-1)


def _reversed(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _kl(*_halves(teacher, student)).sum(-1)


def _averaged(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _kl(*_halves(student, teacher)).mean(-1)


def _no_half(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _kl(*_halves(student, teacher), half=1.0).sum(-1)


def _means_only(*, student: Tensor, teacher: Tensor) -> Tensor:
    mean_p, _, mean_q, _ = _halves(student, teacher)
    return ((mean_p - mean_q) ** 2).sum(-1)


def _not_logs(*, student: Tensor, teacher: Tensor) -> Tensor:
    mean_p, std_p, mean_q, std_q = _halves(student, teacher)
    return _kl(mean_p, std_p.abs().log(), mean_q, std_q.abs().log()).sum(-1)


def _in_the_teachers_units(*, student: Tensor, teacher: Tensor) -> Tensor:
    mean_p, log_p, mean_q, log_q = _halves(student, teacher)
    shape = _kl(mean_p, log_p, mean_p, log_q)
    return (shape + 0.5 * ((mean_p - mean_q) * (-log_p).exp()) ** 2).sum(-1)


def _softmax(*, student: Tensor, teacher: Tensor) -> Tensor:
    mean_p, _, mean_q, _ = _halves(student, teacher)
    p, q = mean_p.log_softmax(-1), mean_q.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def _batchmean(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _gaussian_kl(student=student, teacher=teacher).mean()


def _gaussians(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    student, teacher = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64).unbind()
    return {"student": student, "teacher": teacher}


def _moves_both(function: Callable[..., Any]) -> str | None:
    """The student's means and deviations must get a gradient."""
    drawn = _gaussians(0)
    student = drawn["student"].requires_grad_()
    value = function(student=student, teacher=drawn["teacher"])
    if not value.requires_grad:
        return "the value has no gradient with respect to the student: a detach or .item() cut it."
    (gradient,) = torch.autograd.grad(value.sum(), student)
    if bool((gradient != 0).all()):
        return None
    return "a part of the student's numbers gets no gradient: both halves are to be learned."


EXERCISES = [
    Exercise(
        id="ex-own_states-1",
        right=0.001 * 200 * 201 / 2,
        wrong={
            40.0: "this is H² ε, after the last inequality; a mistake at step t loses H - t + 1 "
            "rewards, not H.",
            0.2: "this is the expected number of mistakes, H ε; each loses all that is left.",
            19.9: "the reward of the present step is lost too: H - t + 1, not H - t.",
            20.0: "H²/2 is an approximation; add up H - t + 1 exactly.",
        },
        hint="ε times the sum of H - t + 1 over t from 1 to H.",
    ),
    Exercise(
        id="ex-own_states-2",
        kind="callable",
        right=_gaussian_kl,
        inputs=_gaussians,
        tolerance=1e-6,
        wrong={
            _reversed: "teacher and student are exchanged: the student's deviation divides.",
            _averaged: "averaged over the coordinates: independent coordinates add up.",
            _no_half: "twice too much: the bracket is halved.",
            _means_only: "this is the squared error of the means; the deviations are learned too.",
            _not_logs: "the second half holds logarithms of the deviations: take exp.",
            _in_the_teachers_units: "the means are compared in units of the student's deviation, "
            "not of the teacher's.",
            _softmax: "a softmax turns means into probabilities of actions that do not exist, and "
            "does not see a shift that all share.",
            _batchmean: "right on average, but it is a mean over the batch: return one value per "
            "item and leave the mean to the objective.",
        },
        properties=(_moves_both,),
        hint="Sum over coordinates of log σq/σp + (σp² + (μp - μq)²) / 2σq² - 1/2.",
    ),
    Exercise(
        id="ex-own_states-3",
        right=4.0,
        wrong={
            4 / 3: "this is the mean run of the teacher: the student's ends with probability β.",
            3.0: "the step at which the student takes over counts as well.",
            0.25: "this is the probability that a run ends at a given step.",
            0.75: "this is the student's share of the steps.",
        },
        hint="A run ends at each step with probability β: its length is geometric.",
    ),
]
