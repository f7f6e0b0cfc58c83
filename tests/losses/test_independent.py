"""Losses of independent labels and of maps: closed forms, limits, what they see and do not see."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses

TEMPERATURES = (0.5, 1.0, 4.0, 20.0)


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        2 * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student, teacher


# Independent labels


@pytest.mark.parametrize("T", TEMPERATURES)
def test_the_bernoulli_divergence_is_that_of_two_classes_of_which_one_has_logit_0(T: float) -> None:
    z, v = pair(4, 6)
    two = [torch.stack([x, torch.zeros_like(x)], -1) for x in (z, v)]
    want = losses.kl(student=two[0], teacher=two[1], temperature=T).mean(-1)
    torch.testing.assert_close(losses.bernoulli_kl(student=z, teacher=v, temperature=T), want)


def test_times_the_labels_it_is_the_divergence_of_the_joint_answers() -> None:
    """All 2³ answers to three questions, one by one."""
    z, v = pair(3)
    joint = torch.zeros((), dtype=torch.float64)
    for answer in itertools.product([1.0, -1.0], repeat=3):
        log_p, log_q = (F.logsigmoid(torch.tensor(answer) * x).sum() for x in (v, z))
        joint = joint + log_p.exp() * (log_p - log_q)
    torch.testing.assert_close(3 * losses.bernoulli_kl(student=z, teacher=v), joint)


def test_every_label_wrong_by_eight_costs_3_86_nats() -> None:
    z = torch.full((3, 5), -4.0, requires_grad=True)
    value = losses.bernoulli_kl(student=z, teacher=torch.full((3, 5), 4.0))
    torch.testing.assert_close(value, torch.full((3,), 3.8561), rtol=0, atol=1e-4)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(5 * gradient, torch.full((3, 5), -0.9640), rtol=0, atol=1e-4)


@pytest.mark.parametrize("T", TEMPERATURES)
def test_its_gradient_is_temperature_times_the_difference_of_the_answers(T: float) -> None:
    """∇ T² KL = T (q - p) / C, label by label, as for the softmax."""
    z, v = pair(7)
    z.requires_grad_()
    value = T**2 * losses.bernoulli_kl(student=z, teacher=v, temperature=T)
    (gradient,) = torch.autograd.grad(value, z)
    want = T * ((z / T).sigmoid() - (v / T).sigmoid()) / 7
    torch.testing.assert_close(gradient, want.detach(), rtol=0, atol=1e-14)


def test_at_high_temperature_it_is_an_eighth_of_the_squared_difference() -> None:
    """T² KL → (z - v)² / 8 for each label, without centering; the error falls like 1 / T."""
    z, v = pair(7)
    limit = losses.mse_logits(student=z, teacher=v) / 8
    errors = []
    for T in (64.0, 256.0, 1024.0):
        value = T**2 * losses.bernoulli_kl(student=z, teacher=v, temperature=T)
        errors.append(abs(value / limit - 1).item())
    assert errors[-1] < 0.01
    assert errors[1] > 3 * errors[2]


def test_it_sees_the_shift_that_a_softmax_does_not_see() -> None:
    z, _ = pair(4, 6)
    assert losses.kl(student=z + 3, teacher=z).abs().max() < 1e-12
    assert losses.bernoulli_kl(student=z + 3, teacher=z).min() > 0.1


def test_the_binary_cross_entropy_is_it_and_the_entropy_of_the_teacher() -> None:
    z, v = pair(4, 6)
    p = v.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(v, p, reduction="none").mean(-1)
    cross = F.binary_cross_entropy_with_logits(z, p, reduction="none").mean(-1)
    torch.testing.assert_close(losses.bernoulli_kl(student=z, teacher=v), cross - entropy)


@given(
    z=st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4),
    v=st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_order_and_names_of_the_labels_are_free(
    z: list[float], v: list[float], order: list[int]
) -> None:
    """Also yes for no: both signs change. It is 0 at the teacher and nowhere below."""
    student, teacher = torch.tensor(z).double(), torch.tensor(v).double()
    value = losses.bernoulli_kl(student=student, teacher=teacher)
    assert value >= -1e-12
    for again in (
        losses.bernoulli_kl(student=student[order], teacher=teacher[order]),
        losses.bernoulli_kl(student=-student, teacher=-teacher),
    ):
        torch.testing.assert_close(again, value)
    assert losses.bernoulli_kl(student=teacher, teacher=teacher) == 0


@pytest.mark.parametrize("sure", [200.0, math.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_sure_answers_have_finite_values_and_gradients(sure: float, sign: int) -> None:
    z = torch.tensor([[0.5, sign * sure]], requires_grad=True)
    v = torch.tensor([[0.5, sign * sure]], requires_grad=True)
    value = losses.bernoulli_kl(student=z, teacher=v)
    assert value.item() == 0
    for grad in torch.autograd.grad(value.sum(), [z, v]):
        assert grad.isfinite().all()


# Maps


@pytest.mark.parametrize("T", TEMPERATURES)
def test_channel_wise_distillation_is_that_of_its_paper(T: float) -> None:
    """T² / C Σ_c Σ_i p log (p / q), with a softmax over the positions of each channel."""
    z, v = pair(2, 3, 4, 5)
    q, p = ((x / T).reshape(2, 3, 20).softmax(-1) for x in (z, v))
    paper = T**2 / 3 * (p * (p / q).log()).sum((1, 2))
    value = T**2 * losses.channel_kl(student=z, teacher=v, temperature=T)
    torch.testing.assert_close(value, paper)


@given(shift=st.floats(-50, 50), order=st.permutations(range(20)))
def test_the_level_of_a_channel_and_the_order_of_positions_are_free(
    shift: float, order: list[int]
) -> None:
    z, v = pair(2, 3, 4, 5)
    value = losses.channel_kl(student=z, teacher=v)
    moved = z + shift * torch.arange(3).view(3, 1, 1)
    torch.testing.assert_close(losses.channel_kl(student=moved, teacher=v), value)
    mixed = [x.flatten(2)[..., order] for x in (z, v)]
    torch.testing.assert_close(losses.channel_kl(student=mixed[0], teacher=mixed[1]), value)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1)])
def test_a_map_without_positions_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected maps \[B, C, H, W\].*at least two positions"):
        losses.channel_kl(student=torch.zeros(shape), teacher=torch.zeros(shape))
