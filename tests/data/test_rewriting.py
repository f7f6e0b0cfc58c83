"""Rewritten texts: stretches of old ones, with words replaced by neighbors, and no labels."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.data import DataError, TextDataset, neighbors, rewrite
from distill_lib.data.text import Tokens

CLS, SEP, WORDS = 1, 2, 12
NAMES = ["[PAD]", "[CLS]", "[SEP]", *(2 * chr(97 + i) for i in range(WORDS - 1)), "##s"]
TABLE = torch.randn(len(NAMES), 4, generator=torch.Generator().manual_seed(0))


class Doubles:
    """Knows doubled letters and an ending."""

    def convert_ids_to_tokens(self, ids):
        return [NAMES[i] for i in ids]


def made(count: int = 40) -> TextDataset:
    draw = torch.Generator().manual_seed(1)
    rows = []
    for i in range(count):
        inner = torch.randint(3, len(NAMES), (1 + i % 7,), generator=draw)
        inner[0] = 3  # an ending has something to end
        rows.append(torch.cat([torch.tensor([CLS]), inner, torch.tensor([SEP])]))
    starts = torch.tensor([0, *map(len, rows)]).cumsum(0)
    tokens = Tokens(torch.cat(rows).int(), starts)
    texts = tuple(f"text {i}" for i in range(count))
    return TextDataset(texts, torch.arange(count) % 2, ("no", "yes"), tokens=tokens)


def rows_of(texts: TextDataset) -> list[list[int]]:
    bounds = texts.tokens.starts.tolist()
    return [texts.tokens.ids[a:b].tolist() for a, b in itertools.pairwise(bounds)]


def test_neighbors_are_the_most_alike_and_never_the_word_itself():
    pieces = torch.arange(3, len(NAMES))
    found = neighbors(TABLE, pieces, 2)
    likeness = torch.nn.functional.cosine_similarity(
        TABLE[pieces][:, None], TABLE[pieces][None], dim=-1
    ).fill_diagonal_(-1)
    assert torch.equal(found, pieces[likeness.topk(2).indices])
    assert not (found == pieces[:, None]).any()
    with pytest.raises(DataError, match="12 neighbors were asked for among 12 pieces"):
        neighbors(TABLE, pieces, len(pieces))


def test_with_nothing_to_swap_or_cut_the_texts_stay_as_they_are():
    old = made()
    new = rewrite(old, Doubles(), TABLE, swap=0.0, whole=1.0, near=2, copies=2, first=500)
    assert rows_of(new) == 2 * rows_of(old)
    assert new.index.tolist() == list(range(500, 580))
    assert (new.labels == -100).all() and new.ratings is None and new.classes == old.classes


def test_cut_texts_are_stretches_between_the_same_ends():
    old, new = made(), rewrite(made(), Doubles(), TABLE, swap=0.0, whole=0.0, near=2, copies=3)
    shorter = 0
    for before, after in zip(3 * rows_of(old), rows_of(new), strict=True):
        assert after[0] == CLS and after[-1] == SEP and len(after) >= 3
        inner = after[1:-1]
        places = range(1, len(before) - len(inner))
        assert any(before[at : at + len(inner)] == inner for at in places)
        shorter += len(after) < len(before)
    assert shorter > 30


def test_words_are_swapped_for_their_neighbors_and_endings_stay():
    old, new = made(), rewrite(made(), Doubles(), TABLE, swap=1.0, whole=1.0, near=2)
    words = torch.arange(3, len(NAMES) - 1)
    near = dict(zip(words.tolist(), neighbors(TABLE, words, 2).tolist(), strict=True))
    for before, after in zip(rows_of(old), rows_of(new), strict=True):
        for one, other in zip(before, after, strict=True):
            assert other in near.get(one, [one])


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_texts_are_spelled_as_their_tokens_and_the_seed_decides(seed, swap, whole):
    options = {"swap": swap, "whole": whole, "near": 2, "seed": seed}
    new = rewrite(made(12), Doubles(), TABLE, **options)
    again = rewrite(made(12), Doubles(), TABLE, **options)
    assert new.fingerprint() == again.fingerprint() and new.texts == again.texts
    for text, row in zip(new.texts, rows_of(new), strict=True):
        spelled = " ".join(NAMES[i] for i in row[1:-1]).replace(" ##", "")
        assert text == spelled.removeprefix("##")


def test_texts_without_tokens_are_refused():
    bare = TextDataset(("a",), torch.tensor([0]), ("no", "yes"))
    with pytest.raises(DataError, match="call tokenize"):
        rewrite(bare, Doubles(), TABLE)
