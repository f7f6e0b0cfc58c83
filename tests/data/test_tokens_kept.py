"""Tokens that are kept on the disk are read again by the tokenizer that made them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from distill_lib.data import DataError, TextDataset

WORDS = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "c": 4, "d": 5, "A": 6}
TEXTS = TextDataset(("a b c d", "A b"), torch.tensor([1, 0]), ("no", "yes"))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))


def fast(**settings: Any) -> Any:
    made = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = {"pad_token": "[PAD]", "unk_token": "[UNK]", **settings}
    return PreTrainedTokenizerFast(tokenizer_object=made, **settings)


class InPython(PreTrainedTokenizer):
    """Two tokenizers of one vocabulary, by a setting."""

    def __init__(self, lower: bool, **settings: Any) -> None:
        self.lower = lower
        super().__init__(pad_token="[PAD]", unk_token="[UNK]", lower=lower, **settings)

    @property
    def vocab_size(self) -> int:
        return len(WORDS)

    def get_vocab(self) -> dict[str, int]:
        return WORDS

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return (text.lower() if self.lower else text).split()

    def _convert_token_to_id(self, token: str) -> int:
        return WORDS.get(token, 1)

    def _convert_id_to_token(self, index: int) -> str:
        return list(WORDS)[index]


@pytest.mark.parametrize(
    "makers",
    [
        [lambda: fast(), lambda: fast(truncation_side="left")],
        [lambda: InPython(True), lambda: InPython(False)],
    ],
)
def test_tokenizers_that_say_otherwise_share_no_tokens(makers: list[Any]) -> None:
    for make in [*makers, *makers]:  # made, and read again
        ids = TEXTS.tokenize(make(), max_length=3).tokens.ids.tolist()
        want = make()(list(TEXTS.texts), truncation=True, max_length=3)["input_ids"]
        assert ids == [i for row in want for i in row]


def test_a_tokenizer_that_cannot_pad_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        TEXTS.tokenize(fast(pad_token=None), max_length=3)
