"""Padding counts for nothing wherever it stands, and what is no id or mask is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib.models import BagOfEmbeddings, BiLSTM, SmallGPT, Words, small_bert, small_llama

PIECES = torch.arange(1, 20)
LENGTHS = (5, 3, 1, 4)


def bag(bigrams: int = 0) -> nn.Module:
    torch.manual_seed(0)
    model = BagOfEmbeddings(PIECES, 4, bigrams=bigrams)
    if model.pairs is not None:
        nn.init.normal_(model.pairs.weight)
    return model.eval()


def lstm() -> nn.Module:
    torch.manual_seed(0)
    return BiLSTM(PIECES, 4, 4).eval()


READERS = {"bag": bag, "pairs": lambda: bag(7), "lstm": lstm}


def texts(left: bool, fill: int, wide: int = 7) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Texts of several lengths in one tensor, their mask, and each alone."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 20, (n,), generator=draw) for n in LENGTHS]
    ids, mask = torch.full((len(rows), wide), fill), torch.zeros(len(rows), wide).long()
    for k, row in enumerate(rows):
        at = slice(wide - len(row), None) if left else slice(len(row))
        ids[k, at], mask[k, at] = row, 1
    return ids, mask, rows


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("fill", [0, 7])
def test_a_padded_text_is_read_as_it_is_alone(name: str, left: bool, fill: int) -> None:
    """By the mask, where padding is a word that there is: tokenizers have other ids for it."""
    model = READERS[name]()
    ids, mask, rows = texts(left, fill)
    want = torch.cat([model(row[None]) for row in rows])
    for form in (mask, mask.bool(), mask.float(), mask.tolist()):
        torch.testing.assert_close(model(ids, form), want)
    if fill == 0:
        torch.testing.assert_close(model(ids), want)


@pytest.mark.parametrize("name", READERS)
def test_a_text_without_a_word_is_no_nan(name: str) -> None:
    model = READERS[name]()
    assert model(torch.zeros(2, 3, dtype=torch.int64)).equal(model.head.bias.expand(2, 2))


@pytest.mark.parametrize("name", READERS)
def test_masks_that_are_none_are_refused(name: str) -> None:
    model, (ids, mask, _) = READERS[name](), texts(False, 0)
    with pytest.raises(ValueError, match="added to scores"):
        model(ids, torch.zeros(ids.shape).masked_fill(mask == 0, -1e9))
    with pytest.raises(ValueError, match=r"expected a mask \[4, 7\]"):
        model(ids, mask[:, :6])


@pytest.mark.parametrize("name", [*READERS, "words"])
def test_ids_are_whole_numbers_from_0(name: str) -> None:
    """A table that is indexed by -1 gives its last row, by True or by bytes a part of itself."""
    model = Words(PIECES, 4) if name == "words" else READERS[name]()
    ids, _, _ = texts(False, 0)
    want = model(ids)
    for form in (torch.uint8, torch.int16, torch.int32):
        assert model(ids.to(form)).equal(want)
    for wrong in (ids - 1, ids.masked_fill(ids == 0, -100)):
        with pytest.raises(ValueError, match="expected ids from 0 on"):
            model(wrong)
    for odd in (ids.bool(), ids.float()):
        with pytest.raises(TypeError, match="expected ids as a tensor of whole numbers"):
            model(odd)


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch's own, of its LSTM
@pytest.mark.parametrize("name", READERS)
def test_it_is_exported_as_it_reads(name: str) -> None:
    model, (ids, mask, _) = READERS[name](), texts(True, 7)
    program = torch.export.export(model, (ids, mask)).module()
    torch.testing.assert_close(program(ids, mask), model(ids, mask))
    if name == "lstm":  # which torch does not stack
        return
    both = torch.stack([ids, ids.flip(0)])
    torch.testing.assert_close(torch.vmap(model)(both)[1], model(ids.flip(0)))


# ---- SmallGPT ----


@pytest.mark.parametrize("seeds", [None, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cuts", [(1, 6), (3, 4), (2, 2, 3), (6, 1), (1, 1, 5)])
def test_a_text_may_be_read_in_parts(
    seeds: int | None, masked: bool, cuts: tuple[int, ...]
) -> None:
    model = SmallGPT(16, seeds=seeds, seed=3)
    ids = torch.randint(16, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    whole = model(ids, mask if masked else None)
    past: dict[Any, Any] = {}
    parts = [
        model(some, kept if masked else None, past)
        for some, kept in zip(ids.split(cuts, 1), mask.split(cuts, 1), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, -2), whole, rtol=1e-4, atol=1e-5)


def test_other_ids_and_masks_of_a_gpt_are_refused() -> None:
    model, ids = SmallGPT(16), torch.ones(2, 3, dtype=torch.int64)
    for form in (torch.uint8, torch.int16, torch.int32):
        assert model(ids.to(form)).equal(model(ids))
    for odd in (ids.bool(), ids.float(), ids.tolist()):
        with pytest.raises(ValueError, match=r"SmallGPT expected ids.* as integers"):
            model(odd)
    for shape in ((1, 3), (2, 1), (2, 4)):
        with pytest.raises(ValueError, match="a mask of the shape of the ids"):
            model(ids, torch.ones(shape, dtype=torch.int64))
    past: dict[Any, Any] = {}
    model(ids, None, past)
    with pytest.raises(ValueError, match="a text of 53 tokens"):
        model(torch.ones(2, 50, dtype=torch.int64), None, past)
    assert past["length"] == 3  # as if nothing had been asked


# ---- settings by two names ----


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("num_labels", "labels"),
        ("hidden_size", "hidden"),
        ("num_attention_heads", "heads"),
        ("hidden_dropout_prob", "dropout"),
        ("vocab_size", "vocabulary"),
    ],
)
def test_a_setting_has_one_name(name: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f"small_bert has {name} as {ours}=: give it once"):
        small_bert(PIECES, layers=1, hidden=8, **{name: 3})


def test_other_settings_are_heard() -> None:
    bert = small_bert(PIECES, layers=1, hidden=8, attention_probs_dropout_prob=0.5)
    assert bert.config.attention_probs_dropout_prob == 0.5
    with pytest.raises(ValueError, match=r"labels=2 and id2label of 3"):
        small_bert(PIECES, layers=1, hidden=8, id2label={0: "a", 1: "b", 2: "c"})
    llama: Callable[..., Any] = small_llama
    assert llama(16, hidden=8, heads=2, num_key_value_heads=1).config.num_key_value_heads == 1
    for settings in (dict(hidden_size=16), dict(vocab_size=99), dict(eos_token_id=3)):
        with pytest.raises(TypeError, match="give it once"):
            llama(16, hidden=8, heads=2, **settings)
    for wrong in (dict(pad=16), dict(stop=-1), dict(intermediate=0), dict(hidden=6)):
        with pytest.raises(ValueError, match="expected"):
            llama(16, **{"hidden": 8, "heads": 2, **wrong})
