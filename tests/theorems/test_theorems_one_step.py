"""The theorems of the chapter on one step: exactly, by quadrature, and by going along paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

DOUBLE = torch.float64


def mixture(draw, modes=4, size=2):
    """Weights, means and standard deviations of a mixture of Gaussians."""
    return (torch.rand(modes, generator=draw, dtype=DOUBLE).softmax(0),
            torch.randn(modes, size, generator=draw, dtype=DOUBLE),
            0.1 + torch.rand(modes, generator=draw, dtype=DOUBLE))  # fmt: skip


def expected_end(x, t, weights, means, sds):
    """E[x1 | (1 - t) x0 + t x1 = x] for x0 ~ N(0, I) and x1 from the mixture."""
    var = (1 - t) ** 2 + (t * sds) ** 2
    away = x[..., None, :] - t * means
    log = weights.log() - away.square().sum(-1) / (2 * var) - x.shape[-1] / 2 * var.log()
    near = log.softmax(-1)[..., None]
    return (near * (means + (t * sds**2 / var)[:, None] * away)).sum(-2)


def flow(ends, x, steps):
    for i in range(steps):
        x = x + (ends(x, i / steps) - x) / (steps - i)
    return x


def generator(seed):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10_000), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_one_step_ends_at_the_mean(seed, scale):
    of = mixture(generator(seed))
    z = scale * torch.randn(7, 2, generator=generator(seed + 1), dtype=DOUBLE)
    mean = (of[0][:, None] * of[1]).sum(0)
    end = flow(lambda x, t: expected_end(x, t, *of), z, 1)
    torch.testing.assert_close(end, mean.expand(7, 2), atol=1e-10, rtol=0)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_the_closed_form_is_the_conditional_mean(t):
    """By weighting a grid of ends in one dimension."""
    of = mixture(generator(3), size=1)
    x1 = torch.linspace(-8, 8, 40_001, dtype=DOUBLE)
    away = x1[:, None] - of[1][:, 0]
    density = (of[0] / of[2] * (-(away**2) / (2 * of[2] ** 2)).exp()).sum(-1)
    for x in (-1.5, 0.2, 2.0):
        weight = density * (-((x - t * x1) ** 2) / (2 * (1 - t) ** 2)).exp()
        want = (weight * x1).sum() / weight.sum()
        found = expected_end(torch.tensor([x], dtype=DOUBLE), t, *of)[0]
        assert found == pytest.approx(want.item(), abs=1e-6)


def test_many_steps_carry_noise_to_the_data():
    """One Gaussian, where the flow is known: the end of z is mean + sd z."""
    of = (torch.ones(1, dtype=DOUBLE), torch.tensor([[0.7]], dtype=DOUBLE),
          torch.tensor([0.3], dtype=DOUBLE))  # fmt: skip
    z = torch.linspace(-3, 3, 13, dtype=DOUBLE)[:, None]
    errors = [(flow(lambda x, t: expected_end(x, t, *of), z, n) - (0.7 + 0.3 * z)).abs().max()
              for n in (1, 10, 100, 1_000)]  # fmt: skip
    assert errors == sorted(errors, reverse=True) and errors[-1] < 2e-3
    assert errors[0] == pytest.approx(0.9)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_the_best_student_says_the_conditional_mean(seed, noises, ends):
    """Any table of probabilities of noises and ends: the coupling decides."""
    draw = generator(seed)
    joint = torch.rand(noises, ends, generator=draw, dtype=DOUBLE).flatten().softmax(0)
    joint = joint.view(noises, ends)
    y = torch.randn(ends, generator=draw, dtype=DOUBLE)
    guess = torch.randn(noises, generator=draw, dtype=DOUBLE)
    given_z = joint / joint.sum(1, keepdim=True)
    mean = given_z @ y
    loss = (joint * (guess[:, None] - y) ** 2).sum()
    spread = (joint * (mean[:, None] - y) ** 2).sum()
    miss = (joint.sum(1) * (guess - mean) ** 2).sum()
    assert loss == pytest.approx((miss + spread).item())
    alone = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)  # drawn apart
    torch.testing.assert_close((alone / alone.sum(1, keepdim=True)) @ y,
                               (joint.sum(0) @ y).expand(noises))  # fmt: skip


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_student_is_as_far_off_as_its_differences_add_up_to(seed, levels):
    """Any student, on paths of any teacher: for each path, and for the root of the mean square."""
    torch.manual_seed(seed)
    teacher, student = (nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
                        for _ in range(2))  # fmt: skip

    def ask(net, x, t):
        return net(torch.cat([x, torch.full_like(x[:, :1], t)], -1))

    path = [torch.randn(20, 2, dtype=DOUBLE)]
    for k in range(levels):
        path.append(path[-1] + (ask(teacher, path[-1], k / levels) - path[-1]) / (levels - k))
    said = [ask(student, path[k], k / levels) for k in range(levels)] + [path[-1]]
    gaps = torch.stack([(a - b).norm(dim=-1) for a, b in itertools.pairwise(said)])
    off = (said[0] - path[-1]).norm(dim=-1)
    assert (off <= gaps.sum(0) + 1e-12).all()
    assert off.square().mean().sqrt() <= gaps.square().mean(1).sqrt().sum() + 1e-12


def test_a_constant_is_consistent_everywhere_but_at_the_end():
    path = [torch.randn(5, 2) for _ in range(7)]
    said = [torch.full((5, 2), 3.0)] * 6 + [path[-1]]
    gaps = [(a - b).norm().item() for a, b in itertools.pairwise(said)]
    assert gaps[:-1] == [0.0] * 5 and gaps[-1] > 0


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.3), (1.4, -0.8)])
def test_the_gradient_of_the_reverse_divergence(t, a, b):
    """A student a z + b in one dimension; the divergence of the noisy densities by quadrature."""
    of = mixture(generator(11), size=1)
    a, b = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (a, b))
    x = torch.linspace(-12, 12, 20_001, dtype=DOUBLE)

    def density(mean, var):
        return (-((x - mean) ** 2) / (2 * var)).exp() / (2 * math.pi * var) ** 0.5

    q = density(t * b, (1 - t) ** 2 + (t * a) ** 2)
    p = sum(w * density(t * m, (1 - t) ** 2 + (t * s) ** 2)
            for w, m, s in zip(of[0], of[1][:, 0], of[2], strict=True))  # fmt: skip
    kl = (q * ((q + 1e-300).log() - (p + 1e-300).log())).sum() * (x[1] - x[0])
    want = torch.autograd.grad(kl, (a, b))

    # the formula: over a grid of the student's noise and of the noise added
    grid = torch.linspace(-7, 7, 501, dtype=DOUBLE)
    weight = (-(grid**2) / 2).exp() / (-(grid**2) / 2).exp().sum()
    z, x0 = torch.meshgrid(grid, grid, indexing="ij")
    with torch.no_grad():
        xt = ((1 - t) * x0 + t * (a * z + b))[..., None]
        one = (torch.ones(1, dtype=DOUBLE), b.view(1, 1), a.view(1))
        push = (expected_end(xt, t, *one) - expected_end(xt, t, *of))[..., 0]
    mass = weight[:, None] * weight * push * t**2 / (1 - t) ** 2
    found = torch.stack([(mass * z).sum(), mass.sum()])
    torch.testing.assert_close(found, torch.stack(want), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("modes", range(3, 20))
def test_equally_spaced_modes_have_one_covariance(modes):
    angle = 2 * math.pi * torch.arange(modes, dtype=DOUBLE) / modes + 0.3
    c = 1.4 * torch.stack([angle.cos(), angle.sin()], -1)
    torch.testing.assert_close(c.mean(0), torch.zeros(2, dtype=DOUBLE), atol=1e-12, rtol=0)
    torch.testing.assert_close(c.T @ c / modes, 0.98 * torch.eye(2, dtype=DOUBLE))


def test_two_modes_have_another():
    c = torch.tensor([[1.4, 0.0], [-1.4, 0.0]])
    assert (c.T @ c / 2)[1, 1] == 0
