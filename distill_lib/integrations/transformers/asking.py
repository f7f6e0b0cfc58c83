"""What is asked of whom: terms whose labels are there, and a teacher for as long as it teaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from distill_lib.objective import Objective
from distill_lib.signals import layers_among
from distill_lib.teachers.live import models_of

__all__ = ["Follow", "answerable", "inner", "revealed"]


def answerable(objective: Objective, batch: Mapping[str, Any]) -> Objective:
    """The terms whose labels are in the batch, or that need none."""
    return Objective(
        [
            (weight, term)
            for weight, term in objective.pairs()
            if not term.labeled or batch.get(getattr(term, "labels", "labels")) is not None
        ]
    )


@contextmanager
def revealed(teacher: Any, paths: Iterable[str]) -> Iterator[None]:
    """The teacher tells what paths name, and is then as it was."""
    reveal = getattr(teacher, "reveal", None)
    undo: Callable[[], None] | None = reveal([*paths]) if reveal else None
    try:
        yield
    finally:
        if callable(undo):
            undo()


def inner(teacher: Any, paths: Iterable[str]) -> Any:
    """The teacher tells inner layers: for a whole training, or a compiled one would not hear them.

    All else is told for the moment of an answer: the configuration may be the student's as well.
    """
    models = models_of(teacher)
    layers = [path for path in paths if any(layers_among(model, [path]) for model in models)]
    return revealed(teacher if layers else None, layers)


class Follow(TrainerCallback):
    """An average of the student moves after every step."""

    def __init__(self, teacher: Any) -> None:
        self.teacher = teacher

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.teacher.update(kwargs["model"])
