"""Texts in the tokens of two tokenizers: spans where they are answered, and first pieces."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from distill_lib import losses
from distill_lib.sequences import reference_text, train_tokenizer
from distill_lib.terms import SpanKD

pytest.importorskip("transformers")

from distill_lib.integrations.transformers import first_pieces, two_tokenizers

TEXTS = ["return the value of the expression", "naïve cafés — 東京", "x"]


@cache
def tokenizer(entries: int, half: bool = False) -> Any:
    text = reference_text()
    return train_tokenizer(text[len(text) // 2 :] if half else text, entries)


def spelled(one: Any, ids: torch.Tensor, spans: torch.Tensor) -> dict[int, str]:
    found: dict[int, list[int]] = {}
    for token, span in zip(ids.tolist(), spans.tolist(), strict=True):
        found.setdefault(span, []).append(token)
    return {span: one.decode(tokens) for span, tokens in found.items() if span >= 0}


@pytest.mark.parametrize("half", [False, True])
def test_spans_spell_the_same_text_on_both_sides(half: bool) -> None:
    small, large = tokenizer(320, half), tokenizer(512)
    batch = two_tokenizers(TEXTS, small, large)
    for row, text in enumerate(TEXTS):
        mine = spelled(small, batch["labels"][row], batch["spans"][row])
        theirs = spelled(large, batch["teacher_labels"][row], batch["teacher_spans"][row])
        assert mine == theirs and sorted(mine) == list(range(len(mine)))
        whole = "".join(mine[k] for k in sorted(mine))
        assert text.endswith(whole) and len(whole) < len(text)
    assert batch["shift_labels"] is batch["labels"]
    assert batch["attention_mask"].sum() == sum(len(small(t).input_ids) for t in TEXTS)


def test_a_batch_feeds_the_term() -> None:
    small, large = tokenizer(320), tokenizer(512)
    batch = two_tokenizers(TEXTS, small, large)
    z = torch.randn(*batch["labels"].shape, len(small), requires_grad=True)
    v = torch.randn(*batch["teacher_labels"].shape, len(large))
    for term in (SpanKD(), SpanKD(losses.uld), SpanKD(losses.kl, first_pieces(small, large))):
        value, _ = term(z, v, batch)
        (grad,) = torch.autograd.grad(value, z)
        assert value > 0 and grad.isfinite().all() and grad.any()


def test_one_tokenizer_twice_is_plain_kd() -> None:
    """Every token is a span and its own first piece."""
    one = tokenizer(320)
    batch = two_tokenizers([TEXTS[0], "def f(x): pass"], one, one)
    z, v = (torch.randn(*batch["labels"].shape, len(one)) for _ in range(2))
    pieces = first_pieces(one, one)
    assert pieces.tolist() == list(range(len(one)))
    got, _ = SpanKD(losses.kl, pieces)(z, v, batch)
    kept = batch["labels"] != -100
    want = losses.kl(student=z[kept], teacher=v[kept])
    torch.testing.assert_close(got, want.mean())


def test_pieces_are_what_the_student_reads_where_both_begin() -> None:
    """Exactly so where the teacher's tokens are made of the student's; mostly so else."""
    text = reference_text("test")[:4000]
    shares = []
    for half in (False, True):
        small, large = tokenizer(320, half), tokenizer(512)
        pieces = first_pieces(small, large)
        mine, theirs = (t(text, return_offsets_mapping=True) for t in (small, large))
        at: dict[int, int] = {}
        for token, (begin, _) in zip(*map(mine.get, FIELDS), strict=True):
            at.setdefault(begin, token)
        pairs = [
            (pieces[token].item(), at[begin])
            for token, (begin, _) in zip(*map(theirs.get, FIELDS), strict=True)
            if begin in at
        ]
        shares.append(sum(a == b for a, b in pairs) / len(pairs))
    assert shares[0] == 1 and 0.9 < shares[1] < 1


FIELDS = ("input_ids", "offset_mapping")


def test_a_token_that_is_no_text_alone_has_no_piece() -> None:
    """Half of a character, which the student does not know as such."""
    small, large = tokenizer(258), train_tokenizer("東京東京東京 " * 50, 264)
    pieces = first_pieces(small, large)
    for name, token in large.get_vocab().items():
        piece = int(pieces[token])
        if piece < 0:
            assert name not in small.get_vocab() and "�" in large.decode([token])
        else:
            assert name.startswith(small.convert_ids_to_tokens(piece))
    assert (pieces < 0).any()


@pytest.mark.parametrize("texts", [[], ()])
def test_no_texts_are_refused(texts: Any) -> None:
    with pytest.raises(ValueError, match="expected texts"):
        two_tokenizers(texts, tokenizer(320), tokenizer(512))


def test_what_tells_no_offsets_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher's str tells no offsets"):
        two_tokenizers(TEXTS, tokenizer(320), "bert")
