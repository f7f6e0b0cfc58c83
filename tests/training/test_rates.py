"""Learning rates are at least 0 at every step, whoever sets them, or training ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from distill_lib import CE, Schedule, distill, linear, piecewise, steps
from distill_lib.schedules import as_schedule
from distill_lib.training.rates import Rates


def sgd(lr: float = 0.1) -> SGD:
    return SGD([nn.Parameter(torch.zeros(2))], lr=lr)


def train(lr: Any, count: int = 4, **options: Any) -> list[float]:
    batches = [(torch.eye(3), torch.arange(3))]
    made = {"optimizer": lambda params: SGD(params, lr=0.1), **options}
    return distill(nn.Linear(3, 3), None, batches, CE(), steps=count, lr=lr, **made)["lr"]


values = st.floats(-1, 2).map(lambda x: round(x, 2))
points = st.dictionaries(st.integers(0, 100).map(lambda n: n / 100), values, min_size=1)


@given(points, st.booleans(), st.integers(1, 60))
def test_schedules_are_followed_or_refused(
    at: dict[float, float], stairs: bool, count: int
) -> None:
    schedule = steps({0: 1.0, **at}) if stairs else piecewise(at)
    right = [schedule(n / count) for n in range(count)]
    lowest = min(schedule(n / 1000) for n in range(1001))
    try:
        rates = Rates(sgd(), schedule)
        found = []
        for n in range(count):
            rates.before(n / count)
            found.append(rates.optimizer.param_groups[0]["lr"])
    except ValueError as error:
        assert "a learning rate is at least 0" in str(error) and lowest < 0
        return
    assert found == right and min(found) >= 0


@pytest.mark.parametrize(
    "lr",
    [
        piecewise({0: 1, 0.25: -1, 0.5: 1}),
        Schedule(lambda s: -1.0 if s == 0.25 else 1.0, "a spike"),
        linear(0.1, -0.1),
        linear(-0.1, 0.1),
        -0.1,
        Schedule(lambda s: math.inf if s > 0.5 else 0.1, "endless"),
        Schedule(lambda s: math.nan if s > 0.5 else 0.1, "none"),
    ],
)
def test_what_is_no_rate_is_found_before_the_first_step(lr: Any) -> None:
    optimizer = sgd()
    with pytest.raises(ValueError, match=r"at least 0 and finite|number"):
        Rates(optimizer, lr)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_rate_between_the_looks_is_found_at_its_step() -> None:
    narrow = Schedule(lambda s: -1.0 if 0.501 < s < 0.509 else 0.1, "narrow")
    assert train(narrow) == [0.1] * 4  # no step is there
    with pytest.raises(ValueError, match=r"got -1 of narrow at progress 0\.502"):
        train(narrow, 1000)


def test_schedulers_of_torch_are_looked_at_too() -> None:
    def falls(optimizer: Any) -> LambdaLR:
        return LambdaLR(optimizer, lambda n: 1.0 - n)

    with pytest.raises(ValueError, match=r"got -0\.1 of LambdaLR at progress 0\.5.*maximize=True"):
        train(falls)
    assert train(falls, 2) == [0.1, 0.0]


def test_rates_that_the_user_sets_in_between_are_looked_at_too() -> None:
    held = nn.Linear(3, 3)
    optimizer = SGD(held.parameters(), lr=0.1)

    def flip(epoch: int, history: Any) -> None:
        optimizer.param_groups[0]["lr"] = -0.1

    batches = [(torch.eye(3), torch.arange(3))]
    with pytest.raises(ValueError, match=r"got -0\.1 of SGD at progress 0\.5"):
        distill(held, None, batches, CE(), epochs=2, optimizer=optimizer, each_epoch=flip)


@pytest.mark.parametrize("lr", [None, torch.tensor(0.1)])
def test_other_kinds_of_rates_are_left_alone(lr: Any) -> None:
    optimizer = sgd()
    optimizer.param_groups[0]["lr"] = lr
    Rates(optimizer, None).before(0.5)
    assert optimizer.param_groups[0]["lr"] is lr


def test_zero_is_a_rate() -> None:
    assert train(as_schedule(0.0)) == [0.0] * 4
