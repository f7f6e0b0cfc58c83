"""Files that are written whole or not at all, and pickles of torch that are read within bounds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import pickle
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from distill_lib.arguments import as_path

from .parts import part_of

__all__ = ["checked_zip", "sha256", "torch_load", "whole_file", "written_whole"]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when all is written and on the disk.

    Until then it lies beside it under a name of its own, so that two processes do not write into
    one. It is removed when anything goes wrong; after a kill it stays, ends in ``.part``, and the
    next write to ``path`` removes it. A link is followed.

    Raises:
        OSError: the disk is full, or nothing can be written there; what was at ``path`` is whole.
    """
    handled = sys.exc_info()[1]
    try:
        place = Path(os.path.realpath(as_path(path)))
        with part_of(place) as (file, part):
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # an open file cannot be renamed there
                file.close()
            os.replace(part, place)
    except Exception as error:
        if (cause := _of_the_disk(error, handled)) is None:
            raise
        raise OSError(
            cause.errno,
            f"{os.strerror(cause.errno or 0)}: {path} could not be written, and what was there "
            "before is as it was; make room or the folder writable, or give another path",
            str(path),
        ) from error


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A file of the same name for others to write, which then takes its place in one move."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / as_path(path).name
        yield made
        with made.open("rb") as source, whole_file(path) as file:
            shutil.copyfileobj(source, file)


def _of_the_disk(error: BaseException | None, handled: BaseException | None) -> OSError | None:
    """The error of the system behind an error; torch wraps it in one that says nothing of it."""
    while error is not None and error is not handled:
        if isinstance(error, OSError) and error.errno:
            return error
        error = error.__cause__ or error.__context__
    return None


def checked_zip(source: Path | BinaryIO, size: int, growth: int = 1) -> dict[str, int]:
    """The sizes of the members of a zip archive, after each was compared with its checksum.

    Args:
        source: The archive.
        size: Its bytes.
        growth: It may unpack to so many times its bytes; 1 where nothing is compressed.

    Raises:
        ValueError: more than that, or a member that is torn.
        zipfile.BadZipFile: no archive.
    """
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        if (total := sum(one.file_size for one in members)) > growth * size:
            raise ValueError(
                f"it says to hold {total} bytes, more than {growth} times its own {size}"
            )
        if len(names := {one.filename: one.file_size for one in members}) < len(members):
            raise ValueError("it holds two members of one name")
        if (torn := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its {torn!r} does not fit")
        return names


def torch_load(source: Path | BinaryIO) -> Any:
    """``torch.load`` of tensors and plain data, onto the CPU, with checksums and bounds.

    The checksum of every member is compared, which ``torch.load`` does not (files of before torch
    1.6 have none). No more memory is taken than the file has bytes, apart from its plain data.

    Raises:
        Exception: of any class, as the bytes may be anything.
    """
    import torch

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(4)
        file.seek(0)
        if head == b"PK\x03\x04":
            records = checked_zip(file, size)
            _check_records(file, records)
        else:  # five pickles, one after the other, and the numbers behind them
            with contextlib.suppress(EOFError):
                for _ in range(5):
                    _Rehearsal(file, size, lambda key: size).load()
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on pickles that it then refuses
            return torch.load(
                source if isinstance(source, Path) else file, map_location="cpu", weights_only=True
            )


def _check_records(file: BinaryIO, records: dict[str, int]) -> None:
    most = sum(records.values())
    with zipfile.ZipFile(file) as archive:
        for name in records:
            if name.rpartition("/")[2] == "data.pkl":
                root = name.removesuffix("data.pkl")
                room = lambda key, root=root: records.get(f"{root}data/{key}", 0)  # noqa: E731
                _Rehearsal(io.BytesIO(archive.read(name)), most, room).load()


WIDTH = {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4}
WIDTH |= {"Half": 2, "BFloat16": 2, "Short": 2, "QInt32": 4}


class _Stand:
    """Stands in for everything that a pickle names: it does nothing, whatever is done to it."""

    what = ""
    width = 0  # bytes a number, of a type of numbers

    def __new__(cls, *args: Any) -> _Stand:
        texts = all(isinstance(one, (str, bytes)) or type(one) is ENCODED for one in args)
        # torch.save calls none of these with a size, and they would take whatever it says
        made = cls.what.endswith(("Tensor", "Storage")) or "_device_tensor" in cls.what
        if made or (cls.what == "bytearray" and not texts):
            raise ValueError(f"it asks for memory: {cls.what}{args!r:.60}")
        _check_views(args, cls.what)
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        _check_views(state, self.what)

    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, one: Any) -> None: ...
    def extend(self, some: Any) -> None: ...
    def add(self, one: Any) -> None: ...


