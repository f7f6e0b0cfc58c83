"""cachefile: damaged headers, full disks, and several builders of one file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutants import mutants
from together import at_once

from distill_lib import Cache
from distill_lib.teachers import cachefile
from distill_lib.teachers.cachefile import HEADER, MAGIC, Blocks, CacheError, create, read_header

META = {
    "teacher": "echo", "data": "items", "what": "logits", "augmentation": None,
    "dtype": "float32", "block": 4, "rows": 10, "shape": [2],
}  # fmt: skip


class Items:
    """Ten items in blocks of four, or more; what they are does not matter."""

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return {"inputs": torch.tensor([i, -i]).float(), "index": i}

    def fingerprint(self) -> str:
        return "items"


class Echo:
    """A teacher that says its inputs, moved a little; ``on_call`` runs before an answer."""

    def __init__(self, on_call: Any = None, shift: float = 0.0, name: str = "echo") -> None:
        self.calls, self.on_call, self.shift, self.name = 0, on_call, shift, name

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        if self.on_call is not None:
            self.on_call(self.calls)
        return {"logits": batch["inputs"] + self.shift}

    def fingerprint(self) -> str:
        return self.name


def build(path: Path, teacher: Any = None, count: int = 10) -> Cache:
    return Cache.build(path, teacher or Echo(), Items(count), block=4)


def rows(cache: Cache) -> torch.Tensor:
    index = torch.arange(len(cache))
    return cache({"index": index, "augmentation": cache.meta["augmentation"]})[cache.meta["what"]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.cache"


@pytest.fixture
def whole(path: Path) -> bytes:
    build(path)
    return path.read_bytes()


def headed(content: bytes, meta: Any) -> bytes:
    """The file with another header, whose checksum, where it can have one, is right."""
    if isinstance(meta, dict):
        meta = {**meta, "checksum": zlib.crc32(json.dumps(meta).encode())}
    return (MAGIC + json.dumps(meta).encode()).ljust(HEADER, b"\x00") + content[HEADER:]


# ---- damage ----


def test_every_flipped_bit_of_a_header_is_found(path: Path, whole: bytes) -> None:
    end = len(whole[:HEADER].rstrip(b"\x00"))
    with path.open("r+b", buffering=0) as file:
        for at in range(end):
            for bit in range(8):
                file.seek(at)
                file.write(bytes([whole[at] ^ (1 << bit)]))
                file.seek(0)
                with pytest.raises(CacheError):
                    read_header(file, path)
            file.seek(at)
            file.write(whole[at : at + 1])
        file.seek(0)
        assert read_header(file, path) == META


def test_a_file_of_before_the_checksum_is_read(path: Path, whole: bytes) -> None:
    meta = json.loads(whole[len(MAGIC) : HEADER].rstrip(b"\x00"))
    assert meta.pop("checksum") == zlib.crc32(json.dumps(meta).encode())
    path.write_bytes((MAGIC + json.dumps(meta).encode()).ljust(HEADER, b"\x00") + whole[HEADER:])
    teacher = Echo()
    assert torch.equal(rows(build(path, teacher)), rows(Cache(path)))
    assert not teacher.calls


def test_the_shipped_caches_are_read() -> None:
    from distill_lib import zoo

    shipped = sorted(Path(zoo.__file__).parent.glob("*.cache"))
    assert shipped
    for file in shipped:
        assert len(Cache(file)) > 1000


ODD = [
    None, True, False, 0, -1, 2**31, 2**62, 2**63, 10**30, 10**3000, 1.0, 2.5, 1e300, "", "x", "4",
    "float32", "O", "V16", ">f4", "float32,float32", [], [0], [-1], [2**31, 2**31], [1.0], [True],
    [[2]], ["2"], [1] * 40, [2**62, 4], {}, {"a": 1},
]  # fmt: skip


def test_headers_that_say_anything_are_refused_or_true(path: Path, whole: bytes) -> None:
    """Right checksums, wrong words: nothing is allocated, mapped or raised by what they say."""
    values = [(key, value) for key in META for value in ODD]
    for key, value in values:
        path.write_bytes(headed(whole, {**META, key: value}))
        refused_or_right(path)
    for meta in (*ODD, {}, {**META, "more": 1}, {k: v for k, v in META.items() if k != "what"}):
        path.write_bytes(headed(whole, meta))
        with pytest.raises(CacheError, match=r"header of .* is torn; delete the file"):
            Cache(path)
    for text in (b"[" * 4000, b"{" * 4000, b'{"a":' * 700, b"9" * 4000, b"\xff\xfe", b"NaN", b""):
        path.write_bytes((MAGIC + text).ljust(HEADER, b"\x00") + whole[HEADER:])
        with pytest.raises(CacheError, match=r"header of .* is torn"):
            Cache(path)


def refused_or_right(path: Path) -> None:
    """Opening and building end in the file's own rows, or in a CacheError that names the file."""
    right = torch.stack([torch.arange(10.0), -torch.arange(10.0)], 1)
    for use in (lambda: Cache(path), lambda: build(path)):
        try:
            assert torch.equal(rows(use()), right)
        except CacheError as error:
            assert str(path) in str(error)


def test_mutants_are_refused_or_right(path: Path, whole: bytes) -> None:
    for torn in mutants(whole, 300):
        path.write_bytes(torn)
        refused_or_right(path)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot be read"):
        Cache(tmp_path / ("x" * 300))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(CacheError, match="there is no cache at"):
        Cache(loop)


# ---- disks ----


