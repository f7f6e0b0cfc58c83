"""Answers of chapter 2, divergences."""

from __future__ import annotations

import torch

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

# The target is 0.6 N(-2, 0.25) + 0.4 N(2, 0.25); the answers are (mean, standard deviation).
_FORWARD = torch.tensor([-0.4, (0.25 + 0.24 * 16) ** 0.5], dtype=torch.float64)

EXERCISES = [
    Exercise(
        id="ex-2-1",
        kind="tensor",
        right=_FORWARD,
        tolerance=1e-3,
        wrong={
            torch.tensor([-2.0, 0.5]): "this is the left mode: the reverse KL would choose it.",
            torch.tensor([-0.4, 4.09]): "this is the variance; the standard deviation is its root.",
            torch.tensor([-0.4, 0.5]): "the spread between the two means counts as well.",
            torch.tensor([0.0, 4.25**0.5]): "the two components do not weigh the same.",
        },
        hint="The forward KL matches mean and variance of the target.",
    ),
]
