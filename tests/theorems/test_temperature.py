r"""The theorems on temperature, checked in float64: T1 to T4.

Student logits z, teacher logits v, N classes, q = softmax(z / T), p = softmax(v / T), and
L_T = T² KL(p ‖ q).
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses

TEMPERATURES = (0.5, 1.0, 4.0, 20.0)


def pair(classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, v = (2 * torch.randn(classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return z, v


def near_pair() -> tuple[Tensor, Tensor]:
    """A confident teacher and a student that has nearly converged to it."""
    z, v = pair()
    v = 0.5 * v
    v[0] = v.max() + 8
    return v + 0.1 * z, v


def loss(z: Tensor, v: Tensor, T: float) -> Tensor:
    return T**2 * losses.kl(student=z, teacher=v, temperature=T)


def gradient(z: Tensor, v: Tensor, T: float) -> Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z, v, T), z)[0]


def softened(z: Tensor, v: Tensor, T: float) -> tuple[Tensor, Tensor]:
    return (z / T).softmax(-1), (v / T).softmax(-1)


# T1: the gradient of T² KL is T (q - p)


@pytest.mark.parametrize("T", TEMPERATURES)
def test_t1_the_gradient_is_temperature_times_the_difference_of_the_answers(T: float) -> None:
    """∇ T² KL(p ‖ q) = T (q - p), to the last digits of automatic differentiation."""
    z, v = pair()
    q, p = softened(z, v, T)
    torch.testing.assert_close(gradient(z, v, T), T * (q - p), rtol=0, atol=1e-14)


@pytest.mark.parametrize("T", TEMPERATURES)
def test_t1_the_gradient_sums_to_zero_and_is_bounded(T: float) -> None:
    """It never pushes all logits up together, and its length is at most √2 T."""
    for z, v in (pair(), near_pair(), (torch.tensor([900.0, 0]), torch.tensor([0, 900.0]))):
        g = gradient(z.double(), v.double(), T)
        assert g.sum().item() == pytest.approx(0, abs=1e-12)
        assert g.norm().item() <= math.sqrt(2) * T * (1 + 1e-12)


@pytest.mark.parametrize("T", TEMPERATURES)
def test_t1_the_hessian_is_the_covariance_of_the_student(T: float) -> None:
    """∇² T² KL = diag(q) - q qᵀ: no factor of T, no teacher, between 0 and 1/2, hence convex."""
    z, v = pair()
    q, _ = softened(z, v, T)
    hessian = torch.autograd.functional.hessian(lambda x: loss(x, v, T), z)
    torch.testing.assert_close(hessian, torch.diag(q) - torch.outer(q, q))
    curvature = torch.linalg.eigvalsh(hessian)
    assert curvature.min() > -1e-12
    assert curvature.max() <= 0.5 + 1e-12


# T2: at high temperature, matching of centered logits


def test_t2_the_loss_tends_to_half_the_mean_square_of_centered_logits() -> None:
    """T² KL → ‖z̃ - ṽ‖² / 2N, and the error falls like 1/T."""
    z, v = pair()
    limit = losses.mse_logits(student=z, teacher=v, center=True) / 2
    errors = [abs(loss(z, v, T) / limit - 1).item() for T in (64.0, 256.0, 1024.0)]
    assert errors[-1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_t2_the_gradient_tends_to_the_centered_difference() -> None:
    """T (q - p) = (z̃ - ṽ) / N + O(1/T)."""
    z, v = pair()
    limit = ((z - z.mean()) - (v - v.mean())) / len(z)
    errors = [
        ((gradient(z, v, T) - limit).norm() / limit.norm()).item() for T in (16.0, 64.0, 256.0)
    ]
    assert errors[-1] < 0.02
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)


def test_t2_without_centering_the_limit_is_wrong() -> None:
    """Softmax does not see a common shift, the squared difference does."""
    z, v = pair()
    v = v + 2.0
    wrong = losses.mse_logits(student=z, teacher=v) / 2
    right = losses.mse_logits(student=z, teacher=v, center=True) / 2
    value = loss(z, v, 4096.0)
    assert abs(value / right - 1) < 0.01
    assert abs(value / wrong - 1) > 0.2


# T3: T² keeps an order of magnitude, not a size


def ratio(z: Tensor, v: Tensor, T: float) -> float:
    return (gradient(z, v, T).norm() / gradient(z, v, 1.0).norm()).item()


@pytest.mark.parametrize("kind", ["start", "near"])
def test_t3_the_ratio_of_gradient_norms_has_a_limit_that_is_not_one(kind: str) -> None:
    """r(T) = ‖∇L_T‖ / ‖∇L_1‖ → ‖z̃ - ṽ‖ / (N ‖q₁ - p₁‖)."""
    z, v = near_pair() if kind == "near" else pair()
    q, p = softened(z, v, 1.0)
    gap = z - v
    limit = ((gap - gap.mean()).norm() / (len(z) * (q - p).norm())).item()
    assert ratio(z, v, 4096.0) == pytest.approx(limit, rel=5e-3)
    assert abs(limit - 1) > 0.1


def test_t3_near_convergence_temperature_multiplies_the_gradient() -> None:
    """A confident teacher and a student close to it: the scaled gradient grows several times."""
    z, v = near_pair()
    assert ratio(z, v, 5.0) > 5
    # even without T² it first grows
    assert ratio(z, v, 2.0) / 4 > 1


def test_t3_the_ratio_is_not_monotone() -> None:
    """All logits 0 against one class ahead by 6: it rises above 1, then falls below 1 for good."""
    v = torch.tensor([6.0] + [0.0] * 9, dtype=torch.float64)
    path = [ratio(torch.zeros_like(v), v, T) for T in (1.0, 2.0, 5.0, 100.0)]
    assert path[1] > 1.3
    assert path[1] > path[2] > path[3]
    assert path[3] < 0.7


def test_t3_at_low_temperature_it_vanishes_like_t_where_the_answers_differ() -> None:
    """r(T) ~ √2 T / ‖q₁ - p₁‖ when the argmaxes differ."""
    z, v = torch.tensor([3.0, 0, 1]).double(), torch.tensor([0, 3.0, 1]).double()
    for T in (0.05, 0.02):
        assert gradient(z, v, T).norm().item() == pytest.approx(math.sqrt(2) * T, rel=1e-6)


def test_t3_at_low_temperature_it_vanishes_exponentially_where_they_agree() -> None:
    """Both answers are within √2 (N - 1) exp(-δ/T) of the same corner."""
    z, v = torch.tensor([3.0, 0, 1]).double(), torch.tensor([4.0, 1, 0]).double()
    assert gradient(z, v, 0.1).norm().item() < 1e-8


def test_t3_without_the_factor_the_gradient_falls_like_one_over_t_squared() -> None:
    """The bare gradient at T = 64 and 128: a factor of 4."""
    z, v = pair()
    bare = [(gradient(z, v, T) / T**2).norm().item() for T in (64.0, 128.0)]
    assert bare[0] / bare[1] == pytest.approx(4, rel=0.05)


# T4: cross-entropy and divergence


@pytest.mark.parametrize("T", TEMPERATURES)
def test_t4_cross_entropy_is_the_divergence_plus_the_teachers_entropy(T: float) -> None:
    """H(p, q) = H(p) + KL(p ‖ q)."""
    z, v = pair()
    _, p = softened(z, v, T)
    entropy = torch.special.entr(p).sum()
    both = {"student": z, "teacher": v, "temperature": T}
    torch.testing.assert_close(losses.soft_cross_entropy(**both), entropy + losses.kl(**both))


@pytest.mark.parametrize("T", TEMPERATURES)
def test_t4_the_student_gets_the_same_gradient_from_both(T: float) -> None:
    """Switching from one to the other in the middle of training changes a printed number only."""
    z, v = pair()
    z.requires_grad_()
    one, other = (
        torch.autograd.grad(f(student=z, teacher=v, temperature=T), z)[0]
        for f in (losses.kl, losses.soft_cross_entropy)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_t4_the_floor_of_the_cross_entropy_is_not_zero() -> None:
    """A student that equals its teacher still has a loss of H(p)."""
    _, v = pair()
    assert losses.kl(student=v, teacher=v).item() == 0
    assert losses.soft_cross_entropy(student=v, teacher=v).item() > 0.1


# Cross-entropy and KL: the divergence is never negative, and zero for equal distributions only


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12), scale=st.floats(0.01, 20))
def test_the_divergence_is_never_negative(seed: int, classes: int, scale: float) -> None:
    """Gibbs: KL(p ‖ q) ≥ 0, and 0 for logits that differ by a constant; else Pinsker's bound.

    In floating point up to the rounding of its terms: two distributions that nearly agree on one
    answer, at logits 40 apart, have a divergence of 1e-17, and a processor may say -1e-18.
    """
    z, v = (scale * x for x in pair(classes, seed))
    apart = (z.softmax(-1) - v.softmax(-1)).abs().sum()
    assert losses.kl(student=z, teacher=v) >= apart.square() / 2 - 1e-14
    assert abs(losses.kl(student=v + 3.0, teacher=v)) < 1e-12
    cross, entropy = losses.soft_cross_entropy(student=z, teacher=v), v.log_softmax(-1)
    entropy = -(entropy.exp() * entropy).sum()
    assert cross >= entropy - 1e-14
    torch.testing.assert_close(cross - entropy, losses.kl(student=z, teacher=v))
