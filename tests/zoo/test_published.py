"""torchvision's weights: found, compared, read as tensors. Here without its operators."""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from distill_lib import zoo
from distill_lib.checkpoints import CheckpointError


def for_another_torch(name: str) -> None:
    raise RuntimeError("operator torchvision::nms does not exist")


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The part of torchvision's interface that is asked, over one small model in a folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    served = tmp_path / "served"
    served.mkdir()
    torch.manual_seed(0)
    model = nn.Linear(4, 3)

    def publish(content: bytes) -> Path:
        digits = hashlib.sha256(content).hexdigest()[:8]
        file = served / f"resnet50-{digits}.pth"
        file.write_bytes(content)
        weights = types.SimpleNamespace(url=file.as_uri(), meta={"categories": ["a", "b", "c"]})
        models.get_model_weights = lambda name: types.SimpleNamespace(DEFAULT=weights)
        return file

    models = types.ModuleType("torchvision.models")
    models.list_models = lambda module: ["resnet18", "resnet50", "googlenet"]
    models.get_model = lambda name, weights, num_classes: nn.Linear(4, num_classes)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    return model, publish, publish(content.getvalue()), tmp_path / "hub" / "checkpoints"


def test_the_published_weights_are_loaded_in_eval_mode(published):
    model, _, file, store = published
    loaded = zoo.load_teacher("resnet50", source="torchvision")
    assert torch.equal(loaded.weight, model.weight)
    assert not loaded.training
    file.unlink()  # a second time from the store, without a network
    assert torch.equal(zoo.load_teacher("resnet50", source="torchvision").bias, model.bias)
    assert [path.name for path in store.iterdir()] == [file.name]


def test_a_stored_file_that_has_changed_is_refused(published):
    _, _, file, store = published
    zoo.load_teacher("resnet50", source="torchvision")
    content = bytearray((store / file.name).read_bytes())
    content[len(content) // 2] ^= 1
    (store / file.name).write_bytes(content)
    with pytest.raises(CheckpointError, match="not the published file"):
        zoo.load_teacher("resnet50", source="torchvision")


def test_a_fetched_file_that_is_another_is_refused_and_not_kept(published):
    _, _, file, store = published
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="cannot be had"):
        zoo.load_teacher("resnet50", source="torchvision")
    assert not list(store.iterdir())


def test_a_file_that_would_run_code_is_refused_even_with_the_right_sum(published, tmp_path):
    _, publish, _, _ = published
    mark = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return Path.touch, (mark,)

    content = io.BytesIO()
    torch.save({"weight": Runs()}, content)
    publish(content.getvalue())
    with pytest.raises(CheckpointError, match="could run code, and are not read"):
        zoo.load_teacher("resnet50", source="torchvision")
    assert not mark.exists()


def test_what_is_not_there_is_said_with_the_way_out(published, monkeypatch):
    _, _, file, _ = published
    with pytest.raises(KeyError, match="Did you mean 'resnet50'"):
        zoo.load_teacher("resnet5", source="torchvision")
    with pytest.raises(KeyError, match="googlenet"):
        zoo.load_teacher("googlenet", source="torchvision")
    file.unlink()
    with pytest.raises(CheckpointError, match="With a network it is at"):
        zoo.load_teacher("resnet50", source="torchvision")
    with pytest.raises(ValueError, match="source"):
        zoo.load_teacher("resnet50", source="elsewhere")
    monkeypatch.setattr(importlib, "import_module", for_another_torch)
    with pytest.raises(ImportError, match="install the build of it that belongs to this torch"):
        zoo.load_teacher("resnet50", source="torchvision")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ModuleNotFoundError, match="pip install torchvision"):
        zoo.load_teacher("resnet50", source="torchvision")
