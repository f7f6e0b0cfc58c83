r"""Numbers that change while training runs: functions of progress in [0, 1], with arithmetic.

A weight, a temperature or a learning rate may be a number or a schedule; everything that takes
the one takes the other. ``progress`` is the share of the training that is done.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real

from .arguments import checked, told

__all__ = [
    *("Schedule", "as_schedule", "constant", "cosine", "exp", "linear", "piecewise", "steps"),
    "warmup",
]

Operator = Callable[[float, float], float]

# schedules are made of partials of these, not of closures: those cannot be pickled


def _both(op: Operator, left: Schedule, right: Schedule, s: float) -> float:
    return op(left(s), right(s))


def _constant(value: float, s: float) -> float:
    return value


def _linear(a: float, b: float, s: float) -> float:
    return a + (b - a) * s


def _cosine(a: float, b: float, s: float) -> float:
    return b + 0.5 * (a - b) * (1 + math.cos(math.pi * s))


def _exp(a: float, b: float, s: float) -> float:
    # of ends too far apart for a ratio, each has its own power
    return float(a * (b / a) ** s if 0 < b / a < math.inf else a ** (1 - s) * b**s)


def _stairs(at: list[float], values: list[float], s: float) -> float:
    return values[bisect.bisect_right(at, s) - 1]


def _interpolated(at: list[float], values: list[float], s: float) -> float:
    i = bisect.bisect_right(at, s)
    if i in (0, len(at)):
        return values[max(i - 1, 0)]
    share = (s - at[i - 1]) / (at[i] - at[i - 1])
    return (1 - share) * values[i - 1] + share * values[i]


def _warmup(share: float, start: float, then: Schedule, s: float) -> float:
    if s < share:
        return then(0.0) * (start + (1 - start) * s / share)
    return then((s - share) / (1 - share))


class Schedule:
    r"""A function of progress :math:`s \in [0, 1]`, with ``+ - * /`` and ``1 - s``.

    Those of this module can be pickled, and so can what is computed from them: for processes that
    are spawned, joblib, Ray. One around a function of yours can where that function can: one that
    is defined at the top of a file, not a lambda.

    Args:
        function: From progress, clamped to [0, 1], to a number; another answer is refused then.
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
        if self.fixed is not None and type(progress) is float:
            return self.fixed
        try:
            share = min(max(float(progress), 0.0), 1.0)
        except (TypeError, ValueError, RuntimeError):
            share = math.nan
        if math.isnan(share):
            raise TypeError(
                f"progress expected a number in [0, 1], the share of the training that is done, "
                f"got {told(progress)}"
            )
        try:
            number = float(self._function(share))
            if not math.isfinite(number):
                raise ValueError(f"got {number}")
        except (ArithmeticError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self} is no number at progress {share:g}: {error}") from error
        return number

    def __repr__(self) -> str:
        return self.name

    def latex(self) -> str:
        """The name in LaTeX."""
        return self.name.replace("→", r"\to ").replace("·", r"\cdot ")

    def _with(self, other: Schedule | float, op: Operator, sign: str, swap: bool) -> Schedule:
        if not isinstance(other, (Schedule, int, float, Real)):
            return NotImplemented
        left, right = (as_schedule(other), self) if swap else (self, as_schedule(other))
        found = Schedule(partial(_both, op, left, right), f"({left}{sign}{right})")
        if None in (left.fixed, right.fixed) and (op, right.fixed) != (operator.truediv, 0):
            return found
        return constant(found(0.0))  # a division by 0 is refused here

    def __add__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.add, " + ", swap=False)

    def __radd__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.add, " + ", swap=True)

    def __sub__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.sub, " − ", swap=False)

    def __rsub__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.sub, " − ", swap=True)

    def __mul__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.mul, "·", swap=False)

    def __rmul__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.mul, "·", swap=True)

    def __truediv__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.truediv, "/", swap=False)

    def __rtruediv__(self, other: Schedule | float) -> Schedule:
        return self._with(other, operator.truediv, "/", swap=True)

    def __neg__(self) -> Schedule:
        return 0.0 - self


@checked
def constant(value: float) -> Schedule:
    """The schedule that never changes.

    Example:
        >>> constant(2.0)(0.3)
        2.0
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"a schedule needs finite numbers, got {value}")
    schedule = Schedule(partial(_constant, value), f"{value:g}")
    schedule.fixed = value
    return schedule


def as_schedule(value: Schedule | float) -> Schedule:
    """A number as a constant schedule; a schedule as it is.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        return constant(float(value))
    raise TypeError(
        f"expected a number or a schedule, got {type(value).__name__} {value!r}; "
        "wrap your own function as Schedule(function, 'name')"
    )


