"""Mistakes and properties that several exercises share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KD_MISTAKES", "draw_logits", "learns_like"]


def draw_logits(draw: int) -> dict[str, Any]:
    """Student and teacher logits ``[8, 5]`` in float64 and a temperature, another for each draw."""
    generator = torch.Generator().manual_seed(draw)
    student = 2 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return {"student": student, "teacher": teacher, "temperature": (4.0, 2.0, 0.5)[draw % 3]}


def learns_like(
    reference: Callable[..., Tensor], **settings: Any
) -> Callable[[Callable[..., Any]], str | None]:
    """A property: the function has the gradient of a reference, and its value at a gap of 600.

    Args:
        reference: The right function, of ``student``, ``teacher`` and the settings.
        **settings: Such as ``temperature=1.0``.

    Returns:
        What an :class:`Exercise` takes among its ``properties``.
    """

    def complaint(function: Callable[..., Any]) -> str | None:
        mild = {k: v for k, v in draw_logits(0).items() if k != "temperature"}
        far = {"student": [[300.0, 0.0, -300.0]], "teacher": [[-300.0, 0.0, 300.0]]}
        sure = {side: torch.tensor(logits) for side, logits in far.items()}
        value, gradient = _slope(function, **mild, **settings)
        if gradient is None:
            return (
                "the value has no gradient with respect to the student: a detach or .item() cut it."
            )
        if not gradient.isfinite().all():
            return "the gradient is not finite."
        if not torch.allclose(gradient, _slope(reference, **mild, **settings)[1], rtol=1e-4):
            return (
                "the value is right and its gradient is not: something that the student should "
                "be trained by was detached, or a factor was."
            )
        wanted = _slope(reference, **{k: v.double() for k, v in sure.items()}, **settings)
        value, gradient = _slope(function, **sure, **settings)
        shown = value.flatten()[0].item()
        if not (value.isfinite().all() and gradient.isfinite().all()):
            return (
                f"right for mild logits, but a gap of 600 gives {shown}: use log_softmax instead "
                "of the logarithm of softmax."
            )
        pairs = zip((value, gradient), wanted, strict=True)
        if not all(torch.allclose(g.double(), w, rtol=1e-3, atol=1e-3) for g, w in pairs):
            return (
                f"right for mild logits, but a gap of 600 gives {shown:.4g} in the place of "
                f"{wanted[0].item():.4g}, or has no gradient there: a small constant inside a "
                "logarithm hides how wrong a student is. Use log_softmax."
            )
        return None

    return complaint


def _slope(function: Callable[..., Any], *, student: Tensor, **others: Any) -> tuple[Tensor, Any]:
    """A function's value, and its gradient with respect to the student; None where it has none."""
    student = student.clone().requires_grad_()
    value = function(student=student, **others)
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value, None
    return value.detach(), torch.autograd.grad(value.sum(), student)[0]


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.log_softmax(teacher / temperature, -1)
    q = F.log_softmax(student / temperature, -1)
    return (p.exp() * (p - q)).sum(-1)


def _swapped(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * _kl(teacher, student, temperature)


def _unscaled(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return _kl(student, teacher, temperature)


def _scaled_once(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature * _kl(student, teacher, temperature)


def _divided(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return _kl(student, teacher, temperature) / temperature**2


def _mean(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * _kl(student, teacher, temperature).mean() / student.shape[-1]


def _mean_unscaled(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return _kl(student, teacher, temperature).mean() / student.shape[-1]


def _batchmean(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * _kl(student, teacher, temperature).mean()


def _hot_teacher(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * _kl(student * temperature, teacher, temperature)


def _cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = F.softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1)
    return -(temperature**2) * (p * q).sum(-1)


def _same_twice(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * _kl(teacher, teacher, temperature)


KD_MISTAKES: dict[Callable[..., Tensor], str] = {
    _swapped: "teacher and student are swapped: this is KL(student‖teacher). F.kl_div takes the "
    "student's log-probabilities first and the teacher as its target.",
    _unscaled: "the factor T² is missing: without it the gradient fades as 1/T² at high T.",
    _scaled_once: "scaled by T instead of T²: the gradient still fades, as 1/T.",
    _divided: "divided by T² where it should be multiplied.",
    _mean: 'reduction="mean" also divides by the number of classes: sum over the classes, and keep '
    "one value per item.",
    _mean_unscaled: 'reduction="mean" also divides by the number of classes, and T² is missing.',
    _batchmean: "right on average, but it is a mean over the batch: return one value per item "
    "and leave the mean to the objective.",
    _hot_teacher: "only the teacher is softened: both logits are divided by T.",
    _cross_entropy: "this is the cross-entropy, larger than KL by the teacher's entropy: "
    "same gradient, but it does not reach 0.",
    _same_twice: "the teacher stands on both sides: the loss is 0 and nothing is learned.",
}
