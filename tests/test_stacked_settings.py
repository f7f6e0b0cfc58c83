"""Models that differ in more than their weights are not run, or averaged, as if they did not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import Stacked
from distill_lib.fusion import soup
from distill_lib.ties import settings
from distill_lib.zoo import Policy

# settings that leave each shape as it is, and change what the layer says
LAYERS = {
    "heads": lambda k: nn.MultiheadAttention(8, (2, 4)[k], batch_first=True),
    "norm first": lambda k: nn.TransformerEncoderLayer(8, 2, 16, norm_first=bool(k)),
    "activation": lambda k: nn.TransformerEncoderLayer(8, 2, 16, activation=("relu", "gelu")[k]),
    "stride": lambda k: nn.Conv2d(2, 2, 3, stride=1 + k),
    "padding": lambda k: nn.Conv2d(2, 2, 3, padding=1, padding_mode=("zeros", "circular")[k]),
    "eps": lambda k: nn.LayerNorm(8, eps=(1e-5, 1.0)[k]),
    "slope": lambda k: nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU((0.1, 0.2)[k])),
}


class Scaled(nn.Module):
    def __init__(self, scale: object) -> None:
        super().__init__()
        self.scale, self.linear = scale, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.linear(x)
        return self.scale(said) if callable(self.scale) else said * self.scale  # type: ignore[operator]


@pytest.mark.parametrize("name", LAYERS)
@given(first=st.integers(0, 1), second=st.integers(0, 1))
def test_settings_of_torch_layers_are_compared(name: str, first: int, second: int) -> None:
    make = LAYERS[name]
    models = [nn.Sequential(make(first)), nn.Sequential(make(second))]
    if first == second:
        Stacked(models, ndim=3)
        soup(models)
        return
    with pytest.raises(ValueError, match="differ in their weights only"):
        Stacked(models, ndim=3)
    with pytest.raises(ValueError, match="another architecture"):
        soup(models)


@given(st.sampled_from([1.0, 2.0, torch.tanh, torch.relu]), st.sampled_from([1.0, 2.0, torch.tanh]))
def test_what_a_class_remembers_is_compared_by_stacked(one: object, other: object) -> None:
    models = [Scaled(one), Scaled(other)]
    if one is not other and one != other:
        with pytest.raises(ValueError, match="scale"):
            Stacked(models, ndim=2)
        return
    x = torch.randn(3, 4)
    expected = torch.stack([model(x) for model in models])
    assert torch.allclose(Stacked(models, ndim=2)(x), expected, atol=1e-6)


def test_how_layers_are_trained_is_no_architecture() -> None:
    models = [
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=m), nn.Dropout(m))
        for m in (0.1, 0.2)
    ]
    expected = (models[0][0].weight + models[1][0].weight) / 2
    assert torch.allclose(soup(models)[0].weight, expected)
    assert settings(nn.Dropout(0.2)) == {"p": 0.2, "inplace": False}


def test_a_bound_that_travels_with_the_weights_has_no_average() -> None:
    with pytest.raises(ValueError, match="obs_clip"):
        soup([Policy(4, 2, clip=4.0), Policy(4, 2, clip=None)])
    assert soup([Policy(4, 2, clip=4.0), Policy(4, 2, clip=4.0)]).clip == 4.0


def test_what_torch_cannot_vectorize_is_said() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            said: Tensor = self.lstm(x)[0]
            return said

    with pytest.raises(RuntimeError, match="one by one"):
        Stacked([Reader(), Reader()], ndim=3)(torch.randn(2, 4, 3))
