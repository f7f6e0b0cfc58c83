"""Huffman codes and packed files: to the last bit, and as small as they claim."""

from __future__ import annotations

import errno
import json
import math
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import flips, mutants, odd_json
from torch import nn

from distill_lib.checkpoints import CheckpointError
from distill_lib.compress import (
    huffman_bits,
    load_packed,
    magnitude,
    packed_sizes,
    save_packed,
    share,
)
from distill_lib.compress.huffman import decode, encode, lengths_of
from distill_lib.compress.quantization import bake

CODES = st.lists(st.integers(0, 300), max_size=400).map(lambda xs: np.array(xs, dtype=np.int64))


# ---- Huffman ----


@given(CODES)
def test_what_was_encoded_is_decoded(codes) -> None:
    lengths = lengths_of(np.bincount(codes, minlength=1))
    again = decode(encode(codes, lengths), lengths, len(codes))
    found = codes if len(set(codes.tolist())) > 1 else np.zeros_like(codes)
    assert np.array_equal(again, found)


@given(CODES.filter(lambda c: len(set(c.tolist())) > 1))
def test_the_length_lies_within_a_bit_of_the_entropy(codes) -> None:
    counts = np.bincount(codes)
    p = counts[counts > 0] / len(codes)
    entropy = float(-(p * np.log2(p)).sum())
    lengths = lengths_of(counts)
    assert entropy - 1e-9 <= huffman_bits(codes) / len(codes) < entropy + 1
    assert math.isclose((0.5 ** lengths[counts > 0]).sum(), 1)  # no code word is left unused


def test_no_code_is_shorter_where_all_can_be_tried() -> None:
    counts = np.array([7, 5, 2, 1])
    trees = [(1, 2, 3, 3), (2, 2, 2, 2)]
    assert counts @ lengths_of(counts) == min(sum(counts * np.array(t)) for t in trees)


def test_very_rare_symbols_do_not_get_endless_words() -> None:
    counts = np.array([int(1.7**i) for i in range(50)])  # a tree of depth 49, if it were free
    lengths = lengths_of(counts)
    assert lengths.max() <= 16 and (0.5**lengths).sum() <= 1


def test_long_sequences_cross_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_lib.compress.huffman.BLOCK", 7)
    codes = np.random.default_rng(0).integers(0, 9, 500)
    lengths = lengths_of(np.bincount(codes))
    assert np.array_equal(decode(encode(codes, lengths), lengths, 500), codes)


def test_torn_codes_are_refused() -> None:
    lengths = np.array([1, 2, 2])
    with pytest.raises(ValueError, match="ends after"):
        decode(b"\x00", lengths, 9)
    with pytest.raises(ValueError, match="not those of a Huffman code"):
        decode(b"\x00", np.array([1, 1, 1]), 3)
    with pytest.raises(ValueError, match="no code word"):
        decode(b"\xff", np.array([1, 2, 0]), 3)
    with pytest.raises(ValueError, match="ends within"):
        decode(b"\x01", np.array([1, 2, 2]), 8)
    with pytest.raises(ValueError, match="at most 65536 symbols"):
        lengths_of(np.ones(70_000, dtype=np.int64))


# ---- files ----


