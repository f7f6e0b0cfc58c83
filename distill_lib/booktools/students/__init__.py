"""Students that run in the page, in plain JavaScript: what the directive ``{student}`` shows.

Each module here makes one figure, in its function ``figure()``; the page is built with it, so that
no chapter has to run again. Files of weights lie beside the page and are asked for when a reader
wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

__all__ = ["STATIC", "Figure", "figure"]

STATIC = "{{static}}"  # stands in the HTML for the way to the folder of the files


@dataclass(frozen=True)
class Figure:
    """The HTML of a figure, and the files that it asks for, by name."""

    html: str
    files: Mapping[str, bytes] = field(default_factory=dict)


def figure(name: str) -> Figure:
    """The figure of a module of this package."""
    made: Figure = import_module(f"{__name__}.{name}").figure()
    return made


def __dir__() -> list[str]:
    return __all__
