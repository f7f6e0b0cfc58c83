r"""The theorems of rounding and sharing, checked numerically: T15, and its additions.

A grid has step Δ; its symmetric integers run from −Q to Q with Q = 2^(b−1) − 1.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import fusion
from distill_lib.compress import (
    bake,
    codebook_bits,
    grid,
    huffman_bits,
    kmeans,
    qat,
    quantize,
    save_packed,
    share,
)


def decibel(signal: Tensor, error: Tensor) -> float:
    return 10 * math.log10((signal.square().mean() / error.square().mean()).item())


def error(x: Tensor, step: float) -> Tensor:
    """Of rounding to all multiples of a step."""
    return (x / step).round() * step - x


# the noise of rounding is Δ² / 12


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 10])
def test_uniform_numbers_lose_a_twelfth_of_the_squared_step(bits: int) -> None:
    x = 2 * torch.rand(400_000, dtype=torch.float64) - 1
    step = 2 / 2**bits
    lost = error(x - step / 2, step)  # the 2^b cells tile the range
    assert lost.square().mean().item() == pytest.approx(step**2 / 12, rel=0.01)
    assert decibel(x, lost) == pytest.approx(20 * math.log10(2) * bits, abs=0.05)
    assert 20 * math.log10(2) == pytest.approx(6.02, abs=0.001)


@given(
    step=st.floats(0.05, 8.0),
    center=st.floats(-3.0, 3.0),
    peak=st.floats(-0.9, 0.9),
)
@example(step=1.0, center=0.0, peak=0.0)
@example(step=1.96, center=0.0, peak=0.0)  # an interval of 1.02 steps that meets three cells
def test_the_bound_for_a_lipschitz_density(step: float, center: float, peak: float) -> None:
    """Triangles on intervals of length 2, R = 2, with the peak anywhere; L is the steeper side."""
    x = torch.linspace(-1, 1, 400_001, dtype=torch.float64)
    density = torch.minimum((x + 1) / (peak + 1), (1 - x) / (1 - peak))
    steepest = 1 / (1 - abs(peak))  # of a triangle of height 1, and of area 1
    squared = (density * error(center + x, step).square()).sum() / density.sum()
    relative = abs(squared.item() / (step**2 / 12) - 1)
    assert relative <= 0.39 * steepest * (2 + 2 * step) * step + 1e-6


def test_a_density_that_jumps_has_no_such_bound() -> None:
    """Constant on less than a cell: no slope inside, and an error far from that of a cell."""
    x = torch.linspace(0, 0.3, 100_001, dtype=torch.float64)
    assert abs(error(x, 1.0).square().mean().item() * 12 - 1) == pytest.approx(0.64, abs=0.01)


def test_the_constant_of_the_bound() -> None:
    u = torch.linspace(-0.5, 0.5, 1_000_001, dtype=torch.float64)
    area = (u.square() - 1 / 12).abs().mean().item()
    assert area == pytest.approx(2 / 9 / math.sqrt(12), rel=1e-4)
    assert 12 * area / 2 <= 0.39


@pytest.mark.parametrize("crest", [4.0, 8.0])
def test_an_outlier_twice_as_large_costs_a_bit(crest: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200_000, generator=generator, dtype=torch.float64) - 0.5
    quality = []
    for largest in (crest, 2 * crest):
        x[0] = largest * x[1:].std()
        top = (x.abs().max() / x.square().mean().sqrt()).item()
        found = decibel(x, quantize(x, 8) - x)
        # Q instead of 2^(b−1): a small correction that vanishes with b
        formula = 6.0206 * 8 + 4.771 - 20 * math.log10(top) - 20 * math.log10(128 / 127)
        assert found == pytest.approx(formula, abs=0.15)
        quality.append(found)
    assert quality[0] - quality[1] == pytest.approx(6.02, abs=0.15)


def test_exact_zeros_have_no_error() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(200_000, generator=generator, dtype=torch.float64) * 3 - 1
    active = x.relu()
    step, zero = grid(active, 6, symmetric=False)
    lost = (quantize(active, 6, step, zero) - active).square().mean() / (step**2 / 12)
    assert lost.item() == pytest.approx((active > 0).double().mean().item(), rel=0.02)


# the straight-through gradient


def test_the_straight_through_gradient_is_one_within_the_grid_and_zero_outside() -> None:
    x = torch.linspace(-5, 5, 401, dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.5, dtype=torch.float64)
    quantize(x, 4, step).sum().backward()
    assert torch.equal(x.grad, ((x.detach() / step).abs() <= 7).double())


def test_the_true_gradient_is_zero_almost_everywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(1000, generator=generator, dtype=torch.float64)
    step = torch.tensor(0.5, dtype=torch.float64)
    moved = quantize(x + 1e-9, 4, step) - quantize(x, 4, step)
    assert moved.count_nonzero() == 0


@given(st.floats(-6, 6))
def test_under_dither_the_straight_through_gradient_is_exact(value: float) -> None:
    """E Q(x + u) for u uniform over a cell is x within the grid, to 3.5, and its edge beyond."""
    step = torch.tensor(0.5, dtype=torch.float64)
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000 * 0.5 - 0.25
    mean = quantize(torch.tensor(value, dtype=torch.float64) + u, 4, step).mean()
    assert mean.item() == pytest.approx(min(max(value, -3.5), 3.5), abs=1e-4)


# steps of one's own


@given(
    st.integers(2, 8),
    st.lists(st.integers(-6, 6), min_size=3, max_size=3),
    st.integers(0, 1000),
)
def test_rounding_by_channel_does_not_see_the_scale_of_a_channel(
    bits: int, powers: list[int], seed: int
) -> None:
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
    scale = 2.0 ** torch.tensor(powers, dtype=torch.float32)[:, None]
    stretched = quantize(scale * weight, bits, axis=0)
    assert torch.equal(stretched, scale * quantize(weight, bits, axis=0))


def test_by_tensor_a_stretched_channel_takes_the_bits_of_the_others() -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    before = decibel(weight[1:], (quantize(weight, 8) - weight)[1:])
    weight[0] *= 64
    after = decibel(weight[1:], (quantize(weight, 8) - weight)[1:])
    assert before - after == pytest.approx(6 * 6.02, abs=2.5)


def normalized(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        net[1].running_var.copy_(torch.tensor([0.25, 1.0, 9.0, 100.0]))
        net[1].weight.copy_(torch.tensor([2.0, 1.0, 0.5, 3.0]))
    return net.double().eval()


def test_folding_and_rounding_commute_by_channel_and_not_by_tensor() -> None:
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    gaps = {}
    for per_channel in (True, False):
        first = fusion.fold_batchnorm(bake(qat(normalized(), 4, None, per_channel)))
        last = bake(qat(fusion.fold_batchnorm(normalized()), 4, None, per_channel))
        gaps[per_channel] = (first(x) - last(x)).abs().max().item()
    assert gaps[True] < 1e-12
    assert gaps[False] > 1e-2


# codebooks and codes


def test_the_price_of_a_codebook() -> None:
    assert codebook_bits(10**6, 16) == pytest.approx(4.000512)
    assert codebook_bits(1, 1) == 32


def test_a_shared_value_learns_from_all_who_share_it() -> None:
    layer = nn.Linear(8, 4, bias=False).double()
    book = share(layer, 2)["weight"]
    x = torch.randn(5, 8, dtype=torch.float64)
    loss = layer(x).square().sum()
    loss.backward()
    plain = layer.weight.detach().clone().requires_grad_()
    (x @ plain.T).square().sum().backward()
    for k in range(len(book.centroids)):
        together = plain.grad[book.codes == k + 1].sum()
        assert book.centroids.grad[k].item() == pytest.approx(together.item())


@given(st.lists(st.integers(0, 11), min_size=2, max_size=400))
def test_huffman_is_within_a_bit_of_the_entropy(codes: list[int]) -> None:
    counts = np.bincount(codes)
    p = counts[counts > 0] / len(codes)
    entropy = float(-(p * np.log2(p)).sum())
    mean = huffman_bits(np.array(codes)) / len(codes)
    if len(p) == 1:  # a symbol that is alone needs no bits
        assert mean == 0
    else:
        assert entropy - 1e-9 <= mean < entropy + 1


def test_a_uniform_grid_with_an_entropy_code_is_a_quarter_bit_from_the_best() -> None:
    """For a Gaussian: D = (π e / 6) σ² 4^(−H), against σ² 4^(−H) of the rate-distortion bound."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    for step in (0.5, 0.25, 0.1):
        integers = (x / step).round().long()
        _, counts = integers.unique(return_counts=True)
        p = counts.double() / len(x)
        bits = -(p * p.log2()).sum().item()
        loss = error(x, step).square().mean().item() * 4**bits
        assert loss == pytest.approx(math.pi * math.e / 6, rel=0.03)
    assert math.log2(math.pi * math.e / 6) / 2 == pytest.approx(0.25, abs=0.01)


