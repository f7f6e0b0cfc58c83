"""Decoupled distillation, correlation of answers, standardized logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses


def batch(items: int = 6, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, v = (2 * torch.randn(items, classes, generator=generator).double() for _ in range(2))
    return z, v, torch.randint(classes, (items,), generator=generator)


# DKD


def naive_dkd(z: Tensor, v: Tensor, y: int, T: float) -> tuple[float, float]:
    """Both parts from probabilities, class by class."""
    q, p = (z / T).softmax(-1).tolist(), (v / T).softmax(-1).tolist()
    target = p[y] * math.log(p[y] / q[y])
    target += (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
    others = 0.0
    for i in range(len(p)):
        if i != y:
            p_hat, q_hat = p[i] / (1 - p[y]), q[i] / (1 - q[y])
            others += p_hat * math.log(p_hat / q_hat)
    return target, others


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (1.0, 8.0)])
def test_dkd_equals_its_definition(temperature: float, alpha: float, beta: float) -> None:
    z, v, y = batch()
    got = losses.dkd(
        student=z, teacher=v, labels=y, alpha=alpha, beta=beta, temperature=temperature
    )
    parts = [naive_dkd(z[i], v[i], int(y[i]), temperature) for i in range(len(y))]
    want = torch.tensor([alpha * a + beta * b for a, b in parts], dtype=torch.float64)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("sure", ["teacher", "student", "both"])
def test_dkd_survives_a_sure_model(dtype: torch.dtype, sure: str) -> None:
    """A gap of 450 (80 in half precision): the others' mass is 0 as a probability."""
    gap = 80.0 if dtype == torch.float16 else 450.0
    peaked, flat = torch.tensor([[gap, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    z = (peaked if sure != "teacher" else flat).to(dtype).requires_grad_()
    v = (peaked + 1 if sure != "student" else flat).to(dtype).requires_grad_()
    y = torch.tensor([0])
    got = losses.dkd(student=z, teacher=v, labels=y, temperature=1.0)
    want = losses.dkd(student=z.double(), teacher=v.double(), labels=y, temperature=1.0)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    for grad in torch.autograd.grad(got.sum(), [z, v]):
        assert grad.isfinite().all()


def test_dkd_accepts_masked_classes() -> None:
    z, v, y = batch()
    masked = [F.pad(x, (0, 2), value=-math.inf).requires_grad_() for x in (z, v)]
    got = losses.dkd(student=masked[0], teacher=masked[1], labels=y)
    torch.testing.assert_close(got, losses.dkd(student=z, teacher=v, labels=y))
    for grad in torch.autograd.grad(got.sum(), masked):
        assert grad.isfinite().all()


def test_the_second_part_of_dkd_does_not_see_the_label_logit() -> None:
    z, v, y = batch()
    moved = z + 3 * F.one_hot(y, 5)
    one, other = (
        losses.dkd(student=s, teacher=v, labels=y, alpha=0.0, beta=1.0) for s in (z, moved)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("classes", [1, 2])
def test_dkd_refuses_what_has_no_second_part(classes: int) -> None:
    z = torch.zeros(4, classes)
    with pytest.raises(ValueError, match=f"at least 3 classes, got {classes}.*use kl"):
        losses.dkd(student=z, teacher=z, labels=torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("shape", [(5,), (6, 1), (1, 6), (6, 5)])
def test_dkd_names_the_shape_of_labels(shape: tuple[int, ...]) -> None:
    z, v, _ = batch()
    with pytest.raises(ValueError, match=r"expect labels \[6\], got"):
        losses.dkd(student=z, teacher=v, labels=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("labels", [torch.zeros(6), torch.zeros(6, dtype=torch.int32), [0] * 6])
def test_dkd_wants_labels_of_integers(labels: object) -> None:
    z, v, _ = batch()
    with pytest.raises(TypeError, match=r"labels as a tensor of int64.*labels\.long\(\)"):
        losses.dkd(student=z, teacher=v, labels=labels)  # type: ignore[arg-type]


def test_dkd_never_takes_a_label_out_of_range_for_a_class() -> None:
    z, v, y = batch()
    with pytest.raises(ValueError, match=r"labels from 0 to 4, got others.*use DKD\(\)"):
        losses.dkd(student=z, teacher=v, labels=y.fill_(-100))


def test_dkd_takes_one_teacher_and_one_set_of_labels_for_several_students() -> None:
    z, v, y = batch()
    students = torch.stack([z, z + v])
    got = losses.dkd(student=students, teacher=v, labels=y)
    for student, values in zip(students, got, strict=True):
        torch.testing.assert_close(values, losses.dkd(student=student, teacher=v, labels=y))


# DIST


def pearson(x: Tensor, y: Tensor) -> float:
    return torch.corrcoef(torch.stack([x, y]))[0, 1].item()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_dist_has_the_mean_of_the_papers_loss(
    beta: float, gamma: float, temperature: float
) -> None:
    z, v, _ = batch()
    q, p = (z / temperature).softmax(-1), (v / temperature).softmax(-1)
    inter = sum(1 - pearson(q[i], p[i]) for i in range(6)) / 6
    intra = sum(1 - pearson(q[:, c], p[:, c]) for c in range(5)) / 5
    got = losses.dist(student=z, teacher=v, beta=beta, gamma=gamma, temperature=temperature)
    assert got.shape == (6,)
    assert got.mean().item() == pytest.approx(beta * inter + gamma * intra)


def test_the_first_part_of_dist_belongs_to_its_item() -> None:
    z, v, _ = batch()
    alone = [losses.dist(student=z[i], teacher=v[i], gamma=0.0) for i in range(6)]
    torch.testing.assert_close(losses.dist(student=z, teacher=v, gamma=0.0), torch.stack(alone))


def test_dist_forgives_confidence() -> None:
    """Probabilities a·p + b cost nothing: the student may be less sure than its teacher."""
    _, v, _ = batch()
    p = v.softmax(-1)
    humbler = (0.4 * p + 0.6 / 5).log()
    assert losses.dist(student=humbler, teacher=v).abs().max() < 1e-12
    assert losses.kl(student=humbler, teacher=v).min() > 1e-2


@pytest.mark.parametrize("where", ["student", "teacher", "both"])
def test_dist_of_constant_answers_is_finite_and_uncorrelated(where: str) -> None:
    """Seven times ten: the mean of equal probabilities is off by a rounding, which is no signal."""
    _, v, _ = batch(7, 10)
    v, flat = v.float(), torch.full((7, 10), 0.1)
    z = (flat if where != "teacher" else v).clone().requires_grad_()
    t = (flat if where != "student" else v).clone().requires_grad_()
    got = losses.dist(student=z, teacher=t)
    torch.testing.assert_close(got, torch.full((7,), 2.0), atol=1e-4, rtol=0)
    for grad in torch.autograd.grad(got.sum(), [z, t]):
        assert grad.isfinite().all() and grad.abs().max() < 100


def test_dist_refuses_a_batch_of_one() -> None:
    z = torch.zeros(1, 5)
    with pytest.raises(ValueError, match=r"drop_last=True.*gamma=0"):
        losses.dist(student=z, teacher=z)
    assert losses.dist(student=z, teacher=z, gamma=0.0).shape == (1,)


def test_dist_treats_each_of_several_students_as_a_batch() -> None:
    z, v, _ = batch()
    students = torch.stack([z, z + v])
    got = losses.dist(student=students, teacher=v)
    for student, values in zip(students, got, strict=True):
        torch.testing.assert_close(values, losses.dist(student=student, teacher=v))


# Standardized logits

rows = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5).map(
    lambda row: torch.tensor(row, dtype=torch.float64)
)


@given(z=rows.filter(lambda r: r.std() > 1e-2), a=st.floats(1e-3, 1e3), b=st.floats(-1e2, 1e2))
def test_standardize_is_invariant_to_scale_and_shift(z: Tensor, a: float, b: float) -> None:
    got = losses.standardize(a * z + b)
    torch.testing.assert_close(got, losses.standardize(z), rtol=1e-6, atol=1e-6)
    assert got.mean().item() == pytest.approx(0, abs=1e-9)
    assert got.std().item() == pytest.approx(1)


@given(z=rows.filter(lambda r: r.std() > 1e-2))
def test_a_negative_scale_turns_the_order_around(z: Tensor) -> None:
    torch.testing.assert_close(losses.standardize(-2 * z), -losses.standardize(z))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_constant_logits_become_zero_with_finite_gradients(
    value: float, dtype: torch.dtype
) -> None:
    z = torch.full((2, 10), value, dtype=dtype, requires_grad=True)
    got = losses.standardize(z)
    torch.testing.assert_close(got, torch.zeros_like(got), atol=2e-3, rtol=0)
    (grad,) = torch.autograd.grad(got.square().sum() + got[0, 0], z)
    assert grad.isfinite().all()


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_standardize_refuses_what_has_no_spread(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="C at least 2"):
        losses.standardize(torch.zeros(shape))
