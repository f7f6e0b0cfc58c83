"""The answers, one file a chapter, of its name: each has a list ``EXERCISES``.

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


def __dir__() -> list[str]:
    return __all__


@cache
def load() -> dict[str, Exercise]:
    """All exercises by id.

    Raises:
        ValueError: Two exercises have one id, or an id does not name its chapter.
    """
    known: dict[str, Exercise] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        # mistakes.py is for all chapters, and has none
        answers = importlib.import_module(f"{__name__}.{module.name}")
        for exercise in getattr(answers, "EXERCISES", []):
            if exercise.id in known:
                raise ValueError(f"{exercise.id} is defined twice.")
            if not exercise.id.startswith(f"ex-{module.name}-"):
                raise ValueError(
                    f"{exercise.id} stands in {module.name}.py: it is of no such page."
                )
            known[exercise.id] = exercise
    return known
