"""What a hinted teacher teaches a student that does not see the hint."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses


def gradient(loss, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z).sum(), z)[0]


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12), sure=st.floats(0.0, 30.0))
def test_a_sure_teacher_is_a_label_up_to_twice_its_doubt(seed, classes, sure):
    g = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, 5, classes, generator=g, dtype=torch.float64)
    v[:, 0] += sure
    label = torch.zeros(5, dtype=torch.int64)
    soft = gradient(lambda x: losses.kl(student=x, teacher=v), z)
    hard = gradient(lambda x: torch.nn.functional.cross_entropy(x, label, reduction="none"), z)
    doubt = 1 - v.softmax(-1)[:, 0]
    torch.testing.assert_close((soft - hard).abs().sum(-1), 2 * doubt, atol=1e-12, rtol=1e-9)


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """How often each hint is given [H], and what the teacher says with it [H, C]."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.rand(4, generator=g, dtype=torch.float64) + 0.05
    return weight / weight.sum(), 2 * torch.randn(4, 6, generator=g, dtype=torch.float64)


@given(seed=st.integers(0, 10_000))
def test_forward_the_best_student_is_the_average_and_pays_the_mutual_information(seed):
    weight, v = drawn(seed)
    p = v.softmax(-1)
    mean = weight @ p
    mean_log = mean.log().requires_grad_()

    def cost(z: Tensor) -> Tensor:
        return (weight * losses.kl(student=z.expand(4, -1), teacher=v)).sum()

    (slope,) = torch.autograd.grad(cost(mean_log), mean_log)
    assert slope.abs().max() < 1e-12
    joint = weight[:, None] * p
    information = (joint * (joint / (weight[:, None] * mean)).log()).sum()
    assert cost(mean_log).item() == pytest.approx(information.item(), abs=1e-12)
    for other in torch.randn(5, 6, dtype=torch.float64):
        assert cost(other) >= information - 1e-12


@given(seed=st.integers(0, 10_000))
def test_reverse_the_best_student_is_the_geometric_mean(seed):
    weight, v = drawn(seed)
    best = (weight @ v.log_softmax(-1)).requires_grad_()

    def cost(z: Tensor) -> Tensor:
        return (weight * losses.reverse_kl(student=z.expand(4, -1), teacher=v)).sum()

    (slope,) = torch.autograd.grad(cost(best), best)
    assert slope.abs().max() < 1e-12
    assert cost(best).item() == pytest.approx(-best.logsumexp(-1).item(), abs=1e-12)
    for other in torch.randn(5, 6, dtype=torch.float64):
        assert cost(other) >= cost(best) - 1e-12


@pytest.mark.parametrize("doubt", [0.3, 1e-2, 1e-4, 1e-8])
def test_two_sure_hints_that_contradict_each_other_are_dear_in_reverse_alone(doubt):
    p = torch.tensor([[1 - doubt, doubt], [doubt, 1 - doubt]], dtype=torch.float64)
    z = torch.zeros(2, 2, dtype=torch.float64)  # the best student of both, by symmetry
    forward = losses.kl(student=z, teacher=p.log()).mean().item()
    reverse = losses.reverse_kl(student=z, teacher=p.log()).mean().item()
    assert forward < math.log(2)
    assert reverse == pytest.approx(-math.log(2 * math.sqrt(doubt * (1 - doubt))))


@given(seed=st.integers(0, 10_000))
def test_without_a_hint_there_is_nothing_to_learn(seed):
    z = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for loss in (losses.kl, losses.reverse_kl):
        slope = gradient(lambda x, loss=loss: loss(student=x, teacher=z), z)
        assert slope.abs().max() < 1e-14
