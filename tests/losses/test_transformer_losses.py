"""Losses on the inside of a transformer: definitions in loops, padding, gradients, edges."""

from __future__ import annotations

import doctest
import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import losses

Loss = Callable[..., Tensor]
ON_MAPS = (losses.attention, losses.attention_scores, losses.attention_kl)
B, H, L, D = 3, 2, 5, 6
LENGTHS = (5, 3, 1)
MASK = torch.arange(L) < torch.tensor(LENGTHS)[:, None]
maps_ids = pytest.mark.parametrize("loss", ON_MAPS, ids=lambda f: f.__name__)


def scores(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, H, L, L, generator=generator, dtype=torch.float64)


def maps(seed: int, mask: Tensor = MASK) -> Tensor:
    """As a model returns them: padding is no key, and padded tokens look somewhere all the same."""
    hidden = ~mask[:, None, None, :]
    return scores(seed).masked_fill(hidden, -math.inf).softmax(-1)


def vectors(seed: int, width: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, L, width, generator=generator, dtype=torch.float64)


def every(loss: Loss, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    """The values of the tokens that are no padding."""
    values = loss(student=student, teacher=teacher, mask=MASK, **options)
    assert values.shape == (B, L)
    return values[MASK]


# ---- half precision ----


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_does_not_round_relations(half: torch.dtype) -> None:
    """Sums of products of large values pass the largest number of float16."""
    student, teacher = (1e3 * vectors(seed, width=D).float() for seed in (0, 1))
    student.requires_grad_()
    asked = {"student": student, "teacher": teacher, "heads": 2}
    wanted = every(losses.minilm_relation, **asked)
    with torch.autocast("cpu", half):
        values = every(losses.minilm_relation, **asked)
    assert values.isfinite().all()
    torch.testing.assert_close(values, wanted)
    (grad,) = torch.autograd.grad(values.sum(), student)
    assert grad.isfinite().all()


@maps_ids
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_maps_in_half_are_finite_under_autocast(loss: Loss, half: torch.dtype) -> None:
    student, teacher = maps(0).to(half).requires_grad_(), maps(1).to(half)
    with torch.autocast("cpu", half):
        values = every(loss, student, teacher)
    assert values.dtype == torch.float32 and values.isfinite().all()
    (grad,) = torch.autograd.grad(values.sum(), student)
    assert grad.isfinite().all()


# ---- definitions ----


def naive_attention(s: list[float], t: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


def naive_scores(s: list[float], t: list[float]) -> float:
    logs = [[math.log(a) for a in row] for row in (s, t)]
    centered = [[a - sum(row) / len(row) for a in row] for row in logs]
    return naive_attention(*centered)


def naive_kl(s: list[float], t: list[float]) -> float:
    return sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))


NAIVE = dict(zip(ON_MAPS, (naive_attention, naive_scores, naive_kl), strict=True))


@maps_ids
def test_losses_on_maps_equal_their_definitions(loss: Loss) -> None:
    s, t = maps(0), maps(1)
    want = [
        sum(NAIVE[loss](s[b, h, i, :n].tolist(), t[b, h, i, :n].tolist()) for h in range(H)) / H
        for b, n in enumerate(LENGTHS)
        for i in range(n)
    ]
    torch.testing.assert_close(every(loss, s, t), torch.tensor(want, dtype=torch.float64))


