"""Teacher outputs on disk: ask once, read for ever, refuse what is stale or torn."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill_lib.arguments import as_path, checked, told
from distill_lib.progress import bar
from distill_lib.signals import Batch, Signals, as_batch

from .cachefile import HEADER, Blocks, CacheError, checksum, create, map_rows, mismatch
from .cacherows import pack, unpack
from .live import Source, Teacher

__all__ = ["HEADER", "Cache", "CacheError", "data_fingerprint"]


def data_fingerprint(dataset: Any) -> str:
    """The data set's own ``fingerprint()``, or SHA-256 of its length and 64 of its items."""
    if hasattr(dataset, "fingerprint"):
        return str(dataset.fingerprint())
    digest = hashlib.sha256(str(len(dataset)).encode())
    spread = {round(k * (len(dataset) - 1) / 63) for k in range(64)} if len(dataset) else set()
    for i in sorted(spread):
        for key, value in sorted(as_batch(dataset[i]).items()):
            digest.update(key.encode() + _bytes(value))
    return digest.hexdigest()


def _bytes(value: Any) -> bytes:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.to_dense() if value.layout != torch.strided else value
        value = value.float() if value.dtype == torch.bfloat16 else value
    with contextlib.suppress(TypeError, ValueError):  # lists of several lengths are no array
        if (array := np.asarray(value)).dtype != object:
            return array.tobytes()
    if isinstance(value, Mapping):
        value = sorted(value.items())
    if isinstance(value, (list, tuple)):
        return b"".join(map(_bytes, value))
    return repr(value).encode()


def _walk(dataset: Any, batch_size: int) -> Iterable[Mapping[str, Any]]:
    if hasattr(dataset, "batches"):
        yield from dataset.batches(batch_size, shuffle=False)
    else:
        for batch in DataLoader(dataset, batch_size=batch_size):
            yield as_batch(batch)


@checked
class Cache:
    """A teacher whose answers lie in one memory-mapped file.

    The file holds a header, the id of every row, a checksum for every block of rows, and the rows.
    Rows are found by the ``index`` of the batch, never by position, so shuffling is harmless. The
    header says no more than the file has bytes; rows stay on the disk until they are asked for, and
    24 bytes an id are kept in memory where ids are not the positions.

    Args:
        path: A file made by :meth:`build`.
        verify: Check every block's checksum when opening.

    Raises:
        CacheError: a missing, foreign, unfinished, truncated or damaged file, or one in which two
            rows have one id.
    """

    meta: dict[str, Any]

    def __init__(self, path: str | Path, verify: bool = True) -> None:
        self.path: Path = as_path(path)
        self.meta, self._ids, self._sums, self._rows = map_rows(self.path)
        done = self._sums[:, 0] != 0
        if not done.all():
            raise CacheError(
                f"{self.path} is unfinished: {int(done.sum())} of {len(done)} blocks are written; "
                "call Cache.build with the same arguments to go on"
            )
        size = self.meta["block"]
        for block in range(len(self._sums) if verify else 0):
            where = slice(block * size, (block + 1) * size)
            if checksum(self._ids[where], self._rows[where]) != self._sums[block, 1]:
                raise CacheError(
                    f"{self.path} is torn: rows {block * size} and on do not match their "
                    "checksum; delete the file and build it again"
                )
        self._order = self._ordered()

    def _ordered(self) -> np.ndarray[Any, Any] | None:
        """The rows by id, or None where the ids are the positions."""
        ids = np.asarray(self._ids)
        if np.array_equal(ids, np.arange(len(ids))):
            return None
        order = np.argsort(ids)
        twice = ids[order][1:] == ids[order][:-1]
        if twice.any():
            raise CacheError(
                f"two rows of {self.path} have the id {ids[order[twice.argmax()]]}; delete the "
                "file, give each item an 'index' of its own, and build it again"
            )
        return order

    def __len__(self) -> int:
        return int(self.meta["rows"])

    def __repr__(self) -> str:
        what, rows = self.meta["what"], f"{len(self)} rows of {self.meta['shape']}"
        names = what if isinstance(what, str) else ", ".join(what)
        return f"Cache({str(self.path)!r}: {names}, {rows})"

    def __call__(self, batch: Batch) -> Signals:
        """The stored targets for the ids in ``batch["index"]``.

        Raises:
            CacheError: no ``index``, ids that are no whole numbers, an unknown id, or inputs
                augmented otherwise than when cached.
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
        index = named["index"]
        found = np.asarray(self._rows).take(self._find(_ids(index)), axis=0)  # a copy
        rows = unpack(np.asarray(found), self.meta)
        return (
            {k: v.to(index.device) for k, v in rows.items()} if isinstance(index, Tensor) else rows
        )

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
    @checked
    def build(
        cls,
        path: str | Path,
        teacher: Source | nn.Module,
        dataset: Any,
        what: str | Sequence[str] = "logits",
        *,
        dtype: torch.dtype = torch.float32,
        block: int = 512,
        augmentation: str | None = None,
        progress: bool = True,
    ) -> Cache:
        """Ask the teacher about every item of a data set, once.

        An interrupted build goes on where it stopped. A finished file that fits is opened as it
        is. Several processes may build one file: each writes the blocks that are missing.

        Args:
            path: The file; its folder is made.
            teacher: Any teacher, or a module that becomes one.
            dataset: Items are mappings with ``inputs`` and ``index``, or pairs (then the position
                is the id). Ids are whole numbers, and no two items share one. A
                ``batches(batch_size, shuffle=False)`` method is used where there is one.
            what: The signal to keep, or several: ``("top_ids", "top_log_probs", "rest")`` of
                :class:`distill_lib.teachers.TopK`. Beside others, whole numbers are kept as such.
            dtype: Of the stored real numbers; ``torch.float16`` halves the file.
            block: Rows asked and checked at a time.
            augmentation: A name for how ``dataset`` augments its inputs, if it does so always
                alike.
            progress: Show a bar.

        Raises:
            CacheError: the file belongs to another teacher, other data, or another signal; two
                items have one id; there are no items, or not as many as the data set says.
            OSError: a full disk, or a folder that cannot be written to.
            TypeError: a number type that a file cannot hold.
            ValueError: ``block`` is below 1.
        """
        if dtype not in (torch.float16, torch.float32, torch.float64):
            raise TypeError(f"a cache holds float16, float32 or float64 rows, got dtype={dtype}")
        if block < 1:
            raise ValueError(f"block is a number of rows, at least 1, got {block}")
        sized = hasattr(type(dataset), "__len__") and getattr(dataset, "ndim", 1) != 0
        walked = hasattr(dataset, "__getitem__") or hasattr(dataset, "batches")
        if not (sized and walked) or isinstance(dataset, Mapping):
            of = "; give what its batches are of: .dataset" if hasattr(dataset, "dataset") else ""
            raise TypeError(
                f"expected a data set, with a length and items by position, got {told(dataset)}{of}"
            )
        if not len(dataset):
            raise CacheError("the data set has no items: there is nothing to ask the teacher about")
        path = as_path(path)
        teacher = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        meta = {
            "teacher": teacher.fingerprint(),
            "data": data_fingerprint(dataset),
            "what": what if isinstance(what, str) else list(what),
            "augmentation": augmentation,
            "dtype": str(dtype).removeprefix("torch."),
            "block": block,
            "rows": len(dataset),
        }
        if not (os.path.exists(path) and _finished(path, meta)):
            shown = bar(
                _walk(dataset, block), f"cache {path.name}", -(-len(dataset) // block), progress
            )
            _fill(path, teacher, _in_order(shown, meta), meta)
        return cls(path)


def _finished(path: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the file that is there is whole; it is only read, for it may be write-protected."""
    found, _, sums, _ = map_rows(path)
    if differs := mismatch(found, meta):
        raise CacheError(
            f"{path} is stale: it was made from {differs}. "
            "Delete it, or give this cache another path"
        )
    return bool((sums[:, 0] != 0).all())