def limited(path: Path, size: int, code: str) -> str:
    """What a process prints that may write files of that size at most."""
    script = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
import test_cachefile as here
path = Path({str(path)!r})
try:
    {code}
except OSError as error:
    print(type(error).__name__, error.errno, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600
    )
    return done.stdout


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("reserve", ["True", "delattr(here.os, 'posix_fallocate')"])
def test_a_file_that_does_not_fit_is_an_error_and_no_signal(path: Path, reserve: str) -> None:
    build(path)
    before = path.read_bytes()
    said = limited(path.with_name("y"), 20_000, f"{reserve}; here.build(path, count=9000)")
    assert f"OSError {errno.EFBIG}" in said
    assert "cannot be written" in said and "make room" in said and "float16" in said
    assert os.listdir(path.parent) == [path.name] and path.read_bytes() == before


def test_without_reservation_free_room_is_asked_for(path: Path, monkeypatch: Any) -> None:
    def lacking(file: int, at: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(cachefile.os, "posix_fallocate", lacking, raising=False)
    assert len(build(path)) == 10
    usage = cachefile.shutil.disk_usage(path.parent)
    monkeypatch.setattr(cachefile.shutil, "disk_usage", lambda _: usage._replace(free=4000))
    with pytest.raises(OSError, match=r"No space left .* takes 4,304 bytes: make room") as caught:
        build(path.with_name("y"))
    assert caught.value.errno == errno.ENOSPC and os.listdir(path.parent) == [path.name]


def test_a_disk_that_fills_up_meanwhile_costs_one_block(path: Path, monkeypatch: Any) -> None:
    put = Blocks._put

    def full(self: Blocks, at: int, content: bytes) -> None:
        if at == HEADER + 8 * 4:  # the ids of the second block
            put(self, at, content[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, at, content)

    monkeypatch.setattr(Blocks, "_put", full)
    with pytest.raises(OSError, match=r"x\.cache cannot be written: No space left"):
        build(path)
    monkeypatch.undo()
    with pytest.raises(CacheError, match="unfinished: 1 of 3"):
        Cache(path)
    teacher = Echo()
    assert torch.equal(rows(build(path, teacher)), rows(build(path.with_name("y"))))
    assert teacher.calls == 2


def test_a_link_stays_a_link_and_long_names_fit(tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "real" / "x.cache"
    link.symlink_to(real)
    build(link)
    assert link.is_symlink() and len(Cache(real)) == 10
    assert len(build(tmp_path / ("y" * 255))) == 10


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot be written: .*path on another disk"):
        build(tmp_path / "file" / "x.cache")


# ---- several builders ----


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_build_within_a_build(path: Path, call: int) -> None:
    """Another process is faster at each point: before the file is there, and amid the blocks."""
    other = Echo()
    outer = Echo(lambda calls: build(path, other) if calls == call else None)
    build(path, outer)
    assert outer.calls == call and other.calls == 3 - (call - 1)
    assert path.read_bytes() == build(path.with_name("y")).path.read_bytes()
    assert sorted(os.listdir(path.parent)) == ["x.cache", "y"]


def test_without_links_too(path: Path, monkeypatch: Any) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(cachefile.os, "link", link)
    other = Echo()
    build(path, Echo(lambda calls: build(path, other) if calls == 1 else None))
    assert len(Cache(path)) == 10 and os.listdir(path.parent) == ["x.cache"]


def test_another_teacher_was_faster(path: Path) -> None:
    other = Echo(shift=7, name="other")
    with pytest.raises(CacheError, match="built by another process, from another teacher"):
        build(path, Echo(lambda calls: build(path, other)))
    assert torch.equal(rows(Cache(path)), rows(build(path, other)))


@pytest.mark.parametrize("locks", [True, False])
def test_three_builders_end_with_one_file(path: Path, monkeypatch: Any, locks: bool) -> None:
    """Teachers that differ a little, as on a GPU: each block is one teacher's, or it is torn."""
    if not locks:
        monkeypatch.setattr(cachefile, "fcntl", None)
    together, ends = threading.Barrier(3), []

    def on_call(calls: int) -> None:
        if calls == 1:
            together.wait(60)

    def run(number: int) -> None:
        try:
            ends.append(build(path, Echo(on_call, shift=number / 1000), count=200))
        except CacheError as error:
            ends.append(error)

    at_once(run, 3)
    if locks:
        assert len(ends) == 3 and all(isinstance(end, Cache) for end in ends)
        shifts = (rows(Cache(path))[:, 0] - torch.arange(200)).view(50, 4)
        assert (shifts - shifts[:, :1]).abs().max() < 1e-4
    assert all(isinstance(end, (Cache, CacheError)) for end in ends)
    assert os.listdir(path.parent) == ["x.cache"]


# ---- one block ----


def test_a_block_is_written_once(path: Path) -> None:
    create(path, META)
    with Blocks(path, META) as file:
        ids, first = np.arange(4), np.ones((4, 2), np.float32)
        assert not file.done(0)
        file.write(0, ids, first)
        file.write(0, ids + 1, first + 1)
        assert file.done(0) and file.ids(0, 4).tolist() == [0, 1, 2, 3]
        with pytest.raises(CacheError, match=r"shape \[3, 2\] where \[4, 2\] was expected"):
            file.write(1, ids, first[:3])


@pytest.mark.parametrize("shape", [[0], [3, 0]])
def test_rows_of_no_numbers_are_refused(path: Path, shape: list[int]) -> None:
    with pytest.raises(CacheError, match="at least one number"):
        create(path, {**META, "shape": shape})
    assert not path.exists()
