"""The checker that a page calls: :func:`check` with an exercise's name and an answer."""

from __future__ import annotations

import difflib
from typing import Any

from distill_lib.booktools.exercises import verdict

__all__ = ["check"]


def check(exercise: str, answer: Any) -> None:
    """Check an answer: a friendly line when it is right, the reason when it is not.

    Args:
        exercise: The exercise, such as ``"ex-temperature_and_kl-2"``.
        answer: A number, a tensor, a word or a function, as the exercise asks.

    Raises:
        AssertionError: The answer is wrong; the message says why where the mistake is known.
        KeyError: There is no such exercise; the message lists those there are.
    """
    # answers are made of torch, which a page without exercises need not wait for
    from distill_lib.booktools import answers

    known = answers.load()
    if exercise not in known:
        close = difflib.get_close_matches(exercise, known, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"No exercise {exercise!r}.{guess} There are: {', '.join(sorted(known))}.")
    complaint = verdict(known[exercise], answer)
    if complaint is not None:
        raise AssertionError(f"{exercise}: {complaint}")
    print(f"✓ {exercise}: right.")
