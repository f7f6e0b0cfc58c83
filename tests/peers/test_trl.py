"""The same numbers as TRL's generalized JSD inside (0, 1), and where its conventions differ."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill_lib import losses

pytestmark = pytest.mark.peers
Peer = Callable[..., Tensor]


def sequences(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    z, v = (2 * torch.randn(3, 7, 11, dtype=torch.float64) for _ in range(2))
    return z.to(dtype), v.to(dtype)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_and_its_gradient(trl_jsd: Peer, beta: float, temperature: float) -> None:
    z, v = sequences()
    z.requires_grad_()
    one = losses.jsd(student=z, teacher=v, beta=beta, temperature=temperature)
    other = trl_jsd(z, v, beta=beta, temperature=temperature, reduction="none").sum(-1)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    grads = [torch.autograd.grad(x.sum(), z)[0] for x in (one, other)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("beta", "ours"), [(0, losses.kl), (1, losses.reverse_kl)], ids=["forward", "reverse"]
)
def test_its_ends_are_the_plain_divergences(trl_jsd: Peer, beta: int, ours: Peer) -> None:
    z, v = sequences()
    peer = trl_jsd(z, v, beta=beta, reduction="none").sum(-1)
    torch.testing.assert_close(ours(student=z, teacher=v), peer)
    torch.testing.assert_close(losses.jsd(student=z, teacher=v, beta=beta, normalized=True), peer)


def test_masked_tokens_are_our_mask_and_mean(trl_jsd: Peer) -> None:
    z, v = sequences()
    labels = torch.randint(11, (3, 7)).masked_fill(torch.rand(3, 7) < 0.4, -100)
    kept = labels != -100
    ours = losses.jsd(student=z, teacher=v)[kept].mean()
    torch.testing.assert_close(ours, trl_jsd(z, v, labels=labels))


def test_difference_beta_jumps_at_the_ends(trl_jsd: Peer) -> None:
    """β from 0 to 0.001 makes its loss a thousand times smaller; our normalized form goes on."""
    z, v = sequences()
    at, beside = (trl_jsd(z, v, beta=b).item() for b in (0, 1e-3))
    assert at / beside > 900
    one, other = (
        losses.jsd(student=z, teacher=v, beta=b, normalized=True).mean().item() for b in (0, 1e-3)
    )
    assert other == pytest.approx(one, rel=0.1)


def test_difference_no_temperature_squared(trl_jsd: Peer) -> None:
    """Neither has it: here the objective multiplies by T², there nothing does."""
    z, v = sequences()
    warm, hot = (trl_jsd(z, v, temperature=T).item() for T in (64.0, 128.0))
    assert warm / hot == pytest.approx(4, rel=0.1)


def test_difference_the_mean_counts_sequences_when_there_are_no_labels(trl_jsd: Peer) -> None:
    """Its "batchmean" is then too large by the length, its "mean" too small by the vocabulary."""
    z, v = sequences()
    ours = losses.jsd(student=z, teacher=v).mean()
    assert (trl_jsd(z, v) / ours).item() == pytest.approx(7.0)
    assert (ours / trl_jsd(z, v, reduction="mean")).item() == pytest.approx(11.0)


def test_fault_a_masked_vocabulary_gives_nan(trl_jsd: Peer) -> None:
    z, v = sequences()
    z[..., -1] = v[..., -1] = -math.inf
    assert trl_jsd(z, v).isnan()
    want = losses.jsd(student=z[..., :-1], teacher=v[..., :-1])
    torch.testing.assert_close(losses.jsd(student=z, teacher=v), want)


def test_fault_half_precision_is_not_lifted(trl_jsd: Peer) -> None:
    """In bfloat16 its sum over the vocabulary is off by percents; ours computes in float32."""
    z, v = (torch.randn(4, 1, 4096) for _ in range(2))
    z, v = z.bfloat16(), v.bfloat16()
    exact = losses.jsd(student=z.double(), teacher=v.double()).squeeze()
    theirs = trl_jsd(z, v, reduction="none").sum(-1).squeeze().double()
    ours = losses.jsd(student=z, teacher=v).squeeze().double()
    assert (theirs / exact - 1).abs().max() > 20 * (ours / exact - 1).abs().max()
    assert (ours / exact - 1).abs().max() < 1e-4
