r"""What a zero costs in a file: entropies by counting, and files that are really coded."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib.compress import packed_sizes

shares = st.floats(0.02, 0.98)


def entropy(p: Tensor) -> float:
    p = p[p > 0]
    return float(-(p * p.log2()).sum())


def places(s: float) -> float:
    return entropy(torch.tensor([s, 1 - s], dtype=torch.float64))


def factor(s: float, h: float) -> float:
    return h / (places(s) + (1 - s) * h)


@given(s=shares, seed=st.integers(0, 1000), k=st.integers(1, 40))
def test_places_and_values_add_up(s: float, seed: int, k: int) -> None:
    """The entropy of one distribution over zero and k values is that of its two parts."""
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(k, generator=g, dtype=torch.float64) + 1e-3
    values /= values.sum()
    both = torch.cat([torch.tensor([s], dtype=torch.float64), (1 - s) * values])
    assert entropy(both) == pytest.approx(places(s) + (1 - s) * entropy(values), abs=1e-9)


@given(s=shares, h=st.floats(0.1, 40))
def test_the_factor_grows_to_its_limit(s: float, h: float) -> None:
    assert factor(s, h) < factor(s, 1.01 * h) < 1 / (1 - s)
    assert factor(s, 1e9) == pytest.approx(1 / (1 - s), rel=1e-6)


@given(s=shares, ratio=st.floats(0.5, 1.5).filter(lambda r: abs(r - 1) > 1e-3))
def test_it_gains_only_beyond_the_break_even(s: float, ratio: float) -> None:
    h = ratio * places(s) / s
    assert (factor(s, h) > 1) == (ratio > 1)


def test_half_of_two_bits_gains_nothing() -> None:
    assert factor(0.5, 2.0) == pytest.approx(1.0)
    assert factor(0.5, 32.0) == pytest.approx(32 / 17)


@pytest.mark.parametrize("s", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("bits", [2, 4])
def test_files_come_near_the_bound_and_not_below(s: float, bits: int) -> None:
    g = torch.Generator().manual_seed(bits)
    values = torch.randint(1, 2**bits + 1, (60_000,), generator=g).float()
    kept = torch.rand(60_000, generator=g) >= s
    bound = places(1 - kept.double().mean().item()) + kept.double().mean().item() * bits
    size = packed_sizes({"weight": values * kept})["weight"]
    assert bound - 0.01 <= size <= 1.15 * bound


def test_chosen_weights_leave_others_behind() -> None:
    """Of -1, 0, 0, 1 the half is removed that is zero: the file is what it was."""
    before = entropy(torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64))
    after = entropy(torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert before / (places(0.5) + 0.5 * after) == pytest.approx(1)
    assert factor(0.5, before) < 0.9  # by lot it would have grown


def test_the_places_of_nine_in_ten() -> None:
    assert math.isclose(places(0.9) / 0.9, 0.5211, abs_tol=1e-4)


@pytest.mark.parametrize("s", [0.3, 0.5])
@pytest.mark.parametrize("step", [0.25, 1.0])
def test_files_pruned_by_magnitude_follow_the_survivors(s: float, step: float) -> None:
    """The entropy of those that stay predicts the file; that of all of them does not."""
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(60_000, generator=g)
    kept = weights.abs() >= weights.abs().quantile(s)
    values = ((weights / step).floor() + 0.5).clamp(-8, 8)  # none is zero

    def bits(some: Tensor) -> float:
        return entropy(some.unique(return_counts=True)[1].double() / len(some))

    h, left, zeros = bits(values), bits(values[kept]), 1 - kept.double().mean().item()
    size = packed_sizes({"weight": values * kept})["weight"]
    bound = places(zeros) + (1 - zeros) * left
    assert bound - 0.01 <= size <= 1.25 * bound  # places and values are coded apart
    assert abs(left - h) > 0.02
