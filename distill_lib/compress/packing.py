"""Files as small as the weights allow, read back to the last bit.

Each tensor is written in the smallest of four ways: as it is, or as a Huffman-coded codebook where
few values occur; both also without its zeros, whose places are Huffman-coded gaps. So the file of a
network that was pruned, shared or rounded is small without being told which. The format is this
module's own and holds numbers and a header only: nothing in it can run.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill_lib.arguments import as_path, checked
from distill_lib.checkpoints import Checkpoint, CheckpointError, check_fit
from distill_lib.checkpoints.files import whole_file

from .huffman import decode, encode, lengths_of
from .plans import (
    all_names,
    as_json,
    check_there,
    once_written,
    planned,
    shapes_of_all,
    shrink,
    written_out,
)

__all__ = ["load_packed", "packed_sizes", "save_packed"]

MAGIC = b"DLPACK1\n"
SYMBOLS = 4096  # beyond, a codebook costs more than it saves
HEADER = 4096  # bytes that the header may have for each tensor and module of a model
SKIP = 255  # the gap that stands for 255 zeros and no value behind them
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Word = type[np.unsignedinteger[Any]]
UNSIGNED: dict[int, Word] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Array = NDArray[Any]


class _Coded:
    """A sequence under its own Huffman code."""

    def __init__(self, codes: Array, symbols: int) -> None:
        counts = np.bincount(codes, minlength=symbols)
        self.codes, self.lengths = codes, lengths_of(counts)
        self.size = (int(counts @ self.lengths) + 7) // 8

    def body(self) -> bytes:
        return encode(self.codes, self.lengths) if self.size else b""


class _Values:
    """Some words of a tensor: raw, or as a codebook where that is smaller."""

    def __init__(self, words: Array) -> None:
        self.words = words
        self.coded: _Coded | None = None
        self.symbols, codes = np.unique(words, return_inverse=True)
        self.size = words.nbytes
        if len(self.symbols) <= SYMBOLS and len(words):
            coded = _Coded(codes.reshape(-1), len(self.symbols))
            size = coded.size + len(self.symbols) * (words.itemsize + 1)
            if size < self.size:
                self.coded, self.size = coded, size

    def parts(self) -> tuple[list[int], bytes, bytes]:
        """What the header says of it, its tables, and its data."""
        if self.coded is None:
            return [], b"", self.words.tobytes()
        tables = self.coded.lengths.astype(np.uint8).tobytes() + self.symbols.tobytes()
        return [len(self.symbols), self.coded.size], tables, self.coded.body()


def _gaps(places: Array) -> Array:
    """How many zeros lie before each value, in symbols of 0 to 255."""
    gaps = np.diff(places, prepend=-1) - 1
    skips, rest = np.divmod(gaps, SKIP)
    found = np.full(int(skips.sum()) + len(gaps), SKIP, dtype=np.int64)
    found[np.cumsum(skips + 1) - 1] = rest
    return found


def _places(gaps: Array) -> Array:
    """Where the values lie; the inverse of :func:`_gaps`."""
    last = gaps != SKIP
    return np.asarray((np.cumsum(gaps + last) - 1)[last])


def _words(tensor: Tensor) -> Array:
    # a subclass, such as torchao's weights, keeps its numbers somewhere else
    size = tensor.element_size() if type(tensor) in (Tensor, nn.Parameter) else 0
    if size not in WORDS or tensor.layout != torch.strided or tensor.is_quantized:
        what = f"a tensor of {tensor.dtype}" if size else f"of {type(tensor).__name__}"
        raise ValueError(f"plain tensors of up to 8 bytes a number can be packed, this is {what}")
    if tensor.is_meta:
        raise ValueError("plain tensors can be packed, and on the meta device are no numbers")
    flat = written_out(tensor).cpu().contiguous().reshape(-1)
    return np.asarray(flat.view(WORDS[size]).numpy().view(UNSIGNED[size]))


def _encode(tensor: Tensor) -> tuple[dict[str, Any], bytes, bytes]:
    """What the header says of a tensor, its tables, and its data."""
    words = _words(tensor)
    entry: dict[str, Any] = {"t": str(tensor.dtype)[6:], "s": list(tensor.shape)}
    dense, places = _Values(words), np.flatnonzero(words)
    if 0 < len(places) < len(words):
        gaps, some = _Coded(_gaps(places), SKIP + 1), _Values(words[places])
        if gaps.size + SKIP + 1 + some.size < dense.size:
            book, tables, body = some.parts()
            entry |= {"n": len(places), "g": [len(gaps.codes), gaps.size]}
            entry |= {"b": book} if book else {}
            head = gaps.lengths.astype(np.uint8).tobytes()
            return entry, head + tables, gaps.body() + body
    book, tables, body = dense.parts()
    return entry | ({"b": book} if book else {}), tables, body


@checked
def packed_sizes(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """The bits that each number of a tensor costs in a packed file, without the file's header.

    Example:
        >>> packed_sizes({"zeros": torch.zeros(1000), "two": torch.tensor([1.0, 2.0] * 500)})
        {'zeros': 0.088, 'two': 1.144}
    """
    found = {}
    for name, tensor in tensors.items():
        _, tables, body = _encode(tensor)
        size = len(body) + (len(zlib.compress(tables, 9)) if tables else 0)
        found[name] = 8 * size / max(tensor.numel(), 1)
    return found


@checked
def save_packed(model: nn.Module, path: str | Path, plan: Mapping[str, Any] | None = None) -> int:
    """Write a model's state as small as its zeros and repeated values allow, each weight once.

    Args:
        model: The model. Shared weights are written as plain ones: :func:`bake` them first. Rounded
            ones are smallest as integers, by :func:`convert`: baked, with a step for each output,
            hardly two of them are alike.
        path: The file.
        plan: The plan of :func:`prune_channels`, for a network that was also made narrower.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: a state that is no tensor, one of a kind that is not packed, or one on the meta
            device.
        OSError: the file cannot be written; an older one is whole.

    Reference:
        Han et al., *Deep compression*, 2016.
    """
    check_there(model, ValueError)
    header: dict[str, Any] = {"tensors": []}
    if plan is not None:
        header["plan"] = json.loads(as_json(plan))
    tables, bodies = [], []
    if same := once_written(model):
        header["ties"] = same
    for name, tensor in model.state_dict().items():
        if name in same:
            continue
        try:
            entry, table, body = _encode(tensor)
        except ValueError as error:
            raise ValueError(
                f"{name!r} cannot be packed: {error}; torch.save(model.state_dict(), …) takes it"
            ) from error
        header["tensors"].append({"k": name, **entry})
        tables.append(table)
        bodies.append(body)
    head = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    table = zlib.compress(b"".join(tables), 9)
    data = MAGIC + struct.pack("<II", len(head), len(table)) + head + table + b"".join(bodies)
    data += struct.pack("<I", zlib.crc32(data))
    with whole_file(path) as file:
        file.write(data)
    return len(data)


@checked
def load_packed(model: nn.Module, path: str | Path) -> nn.Module:
    """Read a packed file into a freshly built model, in place.

    It takes memory for the file, for the model once more, and for a header of at most 4 KiB for
    each tensor and module; a flipped bit is found by the checksum.

    Args:
        model: Of the class and sizes that were saved; or, for a file with a plan, as it was before
            it was made narrower.
        path: The file.

    Raises:
        CheckpointError: no packed file, a torn one, or one of another model, or a model on the meta
            device; the model is as it was. What the file says is compared with the model before
            room is made for it.

    Example:
        >>> import tempfile
        >>> from distill_lib.compress import magnitude, save_packed
        >>> net, other = nn.Linear(64, 64), nn.Linear(64, 64)
        >>> _ = magnitude(net, 0.9).apply(net)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = save_packed(net, f"{folder}/net.packed")
        ...     _ = load_packed(other, f"{folder}/net.packed")
        >>> torch.equal(net.weight, other.weight), size < 64 * 65 * 4 / 5
        (True, True)
    """
    check_there(model)
    try:
        header, table, body = _opened(as_path(path).read_bytes(), model)
        shapes = planned(model, header.get("plan", {"shapes": {}, "sizes": {}}))
        said = {entry["k"]: entry["s"] for entry in header["tensors"]}
        same = header.get("ties", {})
        check_fit("packed", shapes_of_all(said, same), shapes)
        tensors = all_names(dict(_decode(header["tensors"], table, body)), same, model)
        if "plan" in header:
            shrink(model, header["plan"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a right checksum, and behind it anything
        raise CheckpointError(
            f"{path} is torn, or not a file of save_packed: {type(error).__name__} {error}"
        ) from error
    Checkpoint("packed", tensors).load_into(model)
    return model


def _opened(data: bytes, model: nn.Module) -> tuple[dict[str, Any], bytes, bytes]:
    """The header, the tables and the data of a file, none of them larger than it has to be."""
    if data[: len(MAGIC)] != MAGIC:
        raise CheckpointError("this is not a file of save_packed")
    if len(data) < 20 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise CheckpointError("this file is torn: its checksum does not fit")
    at = len(MAGIC) + 8
    head, table = struct.unpack("<II", data[at - 8 : at])
    named = sum(1 for _ in model.modules()) + len(model.state_dict())
    header = json.loads(_inflated(data[at : at + head], HEADER * (1 + named)))
    entries = header["tensors"]
    if len(entries) > named:  # before room is made for their tables
        raise CheckpointError(f"it holds {len(entries)} tensors, and the model has fewer")
    room = sum(_table_size(entry) for entry in entries)
    if len({entry["k"] for entry in entries}) < len(entries):
        raise CheckpointError("it holds two tensors of one name")
    tables = _inflated(data[at + head : at + head + table], room)
    return header, tables, data[at + head + table : -4]


def _inflated(data: bytes, room: int) -> bytes:
    unpack = zlib.decompressobj()
    found = unpack.decompress(data, room + 1)
    if len(found) > room or not unpack.eof:
        raise CheckpointError(f"a part of it is torn, or unpacks to more than {room} bytes")
    return found


def _dtype(entry: Mapping[str, Any]) -> torch.dtype:
    dtype = getattr(torch, entry["t"])
    if (
        not isinstance(dtype, torch.dtype)
        or dtype.itemsize not in WORDS
        or entry["t"].startswith("q")  # these come with a scale, which is not here
    ):
        raise CheckpointError(f"{entry['t']!r} is no type of numbers")
    return dtype


def _table_size(entry: Mapping[str, Any]) -> int:
    """The bytes of a tensor's tables, from a header whose numbers are checked here."""
    total = math.prod(entry["s"])
    symbols, coded = entry.get("b", (0, 0))
    gaps, places = entry.get("g", (0, 0))
    numbers = [*entry["s"], symbols, coded, gaps, places, entry.get("n", 0)]
    if any(type(n) is not int or n < 0 for n in numbers):
        raise CheckpointError(f"the sizes of {entry['k']} are no whole numbers")
    if max(gaps, symbols, entry.get("n", 0)) > total or symbols > SYMBOLS:
        raise CheckpointError(f"the sizes of {entry['k']} are beyond its {total} numbers")
    return (SKIP + 1) * ("g" in entry) + int(symbols) * (_dtype(entry).itemsize + 1)


