"""What lies beside the student in a checkpoint: torn files are refused, and change nothing."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distill_lib.integrations.transformers import beside

WHO = {"teacher": "a", "objective": "b"}


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    beside.write(tmp_path, WHO, {"objective": net(0)})
    return tmp_path


def refused_or_right(folder: Path, exact: bool = False) -> bool:
    """Whether the parts were filled; where they were not, they are as before."""
    part = net(1)
    before = {k: v.clone() for k, v in part.state_dict().items()}
    try:
        beside.read(folder, WHO, {"objective": part})
    except ValueError as error:
        assert str(folder) in str(error)
        assert "older checkpoint" in str(error) or "without resume_from" in str(error)
        assert all(torch.equal(v, before[k]) for k, v in part.state_dict().items())
        return False
    assert not exact or all(
        torch.equal(v, net(0).state_dict()[k]) for k, v in part.state_dict().items()
    )
    return True


def test_whole_files_fill_the_parts(folder: Path) -> None:
    assert refused_or_right(folder, exact=True)


def test_a_lazy_part_takes_what_is_there(tmp_path: Path) -> None:
    beside.write(tmp_path, WHO, {"objective": nn.Linear(5, 2)})
    lazy = nn.LazyLinear(2)
    beside.read(tmp_path, WHO, {"objective": lazy})
    assert lazy.weight.shape == (2, 5)


NOTES = [
    b"", b"{", b"null", b"3", b"[]", b'"teacher"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000,
    b" " * 2**20 + b"{}", b"9" * 10_000, b'{"teacher": "a"}', b'{"teacher": "a", "objective": 1}',
    b'{"teacher": ["a"], "objective": "b"}', b"NaN",
]  # fmt: skip


@pytest.mark.parametrize("note", NOTES, ids=lambda note: repr(note[:12]))
def test_a_note_that_says_anything_is_refused(folder: Path, note: bytes) -> None:
    (folder / beside.NOTE).write_bytes(note)
    assert not refused_or_right(folder)


def change(state: dict[str, Any], how: str) -> None:
    if how == "lacking":
        del state["objective.2.bias"]
    elif how == "more":
        state["objective.3.bias"] = torch.zeros(2)
    elif how == "another's":
        state["teacher.0.bias"] = torch.zeros(2)
    elif how == "shape":
        state["objective.2.bias"] = torch.zeros(3)
    elif how == "kind":
        state["objective.2.bias"] = torch.zeros(2, dtype=torch.int32)


@pytest.mark.parametrize("how", ["lacking", "more", "another's", "shape", "kind"])
def test_tensors_that_do_not_fit_are_named(folder: Path, how: str) -> None:
    state = {f"objective.{k}": v for k, v in net(0).state_dict().items()}
    change(state, how)
    save_file(state, folder / beside.TENSORS)
    with pytest.raises(ValueError, match=r"torn, or another training's \((objective|teacher)\.\d"):
        beside.read(folder, WHO, {"objective": net(1)})
    assert not refused_or_right(folder)


@pytest.mark.parametrize("name", [beside.NOTE, beside.TENSORS])
@pytest.mark.parametrize("how", ["gone", "folder", "empty"])
def test_a_file_that_is_no_file_is_refused(folder: Path, name: str, how: str) -> None:
    (folder / name).unlink()
    if how == "folder":
        (folder / name).mkdir()
    elif how == "empty":
        (folder / name).touch()
    assert not refused_or_right(folder)


def test_mutants_are_refused_or_read_whole(folder: Path) -> None:
    draw = random.Random(0)
    for name in (beside.NOTE, beside.TENSORS):
        whole = (folder / name).read_bytes()
        head = 8 + struct.unpack("<Q", whole[:8])[0] if name == beside.TENSORS else len(whole)
        for _ in range(200):
            torn = bytearray(whole)
            at, kind = draw.randrange(head), draw.randrange(4)
            if kind == 0:
                torn[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del torn[at : at + draw.choice([1, 8, 100])]
            elif kind == 2:
                torn[at : at + 8] = draw.randbytes(8)
            else:
                torn = torn[:at]
            (folder / name).write_bytes(torn)
            refused_or_right(folder)
        (folder / name).write_bytes(whole)
    assert json.loads((folder / beside.NOTE).read_text()) == WHO
