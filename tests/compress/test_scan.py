"""One layer pruned at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_lib.compress import Masks, magnitude, random, sensitivity

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


def away(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return (model(X) - net()(X)).square().mean()


@given(sparsity=st.floats(0.05, 0.95))
def test_a_layer_is_pruned_alone(sparsity: float) -> None:
    model = net()
    found = sensitivity(model, away, [sparsity])
    for name, mask in magnitude(model, sparsity, "layer").items():
        alone = Masks({name: mask}).apply(copy.deepcopy(model))
        assert found[name] == [float(away(alone))]


def test_the_model_is_as_it_was_even_if_the_measure_changes_its_copy() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())

    def spoiled(copied: nn.Module) -> float:
        with torch.no_grad():
            for param in copied.parameters():
                param.zero_()
        return 0.0

    assert sensitivity(model, spoiled, (0.5, 0.9)) == {"0.weight": [0, 0], "2.weight": [0, 0]}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_any_criterion_chooses_and_a_layer_that_nobody_reads_costs_nothing() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight.zero_()
    said = model(X).detach()
    found = sensitivity(
        model, lambda m: (m(X) - said).abs().max(), (0.3, 0.6), lambda m, s: random(m, s, "layer")
    )
    assert found == {"0.weight": [0, 0], "2.weight": [0, 0]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparsities": ()}, "one share at least"),
        ({"sparsities": (0.5, 90)}, "sparsities expected a share.*90 % is 0.9"),
        ({"choose": magnitude}, "let weights compete in their layer"),
        ({"measure": lambda m: float("nan")}, "measure is nan without 50.0% of '0.weight'"),
        ({"measure": lambda m: float("inf")}, "measure is inf"),
    ],
)
def test_what_is_refused(settings, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sensitivity(**{"model": net(), "measure": away, "sparsities": (0.5,), **settings})
