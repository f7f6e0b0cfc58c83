"""Teacher outputs on disk: ask once, read for ever, refuse what is stale or torn."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill_lib.progress import bar
from distill_lib.signals import Batch, Signals, as_batch, pick

from .live import Source, Teacher

__all__ = ["Cache", "CacheError", "data_fingerprint"]

MAGIC = b"DISTILL\x01"
HEADER = 4096
UNSET = 0


class CacheError(RuntimeError):
    """A cache that must not be used; the message says why and what to do."""


def data_fingerprint(dataset: Any) -> str:
    """The data set's own ``fingerprint()``, or SHA-256 of its length and 64 of its items."""
    if hasattr(dataset, "fingerprint"):
        return str(dataset.fingerprint())
    digest = hashlib.sha256(str(len(dataset)).encode())
    spread = {round(k * (len(dataset) - 1) / 63) for k in range(64)} if len(dataset) else set()
    for i in sorted(spread):
        for key, value in sorted(as_batch(dataset[i]).items()):
            digest.update(key.encode() + np.asarray(value).tobytes())
    return digest.hexdigest()


def _walk(dataset: Any, batch_size: int) -> Iterable[Mapping[str, Any]]:
    if hasattr(dataset, "batches"):
        yield from dataset.batches(batch_size, shuffle=False)
    else:
        for batch in DataLoader(dataset, batch_size=batch_size):
            yield as_batch(batch)


