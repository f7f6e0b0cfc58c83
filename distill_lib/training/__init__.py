"""The one loop, what it remembers, and how it goes on after a kill."""

from __future__ import annotations

from .history import History
from .loop import distill

__all__ = [
    "History",
    "distill",
]


def __dir__() -> list[str]:
    return __all__
