"""The weights that stay answer for those that went."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill_lib.compress import Masks, magnitude, random, wanda
from distill_lib.compress.surgeon import refit


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CONV = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
IMAGES = [{"inputs": drawn(6, 3, 8, 8, seed=s)} for s in (1, 2)]


def test_a_row_is_the_least_squares_solution_on_what_is_kept() -> None:
    layer, x = nn.Linear(6, 3).double(), drawn(200, 6).double() @ drawn(6, 6, seed=1).double()
    dense = layer.weight.detach().clone()
    masks = random(layer, 0.5, generator=torch.Generator().manual_seed(3))
    refit(layer, masks, [{"inputs": x[:90]}, {"inputs": x[90:]}], damping=1e-9)
    for row, kept in enumerate(masks["weight"]):
        best = torch.linalg.lstsq(x[:, kept], x @ dense[row]).solution
        torch.testing.assert_close(layer.weight[row, kept], best, atol=1e-5, rtol=1e-4)
        assert (layer.weight[row, ~kept] == 0).all()


def test_no_layer_answers_worse_than_with_its_mask_alone() -> None:
    seen: dict[str, torch.Tensor] = {}
    CONV[2].register_forward_pre_hook(lambda m, a: seen.update(x=a[0]))
    x = torch.cat([b["inputs"] for b in IMAGES])
    masks = wanda(CONV, IMAGES, 0.5)
    cut, healed = masks.apply(copy.deepcopy(CONV)), refit(copy.deepcopy(CONV), masks, IMAGES)
    with torch.no_grad():
        CONV(x)
        for i, inputs in ((0, x), (2, seen["x"])):
            right = CONV[i](inputs)
            worse = (cut[i](inputs) - right).square().sum()
            assert (healed[i](inputs) - right).square().sum() < worse
    assert torch.equal(healed[0].bias, CONV[0].bias)


def test_with_nothing_removed_nothing_changes() -> None:
    layer = nn.Linear(5, 2)
    before = layer.weight.detach().clone()
    refit(layer, Masks(weight=torch.ones(2, 5).bool()), [{"inputs": drawn(9, 5)}])
    torch.testing.assert_close(layer.weight, before)


def test_inputs_that_never_vary_and_rows_without_weights_do_no_harm() -> None:
    layer, x = nn.Linear(5, 2), drawn(9, 5) * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    mask = torch.tensor([[True, True, True, False, False], [False] * 5])
    refit(layer, Masks(weight=mask), [{"inputs": x}])
    assert bool(layer.weight.isfinite().all()) and bool((layer.weight[1] == 0).all())


def test_inputs_that_are_always_zero_leave_the_other_weights_alone() -> None:
    layer = nn.Linear(4, 2)
    before, mask = layer.weight.detach().clone(), torch.tensor([[True, True, False, False]] * 2)
    refit(layer, Masks(weight=mask), [{"inputs": torch.zeros(3, 4)}])
    torch.testing.assert_close(layer.weight, before * mask)


def test_a_layer_that_saw_nothing_is_named_and_the_model_is_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"'1.weight' saw none"):
        refit(
            net,
            magnitude(net, 0.5),
            [{"inputs": drawn(3, 4)}],
            forward=lambda m, b: m[0](b["inputs"]),
        )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_masks_of_another_model_are_refused() -> None:
    batches = [{"inputs": drawn(3, 4)}]
    with pytest.raises(KeyError, match="another model"):
        refit(nn.Linear(4, 2), Masks({"fc.weight": torch.ones(2, 4).bool()}), batches)
    with pytest.raises(ValueError, match="different models"):
        refit(nn.Linear(4, 2), Masks(weight=torch.ones(2, 3).bool()), batches)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: refit(nn.Linear(2, 2), magnitude(nn.Linear(2, 2), 0.5), []), "none of the batch"),
        (
            lambda: refit(nn.Linear(2, 2), magnitude(nn.Linear(2, 2), 0.5), [], damping=0),
            "damping is positive",
        ),
        (
            lambda: refit(
                nn.Conv2d(4, 4, 1, groups=2),
                magnitude(nn.Conv2d(4, 4, 1, groups=2), 0.5),
                [{"inputs": drawn(1, 4, 3, 3)}],
            ),
            "without groups",
        ),
    ],
)
def test_what_cannot_be_refitted(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [1, (1, 2), "same"])
def test_a_refitted_convolution_is_the_best_whatever_its_padding(mode: str, padding) -> None:
    """No weights with these zeros answer better, apart from a little damping."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode).double()
    x = torch.randn(6, 2, 5, 5, dtype=torch.float64)
    right, masks = layer(x).detach(), magnitude(layer, 0.5)
    refit(layer, masks, [{"inputs": x}], damping=1e-9)
    slope = torch.autograd.grad((layer(x) - right).square().mean(), layer.weight)[0]
    assert float((slope * masks["weight"]).abs().max()) < 1e-6


@pytest.mark.parametrize("damping", [0.0, -1.0, float("inf"), float("nan")])
def test_a_damping_that_leaves_no_solution_is_refused(damping: float) -> None:
    layer = nn.Linear(4, 3)
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="positive and finite"):
        refit(layer, magnitude(layer, 0.5), [{"inputs": drawn(8, 4)}], damping=damping)
    assert torch.equal(layer.weight, before)
