"""Answers of the chapter: temperature and KL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.booktools.answers.mistakes import (
    KD_MISTAKES,
    draw_logits,
    learns_like,
)
from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _softened_kl(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.log_softmax(teacher / temperature, -1)
    q = F.log_softmax(student / temperature, -1)
    return temperature**2 * (p.exp() * (p - q)).sum(-1)


_STUDENT = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
_TEACHER = torch.tensor([0.0, 2.0, -2.0], dtype=torch.float64)
_GAP = (_STUDENT / 2).softmax(0) - (_TEACHER / 2).softmax(0)

EXERCISES = [
    Exercise(
        id="ex-temperature_and_kl-1",
        kind="tensor",
        right=2 * _GAP,  # ∇ T² KL at T = 2 for student (1, 0, -1) and teacher (0, 2, -2)
        wrong={
            _GAP / 2: "this is the gradient of KL without T².",
            _GAP: "the gradient of T² KL is T (q - p): one factor T is missing.",
            2 * _GAP / 3: "a mean over the three classes: the divergence is a sum over them.",
            4 * _GAP: "T² comes from the factor, but the softmax inside gives back 1/T.",
            -2 * _GAP: "the sign: descending must move the student towards the teacher.",
            _STUDENT.softmax(0) - _TEACHER.softmax(0): "both logits are divided by T first.",
            (_STUDENT - _TEACHER) / 3: "this is the limit of high T; here T = 2.",
        },
        hint="T (q - p), with q and p at temperature T.",
    ),
    Exercise(
        id="ex-temperature_and_kl-2",
        kind="callable",
        right=_softened_kl,
        wrong=KD_MISTAKES,
        inputs=draw_logits,
        properties=(
            learns_like(_softened_kl, temperature=1.0),
            learns_like(_softened_kl, temperature=0.5),
        ),
        hint="T² times the sum over classes of p (log p - log q), one value per item.",
    ),
]
