r"""Numbers that change while training runs: functions of progress in [0, 1], with arithmetic.

A weight, a temperature or a learning rate may be a number or a schedule; everything that takes
the one takes the other. ``progress`` is the share of the training that is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

__all__ = ["Schedule", "as_schedule", "constant", "cosine", "exp", "linear", "steps"]


class Schedule:
    r"""A function of progress :math:`s \in [0, 1]`, with ``+ - * /`` and ``1 - s``.

    Args:
        function: From progress to a number. Progress is clamped to [0, 1] first.
        name: How it is printed, such as ``"0.9→0.1"``.

    Example:
        >>> weight = linear(0.9, 0.1)
        >>> weight(0.5), (1 - weight)(1.0)
        (0.5, 0.9)
        >>> print(weight)
        0.9→0.1
    """

    def __init__(self, function: Callable[[float], float], name: str) -> None:
        if not callable(function):
            raise TypeError(
                f"Schedule expected a function of progress, got {function!r}; "
                "a fixed number needs no schedule"
            )
        self._function = function
        self.name = name
        self.fixed: float | None = None

    def __call__(self, progress: float) -> float:
        return float(self._function(min(max(progress, 0.0), 1.0)))

    def __repr__(self) -> str:
        return self.name

    def latex(self) -> str:
        """The name in LaTeX."""
        return self.name.replace("→", r"\to ").replace("·", r"\cdot ")

    def _with(
        self, other: Schedule | float, op: Callable[[float, float], float], sign: str, swap: bool
    ) -> Schedule:
        if not isinstance(other, (Schedule, int, float)):
            return NotImplemented
        left, right = (as_schedule(other), self) if swap else (self, as_schedule(other))
        if left.fixed is not None and right.fixed is not None:
            return constant(op(left.fixed, right.fixed))
        return Schedule(lambda s: op(left(s), right(s)), f"({left}{sign}{right})")

    def __add__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a + b, " + ", swap=False)

    def __radd__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a + b, " + ", swap=True)

    def __sub__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a - b, " − ", swap=False)

    def __rsub__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a - b, " − ", swap=True)

    def __mul__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a * b, "·", swap=False)

    def __rmul__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a * b, "·", swap=True)

    def __truediv__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a / b, "/", swap=False)

    def __rtruediv__(self, other: Schedule | float) -> Schedule:
        return self._with(other, lambda a, b: a / b, "/", swap=True)

    def __neg__(self) -> Schedule:
        return 0.0 - self


def constant(value: float) -> Schedule:
    """The schedule that never changes.

    Example:
        >>> constant(2.0)(0.3)
        2.0
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"a schedule needs finite numbers, got {value}")
    schedule = Schedule(lambda s: value, f"{value:g}")
    schedule.fixed = value
    return schedule


def as_schedule(value: Schedule | float) -> Schedule:
    """A number as a constant schedule; a schedule as it is.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, (int, float)):
        return constant(value)
    raise TypeError(
        f"expected a number or a schedule, got {type(value).__name__} {value!r}; "
        "wrap your own function as Schedule(function, 'name')"
    )


def _ends(start: float, end: float) -> tuple[float, float, str]:
    a, b = constant(start), constant(end)
    return float(start), float(end), f"{a}→{b}"


def linear(start: float, end: float) -> Schedule:
    r"""A straight line.

    .. math:: f(s) = a + (b - a)\,s

    Args:
        start: Value :math:`a` at the beginning.
        end: Value :math:`b` at the end.

    Example:
        >>> linear(8, 1)(0.5)
        4.5
    """
    a, b, name = _ends(start, end)
    return Schedule(lambda s: a + (b - a) * s, name)


def cosine(start: float, end: float) -> Schedule:
    r"""Half a cosine wave: slow at both ends.

    .. math:: f(s) = b + \tfrac12 (a - b)\,(1 + \cos \pi s)

    Args:
        start: Value :math:`a` at the beginning.
        end: Value :math:`b` at the end.

    Reference:
        Loshchilov and Hutter, *SGDR*, 2017.

    Example:
        >>> round(cosine(1, 0)(0.5), 12)
        0.5
    """
    a, b, name = _ends(start, end)
    return Schedule(lambda s: b + 0.5 * (a - b) * (1 + math.cos(math.pi * s)), name)


def exp(start: float, end: float) -> Schedule:
    r"""A geometric path: equal factors in equal times.

    .. math:: f(s) = a \, (b / a)^s

    Args:
        start: Value :math:`a > 0` at the beginning.
        end: Value :math:`b > 0` at the end.

    Raises:
        ValueError: when an end is not positive.

    Example:
        >>> round(exp(8, 2)(0.5), 12)
        4.0
    """
    a, b, name = _ends(start, end)
    if a <= 0 or b <= 0:
        raise ValueError(f"exp needs positive ends, got {a:g} and {b:g}; linear can pass through 0")
    return Schedule(lambda s: a * (b / a) ** s, name)


def steps(values: Mapping[float, float]) -> Schedule:
    """A staircase: each value holds from its progress on.

    Args:
        values: From the progress at which a step begins to its value; the first begins at 0.

    Raises:
        ValueError: when no step begins at 0, or one lies outside [0, 1].

    Example:
        >>> lr = steps({0: 0.1, 0.5: 0.01})
        >>> lr(0.49), lr(0.5)
        (0.1, 0.01)
    """
    stairs = sorted((float(at), constant(value)(0.0)) for at, value in values.items())
    if not stairs or stairs[0][0] != 0.0 or stairs[-1][0] > 1.0:
        raise ValueError(
            "steps expected a mapping whose first step begins at 0 and none after 1, "
            f"got {dict(values)}"
        )
    name = "→".join(f"{value:g}" for _, value in stairs)
    return Schedule(lambda s: next(v for at, v in reversed(stairs) if s >= at), name)
