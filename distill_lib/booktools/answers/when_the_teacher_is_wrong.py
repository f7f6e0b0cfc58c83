"""Answers of the chapter: when the teacher is wrong."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

STEPS = torch.linspace(-2.5, 2.5, 1001, dtype=torch.float64).exp()


def _best(logits: Tensor, targets: Tensor) -> Tensor:
    """The temperature of a fine grid with the smallest cross-entropy."""
    log_q = (logits.double() / STEPS[:, None, None]).log_softmax(-1)
    return STEPS[(targets * log_q).sum(-1).mean(-1).argmax()]


def _temperature(*, logits: Tensor, labels: Tensor) -> Tensor:
    return _best(logits, F.one_hot(labels, logits.shape[-1]).double())


def _inverse(*, logits: Tensor, labels: Tensor) -> Tensor:
    return 1 / _temperature(logits=logits, labels=labels)


def _to_itself(*, logits: Tensor, labels: Tensor) -> Tensor:
    return _best(logits, F.one_hot(logits.argmax(-1), logits.shape[-1]).double())


def _squared(*, logits: Tensor, labels: Tensor) -> Tensor:
    q = (logits.double() / STEPS[:, None, None]).softmax(-1)
    hot = F.one_hot(labels, logits.shape[-1])
    return STEPS[(q - hot).square().sum(-1).mean(-1).argmin()]


def _unchanged(*, logits: Tensor, labels: Tensor) -> Tensor:
    return torch.tensor(1.0)


def _overconfident(draw: int) -> dict[str, Any]:
    """Logits that are 0.5, 2 or 4 times too large for the labels."""
    generator = torch.Generator().manual_seed(draw)
    honest = 1.5 * torch.randn(100, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(honest.softmax(-1), 1, generator=generator)[:, 0]
    return {"logits": (0.5, 2.0, 4.0)[draw % 3] * honest, "labels": labels}


EXERCISES = [
    Exercise(
        id="ex-when_the_teacher_is_wrong-1",
        right=(0.5 + 0.25 - 0.3) / 0.03**2,
        tolerance=2e-3,
        wrong={
            (0.5 - 0.3) / 0.03**2: "one rater's variance is V_x + V_y.",
            0.25 / 0.03**2: "the teacher's own answers vary less than the crowd's: 0.3, not 0.5.",
            (0.5 + 0.25 - 0.3) / 0.03: "the bias enters as its square.",
            (0.5 + 0.25) / 0.03**2: "the teacher's estimate has a variance, too; subtract it.",
        },
        hint="Set (V_x + V_y) / n equal to V_p / n + b².",
    ),
    Exercise(
        id="ex-when_the_teacher_is_wrong-2",
        kind="callable",
        right=_temperature,
        inputs=_overconfident,
        tolerance=1e-2,
        wrong={
            _inverse: "this is the factor by which to multiply; a temperature divides.",
            _to_itself: "fitted to the teacher's own first choices: any teacher agrees with "
            "itself, and its temperature goes to 0. Use the labels.",
            _squared: "this minimizes the Brier score; the exercise asks for the log loss.",
            _unchanged: "1 leaves the teacher as it is: accuracy does not depend on the "
            "temperature, so it cannot choose one.",
        },
        hint="Minimize the cross-entropy of logits / T over T, on a grid or by a few Newton steps.",
    ),
    Exercise(
        id="ex-when_the_teacher_is_wrong-3",
        right=(4 / 5) ** 3,
        tolerance=2e-3,
        wrong={
            4 / 5: "this is the teacher, before any self-distillation.",
            (4 / 5) ** 2: "one round; the exercise asks for two, after the teacher.",
            4 / 7: "the penalty acts on the answers of the last round, not three times at once.",
            (1 / 5) ** 3: "this direction has the eigenvalue 4; the penalty is 1.",
        },
        hint="Each round multiplies by s / (s + ridge).",
    ),
]
