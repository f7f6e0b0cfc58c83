"""The theorems of the chapter on what teaching costs: by simulation, and exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

K = 30
SPECTRA = {"steep": np.arange(1, K + 1) ** -2.0, "flat": np.ones(K) / K,
           "gaps": np.arange(1, K + 1) % 3 / 10.0}  # fmt: skip


def tails(a2):
    return np.append(a2[::-1].cumsum()[::-1], 0.0)


def spread(tail, m, s2, labels):
    return (tail[m] + s2) / (labels - m - 1)


def taught(tail, m, n, s2, labels, answers):
    e, k = spread(tail, m, s2, labels), min(m, n)
    unseen = tail[n] - tail[m] + (m - n) * e if m > n else 0.0
    return tail[k] + k * e + n * unseen / (answers - n - 1)


def alone(tail, n, s2, labels):
    return tail[n] + n * (tail[n] + s2) / (labels - n - 1)


def noise(kind, s2, draw, size):
    """Mean 0 and variance s2; nothing else is asked of it."""
    if kind == "normal":
        return s2**0.5 * draw.normal(size=size)
    return s2**0.5 * (2 * draw.integers(0, 2, size) - 1)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", ["normal", "sign"])
@pytest.mark.parametrize(("m", "n"), [(4, 8), (8, 8), (15, 8), (28, 5)])
def test_the_errors_of_teacher_and_student(spectrum, kind, m, n):
    a2, s2, labels, answers, runs = SPECTRA[spectrum], 0.3, 90, 40, 500
    a, tail, draw = a2**0.5, tails(a2), np.random.default_rng(m + n)
    X, Z = draw.normal(size=(runs, labels, K)), draw.normal(size=(runs, answers, K))
    y = X @ a + noise(kind, s2, draw, (runs, labels))
    c = np.linalg.pinv(X[..., :m]) @ y[..., None]
    b = np.linalg.pinv(Z[..., :n]) @ (Z[..., :m] @ c)
    own = np.linalg.pinv(X[..., :n]) @ y[..., None]
    for weights, size, want in (
        (c, m, tail[m] + m * spread(tail, m, s2, labels)),
        (b, n, taught(tail, m, n, s2, labels, answers)),
        (own, n, alone(tail, n, s2, labels)),
    ):
        error = ((weights[..., 0] - a[:size]) ** 2).sum(-1) + tail[size]
        if error.std() > 1e-12:
            assert abs(error.mean() - want) < 4.5 * error.std(ddof=1) / runs**0.5
        else:
            assert error.mean() == pytest.approx(want)


@given(st.integers(1, 12), st.integers(0, 16), st.integers(14, 400), st.floats(0.01, 2),
       st.sampled_from(list(SPECTRA)))  # fmt: skip
def test_two_labels_a_feature(n, more, answers, s2, spectrum):
    m, labels, tail = n + more, 200, tails(SPECTRA[spectrum])
    better = taught(tail, m, n, s2, labels, answers) - alone(tail, n, s2, answers)
    edge = labels - 2 * (m - n)
    if answers == edge:
        assert better == pytest.approx(0, abs=1e-12)
    else:
        assert (better < 0) == (answers < edge)


def test_the_price_is_one_of_few_answers():
    tail, s2, labels = tails(SPECTRA["steep"]), 0.1, 2_000
    m, n = 28, 5
    large, same = (spread(tail, k, s2, labels) for k in (m, n))
    unseen = tail[n] - tail[m] + (m - n) * large
    crossing = n + 1 + unseen / (same - large)
    for answers in (10, 100, int(crossing) - 5, int(crossing) + 5, 10**7):
        price = taught(tail, m, n, s2, labels, answers) - taught(tail, n, n, s2, labels, answers)
        assert price == pytest.approx(n * (large - same) + n * unseen / (answers - n - 1))
        assert (price > 0) == (answers < crossing)


@given(st.integers(0, 10_000), st.floats(0.05, 3))
@settings(max_examples=30, deadline=None)
def test_a_bounded_teacher(seed, R):
    draw = np.random.default_rng(seed)
    a2 = draw.uniform(0.01, 1, 9)
    tail, n = tails(a2), 3
    A = (tail[0] - tail) ** 0.5
    c = np.minimum(1, R / np.maximum(A, 1e-12))
    assume(abs(A[n] - R) > 1e-6)
    teacher = [(1 - c[m]) ** 2 * A[m] ** 2 + tail[m] for m in range(10)]
    student = [(1 - c[m]) ** 2 * A[n] ** 2 + tail[n] for m in range(n, 10)]
    assert (np.diff(teacher) <= 1e-12).all() and (np.diff(student) >= -1e-12).all()
    grows = A[n:-1] > R
    assert (np.diff(student)[grows] > 0).all()


def test_the_best_bounded_teacher_is_the_shrunk_truth():
    a2, R, m = SPECTRA["steep"][:6], 0.6, 5
    a, tail = a2**0.5, tails(a2)
    A = (tail[0] - tail[m]) ** 0.5
    ball = {"type": "ineq", "fun": lambda b: R**2 - (b**2).sum()}
    found = minimize(lambda b: ((b - a[:m]) ** 2).sum(), np.zeros(m), constraints=[ball])
    np.testing.assert_allclose(found.x, a[:m] * R / A, atol=1e-4)
    assert found.fun + tail[m] == pytest.approx((1 - R / A) ** 2 * A**2 + tail[m], rel=1e-4)
