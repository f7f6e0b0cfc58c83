r"""What on-policy distillation leaves out, checked in float64: T12.

A student pays ``ℓ(s)`` in every state it visits; g is the gradient in which the visits are data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

DOUBLE = {"dtype": torch.float64}
TREE = torch.Generator().manual_seed(3)
FEATURES = torch.randn(3, 3, generator=TREE, **DOUBLE)
TEACHER = (2 * torch.randn(3, 2, generator=TREE, **DOUBLE)).softmax(-1)
START = torch.randn(6, generator=TREE, **DOUBLE)


def log_policy(theta: Tensor) -> Tensor:
    """[3, 2], shared features: from state 0 the action leads to state 1 or 2, and there it ends."""
    return (FEATURES @ theta.view(2, 3).T).log_softmax(-1)


def state_losses(theta: Tensor) -> Tensor:
    """[3] divergences from the teacher."""
    log_q = log_policy(theta)
    return (TEACHER * (TEACHER.log() - log_q)).sum(-1)


def whole(theta: Tensor) -> Tensor:
    ell, go = state_losses(theta), log_policy(theta)[0].exp()
    return ell[0] + go @ ell[1:]


def usual(theta: Tensor) -> Tensor:
    """The loss as distillation computes it: states are data, no gradient through the visits."""
    ell, go = state_losses(theta), log_policy(theta)[0].exp().detach()
    return ell[0] + go @ ell[1:]


def field(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


def test_t12_the_gradient_has_two_parts() -> None:
    """∇L = g + E Σ_t ∇ log π(a_t | s_t) Σ_{k>t} ℓ(s_k), the expectation taken exactly."""
    theta = START.clone().requires_grad_()
    log_go = log_policy(theta)[0]
    later = state_losses(theta)[1:].detach()
    missing = torch.autograd.grad((log_go.exp().detach() * log_go * later).sum(), theta)[0]
    assert missing.norm() > 0.01
    torch.testing.assert_close(field(usual, START) + missing, field(whole, START))


def test_t12_in_long_episodes_too() -> None:
    """All episodes of four steps in a binary tree, a loss that looks at the whole past."""
    steps, theta = 4, START[:4].clone().requires_grad_()

    def ell(state: tuple[int, ...]) -> Tensor:
        return (theta * (1 + sum((i + 1) * a for i, a in enumerate(state)))).sin().square().sum()

    def log_pi(state: tuple[int, ...], action: int) -> Tensor:
        z = theta[len(state) % 4] * (1 + sum(state)) + theta[0]
        return torch.nn.functional.logsigmoid(z if action else -z)

    total, parts = torch.zeros((), **DOUBLE), torch.zeros((), **DOUBLE)
    for path in itertools.product((0, 1), repeat=steps):
        logs = [log_pi(path[:t], path[t]) for t in range(steps)]
        paid = [ell(path[:t]) for t in range(steps)]
        p = torch.stack(logs).sum().exp()
        total = total + p * torch.stack(paid).sum()
        later = [sum((c.detach() for c in paid[t + 1 :]), torch.zeros(())) for t in range(steps)]
        score = sum(lg * c for lg, c in zip(logs, later, strict=True))
        parts = parts + p.detach() * (torch.stack(paid).sum() + score)
    one, other = (torch.autograd.grad(x, theta, retain_graph=True)[0] for x in (total, parts))
    torch.testing.assert_close(one, other)


def jacobian(loss: Callable[[Tensor], Tensor], theta: Tensor, h: float = 1e-5) -> Tensor:
    rows = [field(loss, theta + h * e) - field(loss, theta - h * e) for e in torch.eye(6).double()]
    return torch.stack(rows, 1) / (2 * h)


def asymmetry(J: Tensor) -> float:
    return ((J - J.T).norm() / J.norm()).item()


def test_t12_with_shared_features_too() -> None:
    """The Jacobian of the usual update is not symmetric, that of the whole gradient is."""
    assert asymmetry(jacobian(usual, START)) > 0.05
    assert asymmetry(jacobian(whole, START)) < 1e-8


# the example of two parameters: in s₁ go on with probability σ(α), in s₂ answer by β


def bernoulli(x: Tensor, teacher: float) -> Tensor:
    """KL from a coin of probability ``teacher`` to one of probability σ(x)."""
    p = torch.tensor([teacher, 1 - teacher], **DOUBLE)
    return (p * (p.log() - torch.stack([x, torch.zeros_like(x)]).log_softmax(0))).sum()


def two(theta: Tensor, through: bool = False) -> Tensor:
    go = theta[0].sigmoid()
    return bernoulli(theta[0], 0.6) + (go if through else go.detach()) * bernoulli(theta[1], 0.9)


def work(loss: Callable[[Tensor], Tensor], corners: list[tuple[float, float]]) -> float:
    """Line integral of the field around a polygon, by Simpson's rule."""
    total, n = 0.0, 200
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        start, way = torch.tensor(a, **DOUBLE), torch.tensor([b[0] - a[0], b[1] - a[1]], **DOUBLE)
        for k in range(n + 1):
            weight = (1 if k in (0, n) else 4 if k % 2 else 2) / (3 * n)
            total += weight * (field(loss, start + k / n * way) @ way).item()
    return total