def relation(x: Tensor, n: int, i: int) -> list[float]:
    """How token i of a text of n tokens relates to the others, in one relation head."""
    products = [math.exp(float(x[i] @ x[j]) / math.sqrt(len(x[i]))) for j in range(n)]
    return [p / sum(products) for p in products]


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_relations_equal_their_definition(heads: int) -> None:
    s, t = vectors(0), vectors(1, 2 * D)
    want = []
    for b, n in enumerate(LENGTHS):
        for i in range(n):
            total = 0.0
            for r in range(heads):
                cut = [
                    x[b, :, r * w : (r + 1) * w] for x, w in ((s, D // heads), (t, 2 * D // heads))
                ]
                total += naive_kl(*(relation(x, n, i) for x in cut))
            want.append(total / heads)
    got = every(losses.minilm_relation, s, t, heads=heads)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


def test_scores_are_those_before_the_softmax_up_to_a_constant() -> None:
    z, v = scores(0), scores(1)
    gap = (z - z.mean(-1, keepdim=True)) - (v - v.mean(-1, keepdim=True))
    got = losses.attention_scores(student=z.softmax(-1), teacher=v.softmax(-1))
    torch.testing.assert_close(got, gap.square().mean((1, 3)))


# ---- padding ----


def padded(x: Tensor, by: int) -> Tensor:
    """More padding, as a model leaves it: no weight on it, and nonsense in its own rows."""
    if x.ndim == 3:
        return torch.cat([x, torch.full((B, by, x.shape[-1]), 7.0, dtype=x.dtype)], 1)
    wide = torch.cat([x, torch.zeros(B, H, L, by, dtype=x.dtype)], -1)
    rows = torch.full((B, H, by, L + by), 1 / (L + by), dtype=x.dtype)
    return torch.cat([wide, rows], 2)


@pytest.mark.parametrize("by", [1, 64])
@pytest.mark.parametrize("loss", [*ON_MAPS, losses.minilm_relation], ids=lambda f: f.__name__)
def test_more_padding_changes_nothing(loss: Loss, by: int) -> None:
    relations = loss is losses.minilm_relation
    options: dict[str, Any] = {"heads": 2} if relations else {}
    s, t = (vectors(0), vectors(1)) if relations else (maps(0), maps(1))
    want = every(loss, s, t, **options)
    mask = torch.cat([MASK, torch.zeros(B, by, dtype=torch.bool)], 1)
    got = loss(student=padded(s, by), teacher=padded(t, by), mask=mask.long(), **options)
    torch.testing.assert_close(got[:, :L][MASK], want)
    assert got.isfinite().all()


def test_the_mean_over_all_entries_does_change() -> None:
    """The mistake that the mask prevents."""
    s, t = maps(0), maps(1)
    means = [(padded(s, n) - padded(t, n)).square().mean().item() for n in (1, 64)]
    assert means[1] < 0.05 * means[0]


@maps_ids
def test_without_a_mask_every_token_counts(loss: Loss) -> None:
    everywhere = torch.ones(B, L)
    s, t = maps(0, everywhere.bool()), maps(1, everywhere.bool())
    want = loss(student=s, teacher=t, mask=everywhere)
    torch.testing.assert_close(loss(student=s, teacher=t), want)


# ---- gradients ----


@maps_ids
def test_gradients_through_the_softmax_equal_finite_differences(loss: Loss) -> None:
    hidden = ~MASK[:, None, None, :]

    def value(z: Tensor, v: Tensor) -> Tensor:
        s, t = (x.masked_fill(hidden, -1e4).softmax(-1) for x in (z, v))
        return every(loss, s, t)

    assert torch.autograd.gradcheck(value, (scores(0).requires_grad_(), scores(1).requires_grad_()))


def test_gradients_of_relations_equal_finite_differences() -> None:
    s, t = vectors(0).requires_grad_(), vectors(1, 2 * D).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: every(losses.minilm_relation, a, b, heads=2), (s, t)
    )


@maps_ids
def test_a_head_that_looks_at_one_token_alone_has_a_finite_gradient(loss: Loss) -> None:
    one = torch.zeros(1, 1, 3, 3)
    one[..., 0] = 1
    student = one.clone().requires_grad_()
    value = loss(student=student, teacher=torch.full_like(one, 1 / 3)).sum()
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


@maps_ids
def test_a_student_that_looks_where_its_teacher_looks_has_nothing_to_learn(loss: Loss) -> None:
    z = scores(0).requires_grad_()
    student = z.masked_fill(~MASK[:, None, None, :], -math.inf).softmax(-1)
    values = every(loss, student, maps(0))
    assert values.abs().max() < 1e-12
    assert torch.autograd.grad(values.sum(), z)[0].abs().max() < 1e-9


def test_maps_after_dropout_compare_what_was_not_dropped() -> None:
    """Dropout scales what it keeps, which centering removes; what it drops does not count."""
    full = torch.ones(B, L, dtype=torch.bool)
    student, teacher = maps(0, full), maps(1, full)
    dropped = 2 * student
    dropped[..., 0] = 0
    got = losses.attention_scores(student=dropped, teacher=teacher)
    want = losses.attention_scores(student=student[..., 1:, 1:], teacher=teacher[..., 1:, 1:])
    torch.testing.assert_close(got[:, 1:], want)


# ---- types and bad input ----


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [*ON_MAPS, losses.minilm_relation], ids=lambda f: f.__name__)
def test_half_precision_is_computed_in_float32(loss: Loss, half: torch.dtype) -> None:
    relations = loss is losses.minilm_relation
    options: dict[str, Any] = {"heads": 2} if relations else {}
    s, t = (x.to(half) for x in ((vectors(0), vectors(1)) if relations else (maps(0), maps(1))))
    got = every(loss, s, t, **options)
    assert got.dtype == torch.float32
    exact = every(loss, s.double(), t.double(), **options)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-5)


