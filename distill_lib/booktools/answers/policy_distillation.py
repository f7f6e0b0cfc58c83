"""Answers of the chapter: policy distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.answers.mistakes import draw_logits, learns_like
from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _sharpened(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return _divergence((teacher / tau).log_softmax(-1), student.log_softmax(-1))


def _both_divided(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return _divergence((teacher / tau).log_softmax(-1), (student / tau).log_softmax(-1))


def _multiplied(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return _divergence((teacher * tau).log_softmax(-1), student.log_softmax(-1))


def _student_divided(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return _divergence(teacher.log_softmax(-1), (student / tau).log_softmax(-1))


def _scaled(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return tau**2 * _sharpened(student=student, teacher=teacher, tau=tau)


def _reverse(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return _divergence(student.log_softmax(-1), (teacher / tau).log_softmax(-1))


def _cross_entropy(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return -((teacher / tau).softmax(-1) * student.log_softmax(-1)).sum(-1)


def _best_action(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    best = teacher.argmax(-1, keepdim=True)
    return -student.log_softmax(-1).gather(-1, best).squeeze(-1)


def _mean(*, student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    return _sharpened(student=student, teacher=teacher, tau=tau).mean()


def _logits(draw: int) -> dict[str, Any]:
    drawn = draw_logits(draw)
    tau = (0.5, 0.1, 0.25)[draw % 3]
    return {"student": drawn["student"], "teacher": drawn["teacher"] / 4, "tau": tau}


def _kept(*, student: Tensor, teacher: Tensor) -> Tensor:
    return student.mean() / teacher.mean()


def _mean_of_ratios(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student / teacher).mean()


def _upside_down(*, student: Tensor, teacher: Tensor) -> Tensor:
    return teacher.mean() / student.mean()


def _lost(*, student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - student.mean() / teacher.mean()


def _percent(*, student: Tensor, teacher: Tensor) -> Tensor:
    return 100 * student.mean() / teacher.mean()


def _difference(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).mean()


def _each(*, student: Tensor, teacher: Tensor) -> Tensor:
    return student.mean(-1) / teacher.mean(-1)


def _best_seed(*, student: Tensor, teacher: Tensor) -> Tensor:
    return student.mean(-1).max() / teacher.mean()


def _returns(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    student, teacher = 270 + 40 * torch.randn(2, 5, 20, generator=generator, dtype=torch.float64)
    teacher[draw % 5, 3] = 2.0  # an episode that ended near zero
    better = (-15, -15, 20)[draw % 3]  # students may pass their teacher
    return {"student": student + better, "teacher": teacher}


EXERCISES = [
    Exercise(
        id="ex-policy_distillation-1",
        right=4996 / 580,
        tolerance=1e-3,
        wrong={
            580 / 4996: "this is the share that is left; the factor is its inverse.",
            1 - 580 / 4996: "this is the share that is saved; the factor is asked for.",
            4864 / 540: "each unit has a bias, too: a layer from m to n units has (m + 1) · n.",
            (64 / 18) ** 2: "only the middle layer grows with the square of the width.",
            69124 / 580: "this is against the teacher with 256 and 256 units.",
            64 / 18: "this is the ratio of the widths.",
        },
        hint="A layer from m to n units has (m + 1) · n parameters, and there are three layers.",
    ),
    Exercise(
        id="ex-policy_distillation-2",
        kind="callable",
        right=_sharpened,
        inputs=_logits,
        wrong={
            _both_divided: "only the teacher is divided by τ; the student answers at 1, as it "
            "will play.",
            _multiplied: "the teacher is divided by τ, not multiplied: a small τ sharpens.",
            _student_divided: "the student was divided; it is the teacher who is sharpened.",
            _scaled: "there is no factor τ² here: only one side is divided, and with τ = 0.01 it "
            "would switch the loss off.",
            _reverse: "teacher and student are swapped: the teacher's probabilities weigh.",
            _cross_entropy: "this is the cross-entropy: same gradient, but larger by the entropy "
            "of the sharpened teacher.",
            _best_action: "this is the limit τ → 0, the likelihood of the best action.",
            _mean: "right on average, but it is a mean over the batch: return one value an item.",
        },
        properties=(learns_like(_sharpened, tau=0.25),),
        hint="KL(softmax(v/τ) ‖ softmax(z)), summed over the actions.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-policy_distillation-3",
        kind="callable",
        right=_kept,
        inputs=_returns,
        wrong={
            _mean_of_ratios: "the mean of the ratios: one episode in which the teacher ends near "
            "zero decides it. Divide the means.",
            _upside_down: "this is the teacher over the students.",
            _lost: "this is the share that is lost.",
            _percent: "this is in percent; give the share, which is 1 when nothing is lost.",
            _difference: "this is the difference of the returns; the share is asked for.",
            _each: "one share a student: average over the students as well.",
            _best_seed: "this is the best of the students, which is a choice made after the test.",
        },
        hint="The mean over students and episodes, divided by the teacher's mean.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-policy_distillation-4",
        right=0.75,
        tolerance=1e-3,
        wrong={
            0.5: "with A = 2 it would be; with four actions the wrong labels are shared by three.",
            0.25: "this is the share of right labels at the change; p is the share of wrong ones.",
            0.8: "1 - p against p / (A - 1): there are three other actions, not four.",
            1.0: "long before this the right action is rarer than each wrong one.",
        },
        hint="The right label has 1 - p, each other one p / (A - 1); when are they equal?",
    ),
]
