"""Answers of the chapter: hints."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

DOUBT = 0.01
REVERSE = -math.log(2 * math.sqrt(DOUBT * (1 - DOUBT)))
ENTROPY = -(DOUBT * math.log(DOUBT) + (1 - DOUBT) * math.log(1 - DOUBT))


def _average_teacher(log_p: Tensor, weight: Tensor) -> Tensor:
    log_w = (weight / weight.sum()).log()
    return (log_p + log_w[:, None]).logsumexp(0)


def _draw(n: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(n)
    scale = (1.0, 4.0, 300.0)[n % 3]
    v = scale * torch.randn(4, 6, generator=g, dtype=torch.float64)
    v[0, 1] = -math.inf  # one hint excludes a token
    return {
        "log_p": v.log_softmax(-1),
        "weight": torch.rand(4, generator=g, dtype=torch.float64) + 0.1,
    }


def _geometric(log_p: Tensor, weight: Tensor) -> Tensor:
    share = (weight / weight.sum())[:, None]
    return (share * log_p).sum(0).log_softmax(-1)


EXERCISES = [
    Exercise(
        id="ex-hints-1",
        right=REVERSE,
        wrong={
            math.log(2): "this is what a student pays forward if the hints have no doubt.",
            math.log(2) - ENTROPY: "this is the forward KL: the student's q goes in front.",
            REVERSE / math.log(2): "this is in bits; give nats.",
            -REVERSE: "the sign: a divergence is at least 0, and Z is at most 1.",
            -math.log(math.sqrt(DOUBT * (1 - DOUBT))): "Z sums over both tokens.",
        },
        hint="-log Z, with Z the sum over both tokens of the geometric mean.",
    ),
    Exercise(
        id="ex-hints-2",
        right=math.log(2) - ENTROPY,
        wrong={
            math.log(2): "this would be two hints without a doubt.",
            ENTROPY: "this is the teacher's own entropy, which no student pays.",
            REVERSE: "this is the reverse KL of the exercise before.",
            (math.log(2) - ENTROPY) / math.log(2): "this is in bits; give nats.",
        },
        hint="the mutual information of hint and token: log 2 minus the entropy of a teacher.",
    ),
    Exercise(
        id="ex-hints-3",
        kind="callable",
        right=_average_teacher,
        wrong={
            _geometric: "this is the geometric mean, the student of the reverse KL.",
            lambda log_p, weight: weight @ log_p: "this is a mean of logarithms, and not even "
            "normalized.",
            lambda log_p, weight: (weight @ log_p.exp()).log(): "the weights do not sum to one, so "
            "that these are no log-probabilities.",
            lambda log_p, weight: log_p.logsumexp(0) - math.log(len(log_p)): "the hints are not "
            "equally frequent: weight says how often each is given.",
            lambda log_p, weight: _average_teacher(log_p.clamp_min(-50), weight): "a logarithm far "
            "below is not 50 below: probabilities that small still differ.",
        },
        inputs=_draw,
        hint="the logarithm of the weighted mean of probabilities; use logsumexp.",
    ),
]