def test_at_equal_entropy_the_uniform_grid_is_no_worse_than_kmeans() -> None:
    """Those of k-means are the best for a fixed number of them, not for an entropy."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, generator=generator, dtype=torch.float64)
    for k in (8, 16, 32):
        centroids, codes = kmeans(x, k)
        p = torch.bincount(codes).double() / len(x)
        bits = -(p[p > 0] * p[p > 0].log2()).sum().item()
        lloyd = (centroids[codes] - x).square().mean().item()
        assert math.pi * math.e / 6 * 4**-bits < lloyd


def test_the_formula_and_the_file(tmp_path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256, bias=False))
    share(net, 4)
    size = save_packed(bake(net), tmp_path / "net.packed")
    formula = 256 * 256 * codebook_bits(256 * 256, 16) / 8
    assert 0.5 * formula < size < 1.02 * formula + 300


# errors that others answer for, and bits where they count


def positive(seed: int, width: int) -> torch.Tensor:
    """A matrix of products of inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * width, width, generator=generator, dtype=torch.float64)
    mixed = x @ torch.randn(width, width, generator=generator, dtype=torch.float64) + 1
    return mixed.mT @ mixed


@given(st.integers(0, 500), st.integers(2, 9), st.floats(0.1, 2))
def test_how_the_others_answer_for_an_error(seed: int, width: int, e: float) -> None:
    h = positive(seed, width)
    inverse = torch.linalg.inv(h)
    best = e * inverse[:, 0] / inverse[0, 0]
    least = (best @ h @ best).item()
    assert best[0].item() == pytest.approx(e)
    assert least == pytest.approx(e**2 / inverse[0, 0].item(), rel=1e-6)
    assert least <= e**2 * h[0, 0].item() * (1 + 1e-9)
    for other in torch.randn(20, width, dtype=torch.float64):
        moved = best + torch.cat([torch.zeros(1, dtype=torch.float64), other[1:]])
        assert (moved @ h @ moved).item() >= least * (1 - 1e-9)


@given(st.integers(0, 500), st.integers(2, 8), st.floats(2, 6))
def test_bits_where_they_count(seed: int, layers: int, mean: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = torch.randint(1, 1000, (layers,), generator=generator).double()
    s = torch.randn(layers, generator=generator, dtype=torch.float64).mul(2).exp()
    share = n / n.sum()
    g = ((s / n).log() * share).sum().exp()
    bits = mean + 0.5 * (s / n / g).log2()
    least = (s * 4**-bits).sum()
    assert (share * bits).sum().item() == pytest.approx(mean)
    assert least.item() == pytest.approx((n.sum() * g * 4**-mean).item())
    assert least <= (s * 4**-mean).sum() * (1 + 1e-12)
    for other in torch.randn(20, layers, generator=generator, dtype=torch.float64):
        other -= (share * other).sum()  # the same bits in all
        assert (s * 4 ** -(bits + other)).sum() >= least * (1 - 1e-12)
