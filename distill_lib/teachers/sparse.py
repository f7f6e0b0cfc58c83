"""A teacher that tells a part of its answer: the most probable classes, and the tail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from distill_lib import losses
from distill_lib.arguments import check_counts, checked
from distill_lib.losses._common import check_axis
from distill_lib.signals import Batch, Signals, pick

from .live import Source, Teacher, models_of

__all__ = ["TopK"]


@checked
class TopK:
    """The k most probable classes of a teacher, their log-probabilities, and that of the rest.

    Signals are ``top_ids`` and ``top_log_probs`` [..., k], and ``rest`` [...], for
    :class:`distill_lib.terms.SparseKD`. ``Cache.build(path, TopK(teacher, 20), data, what=(
    "top_ids", "top_log_probs", "rest"))`` keeps them.

    Args:
        teacher: Any teacher, or a module that becomes one.
        k: Classes kept, fewer than there are.
        on: The teacher's signal.
        axis: The axis of the classes, 1 for images [B, C, H, W]; the k are on the last. By default
            the last; of answers with more than three axes it has to be said.

    Raises:
        ValueError: ``k`` below 1; when it is asked, fewer classes than ``k + 1``, or classes on an
            axis that was not named.

    Example:
        >>> import torch
        >>> said = TopK(nn.Linear(4, 9), 2)({"inputs": torch.zeros(5, 4)})
        >>> {name: tuple(x.shape) for name, x in said.items()}
        {'top_ids': (5, 2), 'top_log_probs': (5, 2), 'rest': (5,)}
    """

    k: int
    on: str

    def __init__(
        self, teacher: Source | nn.Module, k: int, on: str = "logits", axis: int | None = None
    ) -> None:
        check_counts(k=k)
        self.teacher: Any = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        self.k, self.on, self.axis = int(k), on, axis

    def __call__(self, batch: Batch) -> Signals:
        """The kept part of the answer."""
        said = pick(self.teacher(batch), self.on, "teacher")
        if self.axis is None and said.ndim > 3:
            raise ValueError(
                f"TopK: which axis of the logits {list(said.shape)} is the classes? Say axis=1 for "
                "images [B, C, H, W], axis=-1 for classes last"
            )
        check_axis("TopK", {self.on: said}, self.axis)
        said = said if self.axis is None else said.movedim(self.axis, -1)
        ids, log_p, rest = losses.top_k(said, self.k)
        return {"top_ids": ids, "top_log_probs": log_p, "rest": rest}

    def to(self, device: Any) -> TopK:
        """Move the teacher."""
        self.teacher.to(device)
        return self

    def models(self) -> Iterator[nn.Module]:
        """The models that must not be trained."""
        yield from models_of(self.teacher)

    def fingerprint(self) -> str:
        """The teacher's, with what is kept of it."""
        more = () if self.axis is None else (self.axis,)  # caches without one keep their name
        name = repr((self.teacher.fingerprint(), self.k, self.on, *more))
        return hashlib.sha256(name.encode()).hexdigest()

    def reveal(self, paths: Sequence[str]) -> Callable[[], None]:
        """Have the teacher tell the signal of which a part is kept."""
        undo = self.teacher.reveal([self.on]) if hasattr(self.teacher, "reveal") else None
        return undo if callable(undo) else lambda: None
