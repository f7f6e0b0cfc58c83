"""Networks made narrower, and the plan that rebuilds them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from distill_lib.checkpoints import CheckpointError
from distill_lib.compress import (
    load_packed,
    load_pruned,
    plan_of,
    prune_channels,
    save_packed,
    save_pruned,
    shrink,
)
from distill_lib.zoo import MLP, Policy, ResNet, SmallConvNet

tp = pytest.importorskip("torch_pruning")
IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
VIEWS = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))

MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "resnet": (lambda: ResNet(blocks=2, width=8), IMAGES),
    "conv": (SmallConvNet, IMAGES),
    "mlp": (lambda: MLP((784, 32, 16, 10)), IMAGES),
    "policy": (lambda: Policy(8, 4, critic=True), VIEWS),
    "gaussian": (lambda: Policy(8, 2, continuous=True), VIEWS),
}


def answer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        said = model.eval()(x)
    return said if isinstance(said, torch.Tensor) else torch.cat([*said.values()][:1])


def size_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_network_is_smaller_trains_and_comes_back(name: str, tmp_path: Path) -> None:
    build, x = MODELS[name]
    model = build()
    before, shape = size_of(model), answer(model, x).shape
    plan = prune_channels(model.train(), x, 0.5)
    assert model.training and size_of(model) < 0.65 * before
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
    said = answer(model, x)
    assert said.shape == shape
    (
        model(x) if isinstance(model(x), torch.Tensor) else model(x)[next(iter(model(x)))]
    ).sum().backward()

    path = tmp_path / "pruned.safetensors"
    assert save_pruned(model, path, plan) == path.stat().st_size
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["plan"]) == json.loads(json.dumps(plan))
    assert torch.equal(answer(load_pruned(build, path), x), said)
    save_packed(model, tmp_path / "pruned.packed", plan)
    assert torch.equal(answer(load_packed(build(), tmp_path / "pruned.packed"), x), said)


def test_a_dead_channel_is_the_one_that_goes_and_changes_nothing() -> None:
    model = ResNet(blocks=1, width=8).eval()
    with torch.no_grad():
        for channel in (1, 6):
            model.layer1[0].conv1.weight[channel] = 0
            model.layer1[0].bn1.weight[channel] = model.layer1[0].bn1.bias[channel] = 0
            model.layer1[0].conv2.weight[:, channel] = 0
    said = answer(model, IMAGES)
    prune_channels(model, IMAGES, {"layer1.0.conv1": 0.25})
    assert model.layer1[0].conv1.out_channels == 6
    torch.testing.assert_close(answer(model, IMAGES), said)


def test_what_a_residual_connection_ties_is_cut_alike() -> None:
    model = ResNet(blocks=2, width=8)
    prune_channels(model, IMAGES, {"conv": 0.5})
    assert model.conv.out_channels == model.layer1[1].conv2.out_channels == 4
    assert model.layer1[0].conv1.out_channels == 8
    assert model.layer2[0].conv2.out_channels == 16


def test_what_is_kept_keeps_its_channels() -> None:
    model = ResNet(blocks=1, width=8)
    prune_channels(model, IMAGES, 0.5, keep=["layer1.0.conv2"])
    assert model.conv.out_channels == 8 and model.layer1[0].conv1.out_channels == 4


def test_channels_come_in_multiples_and_one_is_always_left() -> None:
    model = ResNet(blocks=1, width=16)
    plan = prune_channels(model, IMAGES, 0.4, round_to=8)
    widths = {v["out_channels"] for v in plan["sizes"].values() if "out_channels" in v}
    assert all(width % 8 == 0 for width in widths)
    prune_channels(model, IMAGES, 0.99)
    assert model.conv.out_channels == 1 and answer(model, IMAGES).shape == (3, 10)


def test_globally_the_weaker_layer_loses_more() -> None:
    model = MLP((784, 32, 32, 10))
    with torch.no_grad():
        model.layers[3].weight[16:] *= 1e-3
    norms = tp.importance.MagnitudeImportance(normalizer=None, group_reduction="first")
    prune_channels(model, IMAGES, 0.25, scope="global", importance=norms)
    assert model.layers[3].out_features <= 16
    assert model.layers[1].out_features == 32


def test_taylor_wants_gradients_and_uses_them() -> None:
    model = SmallConvNet()
    with pytest.raises(ValueError, match=r"call backward\(\) on a loss first"):
        prune_channels(model, IMAGES, 0.5, importance="taylor")
    model(IMAGES).square().sum().backward()
    with torch.no_grad():
        for module in (model.layer1[0], model.layer2[0], model.fc):
            module.weight.grad.zero_()
        model.layer1[0].weight.grad[:8] = 1.0  # only the first half matters
        kept = model.layer1[0].weight[:8].clone()
    prune_channels(model, IMAGES, {"layer1.0": 0.5}, importance="taylor")
    assert torch.equal(model.layer1[0].weight, kept)
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_stay_frozen() -> None:
    model = SmallConvNet().requires_grad_(False)
    prune_channels(model, IMAGES, 0.5, importance="random")
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"ratio": 1.0}, ValueError, "ratio expected a share strictly between 0 and 1, got 1"),
        ({"ratio": {"conv": -0.1}}, ValueError, "ratio expected"),
        ({"ratio": {"fc": 0.5}}, ValueError, "'fc' cannot be cut: no layer reads them"),
        (
            {"ratio": {"layer1.0.conv2": 0.5}, "keep": ["conv"]},
            ValueError,
            "ties it to 'conv', which is to be kept. Tied are conv, layer1.0.conv2",
        ),
        ({"ratio": {"conv": 0.5, "layer1.0.conv2": 0.2}}, ValueError, "give one ratio"),
        ({"ratio": {"conv9": 0.5}}, KeyError, "no such layer 'conv9'. Did you mean 'conv'"),
        ({"ratio": 0.5, "keep": ["bn"]}, KeyError, "no such layer 'bn'"),
        ({"ratio": 0.5, "importance": "size"}, ValueError, "magnitude, taylor, random, got 'size'"),
        ({"ratio": 0.5, "scope": "model"}, ValueError, "'layer' or 'global'"),
    ],
)
def test_what_cannot_be_cut_says_why(settings, error: type[Exception], words: str) -> None:
    model = ResNet(blocks=1, width=4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        prune_channels(model, IMAGES, **settings)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_network_of_outputs_only_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="no layer is left to cut"):
        prune_channels(nn.Sequential(nn.Linear(8, 4)), VIEWS, 0.5)


def test_a_plan_of_another_network_is_refused(tmp_path: Path) -> None:
    model = SmallConvNet()
    plan = prune_channels(model, IMAGES, 0.5)
    with pytest.raises(CheckpointError, match=r"no such 'layer1\.0\.weight'"):
        shrink(nn.Linear(2, 2), plan)
    with pytest.raises(CheckpointError, match="has no 'body'"):
        shrink(nn.Linear(2, 2), {"shapes": {}, "sizes": {"body": {"in_features": 1}}})
    with pytest.raises(ValueError, match="networks of the same layers; only one has"):
        plan_of(SmallConvNet(), nn.Linear(2, 2))
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="weights without a plan"):
        load_pruned(SmallConvNet, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="there is no file"):
        load_pruned(SmallConvNet, tmp_path / "none.safetensors")


def test_twice_pruned_has_one_plan_from_the_dense_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = SmallConvNet()
    for _ in range(2):
        prune_channels(model, IMAGES, 0.5)
    save_pruned(model, tmp_path / "m.safetensors", plan_of(SmallConvNet(), model))
    again = load_pruned(SmallConvNet, tmp_path / "m.safetensors")
    assert again.layer1[0].out_channels == 4
    assert torch.equal(answer(again, IMAGES), answer(model, IMAGES))


class Grouped(nn.Module):
    """A convolution with groups between two plain ones, and a group norm."""

    def __init__(self, groups: int, norms: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 24, 1)
        self.b = nn.Conv2d(24, 24, 3, groups=groups)
        self.norm = nn.GroupNorm(norms, 24) if norms > 1 else nn.Identity()
        self.c = nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.c(self.norm(self.b(self.a(x).relu())).relu())
        return found


PIXELS = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@given(
    groups=st.sampled_from([2, 3, 4, 6, 8, 12]),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_dead_channels_at_one_place_of_each_group_go_and_change_nothing(
    groups: int, share: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model, size = Grouped(groups), 24 // groups
    places = torch.randperm(size)[: size - max(round((1 - share) * size), 1)]
    dead = (places + size * torch.arange(groups)[:, None]).flatten()
    within = torch.arange(24) % size
    with torch.no_grad():
        for layer in (model.a, model.b):
            layer.weight[dead] = 0
            layer.bias[dead] = 0
        model.b.weight[:, places] = 0
        model.c.weight[:, dead] = 0
    said = answer(model, PIXELS)
    if len(dead):
        prune_channels(model, PIXELS, share)
        torch.testing.assert_close(answer(model, PIXELS), said)
    assert model.a.out_channels == model.b.out_channels == 24 - len(dead)
    assert torch.equal(within[dead].unique(), places.sort().values)


@given(
    groups=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
    norms=st.sampled_from([1, 2, 3, 4, 8, 12]),
    round_to=st.integers(1, 6),
    share=st.floats(0.01, 0.99),
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_groups_what_is_left_runs_and_comes_back(
    groups: int, norms: int, round_to: int, share: float
) -> None:
    torch.manual_seed(0)
    model, again = Grouped(groups, norms), Grouped(groups, norms)
    plan = prune_channels(model, PIXELS, share, round_to=round_to)
    shrink(again, plan)
    again.load_state_dict(model.state_dict())
    assert torch.equal(answer(again, PIXELS), answer(model, PIXELS))
    for layer in (model.a, model.b):
        assert layer.out_channels == 24 or layer.out_channels % round_to == 0
    assert model.b.out_channels % model.b.groups == 0


def test_groups_that_see_channels_in_another_order_are_left_alone_or_refused() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
            self.c, self.d = nn.Conv2d(12, 12, 1, groups=4), nn.Conv2d(12, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            both = torch.cat([self.a(x), self.b(x)], 1)
            found: torch.Tensor = self.d(self.c(both))
            return found

    model = Joined()
    prune_channels(model, PIXELS, 0.5)
    assert model.a.out_channels == model.b.out_channels == 6 and model.c.out_channels == 8
    with pytest.raises(ValueError, match="'a' cannot be cut: a layer with groups sees"):
        prune_channels(Joined(), PIXELS, {"a": 0.5})
