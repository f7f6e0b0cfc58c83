"""Channels that go are those that are read, whatever a function does to them on their way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.compress import load_pruned, prune_channels, save_pruned

pytest.importorskip("torch_pruning")
WIDTH = 8
IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
ORDER = torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])

Way = Callable[[nn.Module, Tensor], Tensor]


class Between(nn.Module):
    """A convolution, what is done to its channels, and a layer that reads them."""

    def __init__(self, way: Way, reads: int = 0) -> None:
        super().__init__()
        self.way = way
        self.a, self.c = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(3, WIDTH, 1)
        self.batch, self.group = nn.BatchNorm2d(WIDTH), nn.GroupNorm(2, WIDTH)
        self.slope, self.mixed = nn.PReLU(WIDTH), nn.ChannelShuffle(2)
        self.alone = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.images = reads == 0
        self.b = nn.Conv2d(WIDTH, 5, 1) if self.images else nn.Linear(reads, 5)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.b(self.way(self, x))
        return said


# what a dead channel passes without a trace
RIGHT: dict[str, tuple[Way, int]] = {
    "relu": (lambda m, x: m.a(x).relu(), 0),
    "sigmoid": (lambda m, x: m.a(x).sigmoid(), 0),
    "batch norm": (lambda m, x: m.batch(m.a(x)).relu(), 0),
    "group norm": (lambda m, x: m.group(m.a(x)).relu(), 0),
    "slopes": (lambda m, x: m.slope(m.a(x)), 0),
    "residual": (lambda m, x: m.a(x) + m.c(x).relu(), 0),
    "depthwise": (lambda m, x: m.alone(m.a(x)).relu(), 0),
    "flat": (lambda m, x: m.a(x).flatten(1), 16 * WIDTH),
    "tokens": (lambda m, x: m.a(x).flatten(2).transpose(1, 2), WIDTH),
    "pooled": (lambda m, x: m.a(x).mean((2, 3)), WIDTH),
    "there and back": (lambda m, x: m.a(x).flip(1).flip(1), 0),
    "length one": (lambda m, x: F.normalize(m.a(x), dim=1), 0),
    "joined": (lambda m, x: torch.cat([m.a(x), m.c(x)], 1).mean((2, 3)), 2 * WIDTH),
}
# what hands channels on in another order, or as something else
OTHER: dict[str, tuple[Way, int]] = {
    "flip": (lambda m, x: m.a(x).flip(1), 0),
    "roll": (lambda m, x: m.a(x).roll(1, 1), 0),
    "shuffle": (lambda m, x: m.mixed(m.a(x)), 0),
    "views": (lambda m, x: m.a(x).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 0),
    "channels last": (lambda m, x: m.a(x).permute(0, 2, 3, 1).flatten(1), 16 * WIDTH),
    "chosen": (lambda m, x: m.a(x)[:, ORDER % m.a.out_channels], 0),
    "averaged": (lambda m, x: m.a(x) - m.a(x).mean(1, keepdim=True), 0),
    "softmax": (lambda m, x: m.a(x).softmax(1), 0),
}


def kill(model: Between, dead: Tensor) -> None:
    for layer in (model.a, model.c):
        layer.weight.data[dead] = layer.bias.data[dead] = 0
    # of a norm that learned something
    for norm in (model.batch, model.group):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model.batch.running_mean.normal_()
    model.slope.weight.data.uniform_()


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from([*RIGHT, *OTHER]), gone=st.integers(1, 3), seed=st.integers(0, 99))
def test_what_is_cut_says_the_same_with_these_channels_at_zero_or_is_refused(
    name: str, gone: int, seed: int
) -> None:
    torch.manual_seed(seed)
    way, reads = {**RIGHT, **OTHER}[name]
    model = Between(way, reads).eval()
    # two at the same place of each of the group norm's two blocks
    places = torch.randperm(WIDTH // 2)[:gone]
    dead = torch.cat([places, places + WIDTH // 2])
    kill(model, dead)
    before = copy.deepcopy(model.state_dict())

    def live(group) -> Tensor:
        layer, channels = group[0].dep.target.module, group[0].idxs
        return layer.weight.detach().flatten(1).norm(dim=1)[channels]

    ratios = {"a": 2 * gone / WIDTH}
    try:
        prune_channels(model, IMAGES, ratios, importance=live)
    except ValueError as error:
        assert name in OTHER and "keep=" in str(error)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        return
    assert name in RIGHT and model.a.out_channels == WIDTH - 2 * gone
    if name not in ("batch norm", "group norm", "sigmoid"):  # these make something of a zero
        whole = Between(way, reads).eval()
        whole.load_state_dict(before)
        torch.testing.assert_close(model(IMAGES), whole(IMAGES))


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)])
def test_an_example_that_is_all_the_same_hides_nothing(x: Tensor) -> None:
    model = Between(OTHER["flip"][0])
    model.a.bias = None
    with pytest.raises(ValueError, match=r"the channels of a .*'b' would not read.*keep=\['a'\]"):
        prune_channels(model, x, {"a": 0.5})


def test_two_channels_that_are_exchanged_are_seen() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            said: Tensor = self.b(self.a(x).flip(1))
            return said

    with pytest.raises(ValueError, match="'b' would not read"):
        prune_channels(Swapped(), torch.randn(4, 3), 0.5)


def test_heads_are_left_alone_and_named_where_they_are_asked_for() -> None:
    def net() -> nn.Module:
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        return nn.Sequential(nn.Linear(3, 16), layer, nn.Linear(16, 5))

    x = torch.randn(2, 6, 3)
    model = net()
    with pytest.warns(UserWarning, match="leaves as they are: 1.self_attn.in_proj_weight"):
        prune_channels(model, x, 0.5)
    assert model[0].out_features == 16 and model[1].linear1.out_features == 16
    with pytest.raises(ValueError, match=r"cannot be cut: nn\.MultiheadAttention would be cut"):
        prune_channels(net(), x, {"0": 0.5})


def test_a_hidden_layer_that_is_also_an_answer_is_not_cut() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.a(x)
            return {"logits": self.b(hidden), "hidden": hidden}

    model = Both()
    with pytest.raises(ValueError, match=r"the answer is another one.*keep=\['a'\]"):
        prune_channels(model, torch.randn(4, 3), 0.5)
    assert model.a.out_features == 8


class Sequence(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.r = nn.Conv1d(3, 16, 3, padding=1), kind(16, 8, batch_first=True)
        self.o = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.o(self.r(self.a(x).transpose(1, 2))[0])
        return said


def test_an_lstm_reads_fewer_channels_and_comes_back(tmp_path: Path) -> None:
    model, x = Sequence(nn.LSTM), torch.randn(2, 3, 10)
    with pytest.warns(UserWarning, match=r"leaves as they are: r\.weight_ih_l0 \(LSTM\)"):
        plan = prune_channels(model, x, 0.5)
    assert model.r.input_size == 8 and model.r.weight_ih_l0.shape == (32, 8)
    save_pruned(model, tmp_path / "m.safetensors", plan)
    again = load_pruned(lambda: Sequence(nn.LSTM), tmp_path / "m.safetensors")
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("net", "x", "words"),
    [
        (lambda: Sequence(nn.GRU), torch.randn(2, 3, 10), r"channels of a cannot.*keep=\['a'\]"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 5, 1)),
            IMAGES,
            r"channels of 0 cannot be cut.*keep=\['0'\]",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.LayerNorm([8, 4, 4]), nn.Conv2d(8, 5, 1)),
            IMAGES,
            r"'0' is left, for a LayerNorm over \[8, 4, 4\] counts",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=2), nn.Conv2d(8, 5, 1)
            ),
            IMAGES,
            "a transposed convolution with groups cannot be cut",
        ),
    ],
)
def test_what_torch_pruning_does_not_know_is_refused(net, x: Tensor, words: str) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        prune_channels(model, x, 0.5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    said = model.eval()(x)
    assert said.isfinite().all()


def test_what_is_kept_does_not_stand_in_the_way_of_the_rest() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 5, 1)
    )
    prune_channels(model, IMAGES, 0.5, keep=["0"])
    assert model[0].out_channels == 16 and model[2].out_channels == 4


@pytest.mark.parametrize(
    ("scores", "error", "words"),
    [
        (torch.ones(5), ValueError, "5 scores for the 8 channels of 0"),
        (torch.arange(11.0), ValueError, "11 scores for the 8 channels of 0"),
        (torch.full((8,), torch.nan), ValueError, "the scores of 0 are not finite"),
        (torch.full((8,), torch.inf), ValueError, "the scores of 0 are not finite"),
        (torch.ones(8, 1), TypeError, r"to score channels \[C\]"),
        (torch.ones(8, dtype=torch.long), TypeError, "a tensor of real numbers"),
    ],
)
def test_scores_are_one_a_channel_and_finite(scores: Tensor, error, words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    with pytest.raises(error, match=words):
        prune_channels(model, torch.randn(2, 4), 0.5, importance=lambda group: scores)
    assert model[0].out_features == 8


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_weight_is_refused_and_a_layer_of_zeros_is_cut(value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    model[0].weight.data[0, 0] = value
    with pytest.raises(ValueError, match="not finite: broken weights"):
        prune_channels(model, torch.randn(2, 4), 0.5)
    for p in model.parameters():
        p.data.zero_()
    prune_channels(model, torch.randn(2, 4), 0.5)
    assert model[0].out_features == 4


def test_a_layer_that_is_not_asked_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    model[0].register_module("aside", nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"'0\.aside' cannot be cut: the model does not ask it"):
        prune_channels(model, torch.randn(2, 4), {"0.aside": 0.5})
