"""Files written whole or not at all; pickles of torch read within their own size."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import flips, mutants, odd_json
from torch import nn

from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.checkpoints.files import torch_load, whole_file, written_whole

# ---- writing ----


class Full:
    """A disk without room, behind a file."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(data))

    def flush(self) -> None: ...


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, room: int) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"old")
    with (
        pytest.raises(OSError, match=r"No space left.*could not be written.*as it was; make"),
        whole_file(path) as file,
    ):
        torch.save({"a": torch.zeros(1000)}, Full(file, room))  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["c"] and path.read_bytes() == b"old"


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), whole_file(tmp_path / "c"):
            raise error
    try:
        raise OSError(errno.EIO, "of the user")
    except OSError:
        with pytest.raises(ValueError, match="mine"), whole_file(tmp_path / "c"):
            raise ValueError("mine") from None
    assert not list(tmp_path.iterdir())


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ("x" * 250)
    with whole_file(path) as one:
        one.write(b"one")
        with whole_file(path) as two:
            two.write(b"two")
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one" and len(list(path.parent.iterdir())) == 1


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_file(tmp_path / "link") as file:
        file.write(b"x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"x"


def test_what_others_write_takes_its_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with written_whole(path) as made:
        assert made.name == path.name and made.parent != path.parent
        made.write_bytes(b"first")
    with pytest.raises(RuntimeError, match="half"), written_whole(path) as made:
        made.write_bytes(b"second")
        raise RuntimeError("half")
    assert path.read_bytes() == b"first" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="could not be written"), whole_file(tmp_path / "file" / "c"):
        pass


# ---- reading ----

