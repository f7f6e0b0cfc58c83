"""Answers of the chapter: TRL, and the trainers it lacks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _judged(*, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real) + F.softplus(fake)


def _swapped(*, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(real) + F.softplus(-fake)


def _of_the_student(*, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-fake)


def _both_real(*, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real) + F.softplus(-fake)


def _only_real(*, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-real)


def _naive(*, real: Tensor, fake: Tensor) -> Tensor:
    return -real.sigmoid().log() - (1 - fake.sigmoid()).log()


def _mean(*, real: Tensor, fake: Tensor) -> Tensor:
    return (F.softplus(-real) + F.softplus(fake)).mean()


def _halved(*, real: Tensor, fake: Tensor) -> Tensor:
    return (F.softplus(-real) + F.softplus(fake)) / 2


def _difference(*, real: Tensor, fake: Tensor) -> Tensor:
    return fake - real


def _logits(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    real, fake = 3 * torch.randn(2, 6, generator=generator, dtype=torch.float64)
    real[0], fake[0] = -500.0, 500.0
    return {"real": real, "fake": fake}


EXERCISES = [
    Exercise(
        id="ex-trl-1",
        right=4.0,
        wrong={
            0.25: "the step is too short by this factor; the rate makes up for it.",
            150.0: "the loss was divided already, by another number.",
            600.0: "this would undo the division; a mean over the written tokens is asked for.",
            450.0: "the two counts are divided, not subtracted.",
        },
        hint="Divided by 600, where a mean divides by 150.",
    ),
    Exercise(
        id="ex-trl-2",
        right=0.9 * 0.1,
        wrong={
            0.2**2: "this is the square of the mean gradient.",
            0.7 * 0.3: "the words are drawn from the teacher, not from the student.",
            0.9 * 0.3**2 + 0.1 * 0.7**2: "this is the mean of the squares; take off the square of "
            "the mean.",
            0.3: "this is the standard deviation.",
            -0.2: "this is the mean of the gradient, which the divergence has as well.",
            0.0: "this would be so for a teacher who is sure.",
        },
        hint="The gradient is q − 1 with probability p, and q else.",
    ),
    Exercise(
        id="ex-trl-3",
        kind="callable",
        right=_judged,
        inputs=_logits,
        wrong={
            _swapped: "the teacher's is the one to be taken for real: signs are exchanged.",
            _of_the_student: "this is what the student learns; the discriminator's is asked for.",
            _both_real: "the student's shall not pass: log(1 − σ(d)) for it.",
            _only_real: "the student's half is missing.",
            _naive: "right for small logits, and infinite for 500: use softplus or logsigmoid.",
            _mean: "one value an item, without the mean.",
            _halved: "a sum, not the mean of both.",
            _difference: "without the logarithms this is another game (Wasserstein's).",
        },
        hint="−log σ(real) − log(1 − σ(fake)), and 1 − σ(d) = σ(−d).",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-trl-4",
        right=(0.99 / 0.645) ** 6,
        tolerance=1e-3,
        wrong={
            0.99 / 0.645: "this is for one word; six are needed in a row.",
            6 * 0.99 / 0.645: "probabilities of words in a row are multiplied.",
            0.645**6: "this is the probability of the average's student.",
            (0.99 / 0.3) ** 6: "the average is of both: (0.99 + 0.3) / 2.",
            (0.99 / (0.99 * 0.3) ** 0.5) ** 6: "this is the geometric mean, before normalization.",
        },
        hint="The average is (0.99 + 0.3) / 2, and each needs six in a row.",
    ),
]
