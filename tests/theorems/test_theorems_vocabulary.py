"""Theorems of the chapter on large vocabularies: coarse and truncated divergences, spans."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses
from distill_lib.losses import fused_divergence, span_kl, span_sums, sparse_divergence


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=draw, dtype=torch.float64)


def sparse(z: Tensor, v: Tensor, ids: Tensor, **options: object) -> Tensor:
    log_p = v.log_softmax(-1).gather(-1, ids)
    return sparse_divergence(student=z, teacher=log_p, ids=ids, **options)  # type: ignore[arg-type]


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_coarse(seed: int, k: int) -> None:
    """thm-coarse: between 0 and the whole, and equal where the tail's ratios are."""
    z, v = logits(7, seed=seed), logits(7, seed=seed + 1)
    ids = v.topk(k).indices
    for loss in (losses.kl, losses.reverse_kl, losses.jsd, losses.tvd):
        value, whole = sparse(z, v, ids, loss=loss), loss(student=z, teacher=v)
        assert -1e-12 <= value <= whole + 1e-12
        tail = torch.ones(7, dtype=torch.bool)
        tail[ids] = False
        same = torch.where(tail, v + 0.7, z)  # one ratio of p and q all over the tail
        torch.testing.assert_close(sparse(same, v, ids, loss=loss), loss(student=same, teacher=v))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", [losses.kl, losses.reverse_kl])
def test_truncated(loss: object, seed: int) -> None:
    """thm-truncated: where gradient descent on the truncated sums ends."""
    v = logits(9, seed=seed)
    ids = v.topk(4).indices
    mass = v.softmax(-1)[ids].sum().item()
    z = v.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(800):
        value = sparse(z, v, ids, loss=loss, tail=False)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    found = z.detach().softmax(-1)[ids]
    forward = loss is losses.kl
    want = v.softmax(-1)[ids] / (mass if forward else math.e)
    torch.testing.assert_close(found, want, rtol=2e-3, atol=2e-3)
    least = mass * math.log(mass) if forward else -mass / math.e
    assert value.item() == pytest.approx(least, abs=2e-3) and value < 0
    # no student is lower
    for other in range(200):
        rival = logits(9, seed=1000 + other, scale=4.0)
        assert sparse(rival, v, ids, loss=loss, tail=False) >= least - 1e-9


def test_fused_gradient() -> None:
    """thm-fused: the gradient of states and head from ∂ℓ/∂z, chunk by chunk."""
    h, w = logits(6, 3).requires_grad_(), logits(11, 3, seed=1).requires_grad_()
    taught, u = logits(6, 4, seed=2), logits(11, 4, seed=3)
    values = fused_divergence(
        student=h, teacher=taught, student_head=w, teacher_head=u, chunk=2, temperature=2.0
    )
    of_states, of_head = torch.autograd.grad(values.sum(), (h, w))
    with torch.no_grad():
        g = ((h @ w.T / 2).softmax(-1) - (taught @ u.T / 2).softmax(-1)) / 2
        torch.testing.assert_close(of_states, g @ w)
        torch.testing.assert_close(of_head, g.T @ h)


@pytest.mark.parametrize("seed", range(5))
def test_spans(seed: int) -> None:
    """thm-spans: a span's divergence is at most that of all that its tokens could have been."""
    first = logits(2, 4, seed=seed).log_softmax(-1)
    second = logits(2, 4, 4, seed=seed + 50).log_softmax(-1)
    whole = losses.kl(student=first[0], teacher=first[1])
    whole = whole + (first[1].exp() * losses.kl(student=second[0], teacher=second[1])).sum()
    joint = (first.unsqueeze(-1) + second).flatten(1)
    torch.testing.assert_close(losses.kl(student=joint[0], teacher=joint[1]), whole)
    for a, b in product(range(4), repeat=2):
        tokens = torch.stack([first[:, a], second[:, a, b]], -1)
        log_q, log_p = span_sums(tokens, torch.tensor([0, 0]), 1)[:, 0]
        torch.testing.assert_close(log_p, joint[1, 4 * a + b])
        assert -1e-12 <= span_kl(student=log_q, teacher=log_p) <= whole + 1e-12