@maps_ids
def test_other_numbers_of_heads_are_refused_with_two_ways_out(loss: Loss) -> None:
    with pytest.raises(
        ValueError,
        match=r"2 heads cannot be compared with 4.*as many \(they cost no parameters\).*"
        r"losses\.minilm_relation",
    ):
        loss(student=torch.zeros(1, 2, 3, 3), teacher=torch.zeros(1, 4, 3, 3))


@pytest.mark.parametrize("shape", [(2, 2, 3, 3), (1, 2, 4, 4), (1, 2, 3), (1, 2, 3, 4)])
@maps_ids
def test_maps_of_other_shapes_are_refused(loss: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{loss.__name__} expected maps \[B, H, L, L\] of one"):
        loss(student=torch.zeros(1, 2, 3, 3), teacher=torch.zeros(shape))


def test_maps_that_are_not_square_are_refused() -> None:
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"\[B, H, L, L\]"):
        losses.attention(student=x, teacher=x)


@pytest.mark.parametrize("shape", [(3,), (1, 4), (2, 3), (1, 1, 1, 3)])
@maps_ids
def test_masks_of_other_shapes_are_refused(loss: Loss, shape: tuple[int, ...]) -> None:
    x = torch.full((1, 2, 3, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"expected a mask \[B, L\] = \[1, 3\], true for tokens"):
        loss(student=x, teacher=x, mask=torch.ones(shape))


@pytest.mark.parametrize("heads", [0, 4, 5])
def test_widths_that_cannot_be_cut_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match=rf"student's width 6 cannot be cut into {heads} relation"):
        losses.minilm_relation(student=vectors(0), teacher=vectors(1), heads=heads)


def test_a_teacher_that_cannot_be_cut_is_named() -> None:
    with pytest.raises(ValueError, match=r"the teacher's width 8 cannot be cut into 3.*divisor"):
        losses.minilm_relation(student=vectors(0), teacher=vectors(1, 8), heads=3)


def test_relations_of_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the same texts, got.*one tokenization"):
        losses.minilm_relation(student=vectors(0), teacher=vectors(1)[:, 1:], heads=1)


def test_relations_need_tokens() -> None:
    with pytest.raises(ValueError, match=r"vectors \[B, L, D\], got teacher \[3, 6\]"):
        losses.minilm_relation(student=vectors(0), teacher=vectors(1)[:, 0], heads=1)


@pytest.mark.parametrize("loss", [*ON_MAPS, losses.minilm_relation], ids=lambda f: f.__name__)
def test_nobody_can_swap_the_arguments_or_pass_an_output(loss: Loss) -> None:
    kinds = {p.kind for p in inspect.signature(loss).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    options: dict[str, Any] = {"heads": 1} if loss is losses.minilm_relation else {}
    with pytest.raises(TypeError, match=rf"{loss.__name__} expected two tensors.*tuple"):
        loss(student=(maps(0),), teacher=maps(1), **options)


def test_examples_run() -> None:
    result = doctest.testmod(importlib.import_module("distill_lib.losses.transformer"))
    assert result.attempted > 0 and result.failed == 0
