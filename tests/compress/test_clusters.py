"""k-means of one dimension: no partition is better, whatever the values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.compress import kmeans

FLOATS = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60).map(torch.tensor)
FEW = st.lists(st.integers(-9, 9) | st.floats(-3, 3), min_size=1, max_size=9)


def error(values: torch.Tensor, k: int) -> float:
    centroids, codes = kmeans(values, k)
    return float((values - centroids[codes]).double().square().sum())


def lloyd(values: torch.Tensor, start: torch.Tensor) -> float:
    """The squared error where the iteration of Lloyd ends."""
    x, c = values.double(), start.double()
    for _ in range(200):
        near = (x[:, None] - c).abs().argmin(1)
        c = torch.stack([x[near == i].mean() if (near == i).any() else c[i] for i in range(len(c))])
    return float((x - c[(x[:, None] - c).abs().argmin(1)]).square().sum())


@given(FEW, st.integers(1, 6))
def test_no_partition_is_better(found: list[float], k: int) -> None:
    values = torch.tensor(found, dtype=torch.float64)
    x = np.sort(values.numpy())
    cuts = itertools.combinations(range(1, len(x)), min(k, len(x)) - 1)
    parts = (np.split(x, at) for at in cuts)
    best = min(sum(float(np.square(p - p.mean()).sum()) for p in ps) for ps in parts)
    assert error(values, k) == pytest.approx(best, abs=1e-12, rel=1e-9)


@given(FLOATS, st.integers(1, 8))
def test_each_value_belongs_to_its_nearest_centroid(values, k: int) -> None:
    centroids, codes = kmeans(values, k)
    assert len(centroids) <= min(k, len(values.unique())) and (centroids.diff() > 0).all()
    gaps = (values[:, None] - centroids).abs()
    torch.testing.assert_close(
        gaps.gather(1, codes[:, None])[:, 0], gaps.amin(1), atol=1e-5, rtol=0
    )
    assert len(codes.unique()) == len(centroids)  # none is without a value


@given(st.integers(0, 999), st.sampled_from([4, 16]), st.sampled_from([1.0, 30.0]))
def test_no_start_of_lloyd_ends_better(seed: int, k: int, tail: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, generator=generator)
    x[:3] *= tail
    starts = (torch.linspace(float(x.min()), float(x.max()), k), x[:k], x.quantile(torch.rand(k)))
    assert all(error(x, k) <= lloyd(x, start) * (1 + 1e-5) for start in starts)


@pytest.mark.parametrize("far", [5.0, -5.0, 1e6, -1e6])
def test_one_value_far_out_costs_one_centroid(far: float) -> None:
    x = 0.02 * torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rest = error(x[1:], 15)
    x[0] = far
    assert error(x, 16) == pytest.approx(rest, rel=1e-3)


@given(FLOATS, st.integers(1, 9), st.sampled_from([1e-30, 1e30]))
def test_the_unit_of_the_values_does_not_matter(values, k: int, unit: float) -> None:
    values = values.double()
    assert error(values * unit, k) / unit**2 == pytest.approx(error(values, k), abs=1e-9)


def test_centroids_are_the_means_of_their_values() -> None:
    values = torch.randn(500)
    centroids, codes = kmeans(values, 8)
    for i, c in enumerate(centroids):
        torch.testing.assert_close(values[codes == i].mean(), c)


@pytest.mark.parametrize("values", [[3.0, 3.0, 1.0], [0.0, 10.0], [0.0] * 5, [7.0]])
def test_few_values_are_kept_exactly(values: list[float]) -> None:
    x = torch.tensor(values)
    centroids, codes = kmeans(x, 16)
    assert torch.equal(centroids, x.unique()) and torch.equal(centroids[codes], x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_stays(dtype: torch.dtype) -> None:
    x = torch.randn(2, 60).to(dtype)
    centroids, codes = kmeans(x, 4)
    assert centroids.dtype == dtype and len(centroids) == 4 and codes.shape == (120,)


@pytest.mark.parametrize("tail", [1.0, 1e4])
def test_beyond_the_table_close_values_are_joined(tail: float, monkeypatch) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0] *= tail
    exact = error(x, 8)
    monkeypatch.setattr("distill_lib.compress.clusters.TABLE", 8 * 512)
    width = float(x.max() - x.min()) / 256
    assert exact <= error(x, 8) * (1 + 1e-12)
    assert error(x, 8) ** 0.5 <= exact**0.5 + 2 * width * len(x) ** 0.5
    assert error(x, 8) < 1.01 * exact


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kmeans(torch.tensor([]), 2), "one number at least"),
        (lambda: kmeans(torch.tensor([torch.nan]), 2), "finite"),
        (lambda: kmeans(torch.ones(2), 0), "k expected a whole number of 1 or more"),
    ],
)
def test_what_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("far", [-1e12, -1e9, -1e6, 1e6, 1e9, 1e12])
def test_one_value_far_off_leaves_the_others_their_clusters(far: float) -> None:
    values = torch.tensor([far, *range(1, 9)], dtype=torch.float64)
    assert error(values, 4) == pytest.approx(4.5, rel=1e-3)