class _Reader:
    """Bytes, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("it ends too early")
        return self.data[self.at - size : self.at]

    def lengths(self, symbols: int) -> Array:
        return np.frombuffer(self.take(symbols), dtype=np.uint8).astype(np.int64)


def _decode(
    entries: list[dict[str, Any]], table: bytes, body: bytes
) -> Iterator[tuple[str, Tensor]]:
    tables, bodies = _Reader(table), _Reader(body)
    for entry in entries:
        dtype = _dtype(entry)
        word = np.dtype(UNSIGNED[dtype.itemsize])
        total = math.prod(entry["s"])
        places: Array | slice = slice(None)
        if "g" in entry:
            lengths = tables.lengths(SKIP + 1)
            places = _places(decode(bodies.take(entry["g"][1]), lengths, entry["g"][0]))
        count = entry.get("n", total)
        if "b" in entry:
            lengths = tables.lengths(entry["b"][0])
            symbols = np.frombuffer(tables.take(entry["b"][0] * word.itemsize), dtype=word)
            values = symbols[decode(bodies.take(entry["b"][1]), lengths, count)]
        else:
            values = np.frombuffer(bodies.take(count * word.itemsize), dtype=word)
        words = np.zeros(total, dtype=word)
        if len(words[places]) != len(values):
            raise ValueError(f"{entry['k']} has another number of places than of values")
        words[places] = values
        flat = torch.from_numpy(words.view(f"i{word.itemsize}") if word.itemsize > 1 else words)
        yield entry["k"], flat.view(dtype).reshape(entry["s"])
