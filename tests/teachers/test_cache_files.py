"""cache: files that are missing, foreign or torn, and the fingerprint of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from distill_lib import Cache
from distill_lib.teachers.cache import HEADER, CacheError, data_fingerprint


class Items(Dataset):
    """Items with ids, which need not be their positions."""

    def __init__(self, n: int = 20, ids: Tensor | None = None, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(n, 4, generator=generator)
        self.ids = torch.arange(n) if ids is None else ids

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"inputs": self.inputs[i], "labels": i % 3, "index": self.ids[i]}


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(4, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "teacher.cache"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# ---- opening ----


def test_a_missing_file_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(CacheError, match=r"no cache at .*Cache\.build\(path, teacher, dataset\)"):
        Cache(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 some zip", b"x" * 9000])
def test_a_foreign_file_is_refused(tmp_path: Path, model: nn.Module, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(CacheError, match="is not a cache of teacher outputs"):
        Cache(path)
    with pytest.raises(CacheError, match="is not a cache of teacher outputs"):
        Cache.build(path, model, Items())
    assert path.read_bytes() == content


@pytest.mark.parametrize("missing", [1, 100])
def test_a_truncated_file_is_refused(path: Path, model: nn.Module, missing: int) -> None:
    Cache.build(path, model, Items())
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(CacheError, match=r"is torn: \d+ bytes where \d+ belong; delete"):
        Cache(path)


def test_a_torn_header_is_refused(path: Path, model: nn.Module) -> None:
    Cache.build(path, model, Items())
    flip(path, 8)
    with pytest.raises(CacheError, match=r"the header of .* is torn"):
        Cache(path)


def test_a_damaged_row_is_refused(path: Path, model: nn.Module) -> None:
    Cache.build(path, model, Items(), block=6)
    flip(path, path.stat().st_size - 1)
    with pytest.raises(CacheError, match="torn: rows 18 and on do not match their checksum"):
        Cache(path)
    assert len(Cache(path, verify=False)) == 20


def test_a_damaged_id_is_refused(path: Path, model: nn.Module) -> None:
    Cache.build(path, model, Items(), block=6)
    flip(path, HEADER + 8 * 7)
    with pytest.raises(CacheError, match="torn: rows 6 and on"):
        Cache(path)


# ---- fingerprints of data ----


def test_the_fingerprint_of_data_follows_inputs_labels_and_length() -> None:
    base = data_fingerprint(Items())
    assert base == data_fingerprint(Items())
    relabeled = [{**Items()[i], "labels": 0} for i in range(20)]
    others = [Items(seed=1), Items(19), relabeled, Items(ids=torch.arange(20) + 1)]
    assert len({base, *map(data_fingerprint, others)}) == 5


def test_items_drawn_anew_never_fit(path: Path, model: nn.Module) -> None:
    class Augmented(Items):
        def __getitem__(self, i: int) -> dict[str, Any]:
            return {**super().__getitem__(i), "inputs": torch.randn(4)}

    Cache.build(path, model, Augmented())
    with pytest.raises(CacheError, match="other data"):
        Cache.build(path, model, Augmented())


def test_empty_data_have_a_fingerprint() -> None:
    assert data_fingerprint([]) == data_fingerprint([])


def test_rows_are_copies(path: Path, model: nn.Module) -> None:
    cache = Cache.build(path, model, Items())
    said = cache({"index": torch.arange(2)})["logits"]
    said.zero_()
    assert np.abs(cache._rows[:2]).sum() > 0


KINDS = {
    "words": lambda k: f"word {k}",
    "nothing": lambda k: [None, k],
    "a gradient": lambda k: torch.full((3,), float(k), requires_grad=True),
    "bfloat16": lambda k: torch.full((3,), k).bfloat16(),
    "sparse": lambda k: torch.tensor([0.0, k]).to_sparse(),
    "several lengths": lambda k: [torch.zeros(2), torch.arange(5000) == 2500 + k],
    "nested": lambda k: {"pixels": torch.arange(5000) == 2500 + k, "words": {"a": ["b", "c"]}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_value_shapes_the_fingerprint(kind: str) -> None:
    made = KINDS[kind]
    one, same, other = (
        data_fingerprint([{"inputs": torch.zeros(2), "value": made(k)}]) for k in (1, 1, 2)
    )
    assert one == same != other


def test_fingerprints_of_plain_data_stay_what_they_were() -> None:
    items = [{"inputs": torch.arange(3.0), "index": 5, "name": "a"}, (torch.ones(2), 1)]
    assert data_fingerprint(items).startswith("9a5e533ca7d9af10")
