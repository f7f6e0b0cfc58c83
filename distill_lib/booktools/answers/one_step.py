"""Answers of the chapter: one step instead of fifty."""

from __future__ import annotations

import random
from typing import Any

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _ends(x: float, t: float, mean: float, sd: float) -> float:
    return mean + t * sd**2 / ((1 - t) ** 2 + t**2 * sd**2) * (x - t * mean)


def _velocity(x: float, t: float, mean: float, sd: float) -> float:
    return (_ends(x, t, mean, sd) - x) / (1 - t)


def _no_mean(x: float, t: float, mean: float, sd: float) -> float:
    return mean + t * sd**2 / ((1 - t) ** 2 + t**2 * sd**2) * (x - mean)


def _no_noise(x: float, t: float, mean: float, sd: float) -> float:
    return mean + (x - t * mean) / t


def _no_square(x: float, t: float, mean: float, sd: float) -> float:
    return mean + t * sd / ((1 - t) + t * sd) * (x - t * mean)


def _other_time(x: float, t: float, mean: float, sd: float) -> float:
    return _ends(x, 1 - t, mean, sd)


def _no_t(x: float, t: float, mean: float, sd: float) -> float:
    return mean + sd**2 / ((1 - t) ** 2 + t**2 * sd**2) * (x - t * mean)


def _states(draw: int) -> dict[str, Any]:
    rng = random.Random(draw)
    return {"x": rng.uniform(-3, 3), "t": rng.uniform(0.1, 0.9), "mean": rng.uniform(-2, 2),
            "sd": rng.uniform(0.2, 2)}  # fmt: skip


EXERCISES = [
    Exercise(
        id="ex-one_step-1",
        right=0.6,
        wrong={
            1.0: "the teacher knows nothing yet at t = 0: noise and data are independent, so "
            "nothing says which of the two it will be.",
            2.6: "the velocity is the expected end less the noise; adding it to the noise leaves "
            "the expected end.",
            -1.4: "this is the velocity; the step adds it to the noise.",
            0.8: "this is a probability: the end is the mean of 1 and −1.",
            0.0: "the two data points are not equally probable.",
        },
        hint="z + v(z, 0), with v(z, 0) = E[x1] − z.",
    ),
    Exercise(
        id="ex-one_step-2",
        kind="callable",
        right=_ends,
        inputs=_states,
        wrong={
            _velocity: "this is the velocity (m − x)/(1 − t); asked is the expected end m itself.",
            _no_mean: "the mean of x_t is t · mean, not mean.",
            _no_noise: "this takes the state for t times the end, without noise.",
            _no_square: "variances add, standard deviations do not.",
            _other_time: "t = 0 is noise and t = 1 is data.",
            _no_t: "the covariance of x1 and x_t is t · sd², not sd².",
        },
        hint="mean + cov(x1, x_t) / var(x_t) · (x − E[x_t]).",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-one_step-3",
        right=1.4**2 + 2 * 0.1**2,
        tolerance=1e-3,
        wrong={
            1.4**2: "each mode has a spread of its own, in two coordinates.",
            1.4**2 + 0.1**2: "the spread of a mode counts in both coordinates.",
            2 * 0.1**2: "this would need the student to know the mode, which its noise does not "
            "tell.",
            0.0: "only with the teacher's own pairs can the loss be 0.",
            (1.4**2 + 2 * 0.1**2) / 2: "this is the mean over the coordinates; asked is their sum.",
            2 * (1.4**2 + 2 * 0.1**2): "this is the distance of two independent ends; the best "
            "student says their mean.",
        },
        hint="E‖y‖² − ‖E y‖².",
    ),
    Exercise(
        id="ex-one_step-4",
        right=5,
        wrong={
            10: "this makes the last level a half of all.",
            3: "there are ten other levels: 3 / 13 is less than a third.",
            11 / 3: "the weights of the others add up to 10, and w is to be a third of w + 10.",
            10 / 3: "w is to be a third of w + 10, not of 10.",
            5.5: "the last level is not among the ten others.",
        },
        hint="w / (w + 10) = 1/3.",
    ),
]
