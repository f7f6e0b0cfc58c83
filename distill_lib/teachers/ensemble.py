"""Several teachers as one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.masks.axes import class_axis
from distill_lib.signals import Batch, Signals, pick

from .live import Teacher
from .shown import Shown, named_of

__all__ = ["Ensemble"]

LEAST = torch.finfo(torch.float32).tiny  # a share below is none in single precision


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
        weights: One a teacher; equal by default; normalized to sum 1. One of weight 0 is not asked.
        space: ``"prob"``, ``"logit"``, or ``"labels"`` for independent labels and binary models.
        on: The signal that is averaged.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last; where the
            shapes of the logits and of the batch's labels leave a doubt, it has to be said.

    Raises:
        TypeError: answers that are no real numbers.
        ValueError: no teacher, weights that do not fit, an unknown space; the probabilities of one
            class, or of logits whose axis of classes leaves a doubt; an axis that is not there; a
            teacher that changes the batch, which the others are shown too.
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
        fit = len(weights) == len(teachers) and all(0 <= w < math.inf for w in weights)
        if not fit or not 0 < sum(weights) < math.inf:
            raise ValueError(
                f"expected {len(teachers)} non-negative weights with a positive sum, all finite, "
                f"got {weights}"
            )
        self.teachers: list[Any] = [Teacher(t) if isinstance(t, nn.Module) else t for t in teachers]
        self.weights: list[float] = [w / sum(weights) for w in weights]
        self.space = space
        self.on = on
        self.axis = axis

    @torch.no_grad()
    def __call__(self, batch: Batch | Tensor) -> Signals:
        """The averaged signal, under its own name."""
        shown = Shown(batch)
        said, weights = [], []
        for teacher, weight in zip(self.teachers, self.weights, strict=True):
            if weight >= LEAST:  # 0 · (−∞) is 0 here, so what has no weight is not asked
                said.append(pick(teacher(batch), self.on, "teacher"))
                weights.append(weight)
                shown.check("teacher in an ensemble", teacher)
        if len({tuple(v.shape) for v in said}) > 1:
            raise ValueError(
                f"the teachers of an ensemble must agree on their classes, got shapes "
                f"{[tuple(v.shape) for v in said]}; map them to one set with Teacher(forward=…)"
            )
        if not all(v.is_floating_point() for v in said):
            raise TypeError(
                f"the teachers of an ensemble say real numbers, got {[v.dtype for v in said]}; "
                "are these class numbers, where logits are meant?"
            )
        stack = torch.stack([v.float() if v.dtype.itemsize < 4 else v for v in said])
        w = torch.tensor(weights, dtype=stack.dtype, device=stack.device)
        w = w.view(-1, *[1] * (stack.ndim - 1))
        return {self.on: self._average(stack, w, named_of(batch))}

    def _average(self, v: Tensor, w: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Of [K, ...] logits with weights [K, 1, ...]."""
        shape, labels = v.shape[1:], batch.get("labels")
        if self.axis is not None:
            class_axis(shape, self.axis, labels, "Ensemble")  # is it there?
        if self.space == "logit":
            return (w * v).sum(0)
        if self.space == "labels":
            yes, no = ((F.logsigmoid(x) + w.log()).logsumexp(0) for x in (v, -v))
            return yes - no
        axis = class_axis(shape, self.axis, labels, "Ensemble", batch)
        if len(shape) < 2 or shape[axis] < 2:
            raise ValueError(
                f"logits {list(shape)} hold one number an item, whose softmax is 1: average "
                'those of a yes or no with space="labels", numbers with space="logit"'
            )
        return (v.log_softmax(axis) + w.log()).logsumexp(0)

    def to(self, device: torch.device | str) -> Ensemble:
        """Move every teacher that can be moved."""
        for teacher in self.teachers:
            if hasattr(teacher, "to"):  # what a source must offer is less
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
