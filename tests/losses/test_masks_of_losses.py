"""Masks of losses are no numbers that are added to scores, and spans may be none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import losses

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
MAPS = [torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(2)]
STATES = [torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)]
HEAD = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))


def fused(mask: Tensor) -> Tensor:
    heads = {"student_head": HEAD, "teacher_head": HEAD}
    return losses.fused_divergence(student=STATES[0], teacher=STATES[1], **heads, mask=mask)


def of(loss: Callable[..., Tensor], pair: list[Tensor], **k: Any) -> Callable[[Tensor], Tensor]:
    return lambda mask: loss(student=pair[0], teacher=pair[1], mask=mask, **k)


LOSSES = {
    "attention": of(losses.attention, MAPS),
    "attention_scores": of(losses.attention_scores, MAPS),
    "attention_kl": of(losses.attention_kl, MAPS),
    "minilm_relation": of(losses.minilm_relation, STATES, heads=2),
    "fused_divergence": fused,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_mask_says_what_counts(name: str) -> None:
    want = LOSSES[name](MASK.bool())
    for form in (torch.float32, torch.uint8, torch.int64, torch.bfloat16):
        assert LOSSES[name](MASK.to(form)).equal(want)
    for least in (-1e9, -torch.inf, torch.finfo(torch.float32).min):
        added = torch.zeros(MASK.shape).masked_fill(MASK == 0, least)
        with pytest.raises(ValueError, match=rf"{name}.* added to scores"):
            LOSSES[name](added)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0,), (2, 0)])
def test_no_span_has_no_sum(shape: tuple[int, ...]) -> None:
    none = torch.full(shape[-1:], -100)
    assert losses.span_sums(torch.randn(shape), none, 0).shape == (*shape[:-1], 0)
    with pytest.raises(ValueError, match=r"spans .* run to 0"):
        losses.span_sums(torch.randn(*shape[:-1], 2), torch.zeros(2).long(), 0)


@pytest.mark.parametrize("ends", [([], []), ([], [1, 2]), ([3], []), ([0], [0, 0])])
def test_spans_are_whole_numbers_also_of_no_text(ends: tuple[list[int], list[int]]) -> None:
    for found, places in zip(losses.align(*ends), ends, strict=True):
        assert found.dtype == torch.int64 and found.tolist() == [-100] * len(places)
        assert losses.span_sums(torch.zeros(len(places)), found, 0).shape == (0,)