PARAMETER = nn.Parameter(torch.ones(3))
PARAMETER.tag = 1  # type: ignore[attr-defined]
VALUES: dict[str, Any] = {
    "view": torch.arange(10.0)[3:5], "half": torch.ones(3, dtype=torch.bfloat16),
    "complex": torch.ones(2, dtype=torch.complex128), "empty": torch.zeros(0), "tag": PARAMETER,
    "float8": torch.ones(2).to(torch.float8_e4m3fn), "uint16": torch.ones(3, dtype=torch.uint16),
    "sparse": torch.eye(3).to_sparse(), "meta": torch.ones(3, device="meta"),
    "ordered": OrderedDict(x=torch.ones(1)),
    "bytes": b"\x00\xff", "bytearray": bytearray(b"abc"), "set": {1, 2}, "number": 2**70,
    "dtype": torch.float32, "device": torch.device("cpu"), "size": torch.Size([1, 2]), "i": 1 + 2j,
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("archive", [True, False])
def test_all_that_torch_reads_is_read(name: str, archive: bool) -> None:
    data = saved(VALUES[name], _use_new_zipfile_serialization=archive)
    try:
        expected = torch.load(io.BytesIO(data), weights_only=True)
    except AttributeError:  # of torch itself, on some that it wrote
        pytest.skip("torch does not read it")
    assert repr(torch_load(io.BytesIO(data))) == repr(expected)


def call(module: str, name: str, n: int) -> bytes:
    size = f"c{module}\n{name}\n".encode() + b"\x8a\x08" + n.to_bytes(8, "little")
    return b"\x80\x02" + size + b"\x85R."


def archived(data: bytes) -> bytes:
    """A pickle in an archive, as ``torch.save`` writes one."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("a/data.pkl", data)
        file.writestr("a/version", "3")
    return content.getvalue()


@given(
    st.sampled_from([
        ("builtins", "bytearray"), ("__builtin__", "bytearray"), ("torch", "Tensor"),
        ("torch", "DoubleTensor"), ("torch.storage", "UntypedStorage"),
        ("torch.storage", "TypedStorage"),
    ]),
    st.integers(2**31, 2**62),
    st.booleans(),
)  # fmt: skip
def test_a_pickle_that_asks_for_memory_is_refused(what, n: int, archive: bool) -> None:
    data = archived(call(*what, n)) if archive else call(*what, n)
    with pytest.raises(ValueError, match="asks for memory"):
        torch_load(io.BytesIO(data))


ASKING = {
    "sets": b"(" + b"\x8f" * 100_000 + b"t",
    "names": b"(" + b"ca\nb\n" * 100_000 + b"t",
    "bytes of a terabyte": b"\x8e" + (2**40).to_bytes(8, "little"),
    "letters of gigabytes": b"X" + (2**32 - 1).to_bytes(4, "little"),
    "an array of a terabyte": b"\x96" + (2**40).to_bytes(8, "little"),
    "a frame of a terabyte": b"\x95" + (2**40).to_bytes(8, "little"),
    "a number of gigabytes": b"\x8b" + (2**31 - 1).to_bytes(4, "little"),
    "a memo of gigabytes": b"Nr" + (2**32 - 1).to_bytes(4, "little"),
}


@pytest.mark.parametrize("what", ASKING)
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_takes_little_more_than_its_bytes(what: str, archive: bool) -> None:
    data = b"\x80\x02" + ASKING[what] + b"."
    data = archived(data) if archive else data
    tracemalloc.start()
    try:
        with contextlib.suppress(Exception):
            torch_load(io.BytesIO(data))
        assert tracemalloc.get_traced_memory()[1] < 100 * len(data) + 2**20
    finally:
        tracemalloc.stop()


@given(st.sampled_from([0, 3, None, "x", 1.5, True, {"a": 1}]))
def test_what_hangs_on_a_tensor_is_left_behind(tmp_path_factory, hooks: Any) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (
                torch.ones(4)._typed_storage(), 0, (4,), (1,), True, hooks,
            )  # fmt: skip

    path = tmp_path_factory.mktemp("t") / "w.pt"
    for state in ({"a": Odd()}, {"model": {"a": Odd()}}, {"actor_state_dict": {"a": Odd()}}):
        torch.save(state, path)
        (tensor,) = load_checkpoint(path).tensors.values()
        assert not tensor.requires_grad and torch.equal(tensor, torch.ones(4))
        torch.save(tensor, io.BytesIO())


class Built:
    """A tensor that a pickle says to be other than it is."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.function, self.given = function, given

    def __reduce__(self) -> Any:
        return self.function, self.given


def built(how: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    utils, none = torch._utils, OrderedDict()
    store = torch.ones(4)._typed_storage()
    view = (store, offset, size, stride)
    if how == "v3":
        bare = torch.ones(4, dtype=torch.uint64)._typed_storage()._untyped_storage
        return Built(utils._rebuild_tensor_v3, bare, *view[1:], False, none, torch.uint64)
    if how == "quantized":
        store = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)._typed_storage()
        affine = (torch.per_tensor_affine, 0.1, 0)
        return Built(utils._rebuild_qtensor, store, *view[1:], affine, False, none)
    if how == "with attributes":
        inner = (utils._rebuild_tensor_v2, torch.Tensor, (*view, False, none), {})
        return Built(torch._tensor._rebuild_from_type_v2, *inner)
    return Built(utils._rebuild_tensor_v2, *view, False, none)


BEYOND = {
    "a size": (0, (2**33,), (1,)), "a stride": (0, (2, 2), (2**33, 1)),
    "an offset": (2**33, (1,), (1,)),
    "just": (1, (4,), (1,)), "below": (-1, (2,), (1,)), "a negative stride": (3, (2,), (-1,)),
    "a number": (2**33, (), ()), "axes": (0, (4,), (1, 1)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("where", BEYOND)
@pytest.mark.parametrize("how", ["v2", "v3", "quantized", "with attributes"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_view_beyond_its_storage_is_refused(where: str, how: str, archive: bool) -> None:
    """torch makes the storage longer, as long as the view says."""
    data = saved({"a": built(how, *BEYOND[where])}, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"asks for memory|no shape"):
        torch_load(io.BytesIO(data))
    if how == "v3" and not archive:
        return  # torch itself reads none
    fine = saved({"a": built(how, 1, (3,), (1,))}, _use_new_zipfile_serialization=archive)
    assert torch_load(io.BytesIO(fine))["a"].shape == (3,)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantized_view_is_made_whole_and_so_is_no_larger_than_its_storage() -> None:
    with pytest.raises(ValueError, match="asks for memory"):
        torch_load(io.BytesIO(saved({"a": built("quantized", 0, (2**33,), (0,))})))
    plain = torch_load(io.BytesIO(saved({"a": built("v2", 0, (2**33,), (0,))})))["a"]
    assert plain.shape == (2**33,) and plain.untyped_storage().nbytes() == 16


def test_many_storages_are_together_no_larger_than_the_file() -> None:
    """Of before torch 1.6, where a storage has no record of its own."""
    many = {f"{n}": torch.ones(1) for n in range(100)}
    data = saved(many, _use_new_zipfile_serialization=False)
    key = data.index(b"cpuq")
    one = data.index(b"K\x01N", key)
    each = len(data) // 4 - 10
    said = data.replace(data[one : one + 3], b"M" + struct.pack("<H", each) + b"N")
    with pytest.raises(ValueError, match="numbers where it does not hold so many"):
        torch_load(io.BytesIO(said))
    assert len(torch_load(io.BytesIO(data))) == 100


@pytest.mark.parametrize("archive", [True, False])
def test_a_storage_beyond_the_file_is_refused(archive: bool) -> None:
    data = saved(torch.zeros(1234567), _use_new_zipfile_serialization=archive)
    if not archive:
        data = data.replace(struct.pack("<i", 1234567), struct.pack("<i", 2**30))
    else:
        source, content = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            for name in source.namelist():
                text = source.read(name)
                text = text.replace(struct.pack("<i", 1234567), struct.pack("<i", 2**30))
                file.writestr(name, text)
        data = content.getvalue()
    with pytest.raises(ValueError, match="numbers where it does not hold so many"):
        torch_load(io.BytesIO(data))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    content, path = io.BytesIO(), tmp_path / "w.pt"
    torch.save({"a": torch.zeros(100_000)}, content)
    source = zipfile.ZipFile(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in source.namelist():
            file.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match="more than 1 times its own"):
        load_checkpoint(path)


def test_settings_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    content, path = io.BytesIO(), tmp_path / "ppo.zip"
    torch.save({"a": torch.zeros(1)}, content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("policy.pth", content.getvalue())
        file.writestr("data", b" " * 2_000_000)
    with pytest.raises(CheckpointError, match="more than 32 times its own"):
        load_checkpoint(path)


# ---- faults of a file ----


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"0.weight": torch.randn(5, 4, generator=generator), "0.bias": torch.arange(5.0)}


def saved(value: Any, **how: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, **how)
    return content.getvalue()


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path, found = tmp_path / "w.pt", 0
    for data in flips(saved(state()), 400):
        path.write_bytes(data)
        try:
            read = load_checkpoint(path).tensors
        except CheckpointError:
            found += 1
        else:
            assert all(torch.equal(read[name], value) for name, value in state().items())
    assert found > 100


def sb3() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data", json.dumps({"gamma": 0.9}))
        file.writestr("policy.pth", saved(state()))
    return content.getvalue()


def rsl_rl() -> dict[str, Any]:
    return {f"{who}_state_dict": {"std": torch.ones(2)} for who in ("actor", "critic")} | {
        "iter": 4
    }


FILES = {
    "w.pt": lambda: saved(state()),
    "w.pth": lambda: saved(state(), _use_new_zipfile_serialization=False),
    "model_4.pt": lambda: saved(rsl_rl()),
    "ppo.zip": sb3,
}


def read(path: Path) -> bool:
    """Whether a file could be read and loaded; any error but our own is one of the test."""
    try:
        found = load_checkpoint(path)
        found.load_into(nn.Sequential(nn.Linear(4, 5)))
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_mutants_are_read_or_refused(tmp_path: Path, name: str) -> None:
    for data in mutants(FILES[name](), 250):
        (tmp_path / name).write_bytes(data)
        read(tmp_path / name)


def test_mutants_of_safetensors_and_settings_are_read_or_refused(tmp_path: Path) -> None:
    from safetensors.torch import save

    rnd = random.Random(0)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    for data in mutants(save(state()), 250):
        weights.write_bytes(data)
        read(tmp_path)
    weights.write_bytes(save(state()))
    texts = [json.dumps(odd_json({"a": [1, {"b": None}]}, rnd)) for _ in range(50)]
    for text in [*texts, "[" * 100_000, "null", "[1]", "9" * 5000, "[[1, 2]]", "1e999"]:
        config.write_text(text)
        read(tmp_path)


def odd_states() -> list[Any]:
    inner = {"a": torch.ones(1)}
    return [
        {1: torch.ones(1)}, {"model_state_dict": {1: torch.ones(1)}, "iter": 3}, {1: 2, "model": 3},
        {"actor_state_dict": 3}, {"actor_state_dict": inner, "critic_state_dict": [1], 5: inner},
        {"student_state_dict": {"a": 1}, "teacher_state_dict": inner}, {None: None}, [], "text",
        {"0.weight": torch.ones(5, 4, device="meta"), "0.bias": torch.ones(5)},
        {"0.weight": torch.ones(5, 4).to_sparse(), "0.bias": torch.ones(5)},
        {"0.weight": torch.ones(1).expand(5, 4), "0.bias": torch.ones(5, dtype=torch.complex64)},
        OrderedDict(model=OrderedDict()), {"model": inner, "state_dict": 1},
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(odd_states())))
@pytest.mark.parametrize("where", ["file", "folder", "sb3"])
def test_odd_layouts_are_read_or_refused(tmp_path: Path, number: int, where: str) -> None:
    data, path = saved(odd_states()[number]), tmp_path / "w.pt"
    if where == "folder":
        (tmp_path / "pytorch_model.bin").write_bytes(data)
        path = tmp_path
    elif where == "sb3":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("policy.pth", data)
    else:
        path.write_bytes(data)
    read(path)


def test_what_no_system_can_open_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("loop", "x" * 300, "a\0b"):
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / name)
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="torn, or not a file"):
        load_checkpoint(tmp_path / "p.pt")
