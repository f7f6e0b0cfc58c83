"""What a hint leaves free, and what losses on maps do not see (ch-hints-and-attention)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses
from distill_lib.evaluation import linear_cka


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centered(x: Tensor) -> Tensor:
    return x - x.mean(0)


def smallest_hint(s: Tensor, t: Tensor) -> float:
    """By least squares, with a bias."""
    inputs = torch.cat([s, torch.ones(len(s), 1, dtype=s.dtype)], 1)
    best = torch.linalg.lstsq(inputs, t).solution
    return float(losses.hint(student=inputs @ best, teacher=t).mean())


def invertible(size: int, seed: int) -> Tensor:
    """Of condition at least 10, so that it is no rotation."""
    one, two = (torch.linalg.qr(draw(size, size, seed=seed + i))[0] for i in (1, 2))
    return one @ torch.logspace(0, 1, size, dtype=torch.float64).diag() @ two


@given(seed=st.integers(0, 500), width=st.integers(1, 6))
def test_the_smallest_hint_is_what_the_span_leaves(seed: int, width: int) -> None:
    s, t = centered(draw(20, width, seed=seed)), centered(draw(20, 4, seed=seed + 1))
    basis = torch.linalg.qr(s)[0]
    rest = t - basis @ (basis.T @ t)
    want = float(rest.square().sum() / t.numel())
    assert smallest_hint(s, t) == pytest.approx(want)
    assert smallest_hint(s @ invertible(width, seed), t) == pytest.approx(want)


@given(seed=st.integers(0, 500))
def test_a_hint_is_fulfilled_by_linear_functions_and_no_others(seed: int) -> None:
    s = draw(20, 5, seed=seed)
    assert smallest_hint(s, s @ draw(5, 3, seed=seed + 1) + 2) < 1e-20
    assert smallest_hint(s, s.square()) > 1e-3


@given(seed=st.integers(0, 500), scale=st.floats(0.1, 10))
def test_one_geometry_fulfills_the_hint_and_not_conversely(seed: int, scale: float) -> None:
    s = centered(draw(30, 4, seed=seed))
    turned = scale * s @ torch.linalg.qr(draw(4, 4, seed=seed + 1))[0]
    assert linear_cka(s, turned) == pytest.approx(1)
    assert smallest_hint(s, turned) < 1e-20
    bent = s @ invertible(4, seed)
    assert smallest_hint(s, bent) < 1e-20
    assert linear_cka(s, bent) < 0.99
    assert losses.similarity(student=s, teacher=bent).mean() > 1e-4


@given(seed=st.integers(0, 200), shifts=st.integers(0, 99))
def test_pixels_do_not_see_a_shift_of_a_place_and_channels_none_of_a_channel(
    seed: int, shifts: int
) -> None:
    s, t = draw(2, 5, 3, 4, seed=seed), draw(2, 5, 3, 4, seed=seed + 1)

    def per_pixel(x: Tensor) -> Tensor:
        return losses.kl(student=x.movedim(1, -1), teacher=t.movedim(1, -1)).mean((1, 2))

    def by_channels(x: Tensor) -> Tensor:
        return losses.channel_kl(student=x, teacher=t)

    of_places, of_channels = draw(2, 1, 3, 4, seed=shifts), draw(2, 5, 1, 1, seed=shifts)
    torch.testing.assert_close(per_pixel(s + of_places), per_pixel(s))
    torch.testing.assert_close(by_channels(s + of_channels), by_channels(s))
    assert (per_pixel(s + of_channels) - per_pixel(s)).abs().max() > 1e-4
    assert (by_channels(s + of_places) - by_channels(s)).abs().max() > 1e-4