def _ends(start: float, end: float) -> tuple[float, float, str]:
    a, b = constant(start), constant(end)
    return float(start), float(end), f"{a}→{b}"


@checked
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
    return Schedule(partial(_linear, a, b), name)


@checked
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
    return Schedule(partial(_cosine, a, b), name)


@checked
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
    return Schedule(partial(_exp, a, b), name)


def _points(values: Mapping[float, float], who: str) -> tuple[list[float], list[float], str]:
    """Progress in order, the value at each, and the name."""
    if not isinstance(values, Mapping):
        wanted = "a mapping from progress to value, {0: 1, 0.5: 0.1}"
        raise TypeError(f"{who} expected {wanted}, got {told(values)}")
    points = sorted((constant(at)(0.0), constant(value)(0.0)) for at, value in values.items())
    name = "→".join(f"{value:g}" for _, value in points)
    return [at for at, _ in points], [value for _, value in points], name


def steps(values: Mapping[float, float]) -> Schedule:
    """A staircase: each value holds from its progress on.

    Args:
        values: From the progress at which a step begins to its value; the first begins at 0.

    Raises:
        TypeError: no mapping.
        ValueError: when no step begins at 0, or one lies outside [0, 1].

    Example:
        >>> lr = steps({0: 0.1, 0.5: 0.01})
        >>> lr(0.49), lr(0.5)
        (0.1, 0.01)
    """
    at, heights, name = _points(values, "steps")
    if not at or at[0] != 0.0 or at[-1] > 1.0:
        raise ValueError(f"steps expected a mapping from 0 on, to 1 at most, got {dict(values)}")
    return Schedule(partial(_stairs, at, heights), name)


def piecewise(values: Mapping[float, float]) -> Schedule:
    r"""Straight lines from point to point: linear interpolation, as ``numpy.interp``.

    .. math:: f(s) = v_i + (v_{i+1} - v_i)\, \frac{s - s_i}{s_{i+1} - s_i}, \qquad
       s_i \le s \le s_{i+1}

    Before the first point and after the last, their values hold.

    Args:
        values: From progress :math:`s_i` to the value :math:`v_i` there.

    Raises:
        TypeError: no mapping.
        ValueError: no points, or one outside [0, 1].

    Example:
        >>> lr = piecewise({0: 0.0, 0.5: 1.0, 1: 0.5})
        >>> lr(0.25), lr(0.5), lr(0.75)
        (0.5, 1.0, 0.75)
    """
    at, heights, name = _points(values, "piecewise")
    if not at or at[0] < 0.0 or at[-1] > 1.0:
        raise ValueError(f"piecewise expected a mapping from [0, 1], got {dict(values)}")
    return Schedule(partial(_interpolated, at, heights), name)


@checked
def warmup(share: float, then: Schedule | float, start: float = 0.0) -> Schedule:
    r"""A straight rise, and then another schedule over the rest of the training.

    .. math::
        f(s) = \begin{cases}
            g(0)\,\bigl(r + (1 - r)\, s / w\bigr) & s < w \\
            g\bigl((s - w) / (1 - w)\bigr) & s \ge w
        \end{cases}

    Args:
        share: The share :math:`w` of the training in [0, 1): for 500 of 10,000 steps
            ``500 / 10_000``.
        then: What follows, :math:`g`; a number stays.
        start: Where it begins, as a share :math:`r` of :math:`g(0)`. At 0, as usual, the first
            step changes nothing.

    Raises:
        ValueError: a share outside [0, 1).

    Reference:
        Goyal et al., *Accurate, large minibatch SGD*, 2017.

    Example:
        >>> lr = warmup(0.2, cosine(1.0, 0.0))
        >>> lr(0.1), lr(0.2), round(lr(0.6), 12), lr(1.0)
        (0.5, 1.0, 0.5, 0.0)
    """
    share, start, then = constant(share)(0.0), constant(start)(0.0), as_schedule(then)
    if not 0 <= share < 1:
        raise ValueError(
            f"warmup expected a share of the training in [0, 1), got {share:g}; for a number of "
            f"steps divide by that of the training: warmup({share:g} / 10_000, …)"
        )
    return Schedule(partial(_warmup, share, start, then), f"{start * then(0.0):g}→{then}")
