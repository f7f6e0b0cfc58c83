"""The rows of a cache: an array a signal, of one type; several lie one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_lib.signals import Signals, pick

__all__ = ["CacheError", "fits", "kept", "pack", "row_bytes", "row_shape", "row_type", "unpack"]

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
        CacheError: numbers that would change beyond rounding; another number of rows.
        KeyError: a signal that the teacher does not tell.
    """
    what, dtype = meta["what"], getattr(torch, meta["dtype"])
    wider = "build the cache with dtype=torch.float32, or torch.float64"
    if isinstance(what, str):
        found = pick(said, what, "teacher")
        way = f"give their name as what=({what!r},), and they are kept as they are"
        row = kept(what, found, dtype, wider if found.is_floating_point() else way, CacheError)
        return row.contiguous().numpy(), list(row.shape[1:])
    arrays = []
    for name in what:
        found = pick(said, name, "teacher")
        if not found.ndim or len(found) != count:
            raise CacheError(
                f"the teacher's {name} has shape {list(found.shape)} for {count} items"
            )
        way = f"a cache holds {WHOLE}; map them with Teacher(forward=…)"
        kind, way = (dtype, wider) if found.is_floating_point() else (torch.int32, way)
        arrays.append(kept(name, found, kind, way, CacheError))
    shape = [[str(a.dtype).removeprefix("torch."), list(a.shape[1:])] for a in arrays]
    rows = np.empty(count, row_type({**meta, "shape": shape}))
    for n, array in enumerate(arrays):
        rows[str(n)] = array.numpy()
    return rows, shape


def kept(
    name: str,
    found: Tensor,
    dtype: torch.dtype,
    way: str,
    error: type[Exception] = ValueError,
) -> Tensor:
    """A signal as a store keeps it: the same numbers, real ones up to rounding.

    Args:
        name: Of the signal.
        found: [...], what the teacher says.
        dtype: The type of what is stored.
        way: What helps where that type cannot hold it.
        error: What is raised.

    Returns:
        [...] of that type, on the CPU.

    Raises:
        TypeError: complex numbers.
        error: a real number that would become infinite, or a whole one that would change.
    """
    if found.is_complex():
        raise TypeError(
            f"{name!r} of the teacher holds complex numbers: keep their real and imaginary parts, "
            "torch.view_as_real(…), by Teacher(forward=…)"
        )
    found = found.detach().cpu()
    stored = found.to(dtype)
    if found.is_floating_point():
        if bool((stored.isinf() & ~found.isinf()).any()):
            raise error(
                f"{name!r} of the teacher reaches {found.abs().nan_to_num(0, 0, 0).max():.3g}, "
                f"which is infinite in {dtype}: {way}"
            )
        return stored
    changed = stored.to(found.dtype) != found
    if bool(changed.any()):
        raise error(
            f"{name!r} of the teacher are whole numbers, such as {found[changed][0].item()}, that "
            f"{dtype} cannot hold: {way}"
        )
    return stored


def unpack(rows: Array, meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """The signals of some rows; whole numbers as int64, which indexing wants."""
    what = meta["what"]
    if isinstance(what, str):
        return {what: torch.from_numpy(np.asarray(rows))}
    found = [torch.from_numpy(np.ascontiguousarray(rows[str(n)])) for n in range(len(what))]
    found = [x if x.is_floating_point() else x.long() for x in found]
    return dict(zip(what, found, strict=True))
