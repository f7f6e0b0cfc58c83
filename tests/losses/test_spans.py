"""Spans of two tokenizations: alignment, the chain rule, and the divergence on them."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.losses import align, kl, span_kl, span_sums

CUTS = st.lists(st.integers(1, 29), unique=True, max_size=20).map(lambda x: [*sorted(x), 30])


@given(CUTS, CUTS)
def test_law_spans_are_the_finest_that_both_can_spell(mine: list[int], theirs: list[int]) -> None:
    a, b = align(mine, theirs)
    shared = sorted({*mine} & {*theirs})
    for ends, spans in ((mine, a), (theirs, b)):
        # each span is the tokens between two shared places, in order and without a hole
        assert spans.tolist() == [sum(place < end for place in shared) for end in ends]
    assert int(a.max()) + 1 == int(b.max()) + 1 == len(shared)


@given(CUTS)
def test_law_one_tokenizer_has_a_span_a_token(ends: list[int]) -> None:
    a, b = align(ends, ends)
    assert a.tolist() == b.tolist() == list(range(len(ends)))


def test_special_tokens_and_cut_texts_have_no_span() -> None:
    a, b = align([0, 3, 5, 9, 0], [1, 3, 5])
    assert a.tolist() == [-100, 0, 1, -100, -100] and b.tolist() == [0, 0, 1]


def test_several_tokens_may_spell_one_character() -> None:
    """A byte-level tokenizer: three tokens end at the same place, and only the last ends it."""
    a, b = align([1, 2, 2, 2, 3], [2, 3])
    assert a.tolist() == [0, 0, 0, 0, 1] and b.tolist() == [0, 1]


@pytest.mark.parametrize("bad", [[3, 2, 5], [5, 9, 1, 4]])
def test_offsets_of_several_texts_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="one text at a time"):
        align(bad, [9])


def test_real_tokenizers_agree_on_what_they_spell() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import models, pre_tokenizers, trainers

    text = "naïve cafés — 東京 at 7 a.m., and the café's own; the théâtre of the other"
    found = []
    for entries in (270, 330):
        one = tokenizers.Tokenizer(models.BPE())
        one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=entries, initial_alphabet=alphabet, show_progress=False
        )
        one.train_from_iterator([text] * 3, trainer)
        found.append([end for _, end in one.encode(text).offsets])
    a, b = align(*found)
    assert len(a) > len(b) and int(a.max()) == int(b.max()) and min(a.min(), b.min()) == 0
    for spans, ends in zip((a, b), found, strict=True):
        last = {int(s): end for s, end in zip(spans, ends, strict=True)}
        assert sorted(last.values()) == list(last.values())
    assert {int(s): e for s, e in zip(a, found[0], strict=True)} == {
        int(s): e for s, e in zip(b, found[1], strict=True)
    }


def test_a_span_is_the_sum_of_its_tokens() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    spans = torch.tensor([[0, 0, 1, -100], [-100, 2, 2, 0]])
    assert span_sums(values, spans, 3).tolist() == [[3, 4, 0], [128, 0, 96]]
    both = span_sums(torch.stack([values, 2 * values]), spans, 3)
    assert both[1].tolist() == [[6, 8, 0], [256, 0, 192]]
    assert torch.autograd.gradcheck(
        lambda x: span_sums(x, spans, 3), values.double().requires_grad_()
    )


@pytest.mark.parametrize(("count", "shape"), [(1, (2, 4)), (3, (2, 3)), (3, (4,))])
def test_spans_of_others_are_refused(count: int, shape: tuple[int, ...]) -> None:
    values = torch.zeros(2, 4) if shape != (4,) else torch.zeros(4, 2)
    spans = torch.full(shape, 2)
    with pytest.raises(ValueError, match=r"span_sums"):
        span_sums(values, spans, count)


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_law_span_kl_is_the_binary_divergence(a: float, b: float) -> None:
    log_q, log_p = torch.tensor([a, b], dtype=torch.float64)
    got = span_kl(student=log_q, teacher=log_p).item()
    q, p = (min(math.exp(x), 1 - 2.3e-16) for x in (a, b))
    want = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert got == pytest.approx(want, rel=1e-6, abs=1e-9) and got >= -1e-12


def test_law_the_chain_rule_and_data_processing() -> None:
    """Of two tokens: a span's number tells at most what the two positions tell."""
    draw = torch.Generator().manual_seed(1)
    first = torch.randn(2, 3, generator=draw, dtype=torch.float64).log_softmax(-1)
    second = torch.randn(2, 3, 3, generator=draw, dtype=torch.float64).log_softmax(-1)
    whole = kl(student=first[0], teacher=first[1])
    whole = whole + (first[1].exp() * kl(student=second[0], teacher=second[1])).sum()
    for a, b in product(range(3), repeat=2):
        tokens = torch.stack([first[:, a], second[:, a, b]], -1)
        log_q, log_p = span_sums(tokens, torch.tensor([0, 0]), 1)[:, 0]
        assert 0 <= span_kl(student=log_q, teacher=log_p) <= whole


def test_span_kl_gradient_and_ends() -> None:
    log_q = torch.tensor([-1.0, -0.1, -5.0], dtype=torch.float64, requires_grad=True)
    log_p = torch.tensor([-0.5, -2.0, -1e-3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: span_kl(student=x, teacher=log_p), log_q)
    ends = torch.tensor([0.0, -math.inf, -1e-9, -200.0], requires_grad=True)
    value = span_kl(student=ends, teacher=ends.detach())
    value.sum().backward()
    assert value.abs().max() < 1e-6 and ends.grad is not None and ends.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(3), torch.zeros(4), "differ"),
        (torch.ones(3), torch.zeros(3), "log-probabilities"),
    ],
)
def test_what_does_not_fit_is_refused(student: Any, teacher: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        span_kl(student=student, teacher=teacher)
