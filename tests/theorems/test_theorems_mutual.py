r"""The theorems on teachers that are made while the student learns.

Peers: what mutual learning adds to the gradients sums to zero. Averages: the variance and the lag
of an exponential moving average of SGD on a quadratic, computed without drawing anything. DINO:
the entropy of the mean answer is the mean entropy plus the mean divergence from it.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import EMA, KD, Peers, losses


def logits(seed: int, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=draw, dtype=torch.float64)


# Peers


class Says(nn.Module):
    """Logits that are its parameters."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.z


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_what_peers_add_to_the_gradients_sums_to_zero(seed: int, peers: int) -> None:
    z = logits(seed, peers, 6, 4)
    cohort = Peers([Says(one) for one in z])
    batch = {"inputs": torch.zeros(6, 1)}
    said = cohort(batch["inputs"])
    loss, _ = KD()(said, cohort.others()(batch))
    (loss * peers * 6).backward()
    grad = torch.stack([model.z.grad for model in cohort.models])
    p = z.softmax(-1)
    others = (p.sum(0) - p) / (peers - 1)
    torch.testing.assert_close(grad, p - others)
    torch.testing.assert_close(grad.sum(0), torch.zeros(6, 4, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_who_agrees_teaches_nothing(temperature: float) -> None:
    """So does a student that is its own teacher, which is an average of decay 0."""
    z = logits(3, 6, 4).requires_grad_()
    loss = losses.kl(student=z, teacher=z.detach(), temperature=temperature).sum()
    (grad,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(grad, torch.zeros_like(z), atol=1e-12, rtol=0)
    net = nn.Linear(3, 2)
    average = EMA(net, 0.0)
    with torch.no_grad():
        net.weight.add_(1.0)
    average.update(net)
    torch.testing.assert_close(average.model.weight, net.weight)


# Averages


def stationary(a: float, d: float, noise: float = 1.0) -> Tensor:
    """[2, 2] covariance of (iterate, average), by iterating until it stays."""
    step = torch.tensor([[a, 0.0], [(1 - d) * a, d]], dtype=torch.float64)
    into = torch.tensor([1.0, 1 - d], dtype=torch.float64)
    covariance = noise * into[:, None] * into
    for _ in range(12):  # by doubling: 2^12 steps
        covariance, step = step @ covariance @ step.T + covariance, step @ step
    return covariance


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.7, 1.0, 1.6])
@pytest.mark.parametrize("d", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("h", [0.5, 1.0])
def test_the_variance_of_the_average(rate: float, d: float, h: float) -> None:
    a, sigma = 1 - rate * h, 0.3
    found = stationary(a, d, (rate * sigma) ** 2)
    single = rate * sigma**2 / (h * (2 - rate * h))
    ratio = (1 - d) * (1 + a * d) / ((1 + d) * (1 - a * d))
    assert found[0, 0].item() == pytest.approx(single, rel=1e-9)
    assert found[1, 1].item() == pytest.approx(single * ratio, rel=1e-9)
    assert ratio < 1 if d else ratio == 1


@pytest.mark.parametrize("a", [-0.5, 0.0, 0.8, 0.97])
@pytest.mark.parametrize("d", [0.3, 0.9, 0.99])
def test_the_lag_of_the_average(a: float, d: float) -> None:
    """Of the library's EMA, behind iterates a^t."""
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(net.weight)
    average = EMA(net, d)
    for t in range(1, 40):
        with torch.no_grad():
            net.weight.fill_(a**t)
        average.update(net)
        expected = (1 - d) * a * (a**t - d**t) / (a - d) + d**t
        assert average.model.weight.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


# DINO


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_entropy_of_the_mean_has_two_parts(seed: int) -> None:
    log_p = logits(seed, 7, 5).log_softmax(-1)
    p, mean = log_p.exp(), log_p.exp().mean(0)
    entropy = -(mean * mean.log()).sum()
    inside = -(p * log_p).sum(-1).mean()
    apart = losses.kl(student=mean.log().expand_as(log_p), teacher=log_p).mean()
    assert entropy.item() == pytest.approx((inside + apart).item(), rel=1e-9)
    assert apart.item() >= -1e-14
