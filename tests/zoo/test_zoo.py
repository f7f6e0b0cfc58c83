"""The shipped teachers are what their cards say; anything else is refused."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from distill_lib import Stacked, data, zoo
from distill_lib.checkpoints import CheckpointError
from distill_lib.zoo import MLP, ResNet, SmallConvNet

FIELDS = {
    "name", "file", "sha256", "task", "architecture", "params", "score", "trained", "data",
    "license",
}  # fmt: skip
TRAINED = {"script", "command", "minutes", "device", "versions", "seed", "recipe"}


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A zoo of one small teacher."""
    torch.manual_seed(0)
    model = ResNet(blocks=1, width=4)
    file = tmp_path / "toy.safetensors"
    save_file(model.state_dict(), file)
    card = {
        "name": "toy",
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "architecture": {
            "class": "distill_lib.models.vision.ResNet",
            "kwargs": {"blocks": 1, "width": 4},
        },
        "trained": {"command": "python teachers/toy.py"},
    }
    (tmp_path / "toy.json").write_text(json.dumps(card), encoding="utf-8")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    return model.eval(), tmp_path, card


def test_a_teacher_is_loaded_as_it_was_saved_in_eval_mode(toy):
    model, _, _ = toy
    loaded = zoo.load_teacher("toy")
    images = torch.randn(3, 1, 28, 28)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(images), model(images))


def test_unknown_names_get_the_known_ones(toy):
    assert zoo.names() == ["toy"]
    for ask in (zoo.card, zoo.load_teacher):
        with pytest.raises(KeyError, match=r"'toi'\. Did you mean 'toy'\? There are: toy"):
            ask("toi")
    with pytest.raises(KeyError, match=r"no teacher '../x'\. There are: toy"):
        zoo.card("../x")


def test_an_empty_zoo_says_none(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(KeyError, match="There are: none"):
        zoo.card("toy")


def test_changed_weights_are_refused_with_the_way_out(toy):
    _, folder, _ = toy
    path = folder / "toy.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    words = r"is not the file of its card: SHA-256 is .*install .* again, or make it anew with"
    with pytest.raises(CheckpointError, match=words):
        zoo.load_teacher("toy")


def test_missing_weights_are_refused_with_the_way_out(toy):
    (toy[1] / "toy.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is missing; .*`python teachers/toy\.py`"):
        zoo.load_teacher("toy")


def test_a_card_cannot_name_code_outside_the_zoo(toy):
    _, folder, card = toy
    card["architecture"] = {"class": "os.system", "kwargs": {}}
    (folder / "toy.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"names os\.system, which is not in the zoo"):
        zoo.load_teacher("toy")


@pytest.mark.parametrize("name", zoo.names())
def test_every_card_is_complete_and_true_of_its_model(name):
    card = zoo.card(name)
    assert set(card) >= FIELDS
    assert set(card["trained"]) >= TRAINED
    assert card["name"] == name
    model = zoo.load_teacher(name)
    assert sum(p.numel() for p in model.parameters()) == card["params"]
    assert card["score"]["metric"] != "accuracy" or 0 < card["score"]["value"] <= 1


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.startswith("fashion")])
def test_a_shipped_teacher_reaches_its_score_on_the_first_test_images(name):
    try:
        test = data.load("fashion_mnist", "test").subset(range(1000))
    except data.DataError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with torch.inference_mode():
        answers = torch.cat([zoo.load_teacher(name)(x) for x in test.inputs.split(250)]).argmax(1)
    accuracy = (answers == test.labels).double().mean().item()
    # Five standard errors of a share of 1,000 images.
    score = zoo.card(name)["score"]["value"]
    assert abs(accuracy - score) < 5 * (score * (1 - score) / 1000) ** 0.5


@pytest.mark.parametrize(
    ("model", "count"),
    [(ResNet(), 272_186), (SmallConvNet(), 5_482), (MLP((64, 32, 10)), 2_410)],
)
def test_the_number_of_parameters(model, count):
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("size", [8, 28, 32])
def test_image_nets_take_any_size(size):
    for net in (ResNet(blocks=1, width=4), SmallConvNet(num_classes=7, in_channels=3)):
        channels = next(net.parameters()).shape[1]
        assert net(torch.zeros(2, channels, size, size)).shape[0] == 2


def test_image_nets_name_their_layers():
    for net, layers in ((ResNet(blocks=1, width=4), 3), (SmallConvNet(), 2)):
        names = {name for name, _ in net.named_children()}
        assert {"fc", *(f"layer{i + 1}" for i in range(layers))} <= names


def test_a_resnet_of_three_blocks_has_twenty_layers():
    weights = [p for n, p in ResNet().named_parameters() if p.ndim > 1 and "shortcut" not in n]
    assert len(weights) == 20


def test_nets_have_gradients_everywhere_and_learn():
    torch.manual_seed(0)
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    for net in (ResNet(blocks=1, width=4), SmallConvNet(), MLP((64, 32, 10))):
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        first = None
        for _ in range(15):
            loss = torch.nn.functional.cross_entropy(net(images), labels)
            first = loss.item() if first is None else first
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        assert loss.item() < 0.7 * first


def test_weights_of_a_student_can_be_saved_and_stacked(tmp_path):
    nets = [SmallConvNet() for _ in range(2)]
    save_file(
        {k: v.contiguous() for k, v in nets[0].state_dict().items()}, tmp_path / "net.safetensors"
    )
    images = torch.randn(4, 1, 28, 28)
    together = Stacked([net.eval() for net in nets], ndim=4).eval()(images)
    for net, logits in zip(nets, together, strict=True):
        assert torch.allclose(net(images), logits, atol=1e-5)


def test_an_mlp_needs_two_sizes():
    with pytest.raises(ValueError, match="at least an input and an output size"):
        MLP([3])
