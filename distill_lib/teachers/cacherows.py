"""The rows of a cache: an array a signal, of one type; several lie one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_lib.signals import Signals, pick

__all__ = ["CacheError", "fits", "pack", "row_bytes", "row_shape", "row_type", "unpack"]

WHOLE = "int32"  # of ids, beside others
AXES = 32  # NumPy's own limit before version 2

Array = np.ndarray[Any, Any]


class CacheError(RuntimeError):
    """A cache that must not be used; the message says why and what to do."""


def fits(meta: Mapping[str, Any]) -> bool:
    """Whether a header's ``what`` and ``shape`` say what a row is."""
    names, value = meta["what"], meta["shape"]
    if type(names) is str:
        return _sizes(value)
    return (
        type(names) is list
        and type(value) is list
        and 0 < len(names) == len(value) < AXES
        and all(type(name) is str for name in names)
        and len({*names}) == len(names)
        and all(type(one) is list and len(one) == 2 and _sizes(one[1]) for one in value)
        and all(one[0] in (meta["dtype"], WHOLE) for one in value)
    )


def _sizes(value: Any) -> bool:
    whole = type(value) is list and all(type(n) is int and 1 <= n < 2**63 for n in value)
    return whole and len(value) < AXES


def row_bytes(meta: Mapping[str, Any]) -> int:
    """The bytes of a row."""
    one = type(meta["what"]) is str
    arrays = [(meta["dtype"], meta["shape"])] if one else meta["shape"]
    # Python's whole numbers: NumPy's would overflow
    return sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in arrays)


def row_shape(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes of a row; those of several arrays are in its type."""
    return tuple(meta["shape"]) if type(meta["what"]) is str else ()


def row_type(meta: Mapping[str, Any]) -> np.dtype[Any]:
    """The type of an element of the rows; of several arrays, one with a field for each."""
    if type(meta["what"]) is str:
        found: np.dtype[Any] = np.dtype(meta["dtype"])
        return found
    return np.dtype([(str(n), kind, tuple(shape)) for n, (kind, shape) in enumerate(meta["shape"])])


def pack(said: Signals, meta: Mapping[str, Any], count: int) -> tuple[Array, list[Any]]:
    """The rows of a block, and the shape of one as the header has it.

    Raises:
        CacheError: whole numbers that would change; another number of rows.
        KeyError: a signal that the teacher does not tell.
    """
    what, dtype = meta["what"], getattr(torch, meta["dtype"])
    if isinstance(what, str):
        (row,) = _arrays(said, [what])
        if not row.is_floating_point() and not torch.equal(row.to(dtype).to(row.dtype), row):
            raise CacheError(
                f"{what} are whole numbers that {meta['dtype']} cannot hold; give their name as "
                f"what=({what!r},), and they are kept as they are"
            )
        return row.to(dtype).contiguous().numpy(), list(row.shape[1:])
    arrays = _arrays(said, what)
    for name, array in zip(what, arrays, strict=True):
        if not array.ndim or len(array) != count:
            raise CacheError(
                f"the teacher's {name} has shape {list(array.shape)} for {count} items"
            )
        if not array.is_floating_point() and array.numel() and int(array.abs().max()) >= 2**31:
            raise CacheError(f"{name} has {int(array.abs().max())}, and a cache holds {WHOLE}")
    arrays = [a.to(dtype if a.is_floating_point() else torch.int32) for a in arrays]
    shape = [[str(a.dtype).removeprefix("torch."), list(a.shape[1:])] for a in arrays]
    rows = np.empty(count, row_type({**meta, "shape": shape}))
    for n, array in enumerate(arrays):
        rows[str(n)] = array.numpy()
    return rows, shape


def _arrays(said: Signals, names: Sequence[str]) -> list[Tensor]:
    return [pick(said, name, "teacher").detach().cpu() for name in names]


def unpack(rows: Array, meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """The signals of some rows; whole numbers as int64, which indexing wants."""
    what = meta["what"]
    if isinstance(what, str):
        return {what: torch.from_numpy(np.asarray(rows))}
    found = [torch.from_numpy(np.ascontiguousarray(rows[str(n)])) for n in range(len(what))]
    found = [x if x.is_floating_point() else x.long() for x in found]
    return dict(zip(what, found, strict=True))
