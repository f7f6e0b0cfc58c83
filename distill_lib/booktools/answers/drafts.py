"""Answers of the chapter: drafts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.answers.mistakes import draw_logits
from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

_P, _Q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
_ABOVE = (_P - _Q).clamp_min(0)


def _accepted(*, student: Tensor, teacher: Tensor) -> Tensor:
    return torch.minimum(student.softmax(-1), teacher.softmax(-1)).sum(-1)


def _same_draw(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.softmax(-1) * teacher.softmax(-1)).sum(-1)


def _same_favorite(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student.argmax(-1) == teacher.argmax(-1)).double()


def _without_half(*, student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)


def _ratio(*, student: Tensor, teacher: Tensor) -> Tensor:
    ratio = (teacher.softmax(-1) / student.softmax(-1)).clamp_max(1)
    return ratio.mean(-1)


def _mean(*, student: Tensor, teacher: Tensor) -> Tensor:
    return _accepted(student=student, teacher=teacher).mean()


def _from_kl(*, student: Tensor, teacher: Tensor) -> Tensor:
    p = teacher.log_softmax(-1)
    return (p.exp() * (student.log_softmax(-1) - p)).sum(-1).exp()


def _logits(draw: int) -> dict[str, Any]:
    return {k: v for k, v in draw_logits(draw).items() if k != "temperature"}


def _has_gradient(function: Any) -> str | None:
    student = _logits(0)["student"].requires_grad_()
    value = function(student=student, teacher=_logits(0)["teacher"])
    if not value.requires_grad:
        return "the value has no gradient with respect to the student, and cannot be a loss."
    return None


EXERCISES = [
    Exercise(
        id="ex-drafts-1",
        kind="tensor",
        right=_ABOVE / _ABOVE.sum(),
        wrong={
            _P: "this is p: what was refused would get a second chance.",
            _ABOVE: "this is what the target has above the draft; divide it by its sum.",
            (_P - _Q).abs()
            / (_P - _Q).abs().sum(): "only where p is above q is something missing.",
            torch.minimum(_P, _Q) / torch.minimum(_P, _Q).sum(): "this is the law of what is kept.",
            torch.tensor([0.625, 0.375, 0.0]): "this is p without the refused token: p - q is "
            "what is missing, not p.",
        },
        hint="(p - q)+, divided by its sum.",
    ),
    Exercise(
        id="ex-drafts-2",
        right=0.28,
        wrong={
            0.6: "this is the sum of min(p, q), the rule of speculative decoding.",
            0.4: "this is the total variation.",
            0.38: "this is the sum of p squared: the chance of two draws of the target.",
            0.44: "this is the sum of q squared.",
        },
        hint="the sum over tokens of the chance that both draws are this token.",
    ),
    Exercise(
        id="ex-drafts-3",
        kind="callable",
        right=_accepted,
        wrong={
            _same_draw: "this is the chance that two draws are the same token: too low.",
            _same_favorite: "this is greedy decoding.",
            _without_half: "the total variation is half of the sum of absolute differences.",
            _ratio: "min(1, p/q) is averaged over the proposals, which are drawn from q.",
            _mean: "one value an item: only an objective reduces.",
            _from_kl: "a divergence in the exponent is no probability of being kept.",
        },
        inputs=_logits,
        properties=(_has_gradient,),
        hint="the sum over tokens of the smaller of both probabilities.",
    ),
    Exercise(
        id="ex-drafts-4",
        right=6,
        wrong={
            1: "one token ahead wastes least, and saves least.",
            4: "this is what many take by default; with c = 0.1 more is better.",
            29: "without the draft's price more is always better.",
            11: "this is best for c = 0.02.",
            8: "this is best for c = 0.05.",
        },
        hint="maximize (1 - α^(k+1)) / ((1 - α)(1 + k c)) over k.",
    ),
]
