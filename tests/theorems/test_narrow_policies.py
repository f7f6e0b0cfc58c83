r"""What a policy with a narrow layer can tell apart, checked in float64."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.zoo import Policy

OBSERVATIONS, ACTIONS = 8, 4
seeds = st.integers(0, 10_000)


def drawn(seed: int, *hidden: int, actions: int = ACTIONS) -> Policy:
    """A policy with large random weights, so that all of its actions occur."""
    g = torch.Generator().manual_seed(seed)
    policy = Policy(OBSERVATIONS, actions, hidden).double()
    for parameter in policy.parameters():
        nn.init.normal_(parameter, generator=g)
    return policy


def said(policy: Policy, seen: Tensor) -> Tensor:
    with torch.no_grad():
        return policy(seen)["logits"]


def layers(policy: Policy) -> list[nn.Linear]:
    return [layer for layer in policy.net if isinstance(layer, nn.Linear)]


@given(seed=seeds, units=st.integers(1, 3), behind=st.sampled_from([(), (64,), (16, 16)]))
def test_a_first_layer_of_k_units_sees_k_weighted_sums(
    seed: int, units: int, behind: tuple[int, ...]
) -> None:
    """Move the observation where the sums do not change: nothing changes. Elsewhere it does."""
    policy = drawn(seed, units, *behind)
    g = torch.Generator().manual_seed(seed + 1)
    seen, step = torch.randn(2, 32, OBSERVATIONS, generator=g, dtype=torch.float64)
    weights = layers(policy)[0].weight
    blind = step - step @ torch.linalg.pinv(weights) @ weights
    assert blind.norm() > 1
    torch.testing.assert_close(said(policy, seen + blind), said(policy, seen))
    assert (said(policy, seen + step) - said(policy, seen)).abs().max() > 1e-3


@given(seed=seeds)
def test_a_single_last_unit_gives_each_action_one_interval(seed: int) -> None:
    """So along a line the greedy action changes at most A - 1 times, and none comes back."""
    policy = drawn(seed, 1)
    direction = layers(policy)[0].weight.detach()
    line = torch.linspace(-3, 3, 2001, dtype=torch.float64).unsqueeze(-1) * direction
    runs = torch.unique_consecutive(said(policy, line).argmax(-1))
    assert len(runs) == len(runs.unique()) <= ACTIONS


def test_a_wide_layer_behind_the_single_unit_can_let_an_action_come_back() -> None:
    counts = []
    for seed in range(20):
        policy = drawn(seed, 1, 64)
        direction = layers(policy)[0].weight.detach()
        line = torch.linspace(-3, 3, 2001, dtype=torch.float64).unsqueeze(-1) * direction
        runs = torch.unique_consecutive(said(policy, line).argmax(-1))
        counts.append(len(runs) - len(runs.unique()))
    assert max(counts) > 0


@given(seed=seeds, units=st.integers(1, 5))
def test_the_regions_of_the_actions_are_convex_in_the_last_layer(seed: int, units: int) -> None:
    last = layers(drawn(seed, units))[-1]
    g = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 500, units, generator=g, dtype=torch.float64) * 2 - 1
    share = torch.rand(500, 1, generator=g, dtype=torch.float64)
    with torch.no_grad():
        first, second = last(a).argmax(-1), last(b).argmax(-1)
        between = last(share * a + (1 - share) * b).argmax(-1)
    same = first == second
    assert same.any()
    assert torch.equal(between[same], first[same])


@given(seed=seeds)
def test_with_two_actions_a_linear_policy_is_one_threshold(seed: int) -> None:
    """And so is a single hidden unit, whose tanh only rises."""
    g = torch.Generator().manual_seed(seed)
    seen = torch.randn(500, OBSERVATIONS, generator=g, dtype=torch.float64)
    for hidden in ((), (1,)):
        policy = drawn(seed, *hidden, actions=2)
        layer = layers(policy)[0].weight.detach()
        direction = layer[1] - layer[0] if not hidden else layer[0]
        right = said(policy, seen).argmax(-1)[(seen @ direction).argsort()]
        assert len(torch.unique_consecutive(right)) <= 2
