"""A data set in memory, and walks over it that depend on seed and epoch alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.data import DataError, Dataset, flip_and_shift

CLASSES = ("a", "b", "c")


def make(count: int = 30) -> Dataset:
    inputs = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    return Dataset(inputs, torch.arange(count) % 3, CLASSES, name="toy/train")


def ids(batches) -> list[int]:
    return [int(i) for batch in batches for i in batch["index"]]


def test_items_and_length_and_words():
    data = make()
    assert len(data) == 30
    assert {key: value.shape for key, value in data[4].items()} == {
        "inputs": (1, 4, 4), "labels": (), "index": ()
    }  # fmt: skip
    assert int(data[4]["labels"]) == 1
    assert repr(data) == "Dataset(toy/train: 30 items of 1x4x4, 3 classes)"


@pytest.mark.parametrize(
    ("labels", "index", "words"),
    [
        ([0, 1, 2, 0], [0, 1, 2], r"lengths \(3, 4, 3\)"),
        ([0, 1, 2], [0, 1], r"lengths \(3, 3, 2\)"),
        ([0, 1, 3], [0, 1, 2], "item 2 has label 3, but there are 3 classes"),
        ([0, -1, 2], [0, 1, 2], "item 1 has label -1"),
    ],
)
def test_what_does_not_fit_is_refused(labels, index, words):
    with pytest.raises(DataError, match=words):
        Dataset(torch.zeros(3, 2), torch.tensor(labels), CLASSES, torch.tensor(index))


def test_a_subset_keeps_the_ids():
    part = make().subset([7, 3]).subset(torch.tensor([True, False]))
    assert part.index.tolist() == [7]
    assert part.inputs.mean() == 7
    with pytest.raises(DataError, match="a mask of 2 for 30 items"):
        make().subset(torch.tensor([True, False]))


def test_per_class_takes_the_first_of_each():
    part = make().per_class(2)
    assert part.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.bincount(part.labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize("k", [0, 11])
def test_per_class_refuses_more_than_there_are(k):
    with pytest.raises(DataError, match=f"{k} of each class were asked for; 'a' has 10"):
        make().per_class(k)


def test_without_labels_hides_and_says_so():
    data = make()
    hidden = data.without_labels(data.index >= 6)
    assert hidden.labels[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert set(hidden.labels[6:].tolist()) == {-100}
    assert "24 without label" in repr(hidden)
    assert hidden.per_class(2).index.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.labels.min() == 0
    for mask in (torch.ones(3, dtype=torch.bool), torch.ones(30)):
        with pytest.raises(DataError, match="expected a mask of 30 bools"):
            data.without_labels(mask)


def test_the_fingerprint_sees_inputs_and_ids_but_not_labels():
    data = make()
    print_ = data.fingerprint()
    assert print_ == make().fingerprint() == data.fingerprint()
    assert print_ == data.without_labels(data.index > 3).fingerprint()
    assert print_ != data.subset(range(29)).fingerprint()
    changed = make()
    changed.inputs[3] += 1
    assert changed.fingerprint() != print_
    renamed = Dataset(data.inputs, data.labels, CLASSES, data.index + 1)
    assert renamed.fingerprint() != print_


def test_to_a_device_keeps_everything():
    moved = make().to("cpu")
    assert torch.equal(moved.inputs, make().inputs)
    assert moved.name == "toy/train"


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    seed=st.integers(0, 2**40),
    shuffle=st.booleans(),
)
def test_a_walk_visits_every_item_once(count, batch_size, seed, shuffle):
    batches = make(count).batches(batch_size, seed=seed, shuffle=shuffle)
    walk = list(batches)
    assert len(walk) == len(batches)
    assert sorted(ids(walk)) == list(range(count))
    assert shuffle or ids(walk) == list(range(count))
    for batch in walk:
        assert torch.equal(batch["inputs"].mean((1, 2, 3)).long(), batch["index"])
        assert torch.equal(batch["labels"], batch["index"] % 3)


def test_drop_last_leaves_out_the_rest():
    batches = make().batches(8, drop_last=True)
    assert [len(batch["labels"]) for batch in batches] == [8, 8, 8]
    assert len(batches) == 3
    with pytest.raises(ValueError, match="leaves nothing of 30 items"):
        make().batches(31, drop_last=True)


def test_order_depends_on_seed_and_epoch_alone():
    first, second = make().batches(7, seed=3), make().batches(7, seed=3)
    walks = [ids(first), ids(first)]
    assert walks == [ids(second), ids(second)]
    assert walks[0] != walks[1]
    assert ids(make().batches(7, seed=4)) != walks[0]
    torch.manual_seed(99)
    assert ids(make().batches(7, seed=3)) == walks[0]
    assert first.epoch == 2


def test_a_seed_that_differs_above_32_bits_gives_another_order():
    assert ids(make().batches(7, seed=1)) != ids(make().batches(7, seed=1 + 2**32))


@given(looks=st.lists(st.integers(0, 5), max_size=5), size=st.sampled_from([7, 30, 31]))
def test_a_look_at_the_first_batch_is_no_walk_and_two_batches_are(looks, size):
    batches, again = make().batches(size), make().batches(size)
    walks = 0
    for count in looks:
        list(itertools.islice(batches, count))
        walks += count > 1  # a walk that is over counts as well
    assert batches.epoch == walks
    for _ in range(walks):
        list(again)
    assert ids(batches) == ids(again)


def test_a_walk_broken_off_after_one_batch_can_be_made_to_count():
    batches, whole = make().batches(7), make().batches(7)
    batches.broken_off()
    assert batches.epoch == 0, "there was none"
    next(iter(batches))
    batches.broken_off()
    batches.broken_off()
    list(whole)
    assert batches.epoch == 1 and ids(batches) == ids(whole)


def test_a_state_goes_on_where_it_was_taken():
    batches = make().batches(7, seed=5, augment=flip_and_shift)
    list(batches)
    state = batches.state_dict()
    expected = [batch["inputs"] for _ in range(2) for batch in batches]
    again = make().batches(7, seed=5, augment=flip_and_shift)
    again.load_state_dict(state)
    found = [batch["inputs"] for _ in range(2) for batch in again]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"batch_size": 8}, {"shuffle": False}, {"drop_last": True}]
)
def test_a_state_of_other_batches_is_refused(other):
    state = make().batches(7).state_dict()
    with pytest.raises(ValueError, match="the state is of other batches"):
        make().batches(**{"batch_size": 7, **other}).load_state_dict(state)


@pytest.mark.parametrize("augment", [None, flip_and_shift])
def test_stacked_seeds_see_what_each_would_see_alone(augment):
    seeds = [4, 0, 7]
    together = make().batches(8, seeds=seeds, augment=augment)
    alone = [make().batches(8, seed=seed, augment=augment) for seed in seeds]
    for _ in range(2):
        for batch, *singles in zip(together, *alone, strict=True):
            for key in ("inputs", "labels", "index"):
                assert torch.equal(batch[key], torch.stack([single[key] for single in singles]))


def test_one_stacked_seed_still_has_its_axis():
    assert next(iter(make().batches(8, seeds=[0])))["inputs"].shape == (1, 8, 1, 4, 4)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 4, "seeds": []}])
def test_batches_refuse(arguments):
    with pytest.raises(ValueError, match="batch_size >= 1 and a seed are needed"):
        make().batches(**arguments)


@given(seed=st.integers(0, 1000), reach=st.integers(0, 3))
def test_flip_and_shift_moves_pixels_and_invents_none(seed, reach):
    images = torch.zeros(5, 2, 8, 9)
    images[:, 0, 3:5, 4] = torch.arange(1.0, 6.0)[:, None]
    images[:, 1] = images[:, 0] * 10
    changed = flip_and_shift(images, torch.Generator().manual_seed(seed), reach=reach)
    assert changed.shape == images.shape
    assert torch.equal(changed.flatten(1).sort().values, images.flatten(1).sort().values)
    assert torch.equal(changed[:, 1], changed[:, 0] * 10)
    rows = changed[:, 0].amax(2).argmax(1)
    assert ((rows - 3).abs() <= reach).all()


def test_flip_without_shift_gives_the_image_or_its_mirror():
    images = torch.rand(64, 1, 3, 5)
    changed = flip_and_shift(images, torch.Generator().manual_seed(0), reach=0)
    same = (changed == images).flatten(1).all(1)
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < int(same.sum()) < 48


def test_flip_and_shift_fills_with_the_darkest_and_takes_an_empty_batch():
    images = torch.full((50, 1, 4, 4), 2.0)
    images[0, 0, 0, 0] = -1.0
    changed = flip_and_shift(images, torch.Generator().manual_seed(0))
    assert set(changed.unique().tolist()) == {-1.0, 2.0}
    assert flip_and_shift(images[:0], torch.Generator()).shape == (0, 1, 4, 4)
