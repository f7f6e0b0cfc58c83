"""The file of a cache: a header, the id of every row, a checksum a block of rows, and the rows.

The header takes 4,096 bytes: eight that name the format, then JSON, then zeros. The JSON says what
the rows are, and has a checksum of its own; files made before there was one are read without. A row
is an array of one type, or several, one after the other.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from distill_lib.checkpoints.parts import part_of

from .cacherows import Array, CacheError, fits, row_bytes, row_shape, row_type

__all__ = ["HEADER", "Blocks", "CacheError", "checksum", "create", "map_rows", "mismatch"]

MAGIC = b"DISTILL\x01"
HEADER = 4096
DTYPES = ("float16", "float32", "float64")
KEYS = {"teacher", "data", "what", "augmentation", "dtype", "block", "rows", "shape"}

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

# ---- the header ----


def read_header(file: BinaryIO, path: Path) -> dict[str, Any]:
    """What the file says of itself, once it is known to be true of the file's size.

    Raises:
        CacheError: another kind of file, or one that is torn.
    """
    head = file.read(HEADER)
    if not head.startswith(MAGIC):
        raise CacheError(
            f"{path} is not a cache of teacher outputs (its first bytes are {head[:8]!r})"
        )
    try:
        meta = json.loads(head[len(MAGIC) :].rstrip(b"\x00"))
        said = meta.pop("checksum", None)
        fine = (said is None or said == _checksum(meta)) and _sound(meta)
    except (ValueError, TypeError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise CacheError(f"the header of {path} is torn; delete the file and build it again")
    found, right = os.fstat(file.fileno()).st_size, _places(meta)[-1]
    if found != right:
        raise CacheError(
            f"{path} is torn: {found} bytes where {right} belong; "
            "delete the file and build it again"
        )
    return dict(meta)


def _checksum(meta: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta).encode())


def _sound(meta: Mapping[str, Any]) -> bool:
    """Whether every entry is there and of its kind: nothing is mapped by a header that is not."""

    def whole(value: Any) -> bool:
        return type(value) is int and 1 <= value < 2**63

    return (
        set(meta) == KEYS
        and all(type(meta[key]) is str for key in ("teacher", "data"))
        and isinstance(meta["augmentation"], (str, int, float, type(None)))
        and meta["dtype"] in DTYPES
        and whole(meta["block"])
        and whole(meta["rows"])
        and fits(meta)
    )


def _places(meta: Mapping[str, Any]) -> tuple[int, int, int]:
    """Where the checksums begin, where the rows begin, and where the file ends."""
    rows, blocks = meta["rows"], -(-meta["rows"] // meta["block"])
    sums = HEADER + 8 * rows
    first = sums + 16 * blocks
    return sums, first, first + rows * row_bytes(meta)


def mismatch(found: Mapping[str, Any], meta: Mapping[str, Any]) -> str | None:
    """The first thing in which a file differs from what is to be built, in words."""
    words = {
        "teacher": "another teacher (its weights differ)",
        "data": "other data",
        "what": "another signal",
        "augmentation": "another augmentation",
        "dtype": "another number type",
        "rows": "another number of items",
        "block": "another block size",
    }
    for key, what in words.items():
        if found[key] != meta[key]:
            return f"{what}: {found[key]!r}, now {meta[key]!r}"
    return None


# ---- reading ----


def map_rows(path: Path) -> tuple[dict[str, Any], Array, Array, Array]:
    """Header, ids ``[N]``, checksums ``[blocks, 2]`` and rows ``[N, ...]`` of a file, mapped.

    Raises:
        CacheError: a file that is missing, cannot be read, is of another kind, or torn.
    """
    try:
        if not path.is_file():
            raise CacheError(
                f"there is no cache at {path}; make it with Cache.build(path, teacher, dataset)"
            )
        with path.open("rb") as file:
            meta = read_header(file, path)
            sums, first, _ = _places(meta)
            shape = (meta["rows"], *row_shape(meta))
            return (
                meta,
                np.memmap(file, np.int64, "r", HEADER, (meta["rows"],)),
                np.memmap(file, np.uint64, "r", sums, ((first - sums) // 16, 2)),
                np.memmap(file, row_type(meta), "r", first, shape),
            )
    except OSError as error:
        raise CacheError(
            f"{path} cannot be read ({error.strerror}); mend that, or give another path"
        ) from error


# ---- writing ----


def create(path: Path, meta: Mapping[str, Any]) -> None:
    """Make a file with room for every row, unless another process has just made one.

    It gets its name in one move: a kill leaves no file, or one that can be gone on with.

    Raises:
        CacheError: a header that cannot be written.
        OSError: no room, or no right to write there; what was there before is as it was.
    """
    if not _sound(meta):
        shape = meta["shape"]
        raise CacheError(
            "a cache holds rows of at least one number, and a name for the augmentation: got rows "
            f"of shape {shape} and augmentation {meta['augmentation']!r}"
        )
    head = MAGIC + json.dumps({**meta, "checksum": _checksum(meta)}).encode()
    if len(head) > HEADER:
        raise CacheError("the header of the cache is too long; shorten the augmentation's name")
    target = Path(os.path.realpath(path))  # a link stays a link
    size = _places(meta)[-1]
    with _way_out(path, size), part_of(target) as (file, part):
        file.write(head.ljust(HEADER, b"\x00"))
        file.flush()
        _reserve(file, size)
        if os.name == "nt":  # an open file cannot be renamed there
            file.close()
        _name(part, target)


def _reserve(file: BinaryIO, size: int) -> None:
    """Room on the disk, or an OSError now."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
    # blocks are written, not mapped: a disk that fills up later ends in an error, not in a signal
    if shutil.disk_usage(Path(file.name).parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file.truncate(size)


def _name(part: Path, target: Path) -> None:
    """Give a file its name, but never over another file."""
    try:
        os.link(part, target)
    except FileExistsError:
        return
    except OSError:  # a disk without links
        if not target.exists():
            os.replace(part, target)


@contextlib.contextmanager
def _way_out(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        needs = f" It takes {size:,} bytes:" if size else ""
        raise OSError(
            error.errno,
            f"{path} cannot be written: {error.strerror}.{needs} make room, give a path on another "
            "disk, or keep rows of dtype=torch.float16",
        ) from error


class Blocks:
    """The blocks of a file that is being built, maybe by several processes at once.

    Args:
        path: A file made by :func:`create`.
        meta: What is to be built.

    Raises:
        CacheError: the file is another one's.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any]) -> None:
        self.path = path
        with _way_out(path, 0):
            self._file = path.open("r+b", buffering=0)
        try:
            self.meta: dict[str, Any] = read_header(self._file, path)
            if differs := mismatch(self.meta, meta):
                raise CacheError(f"{path} is being built by another process, from {differs}")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()

    def done(self, number: int) -> bool:
        """Whether a block is written."""
        return any(self._get(_places(self.meta)[0] + 16 * number, 8))

    def ids(self, number: int, count: int) -> Array:
        """The stored ids of a block."""
        return np.frombuffer(
            self._get(HEADER + 8 * number * self.meta["block"], 8 * count), np.int64
        )

    def write(self, number: int, ids: Array, rows: Array) -> None:
        """Write a block, unless another process has done so.

        Raises:
            CacheError: rows of another shape.
            OSError: a full disk; the block counts as not written.
        """
        shape, kind = [len(ids), *row_shape(self.meta)], row_type(self.meta)
        if list(rows.shape) != shape or rows.dtype != kind:
            found, due = (rows.dtype, kind) if kind.names else (list(rows.shape), shape)
            raise CacheError(
                f"the teacher's {self.meta['what']} has shape {found} where {due} was "
                "expected; a cache holds a row an item, all of one shape: pad to a fixed length"
            )
        sums, first, size = _places(self.meta)
        at = number * self.meta["block"]
        with _way_out(self.path, size), self._alone():
            if self.done(number):
                return
            self._put(HEADER + 8 * at, ids.tobytes())
            self._put(first + row_bytes(self.meta) * at, rows.tobytes())
            os.fsync(self._file.fileno())
            # the mark comes last: a block that a kill interrupts is asked again
            mark = np.array([1, checksum(ids, rows)], np.uint64)
            self._put(sums + 16 * number, mark.tobytes())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other builder writes, where the system knows such locks."""
        with contextlib.suppress(AttributeError, OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(AttributeError, OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _get(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(size)

    def _put(self, at: int, content: bytes) -> None:
        self._file.seek(at)
        left = memoryview(content)
        while left:  # a write may be short
            left = left[self._file.write(left) :]


def checksum(ids: Array, rows: Array) -> int:
    """CRC-32 of a block; of the ids too, as a row under a wrong id is as bad as a wrong row."""
    return zlib.crc32(np.ascontiguousarray(rows).data, zlib.crc32(np.ascontiguousarray(ids).data))
