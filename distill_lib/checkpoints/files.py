"""Files that are written whole or not at all, and pickles of torch that are read within bounds."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["checked_zip", "torch_load", "whole_file"]


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when all is written and on the disk.

    Until then it lies beside it under a name of its own, so that two processes do not write into
    one. It is removed when anything goes wrong; after a kill it stays, ends in ``.part`` and may
    be deleted. A link is followed.

    Raises:
        OSError: the disk is full, or nothing can be written there; what was at ``path`` is whole.
    """
    handled = sys.exc_info()[1]
    place = Path(os.path.realpath(path))
    beside = place.with_name(f"{place.name[:40]}.{uuid.uuid4().hex}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        cause = _of_the_disk(error, handled) if isinstance(error, Exception) else None
        if cause is None:
            raise
        raise OSError(
            cause.errno,
            f"{os.strerror(cause.errno or 0)}: {path} could not be written, and what was there "
            "before is as it was; make room or the folder writable, or give another path",
            str(path),
        ) from error


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
                    _Rehearsal(file, lambda key: size).load()
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on pickles that it then refuses
            return torch.load(
                source if isinstance(source, Path) else file, map_location="cpu", weights_only=True
            )


def _check_records(file: BinaryIO, records: dict[str, int]) -> None:
    with zipfile.ZipFile(file) as archive:
        for name in records:
            if name.rpartition("/")[2] == "data.pkl":
                root = name.removesuffix("data.pkl")
                room = lambda key, root=root: records.get(f"{root}data/{key}", 0)  # noqa: E731
                _Rehearsal(io.BytesIO(archive.read(name)), room).load()


WIDTH = {"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16, "Float": 4, "Int": 4}
WIDTH |= {"Half": 2, "BFloat16": 2, "Short": 2, "QInt32": 4}


class _Stand:
    """Stands in for everything that a pickle names: it does nothing, whatever is done to it."""

    what = ""

    def __new__(cls, *args: Any) -> _Stand:
        texts = all(isinstance(one, (str, bytes)) or type(one) is ENCODED for one in args)
        # torch.save calls none of these with a size, and they would take whatever it says
        if cls.what.endswith(("Tensor", "Storage")) or (cls.what == "bytearray" and not texts):
            raise ValueError(f"it asks for memory: {cls.what}{args!r:.60}")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, one: Any) -> None: ...
    def extend(self, some: Any) -> None: ...
    def add(self, one: Any) -> None: ...


ENCODED = type("Encoded", (_Stand,), {"what": "encode"})


class _Rehearsal(pickle._Unpickler):  # that in C takes the memory that a pickle's memo asks for
    """Reads a pickle without what it names, to see what it would ask for; runs nothing."""

    def __init__(self, file: BinaryIO, room: Callable[[str], int]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.room = room

    def find_class(self, module: str, name: str) -> Any:
        return ENCODED if name == "encode" else type("Stand", (_Stand,), {"what": name})

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] in ("storage", b"storage"):
            _, kind, key, _, count, *_ = pid
            width = WIDTH.get(str(getattr(kind, "what", "")).removesuffix("Storage"), 1)
            if not isinstance(count, int) or not 0 <= count * width <= self.room(str(key)):
                raise ValueError(f"it says {count!r} numbers where it does not hold so many")
        return _Stand()
