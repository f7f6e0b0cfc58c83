"""A conclusion of the text as a sentence that the build checks, and what only this machine says.

A :func:`claim` is about learning: it carries a bound, and one that does not hold ends the build
with an error. A :func:`measurement` is of the machine (seconds, ratios of seconds, memory): it is
shown and recorded, and never stops anything. All of a cell make one list.
"""

from __future__ import annotations

import functools
import hashlib
import html
import math
import os
import platform
import re
import string
import sys
from pathlib import Path
from typing import Any

from distill_lib.booktools._display import in_notebook, show_list

__all__ = ["claim", "faster", "measurement"]

MIME = "application/vnd.distill.claim+json"
_SIGNS = {">=": "at least", "<=": "at most", "==": "exactly"}
_PLACE = re.compile(r"\{(\w*)")


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
    **shown: Any,
) -> None:
    """State a result as a sentence with its number, and have the build check it.

    Exactly one of ``at_least``, ``at_most`` and ``equals`` says what has to hold. A claim should
    be an inequality with a margin that survives other seeds and machines, not a digit. In a
    notebook a claim that does not hold is marked, and the page goes on: ``make book`` finds it in
    the record, names it, and ends with an error. In a plain program it raises.

    Args:
        text: A sentence with ``{value}`` in the place of the number, with a format where it needs
            one: ``"… for {value:.0f} of 500 steps."``. Without it only for a yes or no.
        value: The measured number: anything ``float()`` takes, or a bool with ``equals=True``.
        at_least: Holds when ``value >= at_least``.
        at_most: Holds when ``value <= at_most``.
        equals: Holds when ``|value - equals| <= tolerance``.
        tolerance: Allowed distance to ``equals``; required and positive unless both are whole
            numbers or bools.
        seeds: How many seeds the number is a mean of.
        source: The paper or document whose number this is compared with.
        shown: Further numbers that the sentence names, such as ``error=0.2`` for ``± {error:.1f}``.

    Raises:
        AssertionError: The claim does not hold, in a plain program; raised after it is displayed.
        ValueError: The claim is not one: no bound or two, no tolerance, NaN, no sentence, a number
            that the sentence does not name, or a name without a number.
        TypeError: The value is not a number.

    Example:
        >>> claim("The divergence is never negative: here {value:.2f}.", 0.25, at_least=0.0)
        ✓ The divergence is never negative: here 0.25. (at least 0)
    """
    _check_text(text)
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
    record = {
        "id": claim_id(text),
        "kind": "claim",
        "text": _sentence(text, number, shown),
        "value": number,
        "relation": relation,
        "bound": limit,
        "seeds": seeds,
        "source": source,
        "holds": _holds(number, relation, limit, slack),
    }
    if slack:
        record["tolerance"] = slack
    _show(record)
    if not record["holds"] and not in_notebook():
        raise AssertionError(
            f"{_line(record)}. The text claims what was not measured: change one of them."
        )


def measurement(text: str, value: Any, *, source: str | None = None, **shown: Any) -> None:
    """State what this machine did: shown and recorded with the machine's name, never checked.

    Args:
        text: A sentence with ``{value}``, true whichever way the number comes out; words that
            depend on the number come from it: :func:`faster`.
        value: The measured number.
        source: What it may be compared with.
        shown: Further numbers or words that the sentence names.

    Raises:
        ValueError: NaN or infinite, no sentence, or names and numbers that do not match.
        TypeError: The value is not a number.

    Example:
        >>> measurement("An answer took {value:.1f} ms here.", 1.25)
        · An answer took 1.2 ms here. (this machine)
    """
    _check_text(text)
    number = _number(text, "value", value)
    record = {
        "id": claim_id(text),
        "kind": "machine",
        "text": _sentence(text, number, shown),
        "value": number,
        "relation": None,
        "bound": None,
        "seeds": None,
        "source": source,
        "holds": None,
        "machine": machine(),
    }
    _show(record)


