"""cache: a row belongs to one id, whatever the ids are and however the file came to be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib import Cache
from distill_lib.teachers.cache import CacheError
from distill_lib.teachers.cachefile import Blocks, create

FORMS: dict[str, Callable[[list[int]], Any]] = {
    "tensor": lambda ids: torch.tensor(ids, dtype=torch.int64),
    "array": lambda ids: np.array(ids, dtype=np.int64),
    "list": list,
    "numbers of NumPy": lambda ids: [np.int64(one) for one in ids],
    "tensors": lambda ids: [torch.tensor(one) for one in ids],
}
NARROW = {
    torch.uint8: st.integers(0, 255),
    torch.int8: st.integers(-128, 127),
    torch.int16: st.integers(-(2**15), 2**15 - 1),
    torch.int32: st.integers(-(2**31), 2**31 - 1),
}
IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 30)


class Items:
    """Item ``i`` is the number ``i``; ids come in a form of their own."""

    def __init__(self, ids: Any, form: Callable[[Any], Any] = lambda ids: ids) -> None:
        self.ids, self.form = ids, form

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        return "items"

    def batches(self, batch_size: int, shuffle: bool) -> Iterator[dict[str, Any]]:
        for at in range(0, len(self), batch_size):
            ids = self.ids[at : at + batch_size]
            inputs = torch.arange(at, at + len(ids), dtype=torch.float32)[:, None]
            yield {"inputs": inputs, "index": self.form(ids)}


class Echo:
    """A teacher that says what it is given; it can be killed at one of its calls."""

    def __init__(self, kill_at: int = -1) -> None:
        self.calls, self.kill_at = 0, kill_at

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        if self.calls == self.kill_at:
            raise KeyboardInterrupt
        return {"logits": batch["inputs"]}

    def fingerprint(self) -> str:
        return "echo"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.cache"


def first_twice(ids: list[int]) -> int:
    """The position of the first item whose id an item before it has."""
    return next(i for i, one in enumerate(ids) if one in ids[:i])


def check(ids: list[int], items: Items, block: int, kill_at: int, ask: Any) -> None:
    """Build, go on after a kill, and compare with what each item is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.cache"
        double = len(set(ids)) < len(ids)
        teacher = Echo(kill_at)
        try:
            try:
                cache = Cache.build(path, teacher, items, block=block)
            except KeyboardInterrupt:
                cache = Cache.build(path, Echo(), items, block=block)
        except CacheError as error:
            at = first_twice(ids) if double else -1
            assert f"item {at} has the id {ids[at]}, as an item before it" in str(error)
            assert not path.exists() or at >= block
            return
        assert not double
        order = list(reversed(range(len(ids))))
        said = cache({"index": ask([ids[i] for i in order])})["logits"][:, 0]
        assert said.tolist() == order


@given(
    ids=st.lists(IDS, min_size=1, max_size=20),
    form=st.sampled_from(sorted(FORMS)),
    asked=st.sampled_from(sorted(FORMS)),
    block=st.integers(1, 21),
    kill_at=st.integers(-1, 6),
)
def test_an_id_stands_for_one_item_or_the_build_is_refused(ids, form, asked, block, kill_at):
    check(ids, Items(ids, FORMS[form]), block, kill_at, FORMS[asked])


@given(
    ids=st.lists(IDS, min_size=2, max_size=20, unique=True),
    pair=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    block=st.integers(1, 21),
    kill_at=st.integers(-1, 6),
)
def test_one_id_that_two_items_share_is_always_found(ids, pair, block, kill_at):
    one, other = (k % len(ids) for k in pair)
    ids[one] = ids[other if other != one else one - 1]
    check(ids, Items(ids, FORMS["tensor"]), block, kill_at, FORMS["tensor"])


@given(data=st.data(), dtype=st.sampled_from(sorted(NARROW, key=str)), block=st.integers(1, 9))
def test_narrow_whole_numbers_are_ids_too(data, dtype, block):
    ids = data.draw(st.lists(NARROW[dtype], min_size=1, max_size=9))
    as_tensor = lambda values: torch.tensor(values, dtype=dtype)  # noqa: E731
    check(ids, Items(ids, as_tensor), block, -1, as_tensor)