class Cache:
    """A teacher whose answers lie in one memory-mapped file.

    The file holds a header, the id of every row, a checksum for every block of rows, and the rows.
    Rows are found by the ``index`` of the batch, never by position, so shuffling is harmless.

    Args:
        path: A file made by :meth:`build`.
        verify: Check every block's checksum when opening.

    Raises:
        CacheError: a missing, foreign, unfinished, truncated or damaged file.
    """

    def __init__(self, path: str | Path, verify: bool = True) -> None:
        self.path = Path(path)
        self.meta = _read_header(self.path)
        self._map(mode="r")
        done = self._sums[:, 0] != UNSET
        if not done.all():
            raise CacheError(
                f"{self.path} is unfinished: {int(done.sum())} of {len(done)} blocks are written; "
                "call Cache.build with the same arguments to go on"
            )
        if verify:
            size = self.meta["block"]
            for block in range(len(self._sums)):
                if self._sum(slice(block * size, (block + 1) * size)) != self._sums[block, 1]:
                    raise CacheError(
                        f"{self.path} is torn: rows {block * size} and on do not match their "
                        "checksum; delete the file and build it again"
                    )
        ids = np.asarray(self._ids)
        self._order = None if np.array_equal(ids, np.arange(len(ids))) else np.argsort(ids)

    def _map(self, mode: str) -> None:
        rows, block = self.meta["rows"], self.meta["block"]
        blocks, ids_at = -(-rows // block), HEADER
        sums_at = ids_at + 8 * rows
        rows_at = sums_at + 16 * blocks
        self._ids = np.memmap(self.path, np.int64, mode, ids_at, (rows,))  # type: ignore[call-overload]
        self._sums = np.memmap(self.path, np.uint64, mode, sums_at, (blocks, 2))  # type: ignore[call-overload]
        shape = (rows, *self.meta["shape"])
        self._rows = np.memmap(self.path, self.meta["dtype"], mode, rows_at, shape)  # type: ignore[call-overload]

    def _sum(self, where: slice) -> int:
        # the ids too: a row under a wrong id is as bad as a wrong row
        return zlib.crc32(self._rows[where].tobytes(), zlib.crc32(self._ids[where].tobytes()))

    def __len__(self) -> int:
        return int(self.meta["rows"])

    def __repr__(self) -> str:
        rows = f"{len(self)} rows of {self.meta['shape']}"
        return f"Cache({str(self.path)!r}: {self.meta['what']}, {rows})"

    def __call__(self, batch: Batch) -> Signals:
        """The stored targets for the ids in ``batch["index"]``.

        Raises:
            CacheError: no ``index``, an unknown id, or inputs augmented otherwise than when cached.
        """
        named = as_batch(batch)
        if "index" not in named:
            raise CacheError(
                "a cached teacher finds its rows by sample id: the batch needs an 'index' "
                f"(it has {', '.join(named)}). Let the data set return "
                "{'inputs', 'labels', 'index'}"
            )
        made, seen = self.meta["augmentation"], named.get("augmentation")
        # a DataLoader makes a list of what is the same for every item
        if any(one != made for one in (seen if isinstance(seen, (list, tuple)) else [seen])):
            raise CacheError(
                f"the cache was made with augmentation {made!r}, this batch has {seen!r}: the "
                "teacher's answers are to other images. Use the live teacher, or train on what "
                "was cached"
            )
        index = torch.as_tensor(named["index"])
        rows = torch.from_numpy(self._rows[self._find(index.cpu().numpy())])
        return {self.meta["what"]: rows.to(index.device)}

    def _find(self, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self._order is None:
            known = (ids >= 0) & (ids < len(self))
            at = ids
        else:
            at = np.searchsorted(self._ids, ids, sorter=self._order).clip(max=len(self) - 1)
            at = self._order[at]
            known = np.asarray(self._ids)[at] == ids
        if not known.all():
            raise CacheError(
                f"id {ids[~known].flat[0]} is not among the {len(self)} rows of {self.path}; "
                "build the cache over the data set that you train on"
            )
        return at

    def to(self, device: torch.device | str) -> Cache:
        """Nothing to move: rows go to where the batch's ids are."""
        return self

    def fingerprint(self) -> str:
        """The cached teacher's fingerprint, with the signal and the data."""
        keys = ("teacher", "data", "what", "augmentation", "dtype")
        return hashlib.sha256(repr([self.meta[k] for k in keys]).encode()).hexdigest()

    @classmethod
    def build(
        cls,
        path: str | Path,
        teacher: Source | nn.Module,
        dataset: Any,
        what: str = "logits",
        *,
        dtype: torch.dtype = torch.float32,
        block: int = 512,
        augmentation: str | None = None,
        progress: bool = True,
    ) -> Cache:
        """Ask the teacher about every item of a data set, once.

        An interrupted build goes on where it stopped. A finished file that fits is opened as it
        is.

        Args:
            path: The file; its folder is made.
            teacher: Any teacher, or a module that becomes one.
            dataset: Items are mappings with ``inputs`` and ``index``, or pairs (then the position
                is the id). A ``batches(batch_size, shuffle=False)`` method is used where there is
                one.
            what: The signal to keep.
            dtype: Of the stored rows; ``torch.float16`` halves the file.
            block: Rows asked and checked at a time.
            augmentation: A name for how ``dataset`` augments its inputs, if it does so always
                alike.
            progress: Show a bar.

        Raises:
            CacheError: the file belongs to another teacher, other data, or another signal.
            TypeError: a number type that a file cannot hold.
        """
        if dtype not in (torch.float16, torch.float32, torch.float64):
            raise TypeError(f"a cache holds float16, float32 or float64 rows, got dtype={dtype}")
        path = Path(path)
        teacher = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        meta = {
            "teacher": teacher.fingerprint(),
            "data": data_fingerprint(dataset),
            "what": what,
            "augmentation": augmentation,
            "dtype": str(dtype).removeprefix("torch."),
            "block": block,
            "rows": len(dataset),
        }
        if path.exists():
            _refuse_stale(path, meta)
        builder = cls.__new__(cls)
        builder.path = path
        builder._fill(teacher, dataset, meta, progress)
        return cls(path)

    def _fill(self, teacher: Source, dataset: Any, meta: dict[str, Any], progress: bool) -> None:
        ready = self.path.exists()
        if ready:
            self.meta = _read_header(self.path)
            self._map("r")  # a finished file may lie where nothing can be written
            if (self._sums[:, 0] != UNSET).all():
                return
            self._map("r+")
        block, total = meta["block"], meta["rows"]
        shown = bar(_walk(dataset, block), f"cache {self.path.name}", -(-total // block), progress)
        at = 0
        for number, batch in enumerate(shown):
            count = _count(batch)
            if count != min(block, total - at):
                raise CacheError(
                    f"the data set of {total} items gave {count} at item {at}, where a block of "
                    f"{min(block, total - at)} was due: its batches must come in order, and whole"
                )
            if not (ready and self._sums[number, 0] != UNSET):
                rows = pick(teacher(batch), meta["what"], "teacher").detach().cpu()
                rows = rows.to(getattr(torch, meta["dtype"])).contiguous()
                if not ready:
                    self.meta = {**meta, "shape": list(rows.shape[1:])}
                    _create(self.path, self.meta)
                    self._map("r+")
                    ready = True
                self._write(number, slice(at, at + count), batch, rows)
            at += count
        if at != total:
            raise CacheError(f"the data set says it has {total} items and gave {at}")

    def _write(self, number: int, where: slice, batch: Mapping[str, Any], rows: Tensor) -> None:
        shape = [where.stop - where.start, *self.meta["shape"]]
        if list(rows.shape) != shape:
            raise CacheError(
                f"the teacher's {self.meta['what']} has shape {list(rows.shape)} where {shape} was "
                "expected; a cache holds a row an item, all of one shape: pad to a fixed length"
            )
        self._ids[where] = batch.get("index", np.arange(where.start, where.stop))
        self._rows[where] = rows.numpy()
        self._ids.flush()
        self._rows.flush()
        # the mark comes last: a block that a kill interrupts is asked again
        self._sums[number] = (1, self._sum(where))
        self._sums.flush()


def _count(batch: Mapping[str, Any]) -> int:
    return len(next(v for v in batch.values() if isinstance(v, Tensor)))


def _create(path: Path, meta: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = MAGIC + json.dumps(meta).encode()
    if len(head) > HEADER:
        raise CacheError("the header of the cache is too long; shorten the augmentation's name")
    # in one move: a kill leaves no file, or one with room for every row
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(head.ljust(HEADER, b"\x00"))
        file.truncate(_size(meta))
    os.replace(beside, path)


def _size(meta: Mapping[str, Any]) -> int:
    rows, blocks = meta["rows"], -(-meta["rows"] // meta["block"])
    return int(
        HEADER
        + 8 * rows
        + 16 * blocks
        + np.dtype(meta["dtype"]).itemsize * rows * np.prod(meta["shape"], dtype=int)
    )


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CacheError(
            f"there is no cache at {path}; make it with Cache.build(path, teacher, dataset)"
        )
    with path.open("rb") as file:
        head = file.read(HEADER)
    if not head.startswith(MAGIC):
        raise CacheError(
            f"{path} is not a cache of teacher outputs (its first bytes are {head[:8]!r})"
        )
    try:
        meta: dict[str, Any] = json.loads(head[len(MAGIC) :].rstrip(b"\x00"))
    except ValueError as error:
        raise CacheError(
            f"the header of {path} is torn; delete the file and build it again"
        ) from error
    if path.stat().st_size != _size(meta):
        raise CacheError(
            f"{path} is torn: {path.stat().st_size} bytes where {_size(meta)} belong; "
            "delete the file and build it again"
        )
    return meta


def _refuse_stale(path: Path, meta: Mapping[str, Any]) -> None:
    found = _read_header(path)
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
            raise CacheError(
                f"{path} is stale: it was made from {what}: {found[key]!r}, now {meta[key]!r}. "
                "Delete it, or give this cache another path"
            )
