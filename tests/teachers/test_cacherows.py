"""Caches of several signals: sparse targets of a corpus, resumable, right or refused."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutants
from torch import Tensor, nn

from distill_lib import Cache
from distill_lib.teachers import CacheError, Recorded, TopK
from distill_lib.teachers.cachefile import HEADER, MAGIC

THREE = ("top_ids", "top_log_probs", "rest")


class Items:
    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < 10:
            raise IndexError(i)
        return {"inputs": torch.arange(12).view(3, 4) * (i - 5) / 10, "index": i * 7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.cache"


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 9)


def told(teacher: Any) -> dict[str, Tensor]:
    items = Items()
    inputs = torch.stack([items[i]["inputs"] for i in range(10)])
    return {k: v for k, v in teacher({"inputs": inputs}).items() if k in THREE}


INDEX = torch.arange(10) * 7


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_it_says_what_the_teacher_says(path: Path, model: nn.Module, dtype: torch.dtype) -> None:
    cache = Cache.build(path, TopK(model, 3), Items(), THREE, dtype=dtype, block=4)
    got, want = cache({"index": INDEX}), told(TopK(model, 3))
    assert got["top_ids"].dtype == torch.int64 and torch.equal(got["top_ids"], want["top_ids"])
    for name in THREE[1:]:
        assert got[name].dtype == dtype
        torch.testing.assert_close(got[name].float(), want[name], rtol=1e-3, atol=1e-5)
    assert got["top_ids"].shape == (10, 3, 3) and got["rest"].shape == (10, 3)
    shuffled = cache({"index": INDEX[[7, 2]]})
    assert torch.equal(shuffled["rest"], got["rest"][[7, 2]])
    assert "top_ids, top_log_probs, rest, 10 rows" in repr(cache)


def test_the_file_is_as_large_as_its_numbers(path: Path, model: nn.Module) -> None:
    Cache.build(path, TopK(model, 3), Items(), THREE, dtype=torch.float16, block=4)
    row = 3 * 3 * 4 + 3 * 3 * 2 + 3 * 2
    assert path.stat().st_size == HEADER + 8 * 10 + 16 * 3 + 10 * row


class Killed(TopK):
    calls = 0

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().__call__(batch)


def test_a_killed_build_goes_on(path: Path, model: nn.Module) -> None:
    with pytest.raises(KeyboardInterrupt):
        Cache.build(path, Killed(model, 3), Items(), THREE, block=4)
    with pytest.raises(CacheError, match="unfinished"):
        Cache(path)
    again = Killed(model, 3)
    got = Cache.build(path, again, Items(), THREE, block=4)({"index": INDEX})
    assert again.calls == 1
    torch.testing.assert_close(got, told(TopK(model, 3)))


@pytest.mark.parametrize(("k", "what"), [(2, THREE), (3, THREE[:2]), (3, THREE[::-1]), (3, "rest")])
def test_another_cache_is_refused(path: Path, model: nn.Module, k: int, what: Any) -> None:
    Cache.build(path, TopK(model, 3), Items(), THREE, block=4)
    with pytest.raises(CacheError, match="stale"):
        Cache.build(path, TopK(model, k), Items(), what, block=4)


def test_fingerprints_differ_by_k(model: nn.Module) -> None:
    names = {TopK(model, k).fingerprint() for k in (1, 2)} | {TopK(model, 1).fingerprint()}
    assert len(names) == 2


class Says:
    """A teacher that says what it was given, block by block."""

    def __init__(self, *blocks: dict[str, Tensor]) -> None:
        self.blocks = iter(blocks)

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        return next(self.blocks)

    def fingerprint(self) -> str:
        return "says"


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([{"a": torch.zeros(5, 2), "b": torch.zeros(4)}], r"b has shape \[4\] for 5 items"),
        ([{"a": torch.full((5, 2), 2**31), "b": torch.zeros(5)}], "2147483648.*int32"),
        ([{"a": torch.zeros(5, 2), "b": torch.zeros(5)}] * 1
         + [{"a": torch.zeros(5, 3), "b": torch.zeros(5)}], "pad to a fixed length"),
        ([{"a": torch.zeros(5, 2), "b": torch.zeros(5)}] * 1
         + [{"a": torch.zeros(5, 2, dtype=torch.long), "b": torch.zeros(5)}], "<i4"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(path: Path, blocks: Any, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        Cache.build(path, Says(*blocks), Items(), ("a", "b"), block=5)


def test_a_missing_signal_is_named(path: Path) -> None:
    with pytest.raises(KeyError, match="no signal 'b'"):
        Cache.build(path, Says({"a": torch.zeros(5, 2)}), Items(), ("a", "b"), block=5)


def test_ids_alone_are_not_rounded(path: Path) -> None:
    ids = [{"ids": torch.full((5, 2), 4097)}] * 2
    with pytest.raises(CacheError, match=r"float16 cannot hold.*what=\('ids',\)"):
        Cache.build(path, Says(*ids), Items(), "ids", dtype=torch.float16, block=5)
    cache = Cache.build(path, Says(*ids), Items(), ("ids",), dtype=torch.float16, block=5)
    assert (cache({"index": INDEX})["ids"] == 4097).all()


@pytest.mark.parametrize(
    "change",
    [
        {"what": []}, {"what": ["a", "a", "b"]}, {"what": ["a", 3, "b"]}, {"what": ["a"]},
        {"shape": []}, {"shape": [3, 3]}, {"shape": [["int32", [3]]]},
        {"shape": [["object", [3, 3]], ["float32", [3, 3]], ["float32", [3]]]},
        {"shape": [["int32", [2**62, 2**62]], ["float32", [3, 3]], ["float32", [3]]]},
        {"shape": [["int32", [3, -3]], ["float32", [3, 3]], ["float32", [3]]]},
        {"what": "logits"},
    ],
)  # fmt: skip
def test_a_crafted_header_is_torn(path: Path, model: nn.Module, change: dict[str, Any]) -> None:
    Cache.build(path, TopK(model, 3), Items(), THREE, block=4)
    data = path.read_bytes()
    head = {**json.loads(data[len(MAGIC) : HEADER].rstrip(b"\0")), **change}
    head.pop("checksum")
    head["checksum"] = zlib.crc32(json.dumps(head).encode())
    path.write_bytes((MAGIC + json.dumps(head).encode()).ljust(HEADER, b"\0") + data[HEADER:])
    with pytest.raises(CacheError, match="torn"):
        Cache(path)


def test_changed_files_are_refused_or_right(path: Path, model: nn.Module) -> None:
    want = Cache.build(path, TopK(model, 3), Items(), THREE, block=4)({"index": INDEX})
    data = path.read_bytes()
    for changed in mutants(data, 150):
        path.write_bytes(changed)
        try:
            got = Cache(path)({"index": INDEX})
        except CacheError:
            continue
        assert all(torch.equal(got[name], want[name]) for name in THREE)


# ---- what a store answers is what the teacher said, or it is refused ----

KINDS = {
    "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32,
    "float64": torch.float64, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool,
}  # fmt: skip
EDGES = [0.0, 65504.0, 65519.0, 65520.0, 7e4, 1e30, 3.4e38, 3.5e38, 1e300, 1e-9, float("nan")]
number = st.sampled_from(EDGES + [-x for x in EDGES] + [float("inf"), -float("inf")]) | st.floats()
whole = st.sampled_from([0, 2047, 2049, 4097, 2**24 + 1, 2**31 - 1, 2**31]) | st.integers(
    -(2**40), 2**40
)


def made(data: Any, kind: str) -> Tensor:
    """[5, 2] of one kind."""
    found = {"bool": st.booleans(), "int64": whole, "int32": st.integers(-(2**31), 2**31 - 1)}
    rows = data.draw(st.lists(found.get(kind, number), min_size=10, max_size=10))
    with_range = torch.tensor(rows, dtype=torch.float64 if "float" in kind else torch.int64)
    return with_range.to(KINDS[kind]).view(5, 2)


def stored_alike(got: Tensor, want: Tensor, dtype: torch.dtype) -> bool:
    """Whole numbers are the same, real ones up to the rounding of a type."""
    got, exact = got.double(), want.double()
    if not want.is_floating_point():
        return bool((got == exact).all())
    info = torch.finfo(dtype)
    near = (got - exact).abs() <= info.eps * exact.abs() + info.smallest_normal
    return bool((near | (got == exact) | (got.isnan() & exact.isnan())).all())


@given(
    st.data(), st.sampled_from(sorted(KINDS)), st.sampled_from(["alone", "beside", "recorded"]),
    st.sampled_from(["float16", "float32", "float64", "bfloat16"]),
)  # fmt: skip
def test_stores_answer_what_was_said_or_refuse(
    tmp_path_factory: Any, data: Any, kind: str, store: str, narrow: str
) -> None:
    said, dtype = made(data, kind), KINDS[narrow]
    rows = {"index": INDEX[:5], "attention_mask": torch.ones(5, 1)}
    try:
        if store == "recorded":
            got = Recorded(Says({"a": said}), [rows], ["a"], dtype=dtype)(rows)["a"]
        else:
            path = tmp_path_factory.mktemp("store") / "x.cache"
            what = "a" if store == "alone" else ("a", "b")
            blocks = ({"a": said, "b": torch.zeros(5)} for _ in range(2))
            cache = Cache.build(path, Says(*blocks), Items(), what, dtype=dtype, block=5)
            got = cache({"index": INDEX[:5]})["a"]
    except (CacheError, ValueError) as error:
        assert "cannot hold" in str(error) or "is infinite in" in str(error)
        whole_type = torch.int32 if store == "beside" and "float" not in kind else dtype
        assert not stored_alike(said.to(whole_type), said, dtype)
    except TypeError as error:  # types that a store does not have
        assert narrow in str(error) and "holds float16" in str(error)
    else:
        assert stored_alike(got, said, dtype)


@pytest.mark.parametrize("what", ["a", ("a",)])
@pytest.mark.parametrize("large", [7e4, -1e30])
def test_the_way_out_of_half_precision_leads_out(path: Path, what: Any, large: float) -> None:
    blocks = [{"a": torch.full((5, 2), large)}] * 2
    with pytest.raises(CacheError, match=r"'a' of the teacher reaches .*float16.*torch\.float32"):
        Cache.build(path, Says(*blocks), Items(), what, dtype=torch.float16, block=5)
    cache = Cache.build(path, Says(*blocks), Items(), what, dtype=torch.float32, block=5)
    assert torch.equal(cache({"index": INDEX[:5]})["a"], blocks[0]["a"])


@pytest.mark.parametrize("what", ["a", ("a",)])
def test_what_the_teacher_excludes_stays_excluded(path: Path, what: Any) -> None:
    blocks = [{"a": torch.tensor([[1.0, -torch.inf]] * 5)}] * 2
    cache = Cache.build(path, Says(*blocks), Items(), what, dtype=torch.float16, block=5)
    assert torch.equal(cache({"index": INDEX[:5]})["a"].float(), blocks[0]["a"])


@pytest.mark.parametrize("what", ["a", ("a",)])
def test_complex_numbers_are_refused(path: Path, what: Any) -> None:
    says = Says({"a": torch.full((5, 2), 1 + 0j)})
    with pytest.raises(TypeError, match=r"complex numbers.*view_as_real"):
        Cache.build(path, says, Items(), what, block=5)
