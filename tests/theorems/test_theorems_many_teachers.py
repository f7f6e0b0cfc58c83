"""Theorems of the chapter on many teachers: votes, vetoes, and following the highest value."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

DOUBLE = {"dtype": torch.float64}


def answers(seed: int, K: int = 3, A: int = 4) -> tuple[Tensor, Tensor]:
    """K distributions and their weights."""
    generator = torch.Generator().manual_seed(seed)
    p = (2 * torch.randn(K, A, generator=generator, **DOUBLE)).softmax(-1)
    return p, torch.rand(K, generator=generator, **DOUBLE).add(0.1).softmax(0)


@given(st.integers(0, 10_000), st.floats(0, 50))
def test_a_teacher_moves_the_mean_by_no_more_than_its_weight(seed: int, sure: float) -> None:
    p, w = answers(seed)
    changed = p.clone()
    changed[0] = (sure * torch.randn(4, generator=torch.Generator().manual_seed(seed + 1))).softmax(
        -1
    )
    moved = 0.5 * ((w[:, None] * (changed - p)).sum(0)).abs().sum()
    assert moved <= w[0] + 1e-12


@given(st.integers(0, 10_000))
def test_a_sure_teacher_decides_the_geometric_mean(seed: int) -> None:
    p, w = answers(seed)
    logits = p.log()
    logits[0, 0] = -1000.0  # one teacher is sure that the first action is wrong
    g = (w[:, None] * logits).sum(0).softmax(-1)
    assert g[0] < 1e-6
    ratios = torch.exp((w[:, None] * (p[:, :1] / p).log()).sum(0))
    plain = (w[:, None] * p.log()).sum(0).softmax(-1)
    torch.testing.assert_close(plain[0] / plain, ratios)


@pytest.mark.parametrize("seed", range(20))
def test_following_the_highest_value_is_no_worse_than_any_teacher(seed: int) -> None:
    """In random worlds of 6 states, 3 actions and 4 stochastic teachers."""
    generator = torch.Generator().manual_seed(seed)
    S, A, K, gamma = 6, 3, 4, 0.9
    moves = torch.rand(S, A, S, generator=generator, **DOUBLE).pow(4)
    moves /= moves.sum(-1, keepdim=True)
    rewards = torch.randn(S, A, generator=generator, **DOUBLE)
    teachers = (3 * torch.randn(K, S, A, generator=generator, **DOUBLE)).softmax(-1)

    def value(policy: Tensor) -> Tensor:
        chain = torch.einsum("sa,sat->st", policy, moves)
        return torch.linalg.solve(
            torch.eye(S, **DOUBLE) - gamma * chain, (policy * rewards).sum(-1)
        )

    V = torch.stack([value(one) for one in teachers])
    followed = teachers[V.argmax(0), torch.arange(S)]
    assert bool((value(followed) >= V.amax(0) - 1e-10).all())