class Mixed(nn.Module):
    """One tensor of every kind that a state dict may hold."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.dense = nn.Parameter(torch.randn(20, 30, generator=g))
        sparse = torch.randn(5000, generator=g)
        self.sparse = nn.Parameter(sparse.masked_fill(torch.rand(5000, generator=g) > 0.01, 0.0))
        self.few = nn.Parameter(torch.randint(-2, 3, (40, 50), generator=g) / 7)
        self.brief = nn.Parameter(torch.randn(33, generator=g).to(torch.bfloat16))
        self.register_buffer("odd", torch.tensor([0.0, -0.0, float("nan"), float("-inf"), 1e-40]))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("flags", torch.rand(100, generator=g) < 0.5)
        self.register_buffer("bytes", torch.randint(-9, 9, (100,), generator=g).to(torch.int8))
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("zeros", torch.zeros(1000))


def bits_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_every_bit_comes_back(tmp_path: Path) -> None:
    model, other = Mixed(0), Mixed(1)
    size = save_packed(model, tmp_path / "m")
    assert size == (tmp_path / "m").stat().st_size
    load_packed(other, tmp_path / "m")
    for name, tensor in model.state_dict().items():
        found = other.state_dict()[name]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
        assert bits_of(found) == bits_of(tensor), name


@given(st.lists(st.sampled_from([0, 1, 254, 255, 256, 510, 511, 3000]), min_size=1, max_size=6))
def test_gaps_of_any_length_come_back(gaps: list[int]) -> None:
    from distill_lib.compress.packing import _gaps, _places

    places = np.cumsum(np.array(gaps) + 1) - 1
    assert np.array_equal(_places(_gaps(places)), places)


def test_sizes_follow_what_a_tensor_holds() -> None:
    sizes = packed_sizes(Mixed().state_dict())
    assert sizes["dense"] == 32  # nothing to gain
    assert sizes["few"] < 2.6  # log2(5) = 2.32
    assert sizes["sparse"] < 1.0  # 1 % of 32 bits, and the gaps
    assert sizes["zeros"] < 0.1


def test_pruned_and_shared_weights_cost_few_bits(tmp_path: Path) -> None:
    model = nn.Linear(300, 300, bias=False)
    dense = 300 * 300 * 4
    sizes = [save_packed(model, tmp_path / "dense")]
    magnitude(model, 0.9).apply(model)
    sizes.append(save_packed(model, tmp_path / "pruned"))
    share(model, bits=4)
    bake(model)
    sizes.append(save_packed(model, tmp_path / "shared"))
    assert dense < sizes[0] < dense + 300
    # values: 10 % of 32 bits; places: 0.47 bits a weight is what they have to cost
    entropy = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    assert 3.2 + entropy < 8 * sizes[1] / 90_000 < 3.2 + entropy + 0.1
    assert 8 * sizes[2] / 90_000 < 0.4 + entropy + 0.1
    again = load_packed(nn.Linear(300, 300, bias=False), tmp_path / "shared")
    assert torch.equal(again.weight, model.weight)


def test_a_file_is_checked_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_packed(Mixed(), path)
    data = path.read_bytes()
    for torn in (data[:-9], data[:200] + bytes([data[200] ^ 1]) + data[201:], data[:14]):
        path.write_bytes(torn)
        with pytest.raises(CheckpointError, match="torn"):
            load_packed(Mixed(), path)
    path.write_bytes(zlib.compress(data))
    with pytest.raises(CheckpointError, match="not a file of save_packed"):
        load_packed(Mixed(), path)


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    save_packed(nn.Linear(3, 2), tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"shapes differ: bias: \(2,\) where the model has"):
        load_packed(nn.Linear(3, 4), tmp_path / "m")


# ---- faults of a file ----


class Small(nn.Module):
    """Weights that are written with a codebook, with gaps, and as they are."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.few = nn.Parameter(torch.randint(-1, 2, (30, 20), generator=g).float())
        sparse = torch.randn(900, generator=g)
        self.sparse = nn.Parameter(sparse.masked_fill(torch.rand(900, generator=g) > 0.05, 0.0))
        self.dense = nn.Linear(7, 3)


def parts(data: bytes) -> tuple[Any, bytes, bytes]:
    head, table = struct.unpack("<II", data[8:16])
    body = data[16 + head + table : -4]
    return (
        json.loads(zlib.decompress(data[16 : 16 + head])),
        zlib.decompress(data[16 + head : 16 + head + table]),
        body,
    )


def joined(header: Any, table: bytes, body: bytes, text: bytes = b"") -> bytes:
    head = zlib.compress(text or json.dumps(header).encode())
    tables = zlib.compress(table)
    data = b"DLPACK1\n" + struct.pack("<II", len(head), len(tables)) + head + tables + body
    return data + struct.pack("<I", zlib.crc32(data))


def refused(data: bytes, path: Path) -> bool:
    """Whether a file was refused, and then the model left as it was; or else it was read."""
    path.write_bytes(data)
    model = Small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        load_packed(model, path)
    except CheckpointError as error:
        assert str(path) in str(error) or "packed checkpoint" in str(error)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        return True
    return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("p") / "m"
    save_packed(Small(), path)
    return path.read_bytes()


