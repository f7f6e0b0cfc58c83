"""What happened while a student was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["LARGEST", "History", "unlearnable"]

LARGEST = 1e18  # the square of its gradient is still a float; what -inf on one side costs is not


def unlearnable(step: int, parts: Mapping[str, float], clip: str) -> FloatingPointError:
    """The error for a loss that no step may be taken on; ``clip`` names the setting that clips."""
    bad = ", ".join(f"{k}={v:g}" for k, v in parts.items() if not abs(v) < LARGEST)
    endless = any(not math.isfinite(v) for v in parts.values())
    what = "not finite" if endless else f"beyond {LARGEST:g}"
    return FloatingPointError(
        f"the loss is {what} at step {step} ({bad}); lower the learning rate, set {clip}, bring "
        "targets to a scale near 1, or look at the inputs and the teacher's logits (sanity(teacher,"
        " batches)): a class that is excluded (-inf) on one side alone costs as much"
    )


class History:
    """The record of a training: one row a step.

    ``history["kd"]`` is a part's course as a list, ``history.last`` the final row,
    ``history.records`` all of them, as ``pandas.DataFrame(history.records)`` takes them. The
    numbers of ``distill(…, each_epoch=…)`` stand in the row of the last step of their epoch, so
    that ``history["accuracy"]`` has one value an epoch, and ``history.last`` holds them too.

    Args:
        records: Earlier rows, when training goes on.
    """

    def __init__(self, records: Sequence[Mapping[str, float]] = ()) -> None:
        self.records: list[dict[str, float]] = [dict(r) for r in records]
        self._fresh: list[tuple[int, dict[str, Tensor | float]]] = []
        self._noted = len(self.records)  # rows of epochs that are over

    def add(self, step: int, row: dict[str, Tensor | float]) -> None:
        """One step's values; tensors stay where they are until :meth:`settle`."""
        self._fresh.append((step, row))
        if len(self._fresh) >= 64:
            self.settle()

    def settle(self) -> None:
        """Turn tensors into numbers, many at a time, so that a GPU is seldom waited for.

        Raises:
            FloatingPointError: a loss that is not finite.
        """
        tensors = [v for _, row in self._fresh for v in row.values() if isinstance(v, Tensor)]
        if all(t.device.type == "cpu" for t in tensors):
            numbers = iter([t.item() for t in tensors])
        else:
            numbers = iter(torch.stack([t.float() for t in tensors]).tolist())
        for step, row in self._fresh:
            plain = {k: next(numbers) if isinstance(v, Tensor) else v for k, v in row.items()}
            self.records.append({"step": step, **plain})
            if not abs(plain.get("loss", 0.0)) < LARGEST:
                self._fresh = []
                raise unlearnable(step, plain, "clip_norm")
        self._fresh = []

    def note(self, numbers: Mapping[str, float]) -> None:
        """The numbers of an epoch, beside those of its last step.

        Raises:
            ValueError: a name that the steps have.
        """
        self.settle()
        steps = {name for row in self.records[self._noted :] for name in row}
        if taken := sorted(steps & numbers.keys()):
            raise ValueError(
                f"each_epoch gave {', '.join(taken)}, which is a name of the steps in the history; "
                f"call it {', '.join(f'val_{name}' for name in taken)}"
            )
        self.records[-1] |= numbers
        self._noted = len(self.records)

    def __len__(self) -> int:
        return len(self.records) + len(self._fresh)

    def __getitem__(self, name: str) -> list[float]:
        self.settle()
        known = sorted({k for r in self.records for k in r})
        if name not in known:
            raise KeyError(f"the history has no {name!r}; it has {', '.join(known) or 'nothing'}")
        return [r[name] for r in self.records if name in r]

    @property
    def last(self) -> dict[str, float]:
        """The final row."""
        self.settle()
        if not self.records:
            raise IndexError("the history is empty")
        return self.records[-1]

    def __repr__(self) -> str:
        if not len(self):
            return "History(empty)"
        parts = ", ".join(f"{k} {v:.4g}" for k, v in self.last.items() if k != "step")
        return f"History({len(self)} steps: {parts})"