NO_IDS = {
    "halves": torch.tensor([0.5, 1.5, 2.5]),
    "whole floats": torch.tensor([0.0, 1.0, 2.0]),
    "bfloat16": torch.tensor([0.0, 1.0, 2.0]).bfloat16(),
    "complex": torch.tensor([0j, 1j, 2j]),
    "bools": torch.tensor([True, False, True]),
    "words": ["a", "b", "c"],
    "digits": ["0", "1", "2"],
    "bytes": [b"0", b"1", b"2"],
    "none": [None, None, None],
    "too large": np.array([1, 2, 2**63], np.uint64),
    "far too large": [1, 2, 2**70],
    "ragged": [[1], [2, 3], [4]],
    "mapping": {"a": 1},
    "sparse": torch.tensor([1, 0, 2]).to_sparse(),
}


@pytest.mark.parametrize("name", NO_IDS)
def test_what_is_no_whole_number_is_no_id(path: Path, name: str) -> None:
    with pytest.raises(CacheError, match="'index' holds whole numbers"):
        Cache.build(path, Echo(), Items([0, 1, 2], lambda ids: NO_IDS[name]))
    assert not path.exists()
    cache = Cache.build(path, Echo(), Items([0, 1, 2], torch.tensor))
    with pytest.raises(CacheError, match="'index' holds whole numbers"):
        cache({"index": NO_IDS[name]})


@pytest.mark.parametrize(
    "index", [torch.tensor(7), torch.tensor([7]), torch.arange(4), torch.arange(6).view(2, 3)]
)
def test_an_id_an_item(path: Path, index: torch.Tensor) -> None:
    with pytest.raises(CacheError, match="expected an id an item, got 'index' of shape"):
        Cache.build(path, Echo(), Items([0, 1, 2], lambda ids: index))


def test_ids_of_any_shape_are_answered(path: Path) -> None:
    cache = Cache.build(path, Echo(), Items([5, 3, 9], torch.tensor))
    said = cache({"index": torch.tensor([[9, 5], [3, 3]])})["logits"]
    assert said[..., 0].tolist() == [[2, 0], [1, 1]]
    assert cache({"index": torch.tensor(3)})["logits"].tolist() == [1]
    assert cache({"index": []})["logits"].shape == (0, 1)


def test_an_older_file_with_one_id_twice_is_refused(path: Path) -> None:
    meta = {
        "teacher": "echo", "data": "items", "what": "logits", "augmentation": None,
        "dtype": "float32", "block": 2, "rows": 4, "shape": [1],
    }  # fmt: skip
    create(path, meta)
    with Blocks(path, meta) as file:
        for number, ids in enumerate([[8, 5], [3, 5]]):
            file.write(number, np.array(ids), np.zeros((2, 1), np.float32))
    for verify in (True, False):
        with pytest.raises(CacheError, match=r"two rows of .* have the id 5; .*build it again"):
            Cache(path, verify=verify)


def test_a_build_does_not_go_on_over_items_with_other_ids(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Cache.build(path, Echo(2), Items([5, 3, 9], torch.tensor), block=2)
    with pytest.raises(CacheError, match="block 0 was made from items with other ids"):
        Cache.build(path, Echo(), Items([5, 4, 9], torch.tensor), block=2)


def test_no_items_and_no_tensors_are_refused(path: Path) -> None:
    with pytest.raises(CacheError, match="no items"):
        Cache.build(path, Echo(), Items([]))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Cache.build(path, Echo(), Items([1]), block=0)

    class Words(Items):
        def batches(self, batch_size: int, shuffle: bool) -> Iterator[dict[str, Any]]:
            yield {"words": ["a"]}

    with pytest.raises(CacheError, match=r"a tensor \[B, \.\.\.\], got words"):
        Cache.build(path, Echo(), Words([1]))