def test_more_tensors_than_the_model_has_get_no_room(whole: bytes, tmp_path: Path) -> None:
    header, table, body = parts(whole)
    more = [{**header["tensors"][0], "k": f"more.{i}"} for i in range(30)]
    path = tmp_path / "m"
    path.write_bytes(joined({**header, "tensors": header["tensors"] + more}, table, body))
    with pytest.raises(CheckpointError, match="the model has fewer"):
        load_packed(Small(), path)


def test_every_flipped_bit_is_found(whole: bytes, tmp_path: Path) -> None:
    assert all(refused(data, tmp_path / "m") for data in flips(whole, 300))


def test_mutants_behind_a_right_checksum_are_read_or_refused(whole: bytes, tmp_path: Path) -> None:
    header, table, body = parts(whole)
    rnd = random.Random(0)
    files = [d[:-4] + struct.pack("<I", zlib.crc32(d[:-4])) for d in mutants(whole, 150)]
    files += [joined(odd_json(header, rnd), table, body) for _ in range(150)]
    files += [joined(header, one, body) for one in mutants(table, 60)]
    files += [joined(header, table, one) for one in mutants(body, 60)]
    files += [joined(0, b"", b"", text) for text in (b"[" * 9000, b"9" * 5000, b"null", b"x")]
    assert sum(refused(data, tmp_path / "m") for data in files) > 250


LARGE = 2**40


@pytest.mark.parametrize(
    "change",
    [
        {"s": [LARGE]}, {"s": [LARGE, 0]}, {"s": [-1]}, {"n": LARGE}, {"b": [LARGE, 1]},
        {"b": [4096, LARGE]}, {"g": [LARGE, 1]}, {"g": [-1, -1]}, {"s": [True]}, {"t": "load"},
        {"t": "qint8"}, {"t": "nn"}, {"k": "other"}, {"s": "ab"}, {"b": [0, 0]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", range(4))
def test_no_room_is_made_for_what_the_model_does_not_have(
    whole: bytes, tmp_path: Path, change: dict[str, Any], number: int
) -> None:
    header, table, body = parts(whole)
    header["tensors"][number] |= change
    assert refused(joined(header, table, body), tmp_path / "m")


def test_parts_that_unpack_to_too_much_are_refused(whole: bytes, tmp_path: Path) -> None:
    header, table, body = parts(whole)
    assert refused(joined(header, table + bytes(2**24), body), tmp_path / "m")
    header["more"] = "x" * 2**20
    assert refused(joined(header, table, body), tmp_path / "m")


@pytest.mark.parametrize("shape", [[LARGE, 20], [31, 20], [30], [-1, 20], "ab", None, [29, 20]])
def test_a_plan_that_does_not_fit_leaves_the_model(whole: bytes, tmp_path: Path, shape) -> None:
    header, table, body = parts(whole)
    header["plan"] = {"shapes": {"few": shape}, "sizes": {}}
    assert refused(joined(header, table, body), tmp_path / "m")


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch) -> None:
    save_packed(nn.Linear(3, 2), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left.*make room"):
        save_packed(nn.Linear(30, 20), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Own(torch.Tensor):
    """Numbers that are kept somewhere else, as in torchao's weights."""


def test_what_is_no_plain_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'_extra_state' cannot be packed: .* this is of dict"):
        save_packed(Extra(3, 2), tmp_path / "m")
    model = nn.Linear(3, 2)
    model.register_buffer("odd", torch.ones(2).as_subclass(Own))
    with pytest.raises(ValueError, match=r"'odd' cannot be packed: .* this is of Own"):
        save_packed(model, tmp_path / "m")


def test_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none"):
        load_packed(Small(), tmp_path / "none")
    model = nn.Linear(3, 2)
    for odd in (torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex128)):
        model.register_buffer("odd", odd)
        with pytest.raises(ValueError, match="plain tensors of up to 8 bytes"):
            save_packed(model, tmp_path / "m")
