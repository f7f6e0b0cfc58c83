"""Labels, ids, names and seeds of data sets mean the same in every type that they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib.data import DataError, Dataset, TextDataset, scenes

WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def images(labels: Tensor, **more: Any) -> Dataset:
    return Dataset(torch.rand(len(labels), 1, 3, 3), labels, tuple(map(str, range(200))), **more)


def texts(labels: Tensor, **more: Any) -> TextDataset:
    words = tuple(f"text {i}" for i in range(len(labels)))
    return TextDataset(words, labels, tuple(map(str, range(200))), **more)


@pytest.mark.parametrize("make", [images, texts])
@pytest.mark.parametrize("dtype", WHOLE)
def test_labels_of_every_whole_type_are_int64(make: Any, dtype: torch.dtype) -> None:
    """In uint8, -100 is 156."""
    top = min(156, torch.iinfo(dtype).max)
    numbers = torch.tensor([0, 1, top])
    data = make(numbers.to(dtype))
    assert data.labels.dtype == torch.int64 and torch.equal(data.labels, numbers)
    assert "without label" not in repr(data)
    hidden = data.without_labels(torch.tensor([True, False, False]))
    assert hidden.labels.tolist() == [-100, 1, top] and "1 without label" in repr(hidden)


@pytest.mark.parametrize("make", [images, texts])
@pytest.mark.parametrize("dtype", WHOLE)
def test_ids_of_every_whole_type_are_int64_and_others_are_refused(
    make: Any, dtype: torch.dtype
) -> None:
    labels, ids = torch.zeros(4).long(), torch.tensor([3, 1, 2, 7])
    found = make(labels, index=ids.to(dtype))
    assert torch.equal(found.index, ids) and found.index.dtype == torch.int64
    assert found.fingerprint() == found.subset([0, 1, 2, 3]).fingerprint()
    for odd in (ids.float(), ids.bool(), ids[:, None], ids.to(torch.complex64)):
        with pytest.raises(DataError, match=r"expected index \[N\] that are whole numbers"):
            make(labels, index=odd)


@given(st.integers(0, 2**31), st.sampled_from([np.int64, np.int32, np.uint32]))
def test_a_seed_of_numpy_is_that_seed(seed: int, kind: Any) -> None:
    data, brought = images(torch.arange(12) % 3), kind(min(seed, np.iinfo(kind).max))
    plain = int(brought)

    def order(**settings: Any) -> list[Any]:
        return [batch["index"].tolist() for batch in data.batches(4, **settings)]

    assert order(seed=brought) == order(seed=plain)
    assert order(seeds=np.array([brought, 1])) == order(seeds=[plain, 1])
    made = [scenes(data, 2, size=6, seed=one).inputs for one in (brought, plain)]
    assert torch.equal(*made)


def test_what_is_kept_of_batches_is_plain() -> None:
    state = images(torch.zeros(4).long()).batches(2, seeds=np.arange(2)).state_dict()
    assert [type(seed) for seed in state["identity"]["seeds"]] == [int, int]


def test_lists_of_texts_and_classes_are_tuples() -> None:
    one = TextDataset(["good", "bad"], torch.tensor([1, 0]), ["n", "p"])
    other = TextDataset(("good", "bad"), torch.tensor([1, 0]), ("n", "p"))
    assert one.fingerprint() == other.fingerprint()
    more = TextDataset(("fine",), torch.tensor([1]), ("n", "p"), torch.tensor([7]))
    assert (one + more).texts == (other + more).texts == ("good", "bad", "fine")
    assert Dataset(torch.zeros(1, 2), torch.tensor([0]), ["n"]).classes == ("n",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8, torch.bool])
def test_inputs_of_every_type_have_a_fingerprint(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 0])
    names = {
        Dataset(torch.tensor([[0.0, n], [1.0, 0.0]]).to(dtype), labels, ("a",)).fingerprint()
        for n in (0, 1)
    }
    assert len(names) == 2


@pytest.mark.parametrize("shape", [(2, 5), (2,), (2, 9, 1)])
def test_ratings_are_of_nine_steps(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"expected ratings \[N, 9\]"):
        texts(torch.tensor([0, 1]), ratings=torch.ones(shape))