def _in_order(
    batches: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], np.ndarray[Any, Any]]]:
    """Each batch with its ids, once it is known to be the block that is due and new."""
    block, total, at = meta["block"], meta["rows"], 0
    seen: set[int] = set()
    for batch in batches:
        count = _count(batch)
        if count != min(block, total - at):
            raise CacheError(
                f"the data set of {total} items gave {count} at item {at}, where a block of "
                f"{min(block, total - at)} was due: its batches must come in order, and whole"
            )
        ids = _ids(batch["index"]) if "index" in batch else np.arange(at, at + count)
        if ids.shape != (count,):
            raise CacheError(
                f"expected an id an item, got 'index' of shape {list(ids.shape)} for {count} items"
            )
        for place, one in enumerate(ids.tolist(), at):
            if one in seen:
                raise CacheError(
                    f"item {place} has the id {one}, as an item before it. Rows are found by "
                    "id: give each item once, and an 'index' of its own"
                )
            seen.add(one)
        yield batch, ids
        at += count
    if at != total:
        raise CacheError(f"the data set says it has {total} items and gave {at}")


def _fill(
    path: Path,
    teacher: Source,
    batches: Iterable[tuple[Mapping[str, Any], np.ndarray[Any, Any]]],
    meta: Mapping[str, Any],
) -> None:
    """Ask for the blocks that the file lacks; the first answer tells the shape of a row."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(Blocks(path, meta)) if os.path.exists(path) else None
        for number, (batch, ids) in enumerate(batches):
            if file is not None and file.done(number):
                if not np.array_equal(file.ids(number, len(ids)), ids):
                    raise CacheError(
                        f"{path} is stale: block {number} was made from items with other ids. "
                        "Delete it, or give this cache another path"
                    )
                continue
            rows, shape = pack(teacher(batch), meta, len(ids))
            if file is None:
                create(path, {**meta, "shape": shape})
                file = stack.enter_context(Blocks(path, meta))
            file.write(number, ids, rows)


def _count(batch: Mapping[str, Any]) -> int:
    for value in batch.values():
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise CacheError(
        f"expected a batch with a tensor [B, ...], got {', '.join(batch) or 'nothing'}"
    )


def _ids(index: Any) -> np.ndarray[Any, Any]:
    """Ids as int64: what is no whole number would become one without a word, and be another's."""
    try:
        found = index.detach().cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CacheError(f"'index' holds whole numbers, an id an item ({error})") from error
    if not found.size:
        return found.astype(np.int64)
    if found.dtype.kind not in "iu" or int(found.max()) >= 2**63:
        kind = type(index).__name__ if found.dtype.kind == "O" else found.dtype
        raise CacheError(
            f"'index' holds whole numbers below 2**63, an id an item, got {kind}, such as "
            f"{found.flat[0]!r}: number the items, and let the data set return the number"
        )
    return found.astype(np.int64)
