"""Answers of the chapter: what teaching costs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]

Row = NDArray[np.float64]


def _spread(tail: Row, m: int, noise: float, labels: int) -> float:
    return float((tail[m] + noise) / (labels - m - 1))


def _priced(
    tail: Row, m: int, n: int, noise: float, labels: int, answers: int, *, same: int, own: bool
) -> float:
    """The price, with the smaller teacher's spread of ``same`` features, with or without ours."""
    large, small = _spread(tail, m, noise, labels), _spread(tail, same, noise, labels)
    unseen = tail[n] - tail[m] + (m - n) * large * own
    return float(n * (large - small) * own + n * unseen / (answers - n - 1))


def _price(*, tail: Row, m: int, n: int, noise: float, labels: int, answers: int) -> float:
    return _priced(tail, m, n, noise, labels, answers, same=n, own=True)


def _exact_teachers(*, tail: Row, m: int, n: int, noise: float, labels: int, answers: int) -> float:
    return _priced(tail, m, n, noise, labels, answers, same=n, own=False)


def _whole(*, tail: Row, m: int, n: int, noise: float, labels: int, answers: int) -> float:
    return float(
        _price(tail=tail, m=m, n=n, noise=noise, labels=labels, answers=answers)
        + tail[n]
        + n * _spread(tail, n, noise, labels)
    )


def _no_difference(*, tail: Row, m: int, n: int, noise: float, labels: int, answers: int) -> float:
    large = _spread(tail, m, noise, labels)
    unseen = tail[n] - tail[m] + (m - n) * large
    return float(n * unseen / (answers - n - 1))


def _all_is_unseen(*, tail: Row, m: int, n: int, noise: float, labels: int, answers: int) -> float:
    large, small = _spread(tail, m, noise, labels), _spread(tail, n, noise, labels)
    unseen = tail[n] + (m - n) * large
    return float(n * (large - small) + n * unseen / (answers - n - 1))


def _no_wishart(*, tail: Row, m: int, n: int, noise: float, labels: int, answers: int) -> float:
    large, small = ((tail[k] + noise) / labels for k in (m, n))
    return float(n * (large - small) + n * (tail[n] - tail[m] + (m - n) * large) / answers)


def _worlds(draw: int) -> dict[str, Any]:
    rng = np.random.default_rng(draw)
    a2 = np.arange(1, 81) ** -rng.uniform(1.1, 2.5)
    n = int(rng.integers(3, 20))
    return {
        "tail": np.append(a2[::-1].cumsum()[::-1], 0.0),
        "m": n + int(rng.integers(1, 50)),
        "n": n,
        "noise": float(rng.uniform(0.05, 0.5)),
        "labels": int(rng.integers(150, 400)),
        "answers": n + int(rng.integers(5, 100)),
    }


ANSWER, QUERY, ASKED, TIMES = 80e6, 2e6, 50_000, 20
LEARNED = TIMES * ASKED * 3 * QUERY

EXERCISES = [
    Exercise(
        id="ex-what_teaching_costs-1",
        right=500 - 2 * (40 - 10),
        tolerance=1e-6,
        wrong={
            500: "this is the teacher of the student's own size; each feature more costs it two "
            "labels.",
            500 - 30: "each feature that the student lacks costs the teacher two labels, not one.",
            500 - 2 * 40: "only features that the student lacks are counted.",
            500 + 2 * 30: "the features that the student lacks make the teacher worth less.",
        },
        hint="N_T − 2 (m − n).",
    ),
    Exercise(
        id="ex-what_teaching_costs-2",
        kind="callable",
        right=_price,
        inputs=_worlds,
        wrong={
            _exact_teachers: "this is for teachers without errors of their own: their weights "
            "vary, too, by e_m and e_n.",
            _whole: "this is the whole error of the larger teacher's student; subtract that of the "
            "other.",
            _no_difference: "the two teachers also differ in the part that the student sees: "
            "n (e_m − e_n).",
            _all_is_unseen: "what even the larger teacher misses is not in its answers: τ_n − τ_m.",
            _no_wishart: "the mean of an inverse Wishart matrix has N − n − 1 in the place of N.",
        },
        hint="n (e_m − e_n) + n U / (N_S − n − 1).",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-what_teaching_costs-3",
        right=(ASKED * ANSWER + LEARNED) / (ANSWER - QUERY),
        tolerance=2e-3,
        wrong={
            ASKED: "this forgets the student's training and its own queries.",
            ASKED * ANSWER / (ANSWER - QUERY): "the student's training is to be paid, too.",
            (ASKED * ANSWER + LEARNED) / ANSWER: "each query to the student costs something: what "
            "is saved is the difference.",
            (TIMES * ASKED * ANSWER + LEARNED) / (ANSWER - QUERY): "the answers are kept: the "
            "teacher is asked about each image once.",
            (ASKED * ANSWER + LEARNED / 3) / (ANSWER - QUERY): "a step of training costs three "
            "times as much as an answer.",
        },
        hint="(answers + training) / (teacher's operations − student's operations), per query.",
    ),
]
