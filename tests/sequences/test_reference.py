"""The reference's text and its tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib import zoo
from distill_lib.sequences import reference_text, train_tokenizer

pytest.importorskip("transformers", reason="needs 🤗 Transformers: python make.py setup")


def test_the_parts_make_the_whole() -> None:
    train, test = reference_text("train"), reference_text("test")
    assert train + test == reference_text("all")
    assert len(test) * 8 < len(train) and len(train) > 100_000


@given(st.text(min_size=1))
@settings(deadline=None, max_examples=50)
def test_every_text_can_be_read_back(text: str) -> None:
    tokenizer = zoo.reference_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_tokenizer_of_ones_own() -> None:
    tokenizer = train_tokenizer("spam spam spam", entries=260)
    assert tokenizer.pad_token_id == 0 and tokenizer.eos_token_id == 1
    assert tokenizer.padding_side == "left"
    assert len(tokenizer("spam").input_ids) < 4


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="split is one of"):
        reference_text("dev")
    with pytest.raises(ValueError, match="258 or more"):
        train_tokenizer("text", entries=100)
    with pytest.raises(ValueError, match="empty"):
        train_tokenizer("")
