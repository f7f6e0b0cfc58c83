"""Several teachers as one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import Batch, Signals, pick

from .live import Teacher

__all__ = ["Ensemble"]


@checked
class Ensemble:
    r"""Several teachers as one: the average of what they say.

    .. math::
        \text{prob: } z = \log \sum_k w_k\, \mathrm{softmax}(v_k)
        \qquad
        \text{logit: } z = \sum_k w_k\, v_k
        \qquad
        \text{labels: } z = \sigma^{-1} \Bigl( \sum_k w_k\, \sigma(v_k) \Bigr)

    The arithmetic mean of probabilities is the teacher that minimizes the mean forward KL; the
    mean of logits is, after normalization, the geometric mean, which the reverse KL asks for. They
    differ: ``[9, 0, 0]`` and ``[0, 1, 0]`` give .606/.288/.106 against .971/.018/.011.

    Args:
        teachers: Teachers, or modules that become teachers.
        weights: One a teacher; equal by default; normalized to sum 1.
        space: ``"prob"``, ``"logit"``, or ``"labels"`` for independent labels and binary models.
        on: The signal that is averaged.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last.

    Raises:
        ValueError: no teacher, weights that do not fit, an unknown space; the probabilities of one
            class, or of images whose axis of classes was not named.
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        weights: Sequence[float] | None = None,
        space: str = "prob",
        on: str = "logits",
        axis: int | None = None,
    ) -> None:
        teachers = list(teachers)
        for teacher in teachers:
            if not callable(teacher) or isinstance(teacher, type):
                raise TypeError(f"Ensemble expected teachers or modules, got {told(teacher)}")
        if not teachers:
            raise ValueError("Ensemble expected at least one teacher, got none")
        if space not in ("prob", "logit", "labels"):
            raise ValueError(f"space is 'prob', 'logit' or 'labels', got {space!r}")
        weights = [1.0] * len(teachers) if weights is None else list(weights)
        if len(weights) != len(teachers) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"expected {len(teachers)} non-negative weights with a positive sum, got {weights}"
            )
        self.teachers: list[Any] = [Teacher(t) if isinstance(t, nn.Module) else t for t in teachers]
        self.weights: list[float] = [w / sum(weights) for w in weights]
        self.space = space
        self.on = on
        self.axis = axis

    @torch.no_grad()
    def __call__(self, batch: Batch | Tensor) -> Signals:
        """The averaged signal, under its own name."""
        said = [pick(teacher(batch), self.on, "teacher") for teacher in self.teachers]
        if len({tuple(v.shape) for v in said}) > 1:
            raise ValueError(
                f"the teachers of an ensemble must agree on their classes, got shapes "
                f"{[tuple(v.shape) for v in said]}; map them to one set with Teacher(forward=…)"
            )
        stack = torch.stack([v.float() if v.dtype.itemsize < 4 else v for v in said])
        w = torch.tensor(self.weights, dtype=stack.dtype, device=stack.device)
        w = w.view(-1, *[1] * (stack.ndim - 1))
        return {self.on: self._average(stack, w)}

    def _average(self, v: Tensor, w: Tensor) -> Tensor:
        """Of [K, ...] logits with weights [K, 1, ...]."""
        if self.space == "logit":
            return (w * v).sum(0)
        if self.space == "labels":
            yes, no = ((F.logsigmoid(x) + w.log()).logsumexp(0) for x in (v, -v))
            return yes - no
        if self.axis is None and v.ndim > 4:
            raise ValueError(
                f"which axis of the logits {list(v.shape[1:])} is the classes? Say axis=1 for "
                "images [B, C, H, W], axis=-1 for classes last"
            )
        axis = -1 if self.axis is None else self.axis
        axis = axis + 1 if axis >= 0 else axis  # the teachers are stacked before it
        if v.ndim < 3 or v.shape[axis] < 2:
            raise ValueError(
                f"logits {list(v.shape[1:])} hold one number an item, whose softmax is 1: average "
                'those of a yes or no with space="labels", numbers with space="logit"'
            )
        return (v.log_softmax(axis) + w.log()).logsumexp(0)

    def to(self, device: torch.device | str) -> Ensemble:
        """Move every teacher."""
        for teacher in self.teachers:
            teacher.to(device)
        return self

    def models(self) -> Iterator[nn.Module]:
        """The models that must not be trained."""
        for teacher in self.teachers:
            yield from getattr(teacher, "models", lambda: ())()

    def fingerprint(self) -> str:
        """SHA-256 over the members, their weights, the space and the axis."""
        parts = [t.fingerprint() for t in self.teachers]
        return hashlib.sha256(
            repr(
                (parts, self.weights, self.space, *([] if self.axis is None else [self.axis]))
            ).encode()
        ).hexdigest()
