"""Special tokens are spelled with letters and are none of them; texts without tokens are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distill_lib.integrations.transformers import first_pieces, two_tokenizers
from distill_lib.integrations.trl.templates import check_templates
from distill_lib.sequences import reference_text, train_tokenizer

TEXT = reference_text()[:20_000]


def tokenizer(entries: int, *special: str) -> Any:
    made = train_tokenizer(TEXT, entries)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


@pytest.mark.parametrize("names", [("<|end|>",), ("return", "<b>"), ("[SEP]", "the", " x")])
def test_a_special_token_begins_with_no_letter(names: tuple[str, ...]) -> None:
    mine, theirs = tokenizer(300), tokenizer(400, *names)
    pieces = first_pieces(mine, theirs)
    plain = first_pieces(mine, tokenizer(400))
    for token in theirs.convert_tokens_to_ids(list(names)):
        known = theirs.convert_ids_to_tokens(token) in mine.get_vocab()
        assert known or pieces[token] == -1
    same = [i for i in range(len(plain)) if i not in theirs.all_special_ids]
    assert pieces[same].equal(plain[same])
    # by one name they are one
    assert pieces[theirs.eos_token_id] == mine.eos_token_id
    both = first_pieces(tokenizer(300, *names), theirs)
    assert (both[theirs.convert_tokens_to_ids(list(names))] >= 0).all()


@pytest.mark.parametrize("at", range(3))
def test_a_text_without_a_token_is_named(at: int) -> None:
    texts = ["return the value", "def f(x): pass"]
    texts.insert(at, "")
    with pytest.raises(ValueError, match=r"two_tokenizers expected texts .* got '': leave it out"):
        two_tokenizers(texts, tokenizer(300), tokenizer(400))
    one = two_tokenizers(["a"], tokenizer(300), tokenizer(400))
    assert one["spans"].equal(torch.tensor([[-100]]))


@pytest.mark.parametrize("count", [0, 1])
def test_templates_are_compared_on_a_conversation(count: int) -> None:
    mine = tokenizer(300)
    mine.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match=f"a question and an answer at least, got {count}"):
        check_templates(mine, mine, [{"role": "user", "content": "x"}] * count)
