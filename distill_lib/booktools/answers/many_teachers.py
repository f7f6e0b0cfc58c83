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
    found = torch.as_tensor(function(logits=logits))
    if found.isfinite().all() and torch.allclose(found, _committee(logits=logits), rtol=1e-3):
        return None
    if bool(found.isfinite().all()):
        return "right for mild logits, and bent by a small constant for logits in the hundreds."
    return (
        "right for mild logits, but -inf for logits in the hundreds: average with logsumexp "
        "instead of taking the logarithm of a mean."
    )


def _best_of(*, logits: Tensor, values: Tensor) -> Tensor:
    return logits[values.argmax(0), torch.arange(logits.shape[1])]


def _the_worst(*, logits: Tensor, values: Tensor) -> Tensor:
    return logits[values.argmin(0), torch.arange(logits.shape[1])]


def _one_for_all_states(*, logits: Tensor, values: Tensor) -> Tensor:
    return logits[values.mean(1).argmax()]


def _the_surest(*, logits: Tensor, values: Tensor) -> Tensor:
    sure = logits.softmax(-1).amax(-1).argmax(0)
    return logits[sure, torch.arange(logits.shape[1])]


def _weighted_by_value(*, logits: Tensor, values: Tensor) -> Tensor:
    return (values.softmax(0).unsqueeze(-1) * logits).sum(0)


def _mean_of_all(*, logits: Tensor, values: Tensor) -> Tensor:
    return logits.mean(0)


def _largest_logits(*, logits: Tensor, values: Tensor) -> Tensor:
    return logits.amax(0)


def _worlds(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    return {
        "logits": torch.randn(4, 8, 5, generator=generator, dtype=torch.float64),
        "values": torch.randn(4, 8, generator=generator, dtype=torch.float64),
    }


_RATIO = 9 * 9 * 0.001 / 0.999

EXERCISES = [
    Exercise(
        id="ex-many_teachers-1",
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
    Exercise(
        id="ex-many_teachers-2",
        right=_RATIO ** (1 / 3) / (1 + _RATIO ** (1 / 3)),
        wrong={
            (0.9 + 0.9 + 0.001) / 3: "this is the mean of the probabilities.",
            _RATIO / (1 + _RATIO): "equal weights of sum 1 are thirds: take the third root.",
            _RATIO ** (1 / 3): "this is the ratio of the two actions, not yet a probability.",
            0.9 ** (2 / 3) * 0.001 ** (1 / 3): "not normalized: divide by the sum over actions.",
            1 / (1 + _RATIO ** (1 / 3)): "this is the probability of the second action.",
        },
        hint="Find the ratio of the two actions first; the normalization cancels in it.",
        tolerance=1e-3,
    ),
    Exercise(
        id="ex-many_teachers-3",
        kind="callable",
        right=_best_of,
        inputs=_worlds,
        wrong={
            _the_worst: "this follows the teacher of the lowest value.",
            _one_for_all_states: "one teacher for the whole batch: each state has its own.",
            _the_surest: "this follows the surest teacher, not the one of the highest value.",
            _weighted_by_value: "a mixture weighted by values; the theorem follows one teacher.",
            _mean_of_all: "the mean of logits: the values were not used.",
            _largest_logits: "the largest logit of each action mixes teachers within a state.",
        },
        hint="argmax of the values over the teachers, then pick that row in each state.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-many_teachers-4",
        right=0.7 * 0.9 + 0.3 * 0.2,
        wrong={
            0.55: "the worlds are not met equally often: weight them.",
            0.9: "this is the answer in world A.",
            0.2: "this is the answer in world B.",
            0.3 * 0.9 + 0.7 * 0.2: "the weights are exchanged.",
            0.9**0.7 * 0.2**0.3: "a geometric mean, not normalized; KD() is the forward "
            "divergence.",
        },
        hint="The forward divergence asks for the mean of the probabilities.",
        tolerance=1e-3,
    ),
]
