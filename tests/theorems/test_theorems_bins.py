"""Heads, bins and codes: what their divergences add up to, and how near they come."""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib import losses
from distill_lib.rl.bins import centers_of


@given(st.integers(0, 999), st.integers(1, 4), st.integers(2, 5))
def test_the_divergences_of_heads_add_up(seed: int, heads: int, n: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, heads, n, generator=draw, dtype=torch.float64).log_softmax(-1)
    total = 0.0
    for joint in itertools.product(range(n), repeat=heads):
        log_p, log_q = (sum(x[i, k].item() for i, k in enumerate(joint)) for x in (p, q))
        total += math.exp(log_p) * (log_p - log_q)
    assert math.isclose(losses.kl(student=q, teacher=p).sum().item(), total, abs_tol=1e-9)


@given(st.integers(2, 30), st.booleans(), st.floats(0.1, 5))
def test_how_near_bins_come(n: int, ends: bool, high: float) -> None:
    space = gym.spaces.Box(-np.float32(high), np.float32(high), (1,))
    values = centers_of(space, n, None, ends)[0].double()
    fine = torch.linspace(-high, high, 4001, dtype=torch.float64)
    worst = (fine.unsqueeze(-1) - values).abs().amin(-1).max().item()
    assert math.isclose(worst, high / (n - 1 if ends else n), rel_tol=0.01)


@given(st.integers(0, 999), st.integers(1, 12), st.integers(1, 2))
def test_few_codes_leave_an_action_far_away(seed: int, size: int, joints: int) -> None:
    codes = 2 * torch.rand(size, joints, generator=torch.Generator().manual_seed(seed)) - 1
    axis = torch.linspace(-1, 1, 41)
    actions = torch.cartesian_prod(*[axis] * joints).reshape(-1, joints)
    worst = (actions.unsqueeze(1) - codes).abs().amax(-1).amin(-1).max().item()
    # K cubes of side 2ε have to cover the box
    assert size * (2 * (worst + 0.025)) ** joints >= 2**joints - 1e-6
