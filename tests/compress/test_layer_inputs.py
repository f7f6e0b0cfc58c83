"""Methods that look at what layers read: whatever way these are called, and whatever they read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.compress import (
    bake,
    calibrate,
    convert,
    gptq,
    int8_weight_only,
    magnitude,
    prune_transformer,
    qat,
    refit,
    unit_scores,
    wanda,
)
from distill_lib.compress._inputs import input_of, with_input


class Worded(nn.Module):
    """Asks its layer with a keyword."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.layer(input=x)
        return said


METHODS: dict[str, Callable[[nn.Module, list[Any]], Any]] = {
    "wanda": lambda m, b: wanda(m, b, 0.5).apply(m),
    "refit": lambda m, b: refit(m, magnitude(m, 0.5), b),
    "gptq": lambda m, b: bake(gptq(m, 4, b)),
    "calibrate": lambda m, b: calibrate(qat(m), b),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "image": (lambda: nn.Conv2d(4, 3, 3), (4, 5, 5)),
}


@settings(max_examples=24, deadline=None)
@given(
    method=st.sampled_from([*METHODS]),
    kind=st.sampled_from([*LAYERS]),
    worded=st.booleans(),
    alone=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_keyword_and_a_single_example_make_no_difference(
    method: str, kind: str, worded: bool, alone: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    build, shape = LAYERS[kind]
    layer = build()
    x = torch.randn(1, *shape)
    one = METHODS[method](copy.deepcopy(layer), [{"inputs": x}])(x)
    given_x = x[0] if alone else x
    model = Worded(layer) if worded else layer
    other = METHODS[method](model, [{"inputs": given_x}])(given_x)
    torch.testing.assert_close(other.view(one.shape), one)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("method", METHODS)
def test_batches_that_are_not_finite_are_refused(method: str, value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(6, 4)
    x[2, 1] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="layer '0' reads is not finite: broken weights or batch"):
        METHODS[method](model, [{"inputs": x}])
    if method != "calibrate":
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert not model[0]._forward_pre_hooks


def test_no_batches_and_a_layer_that_saw_none_are_told_apart_from_broken_ones() -> None:
    with pytest.raises(ValueError, match="batches is empty, or does not reach every layer: not"):
        calibrate(qat(nn.Sequential(nn.Linear(4, 3))), [])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "round_it",
    [
        lambda m: qat(m),
        lambda m: gptq(m, 4, [{"inputs": torch.randn(8, 4)}]),
        lambda m: refit(m, magnitude(nn.Sequential(nn.Linear(4, 3)), 0.5), [torch.ones(1, 4)]),
        int8_weight_only,
    ],
)
def test_a_broken_weight_is_named_and_nothing_is_changed(value: float, round_it) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight.data[0, 0] = value
    if round_it is int8_weight_only:
        pytest.importorskip("torchao")
    with pytest.raises(ValueError, match=r"'0\.weight' is not finite"):
        round_it(model)
    assert type(model[0]) is nn.Linear and int(model[0].weight.isfinite().sum()) == 11


def test_a_weight_that_broke_in_training_is_not_converted() -> None:
    model = qat(nn.Sequential(nn.Linear(4, 3)), activation_bits=None)
    model[0].parametrizations.weight.original.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'0\.weight' is not finite"):
        convert(model)
    assert model[0].parametrizations.weight.original.isfinite().sum() == 11


def test_inputs_are_no_longer_rounded_after_bake() -> None:
    model = bake(calibrate(qat(nn.Linear(4, 3)), [{"inputs": torch.randn(8, 4)}]), inputs=False)
    assert not model._forward_pre_hooks and not model._forward_pre_hooks_with_kwargs


@given(
    st.sampled_from([((1, 2), {}), ((1,), {"b": 2}), ((), {"b": 2, "input": 1}), ((), {"x": 1})])
)
def test_the_input_of_a_call_is_found_and_replaced(call: tuple[Any, Any]) -> None:
    assert input_of(*call) == 1
    changed = with_input(*call, 5)
    assert input_of(*changed) == 5 and with_input(*changed, 1) == call


# ---- scores of heads and units ----

transformers = pytest.importorskip("transformers")
HEADS = "encoder.layer.{}.attention.output.dense"
UNITS = "encoder.layer.{}.output.dense"


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        vocab_size=50,
    )
    return transformers.BertModel(config).eval()


@settings(max_examples=10, deadline=None)
@given(layer=st.integers(0, 1), left=st.permutations(range(4)).map(lambda p: sorted(p[:2])))
def test_the_heads_with_the_best_scores_stay(layer: int, left: list[int]) -> None:
    model = bert()
    value = model.encoder.layer[layer].attention.self.value
    wanted = value.weight.detach().view(4, 4, 16)[left].reshape(8, 16)
    scores = torch.zeros(4)
    scores[left] = 1.0
    prune_transformer(model, heads=0.5, scores={HEADS.format(layer): scores})
    assert torch.equal(model.encoder.layer[layer].attention.self.value.weight, wanted)


@pytest.mark.parametrize(
    ("scores", "error", "words"),
    [
        ({"bert." + HEADS.format(0): torch.ones(4)}, KeyError, "Did you mean 'encoder.layer.0"),
        ({HEADS.format(2): torch.ones(4)}, KeyError, "no heads or units that"),
        ({HEADS.format(1): torch.ones(3)}, ValueError, r"each of its 4 heads, got a tensor \[3\]"),
        ({HEADS.format(1): torch.ones(9)}, ValueError, "each of its 4 heads"),
        ({HEADS.format(1): torch.ones(1, 4)}, ValueError, "each of its 4 heads"),
        ({UNITS.format(1): torch.ones(40)}, ValueError, "each of its 32 units"),
        ({UNITS.format(0): torch.full((32,), torch.nan)}, ValueError, "are not finite"),
    ],
)
@pytest.mark.parametrize("what", [{"heads": 0.5}, {"ffn": 0.5}])
def test_scores_of_something_else_are_refused(scores, error, words: str, what) -> None:
    model = bert()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        prune_transformer(model, scores=scores, **what)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_norms_and_scores_that_are_not_finite_are_refused() -> None:
    model = bert()
    model.encoder.layer[0].output.dense.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite: broken weights"):
        prune_transformer(model, ffn=0.5)
    batch = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    with pytest.raises(ValueError, match="are not finite: broken weights, gradients or batches"):
        unit_scores(model, [batch], lambda m, b: m(**b).last_hidden_state.square().sum())
