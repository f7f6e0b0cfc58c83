"""Which weights go: scores, scopes, and what each criterion is the optimum of."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_lib import compress
from distill_lib.compress import Masks, magnitude, mask_lowest, random, two_four, wanda


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))


IMAGES = [{"inputs": torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(1))}]


# ---- scopes ----


@given(st.floats(0.01, 0.99), st.sampled_from(["global", "layer", "row"]), st.integers(0, 9))
def test_as_many_weights_go_as_were_asked_for(sparsity: float, scope: str, seed: int) -> None:
    torch.manual_seed(seed)
    masks = magnitude(net(), sparsity, scope)
    for mask in masks.values():
        rows = mask.reshape(len(mask) if scope == "row" else 1, -1)
        if scope != "global":
            assert ((~rows).sum(1) == round(sparsity * rows.shape[1])).all()
    total = sum(mask.numel() for mask in masks.values())
    if scope == "global":
        assert sum(int((~m).sum()) for m in masks.values()) == round(sparsity * total)


def test_what_goes_is_smaller_than_what_stays() -> None:
    model = net()
    masks = magnitude(model, 0.7)
    weights = {name: dict(model.named_parameters())[name].abs() for name in masks}
    gone = torch.cat([weights[n][~m] for n, m in masks.items()])
    kept = torch.cat([weights[n][m] for n, m in masks.items()])
    assert gone.max() <= kept.min()
    assert set(masks) == {"0.weight", "3.weight"}


def test_equal_scores_do_not_remove_more_than_asked() -> None:
    assert mask_lowest({"w": torch.ones(10, 10)}, 0.3)["w"].sum() == 70


def test_two_of_four_neighboring_inputs_stay() -> None:
    model = net()
    masks = two_four(model)
    assert (masks["3.weight"].view(4, 2, 4).sum(-1) == 2).all()
    assert (masks["0.weight"].sum(1) == 2).all()  # four input channels, at each place of the kernel
    w, m = model[3].weight.detach().abs().view(-1, 4), masks["3.weight"].view(-1, 4)
    assert (w.masked_fill(m, 0).amax(1) <= w.masked_fill(~m, 9).amin(1)).all()


def test_layers_whose_inputs_are_no_multiple_of_four_stay_dense() -> None:
    assert list(two_four(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)))) == ["1.weight"]
    with pytest.raises(ValueError, match="no weight has a multiple of four inputs"):
        two_four(nn.Linear(6, 2))


def test_random_masks_follow_their_generator() -> None:
    draws = [random(net(), 0.5, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0]["0.weight"], draws[1]["0.weight"])
    assert not torch.equal(draws[0]["0.weight"], draws[2]["0.weight"])


def test_layers_can_be_named() -> None:
    assert list(magnitude(net(), 0.5, layers=["3"])) == ["3.weight"]
    model = nn.ModuleDict({"a": net(), "b": net()})
    assert list(magnitude(model, 0.5, layers=["a"])) == ["a.0.weight", "a.3.weight"]


# ---- what the criteria are the optimum of ----


def test_the_largest_weights_are_the_nearest_sparse_vector() -> None:
    for seed in range(5):
        w = torch.randn(6, generator=torch.Generator().manual_seed(seed))
        best = min(
            itertools.combinations(range(6), 3),
            key=lambda kept: sum(float(w[i]) ** 2 for i in range(6) if i not in kept),
        )
        mask = mask_lowest({"w": w.square()}, 0.5)["w"]
        assert set(best) == set(mask.nonzero().flatten().tolist())


def test_wanda_removes_what_changes_the_output_of_a_layer_least() -> None:
    layer = nn.Linear(6, 1)
    x = torch.randn(500, 6) * torch.tensor([0.1, 0.2, 1.0, 2.0, 5.0, 0.5])
    mask = wanda(layer, [{"inputs": x}], 1 / 6)["weight"]
    damage = (x * layer.weight[0]).square().sum(0)
    assert int((~mask[0]).nonzero()) == int(damage.argmin())


@pytest.mark.parametrize(
    "how",
    [
        {"stride": 2, "padding": 1},
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": (2, 1), "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "replicate", "stride": 2},
    ],
)
def test_wanda_of_a_convolution_weighs_what_each_weight_meets(how) -> None:
    layer = nn.Conv2d(4, 2, 3, groups=2, **how)
    x = torch.randn(7, 4, 6, 6)
    mask = wanda(layer, [{"inputs": x[:3]}, {"inputs": x[3:]}], 1 / 18, scope="row")["weight"]
    weights = layer.weight.detach().clone()
    damage = torch.zeros(2, 18)
    for out, place in itertools.product(range(2), range(18)):
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[out].view(-1)[place] = weights[out].view(-1)[place]
            damage[out, place] = (layer(x) - layer.bias.view(1, -1, 1, 1)).square().sum()
    assert torch.equal((~mask).view(2, 18).int().argmax(1), damage.argmin(1))


def test_wanda_leaves_the_model_as_it_was() -> None:
    model = net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wanda(model, IMAGES, 0.5)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


# ---- masks ----


def test_removed_weights_become_positive_zeros() -> None:
    layer = nn.Linear(8, 8)
    masks = magnitude(layer, 0.5)
    masks.apply(layer)
    gone = layer.weight[~masks["weight"]]
    assert (gone == 0).all() and not gone.signbit().any()
    assert masks.sparsity == 0.5 and "50.0 % removed" in repr(masks)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: magnitude(net(), 0.0), ValueError, "strictly between 0 and 1, got 0"),
        (lambda: magnitude(net(), 1.0), ValueError, "strictly between 0 and 1"),
        (lambda: magnitude(net(), 90), ValueError, "90 % is 0.9"),
        (lambda: magnitude(net(), float("nan")), ValueError, "strictly between"),
        (lambda: magnitude(net(), 0.5, "net"), ValueError, "global, layer, row, 2:4, got 'net'"),
        (lambda: magnitude(net(), 0.6, "2:4"), ValueError, "removes one half"),
        (lambda: magnitude(net(), 0.5, layers=["4"]), KeyError, "no layer '4'"),
        (lambda: magnitude(net(), 0.5, layers="3"), TypeError, r"\('3',\)"),
        (lambda: magnitude(net(), 0.5, layers=["1"]), ValueError, "no linear layer and no conv"),
        (lambda: magnitude(nn.ReLU(), 0.5), ValueError, "nothing to compress"),
        (lambda: mask_lowest({"w": torch.tensor([0.0, torch.nan])}, 0.5), ValueError, "not finite"),
        (lambda: wanda(net(), [], 0.5), ValueError, "saw none of the batches"),
        (lambda: wanda(nn.Conv1d(1, 1, 1), [torch.ones(1, 1, 1)], 0.5), TypeError, "mapping or"),
        (lambda: magnitude(net(), 0.5).apply(nn.Linear(2, 2)), KeyError, "no '0.weight'"),
        (
            lambda: Masks(weight=torch.ones(1, 2).bool()).apply(nn.Linear(2, 2)),
            ValueError,
            r"shape \(1, 2\), the parameter \(2, 2\)",
        ),
    ],
)
def test_what_is_refused_says_why(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_wanda_names_the_layer_that_it_cannot_weigh() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1))
    with pytest.raises(ValueError, match="'0' is neither"):
        wanda(model, [{"inputs": torch.ones(1, 1, 1)}], 0.5)


@pytest.mark.parametrize("change", [lambda m: compress.share(m, 2), compress.qat])
def test_a_weight_that_is_computed_cannot_be_pruned(change) -> None:
    model = net()
    change(model)
    with pytest.raises(ValueError, match="the weight of '0' is computed from something else"):
        magnitude(model, 0.5)
