"""The answers, one file a chapter: each ``chNN.py`` has a list ``EXERCISES``.

To add an exercise, append an :class:`~distill_lib.booktools.exercises.Exercise` to the list of its
chapter, with the mistakes you have seen. Building it already proves that the right answer is
accepted and that every listed wrong one is refused.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from distill_lib.booktools.exercises import Exercise

__all__ = ["load"]


@cache
def load() -> dict[str, Exercise]:
    """All exercises by id.

    Raises:
        ValueError: Two exercises have one id, or an id does not name its chapter.
    """
    known: dict[str, Exercise] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        if not module.name.startswith("ch"):
            continue
        chapter = int(module.name.removeprefix("ch"))
        for exercise in importlib.import_module(f"{__name__}.{module.name}").EXERCISES:
            if exercise.id in known:
                raise ValueError(f"{exercise.id} is defined twice.")
            if not exercise.id.startswith(f"ex-{chapter}-"):
                raise ValueError(f"{exercise.id} stands in {module.name}.py of chapter {chapter}.")
            known[exercise.id] = exercise
    return known
