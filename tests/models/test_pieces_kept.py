"""Students over a whole vocabulary, of which they keep a few pieces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.zoo import Words, small_bert

PIECES = torch.tensor([3, 7, 20, 101])
SIZES = {"layers": 1, "hidden": 8, "heads": 2, "max_length": 8}


@given(st.integers(1, 300), st.lists(st.integers(0, 400), min_size=1, max_size=20))
def test_a_vocabulary_changes_no_row(vocabulary, ids):
    plain = Words(PIECES, 2)
    if vocabulary <= 101:
        with pytest.raises(ValueError, match=f"below {vocabulary}; got"):
            Words(PIECES, 2, vocabulary=vocabulary)
        return
    words = Words(PIECES, 2, vocabulary=vocabulary)
    assert len(words.lookup) == vocabulary
    assert words.embedding.weight.shape == plain.embedding.weight.shape
    assert torch.equal(words.rows(torch.tensor(ids)), plain.rows(torch.tensor(ids)))


def test_padding_is_in_the_vocabulary_too():
    with pytest.raises(ValueError, match="vocabulary expected 500 ids or more, got 200"):
        Words(PIECES, 2, pad=499, vocabulary=200)
    for none in (0, -3):
        with pytest.raises(ValueError, match=f"vocabulary expected .* of 1 or more, got {none}"):
            Words(PIECES, 2, vocabulary=none)


def test_every_id_of_the_tokenizer_is_read_after_from_pretrained(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = small_bert(PIECES, vocabulary=200, **SIZES).eval()
    assert model.config.vocab_size == 200
    model.save_pretrained(tmp_path)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for ids in torch.arange(200).split(8):
        one = ids[None]
        assert torch.equal(plain(one).logits, model(one).logits)
    again = small_bert(PIECES, vocabulary=200, **SIZES).eval()
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again(torch.tensor([[101, 150, 3]])).logits,
                       model(torch.tensor([[101, 150, 3]])).logits)  # fmt: skip
    with pytest.raises(ValueError, match=r"largest id is 101: .* of another vocabulary="):
        small_bert(PIECES, **SIZES).load_state_dict(plain.state_dict(), strict=False)


def test_states_of_before_are_read_where_no_vocabulary_is_named():
    old = small_bert(PIECES, **SIZES)
    assert len(old.get_input_embeddings().lookup) == 102
    small_bert(PIECES, **SIZES).load_state_dict(old.state_dict())