def test_t12_the_first_part_is_the_gradient_of_nothing() -> None:
    """Around a closed way it does work; the whole gradient does none."""
    square = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    assert abs(work(two, square)) > 0.1
    assert abs(work(lambda x: two(x, through=True), square)) < 1e-7


def test_t12_around_a_rectangle_the_work_is_a_product() -> None:
    """(σ(α₁) - σ(α₀)) (ℓ₂(β₁) - ℓ₂(β₀))."""
    a0, a1, b0, b1 = -1.5, 0.7, -0.4, 1.1
    rectangle = [(a0, b0), (a1, b0), (a1, b1), (a0, b1)]
    x = torch.tensor([a0, a1, b0, b1], **DOUBLE)
    go = x[1].sigmoid() - x[0].sigmoid()
    rise = bernoulli(x[3], 0.9) - bernoulli(x[2], 0.9)
    assert work(two, rectangle) == pytest.approx((go * rise).item(), abs=1e-8)


def test_t12_in_a_table_no_state_gets_worse() -> None:
    """Each state its own parameters: along -g every loss falls, where the whole gradient
    may raise one to avoid a state."""
    theta = torch.tensor([2.0, -3.0], **DOUBLE)
    first, second = bernoulli(theta[0], 0.6), bernoulli(theta[1], 0.9)
    for _ in range(2000):
        theta = theta - 0.5 * field(two, theta)
        now = bernoulli(theta[0], 0.6), bernoulli(theta[1], 0.9)
        assert now[0] <= first + 1e-15
        assert now[1] <= second + 1e-15
        first, second = now
    assert max(first, second) < 1e-6
    # at α = logit 0.6 the whole gradient goes away from the teacher's answer, to see s₂ less
    at = torch.tensor([math.log(1.5), -3.0], **DOUBLE)
    assert field(two, at)[0].abs() < 1e-12
    assert field(lambda x: two(x, through=True), at)[0] > 0.1


def test_t12_a_perfect_student_rests() -> None:
    """Where all losses are 0, both updates are."""
    perfect = torch.tensor([math.log(0.6 / 0.4), math.log(9.0)], **DOUBLE)
    assert field(two, perfect).norm() < 1e-12
    assert field(lambda x: two(x, through=True), perfect).norm() < 1e-12


def test_t12_of_a_sampled_log_ratio_nothing_remains() -> None:
    """ℓ = log π(a|s) - log π_T(a|s) of the action drawn: the expected first part is 0, and the
    gradient of KL(π ‖ π_T) lies in the missing term, which then begins at k = t."""
    theta = START.clone().requires_grad_()
    log_q = log_policy(theta)[0]
    q, ratio = log_q.exp().detach(), log_q - TEACHER[0].log()
    kept = torch.autograd.grad((q * ratio).sum(), theta, retain_graph=True)[0]
    missing = torch.autograd.grad((q * log_q * ratio.detach()).sum(), theta, retain_graph=True)[0]
    full = torch.autograd.grad((log_q.exp() * ratio).sum(), theta)[0]
    assert kept.norm() < 1e-12
    assert full.norm() > 0.01
    torch.testing.assert_close(missing, full)
