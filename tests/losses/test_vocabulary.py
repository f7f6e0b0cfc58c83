"""Coarse distributions and sorted ones: laws, definitions, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses
from distill_lib.losses import sparse_divergence, top_k, uld

BOTH = (losses.kl, losses.reverse_kl)
ALL = (*BOTH, losses.jsd, losses.tvd)


def pair(*shape: int, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    z, v = (scale * torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return z, v


def listed(v: Tensor, ids: Tensor) -> Tensor:
    return v.log_softmax(-1).gather(-1, ids)


def coarse(logits: Tensor, ids: Tensor) -> Tensor:
    """As a textbook writes it: the listed probabilities, and 1 less their sum."""
    p = logits.softmax(-1).gather(-1, ids)
    return torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)


@given(st.integers(0, 10**6), st.integers(2, 12), st.data())
def test_law_a_coarse_divergence_lies_between_0_and_the_whole_one(
    seed: int, classes: int, data: Any
) -> None:
    """The data processing inequality, for any list of classes and any divergence."""
    z, v = pair(4, classes, seed=seed)
    k = data.draw(st.integers(1, classes))
    ids = torch.rand(4, classes, generator=torch.Generator().manual_seed(seed)).argsort(-1)[:, :k]
    for loss in ALL:
        got = sparse_divergence(student=z, teacher=listed(v, ids), ids=ids, loss=loss)
        whole = loss(student=z, teacher=v)
        assert (got >= -1e-12).all() and (got <= whole + 1e-9).all()


@given(st.integers(0, 10**6))
def test_law_a_finer_list_tells_more(seed: int) -> None:
    z, v = pair(4, 9, seed=seed)
    for loss in ALL:
        values = []
        for k in range(1, 9):
            ids, log_p, rest = top_k(v, k)
            values.append(
                sparse_divergence(student=z, teacher=log_p, ids=ids, rest=rest, loss=loss)
            )
        steps = torch.stack(values).diff(dim=0)
        assert (steps >= -1e-9).all()


@pytest.mark.parametrize("loss", BOTH)
def test_without_a_tail_it_is_no_divergence(loss: Any) -> None:
    """A student with more mass on the list than the teacher, or with hardly any."""
    v = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    z = v + torch.tensor([3.0, 3.0, 0.0, 0.0, 0.0])
    z = z if loss is losses.kl else v - torch.tensor([3.0, 3.0, 0.0, 0.0, 0.0])
    ids, log_p, _ = top_k(v, 2)
    got = sparse_divergence(student=z, teacher=log_p, ids=ids, loss=loss, tail=False)
    assert got < -0.1
    assert sparse_divergence(student=z, teacher=log_p, ids=ids, loss=loss) > 0.1


@pytest.mark.parametrize("loss", ALL)
def test_equals_the_definition(loss: Any) -> None:
    z, v = pair(2, 3, 8)
    ids, log_p, rest = top_k(v, 3)
    p, q = coarse(v, ids), coarse(z, ids)
    want = loss(student=q.log(), teacher=p.log())
    for given_rest in (rest, None):
        got = sparse_divergence(student=z, teacher=log_p, ids=ids, rest=given_rest, loss=loss)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", BOTH)
def test_all_classes_listed_is_the_whole_divergence(loss: Any) -> None:
    z, v = pair(5, 6)
    ids = torch.arange(6).expand(5, 6)
    got = sparse_divergence(student=z, teacher=v.log_softmax(-1), ids=ids, loss=loss)
    torch.testing.assert_close(got, loss(student=z, teacher=v))


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("loss", BOTH)
def test_gradients_equal_finite_differences(loss: Any, tail: bool) -> None:
    z, v = pair(3, 6)
    ids, log_p, _ = top_k(v, 2)
    assert torch.autograd.gradcheck(
        lambda x: sparse_divergence(student=x, teacher=log_p, ids=ids, loss=loss, tail=tail),
        z.requires_grad_(),
    )


@pytest.mark.parametrize("loss", [*BOTH, losses.jsd])  # the total variation has an edge there
def test_a_student_that_is_its_teacher_has_nothing_to_learn(loss: Any) -> None:
    z, _ = pair(4, 7)
    ids, log_p, rest = top_k(z, 3)
    student = z.clone().requires_grad_()
    value = sparse_divergence(student=student, teacher=log_p, ids=ids, rest=rest, loss=loss)
    (grad,) = torch.autograd.grad(value.sum(), student)
    assert value.abs().max() < 1e-12 and grad.abs().max() < 1e-9


def test_a_sure_teacher_keeps_its_tail() -> None:
    """1 - p would be 0 in float32; the sum of the others is not."""
    _, log_p, rest = top_k(torch.tensor([40.0, 0.0, 0.0]), 1)
    assert log_p.exp() == 1 and rest.item() == pytest.approx(math.log(2) - 40, rel=1e-6)


@pytest.mark.parametrize("loss", BOTH)
def test_masked_classes_cost_nothing(loss: Any) -> None:
    """-inf on both sides: in the list (fewer than k are left), or in the tail."""
    z, v = pair(4, 9)
    want_ids = torch.arange(3).expand(4, 3)
    z[:, 5:] = v[:, 5:] = -math.inf
    short = sparse_divergence(
        student=z[:, :5], teacher=listed(v[:, :5], want_ids), ids=want_ids, loss=loss
    )
    ids = torch.cat([want_ids, torch.full((4, 1), 7)], -1)
    z.requires_grad_()
    got = sparse_divergence(student=z, teacher=listed(v, ids), ids=ids, loss=loss)
    torch.testing.assert_close(got, short)
    (grad,) = torch.autograd.grad(got.sum(), z)
    assert grad.isfinite().all() and (grad[:, 5:] == 0).all()


def test_a_teacher_without_a_tail_serves_too() -> None:
    """Fewer classes alive than were asked for: nothing is outside, on either side."""
    z, v = pair(4, 9)
    z[:, 3:] = v[:, 3:] = -math.inf
    ids, log_p, rest = top_k(v.float(), 5)
    for given_rest in (rest, None):
        got = sparse_divergence(student=z.float(), teacher=log_p, ids=ids, rest=given_rest)
        want = losses.kl(student=z[:, :3], teacher=v[:, :3]).float()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_one_teacher_serves_several_students() -> None:
    z, v = pair(3, 4, 8)
    ids, log_p, rest = top_k(v[0], 2)
    got = sparse_divergence(student=z, teacher=log_p, ids=ids, rest=rest)
    each = [sparse_divergence(student=x, teacher=log_p, ids=ids, rest=rest) for x in z]
    torch.testing.assert_close(got, torch.stack(each))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(half: torch.dtype) -> None:
    z, v = (x.to(half) for x in pair(4, 50))
    ids, log_p, rest = top_k(v, 5)
    assert log_p.dtype == torch.float32
    got = sparse_divergence(student=z, teacher=log_p.to(half), ids=ids, rest=rest.to(half))
    want = sparse_divergence(
        student=z.double(), teacher=log_p.double(), ids=ids, rest=rest.double()
    )
    assert got.dtype == torch.float32 and (got >= 0).all()
    torch.testing.assert_close(got.double(), want, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"ids": a["ids"] + 6}, r"ids run from .* classes 0 to 7.*vocabulary"),
        (lambda a: a | {"ids": a["ids"] * 0 + 1}, "listed twice"),
        (lambda a: a | {"teacher": a["teacher"] + 2}, "expected log-probabilities"),
        (lambda a: a | {"teacher": a["teacher"][:3]}, "of the same items"),
        (lambda a: a | {"rest": a["rest"][:3]}, "of the same items"),
        (lambda a: a | {"tail": False, "rest": None, "loss": losses.jsd}, "tail=False is the sum"),
        (lambda a: a | {"tail": False}, "without rest"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str) -> None:
    z, v = pair(4, 8)
    ids, log_p, rest = top_k(v, 3)
    good = {"student": z, "teacher": log_p, "ids": ids, "rest": rest}
    with pytest.raises(ValueError, match=message):
        sparse_divergence(**change(good))


def test_ids_that_are_no_whole_numbers_are_refused() -> None:
    z, v = pair(4, 8)
    ids, log_p, _ = top_k(v, 3)
    with pytest.raises(TypeError, match="whole numbers"):
        sparse_divergence(student=z, teacher=log_p, ids=ids.float())


@pytest.mark.parametrize("k", [0, 8, -1])
def test_k_leaves_something_in_and_out(k: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 7"):
        top_k(torch.zeros(8), k)


# ---- sorted probabilities ----


def test_uld_is_the_definition() -> None:
    z, v = torch.randn(5, 4).double(), torch.randn(5, 7).double()
    q, p = (x.softmax(-1).sort(-1, descending=True)[0] for x in (z, v))
    want = (torch.nn.functional.pad(q, (0, 3)) - p).abs().sum(-1)
    torch.testing.assert_close(uld(student=z, teacher=v), want)
    torch.testing.assert_close(uld(student=v, teacher=z), want)


@given(st.integers(0, 10**6))
def test_law_uld_is_blind_to_names_and_at_most_twice_the_total_variation(seed: int) -> None:
    z, v = pair(4, 9, seed=seed)
    shuffled = v[:, torch.randperm(9, generator=torch.Generator().manual_seed(seed))]
    got = uld(student=z, teacher=v)
    torch.testing.assert_close(got, uld(student=z, teacher=shuffled))
    assert (got <= 2 * losses.tvd(student=z, teacher=v) + 1e-9).all()
    assert uld(student=v, teacher=shuffled).max() < 1e-9


def test_uld_gradient_equals_finite_differences() -> None:
    z, v = pair(3, 6)
    assert torch.autograd.gradcheck(
        lambda x: uld(student=x, teacher=v[:, :4], temperature=2.0), z.requires_grad_()
    )


def test_uld_of_other_items_is_refused() -> None:
    with pytest.raises(ValueError, match="align"):
        uld(student=torch.zeros(3, 5), teacher=torch.zeros(4, 5))


@pytest.mark.parametrize("rest", [math.nan, 5.0, -0.01])
def test_a_rest_that_is_not_what_the_listed_leave_is_refused(rest: float) -> None:
    known = {"teacher": torch.full((3, 2), 0.3).log(), "ids": torch.tensor([[0, 1]] * 3)}
    with pytest.raises(ValueError, match=r"log-probabilities, got some that sum to.*rest=None"):
        sparse_divergence(student=torch.zeros(3, 5), **known, rest=torch.full((3,), rest))
