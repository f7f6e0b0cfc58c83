"""Answers of the chapter: whose words?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

AFTER_B = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)  # KL(q‖p) of the second word
BACK_B = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
FIRST = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
BACK_FIRST = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)

CLEAN = [0.98**t for t in range(20)]  # no mistake before word t + 1
EXPECTED = sum(c * 0.02 + (1 - c) * 0.1 for c in CLEAN)


def _spoken(logits: Tensor, words: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, words.unsqueeze(-1)).squeeze(-1)


def _policy(*, student: Tensor, teacher: Tensor, words: Tensor) -> Tensor:
    log_q, log_p = _spoken(student, words), _spoken(teacher, words)
    return -(log_p - log_q).detach() * log_q


def _backpropagated(*, student: Tensor, teacher: Tensor, words: Tensor) -> Tensor:
    return _spoken(student, words) - _spoken(teacher, words)


def _wrong_sign(*, student: Tensor, teacher: Tensor, words: Tensor) -> Tensor:
    return -_policy(student=student, teacher=teacher, words=words)


def _likelihood(*, student: Tensor, teacher: Tensor, words: Tensor) -> Tensor:
    return -_spoken(student, words)


def _whole(*, student: Tensor, teacher: Tensor, words: Tensor) -> Tensor:
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def _probability(*, student: Tensor, teacher: Tensor, words: Tensor) -> Tensor:
    log_q, log_p = _spoken(student, words), _spoken(teacher, words)
    return -(log_p.exp() - log_q.exp()).detach() * log_q


def _mean(*, student: Tensor, teacher: Tensor, words: Tensor) -> Tensor:
    return _policy(student=student, teacher=teacher, words=words).mean()


def _said(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    student, teacher = 2 * torch.randn(2, 3, 4, 7, generator=generator, dtype=torch.float64)
    return {
        "student": student,
        "teacher": teacher,
        "words": torch.randint(7, (3, 4), generator=generator),
    }


def _held_fixed(function: Callable[..., Any]) -> str | None:
    """The gradient is that of an advantage without one."""
    drawn = _said(0)
    found = []
    for each in (_policy, function):
        student = drawn["student"].clone().requires_grad_()
        value = each(student=student, teacher=drawn["teacher"], words=drawn["words"])
        if not value.requires_grad:
            return "the value has no gradient with respect to the student."
        found.append(torch.autograd.grad(value.sum(), student)[0])
    if torch.allclose(found[0], found[1], rtol=1e-4):
        return None
    return "the value is right and its gradient is not: detach the advantage, and it alone."


def _shared(*, student: Tensor, teacher: Tensor) -> Tensor:
    return torch.minimum(student.softmax(-1), teacher.softmax(-1)).sum(-1)


def _variation(*, student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - _shared(student=student, teacher=teacher)


def _product(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.softmax(-1) * teacher.softmax(-1)).sum(-1)


def _overlap(*, student: Tensor, teacher: Tensor) -> Tensor:
    top = [x.topk(2, -1).indices for x in (student, teacher)]
    both = (top[0].unsqueeze(-1) == top[1].unsqueeze(-2)).any(-1)
    return both.to(student.dtype).mean(-1)


def _same_first(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.argmax(-1) == teacher.argmax(-1)).to(student.dtype)


def _of_logits(*, student: Tensor, teacher: Tensor) -> Tensor:
    return torch.minimum(student, teacher).sum(-1)


def _averaged(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _shared(student=student, teacher=teacher).mean()


def _two(draw: int) -> dict[str, Any]:
    drawn = _said(draw)
    return {"student": drawn["student"], "teacher": drawn["teacher"]}


EXERCISES = [
    Exercise(
        id="ex-sequences-1",
        right=FIRST + 0.2 * AFTER_B,
        tolerance=1e-3,
        wrong={
            FIRST + 0.5 * AFTER_B: "the second word is weighed by how often the teacher writes b; "
            "in this direction the student writes.",
            FIRST + AFTER_B: "the second word is asked for only after b, which has a probability.",
            FIRST: "this is the first word alone.",
            BACK_FIRST + 0.5 * BACK_B: "this is the other direction, KL(P‖Q): there the teacher "
            "writes.",
            0.5 * (FIRST + 0.2 * AFTER_B): "this is the mean over two words; a divergence of "
            "texts is their sum.",
        },
        hint="KL of the first word, and KL of the second after b times the student's "
        "probability of b.",
    ),
    Exercise(
        id="ex-sequences-2",
        kind="callable",
        right=_policy,
        inputs=_said,
        wrong={
            _backpropagated: "this backpropagates the log-ratio itself: on average over the "
            "student's words its gradient is 0, whatever the teacher says.",
            _wrong_sign: "with this sign, words that the teacher likes become rarer.",
            _likelihood: "the teacher does not occur in it.",
            _whole: "this is the divergence over the whole vocabulary; here only the probability "
            "of the written word is known.",
            _probability: "the advantage is a difference of logarithms, not of probabilities.",
            _mean: "right on average, but return one value a word.",
        },
        properties=(_held_fixed,),
        hint="−A log q(y), with A = log p(y) − log q(y) held fixed.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-sequences-3",
        right=EXPECTED,
        tolerance=2e-3,
        wrong={
            20 * 0.02: "this is what one would expect if its own words were no worse than the "
            "teacher's.",
            20 * 0.1: "this is for a student that has left the way before the first word.",
            1 - 0.98**20: "this is the probability of at least one mistake.",
            10 * 0.02 + 10 * 0.1: "a first mistake does not wait for the middle of the text: it "
            "comes at word t with probability 0.02 · 0.98^(t − 1).",
        },
        hint="Before word t no mistake was made with probability 0.98^(t − 1).",
    ),
    Exercise(
        id="ex-sequences-4",
        kind="callable",
        right=_shared,
        inputs=_two,
        wrong={
            _variation: "this is the total variation distance; the shared mass is what it leaves.",
            _product: "this is the probability that two draws agree; it is small for two equal "
            "distributions that are undecided.",
            _overlap: "this counts names of words; the shared mass weighs them.",
            _same_first: "this compares the most probable words alone.",
            _of_logits: "logits have no common level: take the softmax of both first.",
            _averaged: "right on average, but return one value a word.",
        },
        hint="Σ min(p, q) over the vocabulary, of probabilities.",
        tolerance=1e-6,
    ),
]
