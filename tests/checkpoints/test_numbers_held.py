"""What a module cannot hold is not copied into it, and links to folders are followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_lib.checkpoints import Checkpoint, CheckpointError, verify, write_manifest
from distill_lib.models import Policy

REAL = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WHOLE = [torch.int8, torch.uint8, torch.int32, torch.int64]


class Holder(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


@given(
    st.sampled_from([*REAL, *WHOLE, torch.bool]),
    st.sampled_from([*REAL, *WHOLE, torch.bool, torch.complex64]),
    st.lists(st.sampled_from([0.0, 1.0, 0.5, -3.0, 300.0, 7e4, 1e39, 1e300, float("nan")]),
             min_size=1, max_size=4),
)  # fmt: skip
def test_numbers_come_as_they_are_or_not_at_all(own, found, numbers):
    if not found.is_floating_point:
        numbers = [x for x in numbers if x == x and abs(x) < 100] or [1.0]
    given_numbers = torch.tensor(numbers, dtype=torch.float64).to(found)
    module = Holder(torch.zeros(len(numbers), dtype=own))
    try:
        Checkpoint("test", {"value": given_numbers}).load_into(module)
    except CheckpointError:
        assert own != found and not module.value.any()
        return
    read, wanted = module.value.double(), given_numbers.double()
    rounded = wanted.abs().clamp_min(1) * 2**-7 if own.is_floating_point else torch.zeros(1)
    same = (read - wanted).abs() <= rounded
    assert bool((same | (read == wanted) | (read.isnan() & wanted.isnan())).all())


def test_what_is_too_large_is_named_with_both_types():
    module = nn.Linear(2, 2)
    state = {"weight": torch.full((2, 2), 1e300, dtype=torch.float64), "bias": torch.zeros(2)}
    words = r"cannot hold, in weight: torch\.float64 in the file, torch\.float32 in the model"
    with pytest.raises(CheckpointError, match=words):
        Checkpoint("test", state).load_into(module)
    Checkpoint("test", state).load_into(module.double())
    assert module.weight[0, 0].item() == 1e300


def test_a_module_without_numbers_takes_none():
    state = dict(nn.Linear(2, 2).state_dict())
    bare = nn.Linear(2, 2, device="meta")
    with pytest.raises(CheckpointError, match=r"device meta.*to_empty"):
        Checkpoint("test", state).load_into(bare)
    made = bare.to_empty(device="cpu")
    Checkpoint("test", state).load_into(made)
    assert torch.equal(made.weight, state["weight"])


# ---- links ----


@given(st.lists(st.booleans(), min_size=1, max_size=4))
def test_a_change_behind_any_chain_of_links_is_found(tmp_path_factory, linked):
    place = tmp_path_factory.mktemp("links")
    folder = inner = place / "model"
    folder.mkdir()
    for i, link in enumerate(linked):
        target = place / f"elsewhere{i}" if link else inner / f"part{i}"
        target.mkdir()
        if link:
            os.symlink(target, inner / f"part{i}")
        inner = target
    (inner / "weights").write_text("good")
    write_manifest(folder)
    verify(folder)
    (inner / "weights").write_text("evil")
    with pytest.raises(CheckpointError, match=r"changed: part0/.*weights"):
        verify(folder)


@pytest.mark.parametrize("way", [".", "..", "/", "../inner", "../.."])
def test_links_that_lead_back_above_themselves_are_refused(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_text("good")
    write_manifest(folder)
    os.symlink(way, folder / "inner" / "back")
    with pytest.raises(ValueError, match=r"back is a link to .* take it away"):
        write_manifest(folder)
    with pytest.raises(CheckpointError, match=r"back is a link to .* take it away"):
        verify(folder)


def test_two_folders_that_lead_to_each_other_are_refused(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        os.symlink(tmp_path / other, tmp_path / name / other)
    with pytest.raises(ValueError, match="has no end: take it away"):
        write_manifest(tmp_path / "a")


@pytest.mark.parametrize("clip", [None, 1.5, 10.0])
def test_what_a_module_reads_in_its_own_way_is_left_to_it(clip: float | None) -> None:
    one, other = Policy(2, 2, clip=clip), Policy(2, 2, clip=None if clip != 10.0 else 10.0)
    Checkpoint("test", one.state_dict()).load_into(other)
    assert other.clip == one.clip


@given(
    st.sampled_from([*WHOLE, torch.uint16, torch.uint32, torch.uint64]),
    st.sampled_from([*WHOLE, torch.uint16, torch.uint32, torch.uint64]),
    st.data(),
)
def test_a_whole_number_does_not_go_round(own, found, draw):
    """200 of uint8 is -56 of int8, and that is 200 again."""
    said = torch.iinfo(found)
    number = draw.draw(st.sampled_from([0, said.min, said.max, said.max // 2 + 1]))
    module, fits = Holder(torch.zeros(1, dtype=own)), torch.iinfo(own)
    checkpoint = Checkpoint("test", {"value": torch.tensor([number], dtype=found)})
    if fits.min <= number <= fits.max:
        checkpoint.load_into(module)
        assert module.value.item() == number
    else:
        with pytest.raises(CheckpointError, match="numbers that the model cannot hold"):
            checkpoint.load_into(module)
        assert module.value.item() == 0
