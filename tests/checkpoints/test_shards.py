"""Weights in several files are read as one, and files of something else are called by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from distill_lib.checkpoints import CheckpointError, load_checkpoint


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def write(folder: Path, kind: str, parts: list[int]) -> dict[str, str]:
    """The weights of a net in files by number, and their index."""
    folder.mkdir(exist_ok=True)
    end = "safetensors" if kind == "model.safetensors" else "bin"
    state = net().state_dict()
    places = {k: f"part-{n}.{end}" for k, n in zip(state, parts, strict=True)}
    for name in {*places.values()}:
        held = {k: state[k] for k, place in places.items() if place == name}
        (save_file if end == "safetensors" else torch.save)(held, folder / name)
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": places}))
    return places


@given(
    kind=st.sampled_from(["model.safetensors", "pytorch_model.bin"]),
    parts=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_shards_are_the_weights_that_they_were_cut_from(
    kind: str, parts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    write(folder, kind, parts)
    found, other = load_checkpoint(folder), net(1)
    assert found.kind == "hf"
    found.load_into(other)
    assert all(map(torch.equal, other.state_dict().values(), net().state_dict().values()))


WRONG = {
    "a file that is not there": ({"0.weight": "gone.safetensors"}, "no file beside it"),
    "a file elsewhere": ({"0.weight": "../part-0.safetensors"}, "no file beside it"),
    "another file": ({"0.weight": "part-1.safetensors"}, "different models"),
    "a weight that is in none": ({"9.weight": "part-1.safetensors"}, r"lack 9\.weight"),
    "no name": ({"0.weight": 7}, "no file beside it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_index_that_is_not_true_is_refused(name: str, tmp_path: Path) -> None:
    change, said = WRONG[name]
    places = write(tmp_path / "a", "model.safetensors", [0, 0, 1, 1])
    index = tmp_path / "a" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**places, **change}}))
    save_file({"0.weight": torch.zeros(4, 3)}, tmp_path / "part-0.safetensors")
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(tmp_path / "a")
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(CheckpointError, match="no weight_map"):
        load_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("name", ["model.bin", "model", "model.SAFETENSORS", "model.pt"])
def test_safetensors_are_known_by_their_content(name: str, tmp_path: Path) -> None:
    save_file(net().state_dict(), tmp_path / name)
    found = load_checkpoint(tmp_path / name)
    assert found.kind == "safetensors"
    found.load_into(net(1))
    save_file({}, tmp_path / name)
    with pytest.raises(CheckpointError, match="without a tensor"):
        load_checkpoint(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_programs_are_named_with_the_way_to_their_numbers(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "x.pt"
    torch.jit.trace(model, torch.zeros(1, 3)).save(str(path))
    with pytest.raises(CheckpointError, match=r"program of torch\.jit.*state_dict"):
        load_checkpoint(path)
    torch.save(torch.jit.load(path).state_dict(), tmp_path / "y.pt")  # as it says
    load_checkpoint(tmp_path / "y.pt").load_into(model)
    program = torch.export.export(model, (torch.zeros(2, 3),))
    torch.export.save(program, tmp_path / "x.pt2")
    with pytest.raises(CheckpointError, match=r"program of torch\.export.*load_exported"):
        load_checkpoint(tmp_path / "x.pt2")


@pytest.mark.parametrize("start", ["module", "model", "student.net"])
def test_a_prefix_is_named_and_loads(start: str, tmp_path: Path) -> None:
    # of DataParallel, of Lightning, of a wrapper of one's own
    state = {f"{start}.{k}": v for k, v in net().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    found, other = load_checkpoint(tmp_path / "x.pt"), net(1)
    first, _, rest = start.partition(".")
    with pytest.raises(CheckpointError, match=rf"load_into\(module, '{start}'\)|missing") as error:
        found.load_into(other, first if rest else "")
    assert f"'{start}'" in str(error.value)
    found.load_into(other, start)
    assert all(map(torch.equal, other.state_dict().values(), net().state_dict().values()))
