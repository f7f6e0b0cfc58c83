"""Texts keep their ids, labels and ratings; batches lose nothing, and padding costs little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib import Cache, data
from distill_lib.data import DataError, TextDataset
from distill_lib.data.text import Tokens

CLASSES = ("negative", "positive")


class Letters:
    """A tokenizer of letters, called like those of Transformers; counts how often it is asked."""

    model_max_length, pad_token_id = 64, 0

    def __init__(self) -> None:
        self.asked = 0

    def get_vocab(self) -> dict[str, int]:
        return {chr(96 + i): i for i in range(1, 27)}

    def __call__(self, texts: list[str], truncation: bool, max_length: int) -> dict[str, list]:
        self.asked += 1
        return {"input_ids": [[27, *(ord(c) - 96 for c in t)][:max_length] for t in texts]}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    return tmp_path


def made(count: int = 30, seed: int = 0) -> TextDataset:
    rng = np.random.default_rng(seed)
    texts = tuple("".join(rng.choice(list("abcxyz"), 1 + i % 9)) for i in range(count))
    ratings = torch.from_numpy(rng.integers(0, 4, (count, 9))) + 1
    return TextDataset(
        texts, torch.arange(count) % 2, CLASSES, torch.arange(count) + 100, ratings, name="made"
    )


def test_tokens_are_those_of_the_tokenizer_and_kept_on_the_disk(own_cache):
    tokenizer = Letters()
    tokens = made().tokenize(tokenizer).tokens
    assert tokens.lengths().tolist() == [2 + i % 9 for i in range(30)]
    again = made().tokenize(tokenizer).tokens
    assert tokenizer.asked == 1 and torch.equal(tokens.ids, again.ids)
    file = next((own_cache / "tokens").glob("*.npz"))
    file.write_bytes(b"torn")
    assert torch.equal(made().tokenize(tokenizer).tokens.ids, tokens.ids)
    assert tokenizer.asked == 2


def test_other_texts_lengths_and_tokenizers_are_not_mixed_up():
    class Shifted(Letters):
        def get_vocab(self) -> dict[str, int]:
            return {"a": 5}

    tokenizer = Letters()
    for dataset, length in ((made(), 16), (made(), 5), (made(seed=1), 16)):
        dataset.tokenize(tokenizer, length)
    assert tokenizer.asked == 3
    other = Shifted()
    made().tokenize(other, 16)
    assert other.asked == 1


def test_where_nothing_can_be_written_tokens_are_made_each_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "file"))
    tokenizer = Letters()
    made().tokenize(tokenizer)
    made().tokenize(tokenizer)
    assert tokenizer.asked == 2


def test_longer_texts_lose_their_end_and_the_limit_is_the_models():
    cut = made().tokenize(Letters(), 4).tokens
    assert cut.lengths().max() == 4
    for length in (65, 2):
        with pytest.raises(DataError, match=f"max_length={length}, but .* from 3 to 64 tokens"):
            made().tokenize(Letters(), length)


@given(count=st.integers(1, 60), size=st.integers(1, 13), seed=st.integers(0, 99))
def test_each_text_comes_once_an_epoch_with_its_own_words(count, size, seed):
    texts = made(count).tokenize(Letters())
    batches = texts.batches(size, seed=seed)
    for _ in range(2):
        seen = []
        for batch in batches:
            for ids, mask, index in zip(
                batch["input_ids"], batch["attention_mask"], batch["index"], strict=True
            ):
                word = "".join(chr(96 + i) for i in ids[mask.bool()][1:].tolist())
                assert word == texts.texts[int(index) - 100]
                assert not ids[~mask.bool()].any()
                seen.append(int(index))
        assert sorted(seen) == list(range(100, 100 + count))


def test_batches_differ_by_epoch_and_seed_and_resume():
    texts = made().tokenize(Letters())
    walks = texts.batches(4, seed=3)
    first, second = ([b["index"].tolist() for b in walks] for _ in range(2))
    assert first != second
    assert first == [b["index"].tolist() for b in texts.batches(4, seed=3)]
    assert first != [b["index"].tolist() for b in texts.batches(4, seed=4)]
    resumed = texts.batches(4, seed=3)
    resumed.load_state_dict({**walks.state_dict(), "epoch": 1})
    assert [b["index"].tolist() for b in resumed] == second


def test_without_shuffling_the_order_is_that_of_the_data():
    texts = made().tokenize(Letters())
    batches = texts.batches(7, shuffle=False)
    assert torch.cat([b["index"] for b in batches]).tolist() == texts.index.tolist()


def test_bucketing_saves_padding():
    texts = made(800).tokenize(Letters())

    def padding(batches) -> float:
        kept = total = 0
        for batch in batches:
            kept += int(batch["attention_mask"].sum())
            total += batch["attention_mask"].numel()
        return 1 - kept / total

    assert padding(texts.batches(8)) < 0.1 < 0.3 < padding(texts.batches(8, shuffle=False))
    assert padding(texts.by_length().batches(8, shuffle=False)) < 0.02


def test_stacked_batches_hold_what_each_seed_sees_alone():
    texts = made().tokenize(Letters())
    together = texts.batches(8, seeds=[5, 6])
    alone = [texts.batches(8, seed=s) for s in (5, 6)]
    for both, *each in zip(together, *alone, strict=True):
        assert both["mask"].all() and both["mask"].shape == both["labels"].shape
        for s, one in enumerate(each):
            assert torch.equal(both["index"][s], one["index"])
            length = one["input_ids"].shape[1]
            assert torch.equal(both["input_ids"][s, :, :length], one["input_ids"])
            assert not both["input_ids"][s, :, length:].any()


def test_human_shares_count_a_zero_as_half_a_rater_for_each_side():
    ratings = torch.tensor([[1, 0, 0, 1, 2, 0, 0, 0, 4], [0, 0, 0, 0, 0, 3, 0, 0, 0]])
    two = TextDataset(("a", "b"), torch.tensor([1, 1]), CLASSES, ratings=ratings)
    assert torch.allclose(two.human, torch.tensor([[3 / 8, 5 / 8], [0.0, 1.0]]))
    assert torch.allclose(two.mean_rating, torch.tensor([(16 - 4 - 1) / 8, 1.0]))
    batch = next(iter(two.tokenize(Letters()).batches(2, shuffle=False)))
    assert torch.equal(batch["human"], two.human)


def test_without_ratings_there_is_no_human_share():
    bare = TextDataset(("a",), torch.tensor([0]), CLASSES, name="bare")
    for what in ("human", "mean_rating"):
        with pytest.raises(DataError, match="bare has no human ratings"):
            getattr(bare, what)
    assert "human" not in next(iter(bare.tokenize(Letters()).batches(1)))


def test_subsets_keep_ids_tokens_and_ratings():
    texts = made().tokenize(Letters())
    part = texts.subset(texts.labels == 1)
    assert part.index.tolist() == texts.index[1::2].tolist()
    assert torch.equal(part.human, texts.human[1::2])
    assert part.tokens.lengths().tolist() == texts.tokens.lengths()[1::2].tolist()
    assert part[3]["input_ids"].tolist() == texts[7]["input_ids"].tolist()
    with pytest.raises(DataError, match="a mask of 2 for 30 texts"):
        texts.subset(torch.tensor([True, False]))


def test_the_first_of_each_class():
    assert made().per_class(2).index.tolist() == [100, 101, 102, 103]
    with pytest.raises(DataError, match="16 of each class were asked for; 'negative' has 15"):
        made().per_class(16)


def test_labels_can_be_hidden():
    texts = made()
    assert (texts.without_labels().labels == -100).all()
    assert "30 without label" in repr(texts.without_labels())
    hidden = texts.without_labels(texts.labels == 0).labels
    assert hidden.tolist() == [-100, 1] * 15
    with pytest.raises(DataError, match="expected a mask of 30 bools"):
        texts.without_labels(torch.ones(30))


def test_two_sets_become_one():
    texts = made().tokenize(Letters())
    one, two = texts.subset(range(10)), texts.subset(range(10, 30))
    both = one + two
    assert both.fingerprint() == texts.fingerprint() and both.texts == texts.texts
    assert torch.equal(both.ratings, texts.ratings) and both.name == "made+made"
    untold = TextDataset(("z",), torch.tensor([0]), CLASSES)
    mixed = one + untold
    assert mixed.tokens is None and mixed.ratings is None
    with pytest.raises(DataError, match="made and made share ids, such as 100"):
        one + one
    with pytest.raises(DataError, match="has classes"):
        one + TextDataset(("z",), torch.tensor([0]), ("no", "yes"))


def test_bad_data_are_refused_by_name():
    good = {"texts": ("a", "b"), "labels": torch.tensor([0, 1]), "classes": CLASSES, "name": "x"}
    with pytest.raises(DataError, match=r"x: text 1 \(id 1\) is empty: leave it out"):
        TextDataset(**{**good, "texts": ("a", "  ")})
    with pytest.raises(DataError, match="x: text 0 has label 2, but there are 2 classes"):
        TextDataset(**{**good, "labels": torch.tensor([2, 1])})
    with pytest.raises(DataError, match=r"have lengths \[2, 1, 2\]"):
        TextDataset(**{**good, "labels": torch.tensor([1])})
    with pytest.raises(DataError, match="x has no tokens yet: call tokenize"):
        TextDataset(**good).batches(2)


def test_fingerprints_follow_words_and_ids_and_not_labels():
    texts = made().tokenize(Letters())
    assert texts.fingerprint() == texts.without_labels().fingerprint()
    assert texts.fingerprint() != made().fingerprint() != made(seed=1).fingerprint()
    assert texts.fingerprint() != texts.subset(range(29)).fingerprint()
    shifted = TextDataset(texts.texts, texts.labels, CLASSES, texts.index + 1, tokens=texts.tokens)
    assert texts.fingerprint() != shifted.fingerprint()


def test_a_cache_over_sorted_texts_answers_in_any_order(tmp_path):
    texts = made().tokenize(Letters())

    class Sums:
        def fingerprint(self) -> str:
            return "sums"

        def __call__(self, batch):
            return {"logits": batch["input_ids"].sum(1, keepdim=True).float()}

    cache = Cache.build(tmp_path / "x.cache", Sums(), texts.by_length(), block=7)
    for batch in texts.batches(8, seed=1):
        assert torch.equal(cache(batch)["logits"], Sums()(batch)["logits"])


def test_padding_never_reads_beyond_the_last_text():
    tokens = Tokens(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]))
    ids, mask = tokens.padded(torch.tensor([1, 0]))
    assert ids.tolist() == [[3, 0], [1, 2]] and mask.tolist() == [[1, 0], [1, 1]]


def test_the_names_of_the_data_sets():
    assert {"movie_reviews", "tweets", "amazon_reviews", "editorials", "sst2"} < set(data.names())
