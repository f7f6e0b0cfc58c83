"""Policies against policies: closed forms, limits, and what a naive formula does not see."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from distill_lib import losses
from distill_lib.losses import policy

numbers = st.floats(-3, 3)


def gaussian(mean: list[float], log_std: list[float]) -> Tensor:
    return torch.tensor([[*mean, *log_std]], dtype=torch.float64)


def normal(x: Tensor) -> Any:
    mean, log_std = x.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


vectors = st.lists(numbers, min_size=3, max_size=3)
gaussians = st.builds(gaussian, vectors, vectors)


@given(gaussians, gaussians)
def test_the_divergence_of_gaussians_is_torchs(p: Tensor, q: Tensor) -> None:
    found = losses.gaussian_kl(student=q, teacher=p)
    torch.testing.assert_close(found, kl_divergence(normal(p), normal(q)))
    assert found.item() >= -1e-12


@given(gaussians, vectors)
def test_density_and_entropy_are_torchs(p: Tensor, action: list[float]) -> None:
    a = torch.tensor([action], dtype=torch.float64)
    torch.testing.assert_close(policy.gaussian_log_prob(p, a), normal(p).log_prob(a))
    torch.testing.assert_close(policy.gaussian_entropy(p), normal(p).entropy())


@given(st.lists(numbers, min_size=4, max_size=4), st.integers(0, 3))
def test_probability_and_entropy_of_actions_are_torchs(z: list[float], a: int) -> None:
    logits = torch.tensor([z], dtype=torch.float64)
    action = torch.tensor([a])
    them = Categorical(logits=logits)
    torch.testing.assert_close(policy.log_prob(logits, action), them.log_prob(action))
    torch.testing.assert_close(policy.entropy(logits), them.entropy())


def test_equal_stds_make_it_the_squared_error() -> None:
    p, q = gaussian([1.0, 2.0], [-1.0, -1.0]), gaussian([0.0, 0.5], [-1.0, -1.0])
    wanted = (1.0 + 1.5**2) / (2 * math.exp(-2.0))
    assert losses.gaussian_kl(student=q, teacher=p).item() == pytest.approx(wanted)


def test_a_softmax_over_means_does_not_see_a_common_shift_and_this_does() -> None:
    p, q = gaussian([0.1, 0.2], [0.0, 0.0]), gaussian([0.9, 1.0], [0.0, 0.0])
    assert losses.kl(student=q[:, :2], teacher=p[:, :2]).abs().item() < 1e-12
    assert losses.gaussian_kl(student=q, teacher=p).item() == pytest.approx(0.64)


def test_the_likelihood_of_the_best_action_is_cross_entropy() -> None:
    z, v = torch.randn(2, 6, 4, dtype=torch.float64)
    wanted = torch.nn.functional.cross_entropy(z, v.argmax(-1), reduction="none")
    torch.testing.assert_close(losses.nll(student=z, teacher=v), wanted)


def test_one_teacher_serves_several_students() -> None:
    z, v = torch.randn(5, 6, 4), torch.randn(6, 4)
    for loss in (losses.nll, losses.policy_kl, losses.gaussian_kl):
        found = loss(student=z, teacher=v)
        assert found.shape == (5, 6)
        torch.testing.assert_close(found[2], loss(student=z[2], teacher=v))


def test_sharpened_to_the_end_it_is_the_likelihood_of_the_best_action() -> None:
    z, v = torch.randn(2, 6, 4, dtype=torch.float64)
    sharp = losses.policy_kl(student=z, teacher=v, tau=1e-4)
    torch.testing.assert_close(sharp, losses.nll(student=z, teacher=v))
    even = losses.policy_kl(student=z, teacher=v, tau=1.0)
    torch.testing.assert_close(even, losses.kl(student=z, teacher=v))


@pytest.mark.parametrize("name", ["nll", "policy_kl", "gaussian_kl"])
def test_gradients_equal_finite_differences(name: str) -> None:
    z = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    v = torch.randn(5, 4, dtype=torch.float64)
    options = {"tau": 0.5} if name == "policy_kl" else {}
    loss = getattr(losses, name)
    assert torch.autograd.gradcheck(lambda x: loss(student=x, teacher=v, **options), (z,))


@pytest.mark.parametrize("name", ["nll", "policy_kl", "gaussian_kl"])
def test_half_precision_is_computed_in_float32(name: str) -> None:
    z, v = torch.randn(2, 5, 4).half()
    found = getattr(losses, name)(student=z, teacher=v)
    assert found.dtype == torch.float32
    exact = getattr(losses, name)(student=z.double(), teacher=v.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


@given(st.floats(-2, 2), st.floats(-3, 3), st.floats(0.05, 0.5))
def test_the_surrogate_is_the_papers(shift: float, advantage: float, clip: float) -> None:
    new, old = torch.tensor([shift]), torch.zeros(1)
    ratio, a = math.exp(shift), advantage
    wanted = -min(ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a)
    found = policy.surrogate(log_prob=new, old=old, advantages=torch.tensor([a]), clip=clip)
    assert found.item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_beyond_the_clip_a_good_action_gains_nothing_more() -> None:
    new = torch.tensor([0.5, -0.5], requires_grad=True)
    value = policy.surrogate(
        log_prob=new, old=torch.zeros(2), advantages=torch.tensor([1.0, -1.0])
    ).sum()
    assert torch.autograd.grad(value, new)[0].tolist() == [0.0, 0.0]


def test_bad_input_is_named() -> None:
    z = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="gaussian_kl expected means and log standard deviations"):
        losses.gaussian_kl(student=torch.zeros(2, 3), teacher=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="differ in the number of classes, 4 and 6"):
        losses.gaussian_kl(student=z, teacher=torch.zeros(2, 6))
    with pytest.raises(ValueError, match="temperature expected a number > 0, got 0"):
        losses.policy_kl(student=z, teacher=z, tau=0.0)
    with pytest.raises(ValueError, match=r"clip lies in \(0, 1\), got 2"):
        policy.surrogate(log_prob=z, old=z, advantages=z, clip=2)
