"""Answers of the chapter: why it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.booktools.answers.mistakes import draw_logits
from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _sides(counts: Tensor, zero: float) -> Tensor:
    counts = counts.double()
    undecided = zero * counts[:, 4]
    return torch.stack([counts[:, :4].sum(1) + undecided, counts[:, 5:].sum(1) + undecided], 1)


def _shares(*, counts: Tensor) -> Tensor:
    sides = _sides(counts, 0.5)
    return sides / sides.sum(1, keepdim=True)


def _without_zeros(*, counts: Tensor) -> Tensor:
    sides = _sides(counts, 0.0)
    return sides / sides.sum(1, keepdim=True)


def _zeros_twice(*, counts: Tensor) -> Tensor:
    sides = _sides(counts, 1.0)
    return sides / sides.sum(1, keepdim=True)


def _not_shares(*, counts: Tensor) -> Tensor:
    return _sides(counts, 0.5)


def _turned(*, counts: Tensor) -> Tensor:
    return _shares(counts=counts).flip(-1)


def _vote(*, counts: Tensor) -> Tensor:
    return F.one_hot(_shares(counts=counts).argmax(-1), 2).double()


def _by_strength(*, counts: Tensor) -> Tensor:
    strength = torch.arange(-4.0, 5.0, dtype=torch.float64)
    mean = counts.double() @ strength / counts.sum(1)
    return torch.stack([(-mean).sigmoid(), mean.sigmoid()], 1)


def _by_a_constant(*, counts: Tensor) -> Tensor:
    return _sides(counts, 0.5) / 23


def _by_the_mean(*, counts: Tensor) -> Tensor:
    return _sides(counts, 0.5) / counts.sum(1).double().mean()


def _counts(draw: int) -> dict[str, Any]:
    """Ratings of six texts, 15 to 29 of each, as in the data."""
    generator = torch.Generator().manual_seed(draw)
    lean = torch.rand(6, 1, generator=generator) * torch.linspace(-2, 2, 9)
    seen = torch.distributions.Categorical(logits=lean).probs
    drawn = torch.multinomial(seen, 26, replacement=True, generator=generator)
    # another number of people for each text
    asked = torch.randperm(15, generator=generator)[:6] + 12
    counts = torch.zeros(6, 9, dtype=torch.int64)
    counts.scatter_add_(1, drawn, (torch.arange(26) < asked[:, None]).long())
    counts[:, 4] += 2
    counts[:, 8] += 1
    return {"counts": counts}


def _answers(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    q, p = student.softmax(-1), teacher.softmax(-1)
    hot = F.one_hot(labels, q.shape[-1]).to(q)
    q_y, p_y = (a.gather(-1, labels[:, None]) for a in (q, p))
    return q, p, hot, q_y, p_y


def _split(*, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    q, p, hot, q_y, p_y = _answers(student, teacher, labels)
    # (q - 1_y) / (1 - q_y) without a division by what may be zero
    others = student.masked_fill(hot.bool(), -torch.inf).softmax(-1)
    label = (p_y - q_y) * (others - hot)
    return torch.stack([label, q - p - label])


def _finite_for_a_sure_student(function: Callable[..., Any]) -> str | None:
    student, teacher = torch.tensor([[40.0, 0.0, -1.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    labels = torch.tensor([0])
    given = function(student=student, teacher=teacher, labels=labels)
    right = _split(student=student.double(), teacher=teacher.double(), labels=labels)
    if torch.allclose(torch.as_tensor(given).double(), right, atol=1e-4):
        return None
    return (
        "right for mild logits, but not for a sure student, with logits (40, 0, -1) in float32: "
        "there 1 - q_y is zero to seven digits, and you divide by it. (q - 1_y) / (1 - q_y) is the "
        "softmax over the other classes, with -1 at the label."
    )


def _weight_of_the_teacher(*, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    q, p, hot, _, p_y = _answers(student, teacher, labels)
    return torch.stack([p_y * (q - hot), q - p - p_y * (q - hot)])


def _never_negative(*, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    q, p, hot, q_y, p_y = _answers(student, teacher, labels)
    label = ((p_y - q_y) / (1 - q_y)).clamp_min(0) * (q - hot)
    return torch.stack([label, q - p - label])


def _label_coordinate_only(*, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    q, p, hot, _, _ = _answers(student, teacher, labels)
    return torch.stack([(q - p) * hot, (q - p) * (1 - hot)])


def _exchanged(*, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return _split(student=student, teacher=teacher, labels=labels).flip(0)


def _downhill(*, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return -_split(student=student, teacher=teacher, labels=labels)


def _items(draw: int) -> dict[str, Any]:
    drawn = draw_logits(draw)
    labels = torch.randint(5, (8,), generator=torch.Generator().manual_seed(draw))
    # half of the students are surer of the label than their teacher
    sure = 4.0 * F.one_hot(labels, 5) * (torch.arange(8)[:, None] % 2 == 0)
    return {"student": drawn["student"] + sure, "teacher": drawn["teacher"], "labels": labels}


EXERCISES = [
    Exercise(
        id="ex-why_it_works-1",
        right=-1.0,
        tolerance=1e-6,
        wrong={
            0.8: "this is the weight for a student that is still wrong; ours gives 0.9.",
            0.6: "this is the weight at the start, where the student gives one half.",
            1.0: "the sign: the student is surer than its teacher and is called back.",
            -0.1: "this is the entry of the gradient's difference; divide by that of the label, "
            "1 - 0.9.",
            -0.125: "divided by the teacher's probability; the label's own push is 1 - q.",
        },
        hint="(p - q) / (1 - q), with the student's 0.9 for q.",
    ),
    Exercise(
        id="ex-why_it_works-2",
        kind="callable",
        right=_shares,
        inputs=_counts,
        wrong={
            _without_zeros: "ratings of 0 were left out; each is half a vote for either side, "
            "which is disagreement.",
            _zeros_twice: "a rating of 0 was counted as a whole vote for both sides.",
            _not_shares: "these are votes; divide by their sum.",
            _turned: "the sides are exchanged: negative first.",
            _vote: "this is the majority: the shares are gone.",
            _by_a_constant: "each text has a number of raters of its own; divide by its own sum.",
            _by_the_mean: "divided by the mean number of raters; each text has one of its own.",
            _by_strength: "a sigmoid of the mean rating says how strongly people feel, not how "
            "many are on which side.",
        },
        hint="Sum the columns left and right of the middle, add half of the middle to both.",
    ),
    Exercise(
        id="ex-why_it_works-3",
        right=500 * 0.8 / 1.2,
        tolerance=2e-3,
        wrong={
            250.0: "this compares V_x with V_y; one rater's variance is their sum.",
            750.0: "turned around: the crowd needs fewer texts, not more.",
            500 * 0.4 / 1.2: "the crowd removes V_y; what stays is V_x.",
            500.0: "the crowd's estimate has a smaller variance for the same number of texts.",
        },
        hint="Set (V_x + V_y) / 500 equal to V_x / n.",
    ),
    Exercise(
        id="ex-why_it_works-4",
        kind="callable",
        right=_split,
        inputs=_items,
        properties=(_finite_for_a_sure_student,),
        wrong={
            _weight_of_the_teacher: "the weight is p_y only for a student with q_y = 0; in general "
            "(p_y - q_y) / (1 - q_y).",
            _never_negative: "the weight was clamped at 0; where the student is surer than the "
            "teacher it is negative.",
            _label_coordinate_only: "the gradient of the label's loss has entries in all classes, "
            "and so has its multiple.",
            _exchanged: "right, but the reweighted label comes first.",
            _downhill: "the sign: this is the direction of descent, not the gradient.",
        },
        hint="First w (q - 1_y) with w = (p_y - q_y) / (1 - q_y), then what is missing to q - p.",
    ),
]
