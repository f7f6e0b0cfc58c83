"""The theorem of the chapter on policies in service."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.compress import grid, quantize


def drawn(seed: int, spreads: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalized values with the range of 2 in each coordinate, and their units."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.rand(400, len(spreads), generator=generator, dtype=torch.float64) - 1
    z[0], z[1] = -1.0, 1.0
    mean = torch.randn(len(spreads), generator=generator, dtype=torch.float64)
    return z, torch.tensor(spreads, dtype=torch.float64), mean


def worst(x: torch.Tensor, bits: int) -> torch.Tensor:
    step, zero = grid(x, bits, symmetric=False)
    return (quantize(x, bits, step, zero) - x).abs().amax(0)


@given(st.integers(0, 999), st.lists(st.floats(0.01, 10), min_size=2, max_size=6))
def test_normalized_first_the_bound_is_one_for_all(seed: int, spreads: list[float]) -> None:
    z, sigma, mean = drawn(seed, spreads)
    raw = mean + sigma * z
    bits, n = 8, 255
    whole = max(raw.max().item(), 0) - min(raw.min().item(), 0)  # a grid holds zero
    # half a step, and as much again at an end, where the place of zero is rounded as well
    assert bool((worst(raw, bits) / sigma <= whole / n / sigma + 1e-9).all())
    inside = quantize(raw[5:], bits, *grid(raw, bits, symmetric=False)) - raw[5:]
    middle = (raw[5:] > raw.min() + whole / n) & (raw[5:] < raw.max() - whole / n)
    bound = (whole / (2 * n) / sigma).expand_as(inside)
    assert bool(((inside / sigma).abs() <= bound + 1e-9)[middle].all())
    assert bool((worst(z, bits) <= 2 / n + 1e-9).all())


@given(st.integers(0, 999), st.lists(st.floats(0.01, 10), min_size=2, max_size=6))
def test_the_ratio_of_the_bounds_is_at_least_that_of_the_units(
    seed: int, spreads: list[float]
) -> None:
    z, sigma, mean = drawn(seed, spreads)
    raw = mean + sigma * z
    first = (raw.max() - raw.min()) / sigma
    assert bool((first / (z.max() - z.min()) >= sigma.max() / sigma - 1e-9).all())


def test_the_bound_is_reached() -> None:
    x = torch.tensor([0.0, 255.0, 0.5 - 1e-6], dtype=torch.float64)
    assert worst(x, 8).item() > 0.5 - 1e-5
