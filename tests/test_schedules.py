"""schedules: values, arithmetic, names, and what is refused."""

from __future__ import annotations

import copy
import math
import operator
import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_lr

from distill_lib import (
    CE,
    KD,
    Match,
    Schedule,
    cosine,
    exp,
    linear,
    piecewise,
    schedules,
    steps,
    warmup,
)
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
        (piecewise({0: 0, 0.5: 4, 1: 2}), [0, 2, 4, 3, 2]),
        (piecewise({0.25: 1, 0.75: 3}), [1, 1, 2, 3, 3]),
        (warmup(0.5, linear(4, 0)), [0, 2, 4, 2, 0]),
        (warmup(0.5, 8, start=0.5), [4, 6, 8, 8, 8]),
        (warmup(0, linear(4, 0)), [4, 3, 2, 1, 0]),
    ],
    ids=[
        "linear",
        "linear-up",
        "cosine",
        "exp",
        "steps",
        "constant",
        "piecewise",
        "held",
        "warmup",
        "warmup-half",
        "no-warmup",
    ],
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
        (piecewise({0: 0, 0.1: 1, 1: 0}), "0→1→0"),
        (warmup(0.1, linear(1, 0)), "0→1→0"),
        (warmup(0.1, cosine(2, 1), start=0.5), "1→2→1"),
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


@example(200.0, -200.0, 0.5)
@example(-200.0, 200.0, 0.5)
@given(st.floats(-300, 300), st.floats(-300, 300), PROGRESS)
def test_exp_goes_between_ends_however_far_apart(a: float, b: float, s: float) -> None:
    """Their ratio alone may be no number: that of 1e-200 and 1e200 is infinite."""
    found = math.log10(exp(10.0**a, 10.0**b)(s))
    assert math.isclose(found, (1 - s) * a + s * b, rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.parametrize("stairs", [{}, {0.5: 1}, {0: 1, 1.5: 2}, {-0.5: 1, 0: 2}])
def test_steps_begin_at_zero_and_end_by_one(stairs: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="expected a mapping from 0 on"):
        steps(stairs)


def test_a_schedule_is_made_of_a_function() -> None:
    with pytest.raises(TypeError, match="a fixed number needs no schedule"):
        Schedule(0.5, "half")
    assert Schedule(lambda s: s * s, "s²")(0.5) == 0.25


# ---- warmup and piecewise ----

POINTS = st.dictionaries(PROGRESS, ENDS, min_size=1, max_size=6)


@given(points=POINTS, s=PROGRESS)
def test_piecewise_is_linear_interpolation(points: dict[float, float], s: float) -> None:
    at = sorted(points)
    expected = np.interp(s, at, [points[p] for p in at])
    assert piecewise(points)(s) == pytest.approx(expected, abs=1e-9)


@given(points=POINTS)
def test_piecewise_is_exact_at_its_points_and_between_them_elsewhere(points) -> None:
    schedule = piecewise(points)
    assert [schedule(at) for at in points] == list(points.values())
    low, high = min(points.values()), max(points.values())
    assert all(low - 1e-9 <= schedule(i / 20) <= high + 1e-9 for i in range(21))


@given(share=st.floats(0, 1, exclude_max=True), start=st.floats(0, 1), a=ENDS, b=ENDS, s=PROGRESS)
def test_warmup_rises_in_a_line_and_then_runs_the_whole_of_what_follows(
    share: float, start: float, a: float, b: float, s: float
) -> None:
    then = linear(a, b)
    schedule = warmup(share, then, start)
    rise = start + (1 - start) * s / share if share else 1.0
    expected = a * rise if s < share else then((s - share) / (1 - share))
    assert schedule(s) == pytest.approx(expected, abs=1e-9)
    assert schedule(share) == then(0) and schedule(1) == then(1)


@pytest.mark.parametrize(("first", "total"), [(1, 7), (5, 20), (30, 100)])
def test_warmup_equals_torch(first: int, total: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    rise = torch_lr.LinearLR(optimizer, start_factor=0.25, total_iters=first)
    fall = torch_lr.CosineAnnealingLR(optimizer, T_max=total - first)
    theirs = torch_lr.SequentialLR(optimizer, [rise, fall], milestones=[first])
    ours = warmup(first / total, cosine(0.3, 0), start=0.25)
    for i in range(total):
        assert ours(i / total) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("bad", [500, 1, 1.0, -0.1])
def test_warmup_is_a_share_and_says_how_steps_become_one(bad: float) -> None:
    with pytest.raises(ValueError, match=r"a share of the training in \[0, 1\).*/ 10_000"):
        warmup(bad, cosine(1, 0))


@pytest.mark.parametrize("bad", [{}, {0: 1, 1.5: 2}, {-0.5: 1, 0: 2}, {float("nan"): 1, 0: 1}])
@pytest.mark.parametrize("make", [steps, piecewise])
def test_points_lie_in_the_training(make, bad: dict[float, float]) -> None:
    with pytest.raises(ValueError, match=r"expected a mapping|finite"):
        make(bad)


@pytest.mark.parametrize("make", [steps, piecewise])
def test_points_are_a_mapping(make) -> None:
    with pytest.raises(TypeError, match=r"expected a mapping from progress to value.*got list"):
        make([(0, 1), (1, 0)])


# ---- pickling ----

POSITIVE = st.floats(0.1, 10)
LEAVES = st.one_of(
    st.builds(constant, ENDS),
    st.builds(linear, ENDS, ENDS),
    st.builds(cosine, ENDS, ENDS),
    st.builds(exp, POSITIVE, POSITIVE),
    st.builds(lambda points: steps({0: 1.0, **points}), POINTS),
    st.builds(piecewise, POINTS),
    st.builds(Schedule, st.just(math.sqrt), st.just("√s")),
)
OPERATORS = st.sampled_from([operator.add, operator.sub, operator.mul])
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(warmup, st.floats(0, 0.9), inner, st.floats(0, 1)),
        st.builds(lambda op, a, b: op(a, b), OPERATORS, inner, inner),
        st.builds(lambda op, a, b: op(a, b), OPERATORS, inner, ENDS),
        st.builds(lambda op, a, b: op(b, a), OPERATORS, inner, ENDS),
        st.builds(lambda a, b: a / b, inner, st.builds(linear, POSITIVE, POSITIVE)),
        st.builds(lambda a: 2.0 / a, st.builds(exp, POSITIVE, POSITIVE)),
        st.builds(operator.neg, inner),
    ),
    max_leaves=5,
)


