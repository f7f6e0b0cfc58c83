"""Answers of the chapter: many teachers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _committee(*, logits: Tensor) -> Tensor:
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def _mean_logits(*, logits: Tensor) -> Tensor:
    return logits.mean(0).log_softmax(-1)


def _raw_mean(*, logits: Tensor) -> Tensor:
    return logits.mean(0)


def _mean_logs(*, logits: Tensor) -> Tensor:
    return logits.log_softmax(-1).mean(0)


def _sum(*, logits: Tensor) -> Tensor:
    return logits.log_softmax(-1).logsumexp(0)


def _probabilities(*, logits: Tensor) -> Tensor:
    return logits.softmax(-1).mean(0)


def _of_logits(*, logits: Tensor) -> Tensor:
    return logits.logsumexp(0).log_softmax(-1)


def _over_the_teachers(*, logits: Tensor) -> Tensor:
    return logits.log_softmax(0).logsumexp(-1)


def _votes(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    return {"logits": 3 * torch.randn(4, 8, 5, generator=generator, dtype=torch.float64)}


def _survives(function: Callable[..., Any]) -> str | None:
    """Very sure teachers must give finite logarithms."""
    logits = torch.tensor([[[900.0, 0.0, -900.0]], [[900.0, 0.0, -900.0]]])
    if bool(torch.as_tensor(function(logits=logits)).isfinite().all()):
        return None
    return (
        "right for mild logits, but -inf for logits in the hundreds: average with logsumexp "
        "instead of taking the logarithm of a mean."
    )


EXERCISES = [
    Exercise(
        id="ex-many-teachers-1",
        kind="callable",
        right=_committee,
        inputs=_votes,
        wrong={
            _mean_logits: "the mean of logits is the geometric mean, the teacher of the reverse "
            "divergence.",
            _raw_mean: "the mean of logits, which is the teacher of the reverse divergence, and "
            "not even normalized.",
            _mean_logs: "the mean of log-probabilities is the geometric mean, not normalized.",
            _sum: "a sum of probabilities: subtract log K.",
            _probabilities: "these are the probabilities; their logarithms are asked for.",
            _of_logits: "logits have no common level: normalize each teacher before the mean.",
            _over_the_teachers: "normalized over the teachers: the actions are the last axis.",
        },
        properties=(_survives,),
        hint="log_softmax for each teacher, then logsumexp over them, minus log K.",
    ),
]
