"""Numbers that the prose quotes: stored in the notebook, never typed by hand."""

from __future__ import annotations

import math
from typing import Any

from distill_lib.booktools._display import in_notebook, show

__all__ = ["glue"]

# The two names below are the file format in which myst-nb finds glued outputs; writing them
# ourselves keeps myst-nb off the list of what a chapter needs in Colab.
_HIDDEN = "application/papermill.record/"


def glue(name: str, value: Any, fmt: str | None = None) -> None:
    """Store ``value`` under ``name``, by which the text quotes it (``{glue:text}``, ``{glue}``).

    Args:
        name: Unique in the chapter.
        value: A number, a string, a one-element tensor, or anything a notebook can display,
            such as a figure.
        fmt: A format such as ``".1f"`` or ``".1%"`` for a number.

    Raises:
        ValueError: The name is empty, or the number is not finite.

    Example:
        >>> glue("teacher-accuracy", 0.9312, ".1%")
        teacher-accuracy = 93.1%
    """
    if not name.strip():
        raise ValueError("glue needs a name, by which the text finds the value.")
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"glue {name!r}: the value is {value}; it cannot be quoted in the text.")
    if isinstance(value, str | int | float):
        text = format(value, fmt or "")
        if not isinstance(value, str):
            text = text.replace("-", "\u2212")
        bundle: dict[str, Any] = {"text/plain": text}
    elif fmt is not None:
        raise ValueError(f"glue {name!r}: fmt formats numbers, got {type(value).__name__}.")
    else:
        bundle = _formats(value)
        text = str(bundle.get("text/plain", value))
    if in_notebook():
        record = {"name": name, "mime_prefix": _HIDDEN}
        hidden = {_HIDDEN + mime: data for mime, data in bundle.items()}
        if isinstance(value, str | int | float):
            # read back as Python: bare, 20,000 would become a pair and 0.10 lose its zero
            hidden[_HIDDEN + "text/plain"] = repr(text)
        show(hidden, metadata={"scrapbook": record})
    else:
        show({"text/plain": f"{name} = {text}"})


def _formats(value: Any) -> dict[str, Any]:
    if not in_notebook():
        return {"text/plain": repr(value)}
    from IPython.core import formatters

    format_data: Any = formatters.format_display_data
    bundle, _ = format_data(value)
    return dict(bundle)
