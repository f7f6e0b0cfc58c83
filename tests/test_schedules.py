"""schedules: values, arithmetic, names, and what is refused."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_lib import CE, KD, Schedule, cosine, exp, linear, steps
from distill_lib.schedules import as_schedule, constant

ENDS = st.floats(-100, 100, allow_nan=False)
PROGRESS = st.floats(0, 1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear(0.9, 0.1), [0.9, 0.7, 0.5, 0.3, 0.1]),
        (linear(1, 5), [1, 2, 3, 4, 5]),
        (cosine(1, 0), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        (exp(16, 1), [16, 8, 4, 2, 1]),
        (steps({0: 3, 0.5: 2, 1.0: 1}), [3, 3, 2, 2, 1]),
        (constant(7), [7] * 5),
    ],
    ids=["linear", "linear-up", "cosine", "exp", "steps", "constant"],
)
def test_values(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule(s) for s in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(expected)


@pytest.mark.parametrize("make", [linear, cosine, exp])
@given(a=st.floats(0.01, 100), b=st.floats(0.01, 100), s=PROGRESS)
def test_between_the_ends_and_exact_there(make, a: float, b: float, s: float) -> None:
    schedule = make(a, b)
    assert schedule(0) == pytest.approx(a) and schedule(1) == pytest.approx(b)
    assert min(a, b) - 1e-6 <= schedule(s) <= max(a, b) + 1e-6


@given(a=ENDS, b=ENDS, s=st.floats(-5, 5))
def test_progress_is_clamped(a: float, b: float, s: float) -> None:
    schedule = linear(a, b)
    assert schedule(s) == schedule(min(max(s, 0.0), 1.0))


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul])
@given(a=ENDS, b=ENDS, number=ENDS, s=PROGRESS)
def test_arithmetic_is_that_of_the_values(op, a: float, b: float, number: float, s: float) -> None:
    one, two = linear(a, b), linear(b, a)
    assert op(one, two)(s) == pytest.approx(op(one(s), two(s)))
    assert op(one, number)(s) == pytest.approx(op(one(s), number))
    assert op(number, one)(s) == pytest.approx(op(number, one(s)))


@given(a=st.floats(0.1, 10), b=st.floats(0.1, 10), s=PROGRESS)
def test_division_and_sign(a: float, b: float, s: float) -> None:
    schedule = linear(a, b)
    assert (schedule / 2)(s) == pytest.approx(schedule(s) / 2)
    assert (2 / schedule)(s) == pytest.approx(2 / schedule(s))
    assert (-schedule)(s) == pytest.approx(-schedule(s))
    assert (1 - schedule)(s) + schedule(s) == pytest.approx(1)


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (linear(0.9, 0.1), "0.9→0.1"),
        (1 - linear(0.9, 0.1), "(1 − 0.9→0.1)"),
        (2 * exp(8, 1), "(2·8→1)"),
        (linear(1, 2) / 4, "(1→2/4)"),
        (linear(1, 2) + linear(3, 4), "(1→2 + 3→4)"),
        (steps({0: 0.1, 0.5: 0.01}), "0.1→0.01"),
        (constant(1e-5), "1e-05"),
    ],
)
def test_names(schedule: Schedule, name: str) -> None:
    assert str(schedule) == repr(schedule) == name


def test_latex() -> None:
    assert (2 * linear(8, 1)).latex() == r"(2\cdot 8\to 1)"


def test_constants_stay_constants() -> None:
    assert (constant(2) * constant(3)).fixed == 6.0
    assert (constant(2) * linear(1, 0)).fixed is None


def test_numbers_of_numpy_are_numbers() -> None:
    assert as_schedule(np.float64(0.5)).fixed == 0.5
    assert str(np.float64(0.5) * KD()) == "0.5·KL"


def test_a_schedule_weighs_a_term() -> None:
    assert str(linear(1, 0) * 2 * CE()) == "(1→0·2)·CE"


@pytest.mark.parametrize("bad", ["0.5", None, [1, 2], KD()])
def test_what_is_no_number_is_refused(bad: object) -> None:
    with pytest.raises(TypeError, match=r"expected a number or a schedule.*wrap your own function"):
        as_schedule(bad)


def test_arithmetic_with_others_is_refused() -> None:
    with pytest.raises(TypeError):
        linear(0, 1) + "1"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [linear, cosine, exp])
def test_ends_are_finite(make, bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        make(1, bad)


@pytest.mark.parametrize("ends", [(0, 1), (1, -1)])
def test_exp_needs_positive_ends(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"positive ends.*linear can pass through 0"):
        exp(*ends)


@pytest.mark.parametrize("stairs", [{}, {0.5: 1}, {0: 1, 1.5: 2}, {-0.5: 1, 0: 2}])
def test_steps_begin_at_zero_and_end_by_one(stairs: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="first step begins at 0"):
        steps(stairs)


def test_a_schedule_is_made_of_a_function() -> None:
    with pytest.raises(TypeError, match="a fixed number needs no schedule"):
        Schedule(0.5, "half")
    assert Schedule(lambda s: s * s, "s²")(0.5) == 0.25
