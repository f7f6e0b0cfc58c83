"""A weight with two names: a file may say either, or both alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill_lib.checkpoints import Checkpoint, CheckpointError


class Tied(nn.Module):
    """As in language models: the table is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.more = nn.Linear(4, 5)
        self.head.weight = self.more.weight = self.table.weight


NAMES = ("table.weight", "head.weight", "more.weight")


@pytest.mark.parametrize("said", [NAMES[:1], NAMES[1:2], NAMES[2:], NAMES[1:], NAMES])
def test_each_of_its_names_will_do(said: tuple[str, ...]) -> None:
    weight, bias = torch.randn(5, 4), torch.randn(5)
    model = Tied()
    held = {name: weight.clone() for name in said}
    Checkpoint("test", {**held, "more.bias": bias}).load_into(model)
    assert torch.equal(model.table.weight, weight) and model.head.weight is model.table.weight
    assert torch.equal(model.more.bias, bias)


def test_two_values_for_one_weight_are_refused() -> None:
    model = Tied()
    before = model.table.weight.clone()
    held = {name: torch.full((5, 4), float(i)) for i, name in enumerate(NAMES)}
    with pytest.raises(CheckpointError, match=r"table\.weight and head\.weight are one weight"):
        Checkpoint("test", {**held, "more.bias": torch.zeros(5)}).load_into(model)
    assert torch.equal(model.table.weight, before)


def test_nan_is_equal_to_itself_and_what_is_missing_is_still_missing() -> None:
    held = {name: torch.full((5, 4), torch.nan) for name in NAMES}
    model = Tied()
    Checkpoint("test", {**held, "more.bias": torch.zeros(5)}).load_into(model)
    assert model.table.weight.isnan().all()
    with pytest.raises(CheckpointError, match=r"missing: more\.bias"):
        Checkpoint("test", held).load_into(model)
    with pytest.raises(CheckpointError, match=r"missing: head\.weight, more\.weight, table"):
        Checkpoint("test", {"more.bias": torch.zeros(5)}).load_into(model)


def test_lazy_layers_are_named() -> None:
    held = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"lazy layers, .*\(bias, weight\): ask it about"):
        Checkpoint("test", held).load_into(nn.LazyLinear(2))