@given(schedule=TREES, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_every_schedule_can_be_pickled_and_is_the_same_afterwards(schedule, protocol) -> None:
    for again in (pickle.loads(pickle.dumps(schedule, protocol)), copy.deepcopy(schedule)):
        assert [again(i / 40) for i in range(41)] == [schedule(i / 40) for i in range(41)]
        assert str(again) == str(schedule) and again.latex() == schedule.latex()
        assert again.fixed == schedule.fixed


def test_no_constructor_is_forgotten() -> None:
    makers = {*schedules.__all__} - {"Schedule", "as_schedule"}
    assert makers == {"constant", "cosine", "exp", "linear", "piecewise", "steps", "warmup"}


def test_objectives_with_schedules_can_be_pickled() -> None:
    objective = linear(0.9, 0.1) * CE() + warmup(0.1, 2) * KD(temperature=piecewise({0: 4, 1: 1}))
    objective += (1 - cosine(1, 0)) * Match("logits", project=torch.nn.Linear(3, 3))
    again = pickle.loads(pickle.dumps(objective))
    z, v, batch = torch.randn(4, 3), torch.randn(4, 3), {"labels": torch.arange(4) % 3}
    for progress in (0.0, 0.05, 0.5, 1.0):
        ours, theirs = (one(z, v, batch, progress=progress) for one in (objective, again))
        assert torch.equal(ours[0], theirs[0]) and ours[1] == theirs[1]
    assert str(again) == str(objective)