def faster(ratio: float, than: str) -> str:
    """In words, how many times as fast as something: the words follow the number.

    Args:
        ratio: The other's time over this one's, so that above 1 this one is faster.
        than: What it is compared with.

    Raises:
        ValueError: ``ratio`` is not positive and finite.

    Example:
        >>> faster(1.5, "float"), faster(0.8, "float"), faster(1.02, "float")
        ('1.5 times faster than float', '1.2 times slower than float', 'about as fast as float')
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"a ratio of times is positive and finite, got {ratio!r}")
    if 1 / 1.05 < ratio < 1.05:
        return f"about as fast as {than}"
    times = max(ratio, 1 / ratio)
    digits = 0 if times >= 9.95 else 1 if times >= 1.15 else 2
    return f"{times:,.{digits}f} times {'faster' if ratio > 1 else 'slower'} than {than}"


@functools.cache
def machine() -> str:
    """The processor or GPU of this machine, its cores, and torch's release."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name or 'CPU'}, {os.cpu_count()} cores, torch {torch.__version__}"


def claim_id(text: str) -> str:
    """A readable, stable name: a slug of the sentence without its number, six digits of a hash."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\{[^}]*\}", "", text).lower()).strip("-")
    return f"{slug[:40].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _check_text(text: str) -> None:
    if not text.strip():
        raise ValueError("claim needs a text: a sentence, with {value} in the place of its number.")


class _Numbers(string.Formatter):
    """Typographic minus signs, also in exponents; nought has no exponent."""

    def format_field(self, value: Any, format_spec: str) -> str:
        nought = format_spec.endswith("e") and value == 0
        text = "0" if nought else format(value, format_spec)
        return text if isinstance(value, str) else text.replace("-", "\u2212")


def _sentence(text: str, value: bool | float, shown: dict[str, Any]) -> str:
    named = set(_PLACE.findall(text.replace("{{", "")))
    known = {"value": value, **shown}
    optional = {"value"} if isinstance(value, bool) else set()
    if missing := named - set(known):
        raise ValueError(f"claim {text!r} names {sorted(missing)}: give them by keyword.")
    if unused := set(known) - named - optional:
        raise ValueError(
            f"claim {text!r} does not say {sorted(unused)}: write "
            f"{{{min(unused)}}} in the place of the number."
        )
    return _Numbers().vformat(text, (), {name: _plain(number) for name, number in known.items()})


def _plain(number: Any) -> Any:
    """A tensor or array of one element as its number, so that a format applies."""
    if isinstance(number, bool):
        return "yes" if number else "no"
    return number.item() if hasattr(number, "item") else number


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


def _show(record: dict[str, Any]) -> None:
    show_list(
        {"text/plain": _line(record), "text/html": _as_html(record), MIME: record},
        '<ul class="dl-claims">',
        "</ul>",
    )


def _line(record: dict[str, Any]) -> str:
    mark = {True: "✓", False: "✗", None: "·"}[record["holds"]]
    return f"{mark} {record['text']} ({'; '.join(_notes(record))})"


def _notes(record: dict[str, Any]) -> list[str]:
    """What stands behind the sentence: the bound, the seeds, the source; or the machine."""
    if record["kind"] == "machine":
        notes = ["this machine"]
    else:
        value, bound = _pair(record["value"], record["bound"], distinct=not record["holds"])
        relation = _SIGNS[record["relation"]]
        if record.get("tolerance"):
            relation, bound = "about", f"{bound} ± {record['tolerance']:.3g}"
        notes = [f"{relation} {bound}" if record["holds"] else f"not {relation} {bound}: {value}"]
    seeds = record["seeds"]
    notes += [] if seeds is None else [f"{seeds} seed" + ("s" if seeds > 1 else "")]
    return notes + ([record["source"]] if record["source"] else [])


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
    text = f"{number:,}" if isinstance(number, int) else f"{number:.{digits}g}"
    return text.replace("-", "\u2212")


def _as_html(record: dict[str, Any]) -> str:
    mark, state = {
        True: ("✓", "holds"),
        False: ("✗", "fails"),
        None: ("·", "measured"),
    }[record["holds"]]
    notes = _notes(record)
    if record["kind"] == "machine":
        notes[0] = f"measured on {record['machine']}; another machine says another number"
    opened = " open" if state == "fails" else ""  # a claim that fails says at once by how much
    return (
        f'<li class="dl-claim dl-claim-{state}"><details{opened}><summary>'
        f'<span class="dl-mark">{mark}</span> {html.escape(record["text"])}</summary>'
        f"<p>{html.escape('; '.join(notes))}</p></details></li>"
    )
