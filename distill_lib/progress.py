"""Progress bars for what takes longer than two seconds, silent where nobody watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm.std import tqdm

__all__ = ["bar", "quiet"]

T = TypeVar("T")


def quiet() -> bool:
    """Whether bars are off: under CI, or with ``DISTILL_QUIET`` set."""
    return bool(os.environ.get("CI") or os.environ.get("DISTILL_QUIET"))


def bar(items: Iterable[T], what: str, total: int | None, show: bool = True) -> tqdm[T]:
    """The items, with a bar that appears after two seconds."""
    off = not show or quiet()
    # notebooks show what goes to stderr as an error, on red
    file = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(items, what, total, delay=2, leave=False, disable=off, file=file)
