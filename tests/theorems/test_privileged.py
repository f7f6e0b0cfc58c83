"""What the deviation of a student becomes that sees less than its teacher."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib import losses


def divergence(student: torch.Tensor, teacher: torch.Tensor, sigma: float, log_sigma: torch.Tensor):
    """Mean forward divergence over states, for one action."""
    q = torch.stack([student, log_sigma.expand_as(student)], -1)
    p = torch.stack([teacher, torch.full_like(teacher, math.log(sigma))], -1)
    return losses.gaussian_kl(student=q, teacher=p).mean()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), sigma=st.floats(0.05, 3.0), spread=st.floats(0.0, 3.0))
def test_the_best_deviation_adds_what_cannot_be_known(seed, sigma, spread):
    g = torch.Generator().manual_seed(seed)
    teacher = torch.randn(50, generator=g, dtype=torch.float64)
    student = teacher + spread * torch.randn(50, generator=g, dtype=torch.float64)
    best = math.sqrt(sigma**2 + (teacher - student).square().mean().item())
    at = torch.tensor(math.log(best), dtype=torch.float64, requires_grad=True)
    value = divergence(student, teacher, sigma, at)
    (slope,) = torch.autograd.grad(value, at)
    assert abs(slope.item()) < 1e-9
    assert abs(value.item() - math.log(best / sigma)) < 1e-9
    for step in (-0.1, 0.1):
        assert divergence(student, teacher, sigma, at.detach() + step) > value


def test_of_all_means_the_conditional_one_is_best():
    """The student sees x, the teacher x and z: the best mean averages over z."""
    x = torch.arange(4, dtype=torch.float64).repeat_interleave(5)
    z = torch.linspace(-1, 1, 5, dtype=torch.float64).repeat(4)
    teacher = x.sin() + x * z
    table = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    log_sigma = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table, log_sigma], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = divergence(table[x.long()], teacher, 0.5, log_sigma)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(table.detach(), torch.arange(4.0).double().sin(), atol=1e-4, rtol=0)
    rest = (teacher - table[x.long()]).square().mean()
    torch.testing.assert_close(log_sigma.exp().square(), 0.25 + rest, atol=1e-4, rtol=0)
