"""What a term is given: a user's loss, and the signals of student and teacher."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.signals import Signals, accepts, pick

__all__ = ["ALIKE", "both", "reduces", "takes", "times_squared"]

# of torch, of answers and labels in one shape
ALIKE = {
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss"),
    *("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "BCEWithLogitsLoss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "BCELoss"),
}


def takes(loss: Callable[..., Any], name: str) -> bool:
    """Whether a loss can be given a keyword of that name."""
    found = inspect.signature(loss).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in found)


def reduces(loss: Callable[..., Any]) -> bool:
    """Whether a function can be told how to average."""
    return not isinstance(loss, nn.Module) and accepts(loss, "reduction")


def both(
    student: Signals, teacher: Signals | None, on: str, teacher_on: str
) -> tuple[Tensor, Tensor]:
    """What a term compares: the student's signal and the teacher's, through which nothing flows."""
    assert teacher is not None  # an objective asks for one where a term reads its signals
    return pick(student, on, "student"), pick(teacher, teacher_on, "teacher").detach()


def times_squared(values: Tensor, T: float, theirs: float) -> Tensor:
    r"""T·T' times a divergence, as long as the type can tell it from its own rounding.

    The divergence falls like 1/T², its rounding does not: in float32 a loss of 8 is read as 7 at
    T = 10,000, and as -14 at 100,000.

    Raises:
        ValueError: temperatures above about 1,000 in float32, 20 million in float64.
    """
    if T == theirs == 1.0:
        return values
    if T * theirs > 0.1 / torch.finfo(values.dtype).eps:
        raise ValueError(
            f"at temperature {max(T, theirs):g} the rounding of {values.dtype} is about as large "
            "as the loss; take a few hundred at most, or what high temperatures tend to: "
            "0.5 * KD(losses.mse_logits, center=True)"
        )
    return T * theirs * values
