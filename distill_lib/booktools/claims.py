"""A conclusion of the text as a line that the build checks."""

from __future__ import annotations

import hashlib
import html
import math
import re
from typing import Any

from distill_lib.booktools._display import show

__all__ = ["claim"]

MIME = "application/vnd.distill.claim+json"
_SIGNS = {">=": "≥", "<=": "≤", "==": "="}
_FAILS = {">=": "not ≥", "<=": "not ≤", "==": "not"}


def claim(
    text: str,
    value: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    equals: float | None = None,
    tolerance: float | None = None,
    seeds: int | None = None,
    source: str | None = None,
) -> None:
    """State a result, show it, and fail the build when it does not hold.

    Exactly one of ``at_least``, ``at_most`` and ``equals`` says what has to hold. A claim should
    be an inequality with a margin that survives other seeds and machines, not a digit.

    Args:
        text: The conclusion in words, without the number.
        value: The measured number: anything ``float()`` takes, or a bool with ``equals=True``.
        at_least: Holds when ``value >= at_least``.
        at_most: Holds when ``value <= at_most``.
        equals: Holds when ``|value - equals| <= tolerance``.
        tolerance: Allowed distance to ``equals``; required and positive unless both are whole
            numbers or bools.
        seeds: How many seeds the number is a mean of.
        source: The paper or document whose number this is compared with.

    Raises:
        AssertionError: The claim does not hold; raised after it has been displayed.
        ValueError: The claim is not one: no bound or two, no tolerance, NaN, empty text.
        TypeError: The value is not a number.

    Example:
        >>> claim("KL is never negative", 0.25, at_least=0.0)
        ✓ KL is never negative: 0.25 ≥ 0
    """
    if not text.strip():
        raise ValueError("claim needs a text: the conclusion in words, without the number.")
    if seeds is not None and (isinstance(seeds, bool) or int(seeds) != seeds or seeds < 1):
        raise ValueError(f"claim {text!r}: seeds is a count >= 1, got {seeds!r}.")
    relation, bound = _relation(text, at_least, at_most, equals, tolerance)
    number = _number(text, "value", value)
    limit = _number(text, "bound", bound)
    if isinstance(number, bool) != isinstance(limit, bool) or (
        isinstance(number, bool) and relation != "=="
    ):
        raise TypeError(
            f"claim {text!r}: a bool goes with equals=True or equals=False, "
            f"got value={value!r} and a bound of {bound!r}."
        )
    slack = _slack(text, number, limit, relation, tolerance)
    holds = _holds(number, relation, limit, slack)
    record = {
        "id": claim_id(text),
        "text": text,
        "value": number,
        "relation": relation,
        "bound": limit,
        "seeds": seeds,
        "source": source,
        "holds": holds,
    }
    if slack:
        record["tolerance"] = slack
    line = _line(record)
    show({"text/plain": line, "text/html": _as_html(line, holds), MIME: record})
    if not holds:
        raise AssertionError(f"{line}. The text claims what was not measured: change one of them.")


def claim_id(text: str) -> str:
    """A readable, stable name of a claim: a slug of its text and six digits of its hash."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].rstrip("-")
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _relation(
    text: str,
    at_least: float | None,
    at_most: float | None,
    equals: float | None,
    tolerance: float | None,
) -> tuple[str, float]:
    given = {">=": at_least, "<=": at_most, "==": equals}
    bounds = [(sign, bound) for sign, bound in given.items() if bound is not None]
    if len(bounds) != 1:
        raise ValueError(
            f"claim {text!r} needs exactly one of at_least, at_most and equals, got {len(bounds)}."
        )
    if tolerance is not None and equals is None:
        raise ValueError(
            f"claim {text!r}: tolerance goes with equals; an inequality carries its margin in "
            "its bound."
        )
    return bounds[0]


def _number(text: str, role: str, value: Any) -> bool | int | float:
    """The value as a plain finite number; a one-element tensor or array counts."""
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (RuntimeError, ValueError) as error:
            raise TypeError(
                f"claim {text!r}: the {role} must be one number, got shape "
                f"{tuple(value.shape)}. Reduce it first, for example with .mean()."
            ) from error
    if isinstance(value, bool | int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"claim {text!r}: the {role} must be a number, got {type(value).__name__}."
        ) from error
    if not math.isfinite(number):
        raise ValueError(
            f"claim {text!r}: the {role} is {number}, and nothing can be claimed of it. "
            "Look where it became so: an empty mean, a logarithm of 0, a diverged run."
        )
    return number


def _slack(text: str, value: float, bound: float, relation: str, tolerance: float | None) -> float:
    if relation != "==":
        return 0.0
    if tolerance is None:
        if isinstance(value, int) and isinstance(bound, int):
            return 0.0
        raise ValueError(
            f"claim {text!r}: equality of floats needs tolerance=, a positive distance."
        )
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"claim {text!r}: tolerance must be positive, got {tolerance!r}.")
    return float(tolerance)


def _holds(value: float, relation: str, bound: float, slack: float) -> bool:
    if relation == ">=":
        return value >= bound
    if relation == "<=":
        return value <= bound
    return abs(value - bound) <= slack


def _line(record: dict[str, Any]) -> str:
    value, bound = _pair(record["value"], record["bound"], distinct=not record["holds"])
    signs = _SIGNS if record["holds"] else _FAILS
    sign = signs[record["relation"]]
    if record.get("tolerance"):
        bound += f" ± {record['tolerance']:.3g}"
        sign = "≈" if record["holds"] else "not ≈"
    seeds = record["seeds"]
    notes = [] if seeds is None else [f"{seeds} seed" + ("s" if seeds > 1 else "")]
    notes += [record["source"]] if record["source"] else []
    tail = f" ({'; '.join(notes)})" if notes else ""
    return f"{'✓' if record['holds'] else '✗'} {record['text']}: {value} {sign} {bound}{tail}"


def _pair(value: float, bound: float, *, distinct: bool) -> tuple[str, str]:
    """Both numbers in four digits, or in as many as it takes to see that they differ."""
    for digits in (4, 6, 9, 17):
        a, b = _digits(value, digits), _digits(bound, digits)
        if a != b or not distinct:
            break
    return a, b


def _digits(number: float, digits: int) -> str:
    if isinstance(number, bool):
        return "yes" if number else "no"
    return f"{number:,}" if isinstance(number, int) else f"{number:.{digits}g}"


def _as_html(line: str, holds: bool) -> str:
    # currentColor and a border, no color of our own: readable in every theme.
    style = f"border-left:3px {'solid' if holds else 'double'} currentColor;padding:.1rem .6rem"
    state = "holds" if holds else "fails"
    return f'<div class="dl-claim dl-claim-{state}" style="{style}">{html.escape(line)}</div>'
