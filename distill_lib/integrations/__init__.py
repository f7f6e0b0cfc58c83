"""Bridges to other people's trainers and file formats; each imports its library when it is used."""

from __future__ import annotations

__all__: list[str] = []


def __dir__() -> list[str]:
    return __all__
