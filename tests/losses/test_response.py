"""Losses on answers: closed forms, the naive definitions in probability space, and the ends."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses

T_GRID = (0.5, 1.0, 4.0)
SHAPES = ((5,), (3, 5), (2, 3, 5))


def pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(2))
    return student, teacher


def naive_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def naive(name: str, p: Tensor, q: Tensor) -> Tensor:
    """The definitions as a textbook writes them, in probabilities."""
    m = 0.3 * p + 0.7 * q
    return {
        "kl": lambda: naive_kl(p, q),
        "reverse_kl": lambda: naive_kl(q, p),
        "jsd": lambda: 0.3 * naive_kl(p, m) + 0.7 * naive_kl(q, m),
        "soft_cross_entropy": lambda: -(p * q.log()).sum(-1),
        "tvd": lambda: torch.maximum(p - q, torch.zeros_like(p)).sum(-1),
    }[name]()


OPTIONS: dict[str, dict[str, float]] = {"jsd": {"beta": 0.3}}
NAMES = ("kl", "reverse_kl", "jsd", "soft_cross_entropy", "tvd")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", T_GRID)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_definition_in_probability_space(
    name: str, temperature: float, shape: tuple[int, ...]
) -> None:
    z, v = pair(*shape)
    got = getattr(losses, name)(
        student=z, teacher=v, temperature=temperature, **OPTIONS.get(name, {})
    )
    p, q = (v / temperature).softmax(-1), (z / temperature).softmax(-1)
    assert got.shape == shape[:-1]
    torch.testing.assert_close(got, naive(name, p, q), rtol=1e-12, atol=1e-14)


def two_class(gap: float) -> Tensor:
    return torch.tensor([gap, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("gap", [-3.0, -0.1, 0.5, 2.0, 6.0])
def test_two_classes_against_a_uniform_student_in_closed_form(gap: float) -> None:
    """With p = sigmoid(gap) all of them are functions of one number."""
    p = 1 / (1 + math.exp(-gap))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    z, v = two_class(0.0), two_class(gap)
    assert losses.kl(student=z, teacher=v).item() == pytest.approx(math.log(2) - entropy, abs=1e-12)
    reverse = -math.log(2) - 0.5 * math.log(p * (1 - p))
    assert losses.reverse_kl(student=z, teacher=v).item() == pytest.approx(reverse, abs=1e-12)
    assert losses.tvd(student=z, teacher=v).item() == pytest.approx(abs(p - 0.5), abs=1e-12)
    assert losses.soft_cross_entropy(student=z, teacher=v).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_of_answers_that_exclude_each_other_is_the_entropy_of_beta(beta: float) -> None:
    z, v = two_class(500.0), two_class(-500.0)
    entropy = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert losses.jsd(student=z, teacher=v, beta=beta).item() == pytest.approx(entropy)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_normalized_jsd_is_the_plain_one_over_beta_times_one_minus_beta(beta: float) -> None:
    z, v = pair(4, 6)
    plain = losses.jsd(student=z, teacher=v, beta=beta)
    scaled = losses.jsd(student=z, teacher=v, beta=beta, normalized=True)
    torch.testing.assert_close(scaled, plain / (beta * (1 - beta)))


def test_normalized_jsd_goes_continuously_to_its_ends() -> None:
    z, v = pair(4, 6)
    for end, near, limit in ((0.0, 1e-7, losses.kl), (1.0, 1 - 1e-7, losses.reverse_kl)):
        exact = losses.jsd(student=z, teacher=v, beta=end, normalized=True)
        torch.testing.assert_close(exact, limit(student=z, teacher=v), rtol=0, atol=0)
        close = losses.jsd(student=z, teacher=v, beta=near, normalized=True)
        torch.testing.assert_close(close, exact, rtol=1e-5, atol=1e-6)


def test_jsd_is_symmetric_at_one_half_and_swaps_with_beta() -> None:
    z, v = pair(4, 6)
    torch.testing.assert_close(losses.jsd(student=z, teacher=v), losses.jsd(student=v, teacher=z))
    torch.testing.assert_close(
        losses.jsd(student=z, teacher=v, beta=0.2), losses.jsd(student=v, teacher=z, beta=0.8)
    )
    one, other = (losses.jsd(student=z, teacher=v, beta=b) for b in (0.2, 0.8))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("beta", "way_out"), [(0.0, "use kl"), (1.0, "use reverse_kl"), (1, "use r")]
)
def test_plain_jsd_refuses_the_ends_where_it_is_zero(beta: float, way_out: str) -> None:
    z, v = pair(2, 3)
    with pytest.raises(ValueError, match=f"0 for every student.*{way_out}.*normalized=True"):
        losses.jsd(student=z, teacher=v, beta=beta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("near", [1e-300, 1e-17, 1e-9])
def test_normalized_jsd_is_its_end_where_beta_cannot_be_told_from_it(
    near: float, dtype: torch.dtype
) -> None:
    """Rounding would be divided by beta: nothing but noise, or nan."""
    z, v = torch.randn(2, 7, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for beta, limit in ((near, losses.kl), (1 - near, losses.reverse_kl)):
        got = losses.jsd(student=z, teacher=v, beta=beta, normalized=True)
        torch.testing.assert_close(got, limit(student=z, teacher=v), rtol=1e-5, atol=1e-5)
        heads = {
            "student_head": torch.eye(5, dtype=dtype),
            "teacher_head": torch.eye(5, dtype=dtype),
        }
        got = losses.fused_divergence(
            student=z, teacher=v, **heads, loss=losses.jsd, beta=beta, normalized=True
        )
        torch.testing.assert_close(got, limit(student=z, teacher=v), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("normalized", [False, True])
def test_jsd_refuses_a_beta_outside_the_unit_interval(beta: float, normalized: bool) -> None:
    z, v = pair(2, 3)
    with pytest.raises(ValueError, match=r"beta expected a number in \[0, 1\]"):
        losses.jsd(student=z, teacher=v, beta=beta, normalized=normalized)


def test_mse_logits_is_the_mean_over_classes() -> None:
    z, v = pair(4, 6)
    by_item = F.mse_loss(z, v, reduction="none").mean(-1)
    torch.testing.assert_close(losses.mse_logits(student=z, teacher=v), by_item)


def test_mse_logits_sees_a_shift_only_when_it_is_not_centered() -> None:
    z, v = pair(4, 6)
    free, fixed = (
        [losses.mse_logits(student=z + shift, teacher=v, center=center) for shift in (0.0, 3.0)]
        for center in (True, False)
    )
    torch.testing.assert_close(free[0], free[1])
    assert ((fixed[1] - fixed[0]).abs() > 0.1).all()


# Masked classes, and numbers at the edge of what a type can hold


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_class_masked_on_both_sides_is_as_good_as_absent(name: str, temperature: float) -> None:
    z, v = pair(3, 5)
    masked_z, masked_v = (F.pad(x, (0, 2), value=-math.inf).requires_grad_() for x in (z, v))
    loss, options = getattr(losses, name), OPTIONS.get(name, {})
    got = loss(student=masked_z, teacher=masked_v, temperature=temperature, **options)
    want = loss(student=z, teacher=v, temperature=temperature, **options)
    torch.testing.assert_close(got, want)
    for grad in torch.autograd.grad(got.sum(), [masked_z, masked_v]):
        assert grad.isfinite().all()
        assert (grad[:, 5:] == 0).all()
        assert grad[:, :5].abs().max() > 0


def test_a_class_that_the_student_alone_excludes_costs_astronomically_much() -> None:
    student = torch.tensor([[0.0, -math.inf]])
    assert losses.kl(student=student, teacher=torch.zeros(1, 2)).item() > 1e37
    assert losses.reverse_kl(student=student, teacher=torch.zeros(1, 2)).item() == pytest.approx(
        math.log(2)
    )


def test_nan_logits_are_not_hidden() -> None:
    bad = torch.tensor([[0.0, math.nan]])
    for name in NAMES:
        assert getattr(losses, name)(student=bad, teacher=torch.zeros(1, 2)).isnan().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "gap"), [(torch.float32, 200.0), (torch.float16, 80.0), (torch.bfloat16, 80.0)]
)
def test_extreme_gaps_have_exact_values_and_finite_gradients(
    name: str, dtype: torch.dtype, gap: float
) -> None:
    student = torch.tensor([[0.0, gap, 1.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[gap, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    loss, options = getattr(losses, name), OPTIONS.get(name, {})
    got = loss(student=student, teacher=teacher, **options)
    want = loss(student=student.double(), teacher=teacher.double(), **options)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
    for grad in torch.autograd.grad(got.sum(), [student, teacher]):
        assert grad.isfinite().all()


def test_probabilities_instead_of_logs_would_have_failed_there() -> None:
    """The mutation that the test above is for: log(softmax(z))."""
    student = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = naive_kl(torch.tensor([[1.0, 0.0]]) + 1e-30, student.softmax(-1)).sum()
    loss.backward()
    assert not student.grad.isfinite().all()  # type: ignore[union-attr]


# Temperature


@pytest.mark.parametrize("name", NAMES)
def test_one_temperature_an_item(name: str) -> None:
    z, v = pair(3, 5)
    temperature = torch.tensor([[0.5], [1.0], [4.0]], dtype=torch.float64)
    loss, options = getattr(losses, name), OPTIONS.get(name, {})
    got = loss(student=z, teacher=v, temperature=temperature, **options)
    for i in range(3):
        alone = loss(student=z[i], teacher=v[i], temperature=temperature[i].item(), **options)
        torch.testing.assert_close(got[i], alone)


def test_a_temperature_can_be_learned() -> None:
    z, v = pair(3, 5)
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    losses.kl(student=z, teacher=v, temperature=temperature).sum().backward()
    assert temperature.grad is not None and temperature.grad.abs() > 1e-3


@pytest.mark.parametrize("name", [*NAMES, "dist"])
@pytest.mark.parametrize(
    "bad", [0, -1.0, math.nan, torch.tensor(0.0), torch.tensor([[1.0], [-2.0]])]
)
def test_a_temperature_that_is_not_positive_is_refused(name: str, bad: float | Tensor) -> None:
    z, v = pair(2, 3)
    with pytest.raises(ValueError, match=r"temperature expected numbers? > 0|a number > 0"):
        getattr(losses, name)(student=z, teacher=v, temperature=bad)


def test_a_temperature_a_class_is_refused() -> None:
    z, v = pair(3, 3)
    with pytest.raises(ValueError, match=r"would divide each class.*unsqueeze\(-1\)"):
        losses.kl(student=z, teacher=v, temperature=torch.ones(3))


# Properties

logits = st.lists(st.floats(-30, 30, allow_nan=False, width=32), min_size=4, max_size=4).map(
    lambda row: torch.tensor(row, dtype=torch.float64)
)


@pytest.mark.parametrize("name", NAMES)
@given(z=logits, v=logits, shift=st.floats(-50, 50))
def test_shift_and_order_of_classes_are_free(name: str, z: Tensor, v: Tensor, shift: float) -> None:
    loss, options = getattr(losses, name), OPTIONS.get(name, {})
    value = loss(student=z, teacher=v, **options)
    torch.testing.assert_close(loss(student=z + shift, teacher=v - shift, **options), value)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(student=z[order], teacher=v[order], **options), value)


@pytest.mark.parametrize("name", NAMES)
@given(z=logits, v=logits)
def test_the_teacher_itself_is_the_best_student(name: str, z: Tensor, v: Tensor) -> None:
    loss, options = getattr(losses, name), OPTIONS.get(name, {})
    best = loss(student=v, teacher=v, **options).item()
    assert loss(student=z, teacher=v, **options).item() >= best - 1e-12
    p = v.softmax(-1)
    floor = -torch.special.xlogy(p, p).sum().item() if name == "soft_cross_entropy" else 0.0
    assert best == pytest.approx(floor, abs=1e-12)


@given(z=logits, v=logits)
def test_total_variation_bounds_and_is_bounded(z: Tensor, v: Tensor) -> None:
    tv = losses.tvd(student=z, teacher=v).item()
    assert tv <= 1 + 1e-12
    assert tv <= math.sqrt(max(losses.kl(student=z, teacher=v).item(), 0) / 2) + 1e-9
    assert losses.jsd(student=z, teacher=v).item() <= math.log(2) + 1e-12


# The mutations that students make differ visibly from the right value


def test_swapped_arguments_are_another_number() -> None:
    z, v = pair(8, 5)
    right = losses.kl(student=z, teacher=v)
    swapped = F.kl_div(v.log_softmax(-1), z.log_softmax(-1), log_target=True, reduction="none")
    assert (right - swapped.sum(-1)).abs().min() > 1e-3
    torch.testing.assert_close(losses.reverse_kl(student=z, teacher=v), swapped.sum(-1))


def test_reduction_mean_is_too_small_by_the_number_of_classes() -> None:
    z, v = pair(8, 5)
    wrong = F.kl_div(z.log_softmax(-1), v.softmax(-1), reduction="none").mean()
    ratio = losses.kl(student=z, teacher=v).mean() / wrong
    assert ratio.item() == pytest.approx(5.0)


@pytest.mark.parametrize("temperature", [2.0, 4.0, 16.0])
def test_the_bare_divergence_has_no_temperature_squared(temperature: float) -> None:
    z, v = pair(8, 5)
    bare = losses.kl(student=z, teacher=v, temperature=temperature)
    p, q = (v / temperature).softmax(-1), (z / temperature).softmax(-1)
    torch.testing.assert_close(bare, naive_kl(p, q))
    assert ((temperature**2 - 1) * bare > 1e-3).all()


def test_probabilities_handed_over_as_logits_are_another_number() -> None:
    z, v = pair(8, 5)
    right = losses.kl(student=z, teacher=v)
    wrong = losses.kl(student=z.softmax(-1), teacher=v.softmax(-1))
    assert (right > 2 * wrong).all()