class _Storage(_Stand):
    """Stands in for numbers that the file holds."""

    size = 0  # bytes


def _check_views(given: Any, what: str) -> None:
    """That no view in what a function is given reaches beyond its storage: torch lengthens that."""
    if not isinstance(given, tuple):
        return
    if not (given and isinstance(given[0], _Storage)):
        for one in given:
            _check_views(one, what)
        return
    offset, size, stride = (*given[1:4], None, None, None)[:3]
    alike = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    numbers = (offset, *size, *stride) if alike else (None,)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"it says no shape: {given[1:4]!r:.60}")
    reach = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    reach = max(reach, math.prod(size)) if "qtensor" in what else reach
    width = max((getattr(one, "width", 0) for one in given[4:]), default=0) or given[0].width
    if all(size) and reach * width > given[0].size:
        raise ValueError(f"it asks for memory: {reach} numbers of {given[0].size} bytes")


ENCODED = type("Encoded", (_Stand,), {"what": "encode"})
DTYPES = {
    f"{kind}{bits}": type("Dtype", (_Stand,), {"width": max(bits // 8, 1)})
    for kind in ("int", "uint", "float", "complex")
    for bits in (8, 16, 32, 64, 128)
}
# what torch reads of a pickle; other operations could ask for memory in other ways
OPERATIONS = (
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT",
    "EMPTY_SET", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT",
    "LONG_BINPUT",
)  # fmt: skip
SETS = 1000  # a set takes 200 times the byte that asks for it


class _Short:
    """A file that is asked for no more bytes than it has: room is made before they are read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size))


_READ: Any = pickle._Unpickler.dispatch


class _Rehearsal(pickle._Unpickler):  # that in C takes the memory that a pickle's memo asks for
    """Reads a pickle without what it names, to see what it would ask for; runs nothing."""

    def __init__(self, file: BinaryIO, most: int, room: Callable[[str], int]) -> None:
        super().__init__(_Short(file, most), encoding="utf-8", errors="replace")
        self.room, self.left = room, most
        self.sets = 0
        self.storages: dict[str, _Storage] = {}
        self.known: dict[str, Any] = {"encode": ENCODED}

    def load_empty_set(self) -> None:
        self.sets += 1
        if self.sets > SETS:
            raise ValueError(f"it asks for memory: more than {SETS} sets")
        self.append(set())  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {
        **{getattr(pickle, name)[0]: _READ[getattr(pickle, name)[0]] for name in OPERATIONS},
        pickle.EMPTY_SET[0]: load_empty_set,
    }

    def find_class(self, module: str, name: str) -> Any:
        special = ("Tensor", "Storage", "bytearray", "encode", "qtensor")
        if not name.endswith(special) and "_device_tensor" not in name:
            return DTYPES.get(name, _Stand) if module == "torch" else _Stand
        if name not in self.known:
            self.known[name] = type("Stand", (_Stand,), {"what": name})
        return self.known[name]

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] in ("storage", b"storage")):
            return _Stand()
        _, kind, key, _, count, *_ = pid
        if key not in self.storages:  # what is said again of one that was read does not count
            width = WIDTH.get(str(getattr(kind, "what", "")).removesuffix("Storage"), 1)
            size = count * width if type(count) is int else -1
            self.left -= size
            if not 0 <= size <= self.room(str(key)) or self.left < 0:
                raise ValueError(f"it says {count!r} numbers where it does not hold so many")
            self.storages[key] = found = _Storage()
            found.size, found.width = size, width
        return self.storages[key]
