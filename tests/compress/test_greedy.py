"""Rounding in turn: on the grid, and no worse than rounding to the nearest."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.compress import bake, convert, gptq, grid, load_packed, qat, save_packed


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(n: int, width: int, seed: int = 0) -> Tensor:
    """Inputs that are alike."""
    return drawn(n, width, seed=seed) @ drawn(width, width, seed=seed + 1) + 2


def convolutions(seed: int) -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 1)).double()
    for i, tensor in enumerate(net.parameters()):
        tensor.data.copy_(0.3 * drawn(*tensor.shape, seed=100 * seed + i))
    return net


CONV = convolutions(0)
IMAGES = [{"inputs": drawn(6, 3, 8, 8, seed=s) + 1} for s in (1, 2)]


def layer(rows: int, width: int, seed: int) -> nn.Linear:
    found = nn.Linear(width, rows).double()
    with torch.no_grad():
        found.weight.copy_(drawn(rows, width, seed=seed))
    return found


@given(st.integers(2, 6), st.integers(0, 99), st.booleans())
def test_it_lies_on_the_grid(bits: int, seed: int, by_row: bool) -> None:
    dense, x = layer(4, 12, seed), mixed(100, 12, seed)
    step, _ = grid(dense.weight, bits, 0 if by_row else None)
    found = gptq(copy.deepcopy(dense), bits, [{"inputs": x[:30]}, {"inputs": x[30:]}], by_row)
    integers = found.weight / step
    torch.testing.assert_close(integers, integers.round())
    assert integers.abs().max() <= 2 ** (bits - 1) - 1 + 1e-9


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_the_output_is_nearer_than_with_rounding_to_the_nearest(bits: int) -> None:
    ratios = []
    for seed in range(20):
        dense, x = layer(16, 24, seed), mixed(200, 24, seed)
        found = gptq(copy.deepcopy(dense), bits, [{"inputs": x}])
        near = bake(qat(copy.deepcopy(dense), bits, None))
        ratios.append((found(x) - dense(x)).square().sum() / (near(x) - dense(x)).square().sum())
    assert torch.stack(ratios).mean() < 0.75


def test_inputs_without_correlation_give_rounding_to_the_nearest() -> None:
    dense, x = layer(3, 6, 0), torch.linalg.qr(drawn(40, 6)).Q
    near = bake(qat(copy.deepcopy(dense), 3, None))
    assert torch.allclose(gptq(dense, 3, [{"inputs": x}]).weight, near.weight)


@given(st.integers(0, 50))
def test_each_weight_is_rounded_after_the_best_answer_to_those_before(seed: int) -> None:
    """The definition: fix the first ones, solve for the others, round the next."""
    dense, x = layer(1, 5, seed), mixed(60, 5, seed)
    step, _ = grid(dense.weight, 3, 0)
    h = x.mT @ x
    h.diagonal().add_(0.01 * h.diagonal().mean())
    w, q = dense.weight.detach()[0], torch.zeros(5, dtype=torch.float64)
    for j in range(5):
        moved = w[j:] + torch.linalg.solve(h[j:, j:], h[j:, :j] @ (w[:j] - q[:j]))
        q[j] = (moved[0] / step[0, 0]).round().clamp(-3, 3) * step[0, 0]
    torch.testing.assert_close(gptq(dense, 3, [{"inputs": x}]).weight[0], q)


def test_it_is_greedy_and_the_best_of_all_is_no_worse() -> None:
    dense, x = layer(1, 6, 3), mixed(60, 6, 3)
    step = float(grid(dense.weight, 2, 0)[0])
    before = dense.weight.detach()[0].clone()
    grids = torch.tensor([*itertools.product((-1.0, 0.0, 1.0), repeat=6)], dtype=torch.float64)
    answers = ((step * grids - before) @ x.mT).square().sum(1).tolist()
    found = ((gptq(dense, 2, [{"inputs": x}]).weight[0] - before) @ x.mT).square().sum().item()
    assert min(answers) <= found + 1e-9 and sum(a < found for a in answers) < 0.2 * len(answers)


def test_convolutions_are_rounded_too_and_kept_as_integers(tmp_path) -> None:
    x = IMAGES[0]["inputs"]
    found = gptq(copy.deepcopy(CONV), 4, IMAGES)
    assert found.state_dict()["0.parametrizations.weight.original0"].dtype == torch.int8
    save_packed(found, tmp_path / "m")
    other = load_packed(convert(qat(copy.deepcopy(CONV), 4, None)), tmp_path / "m")
    assert torch.equal(other(x), found(x))
    plain = bake(copy.deepcopy(found))
    assert torch.equal(plain(x), found(x)) and plain[0].weight.requires_grad


def test_convolutions_too_are_nearer_than_with_rounding_to_the_nearest() -> None:
    ratios = []
    for seed in range(20):
        dense = convolutions(seed)
        x = IMAGES[0]["inputs"]
        found = gptq(copy.deepcopy(dense), 4, IMAGES)
        near = bake(qat(copy.deepcopy(dense), 4, None))
        ratios.append((found(x) - dense(x)).square().sum() / (near(x) - dense(x)).square().sum())
    assert torch.stack(ratios).mean() < 0.85


def test_what_is_not_named_stays_and_a_frozen_weight_stays_frozen() -> None:
    model = copy.deepcopy(CONV)
    model[2].weight.requires_grad_(False)
    gptq(model, 2, IMAGES, layers=["2"])
    assert torch.equal(model[0].weight, CONV[0].weight)
    assert not bake(model)[2].weight.requires_grad


def test_a_weight_that_two_layers_use_stays_one() -> None:
    model = nn.Sequential(layer(6, 6, 0), nn.Tanh(), layer(6, 6, 1))
    model[2].weight = model[0].weight
    gptq(model, 3, [{"inputs": mixed(50, 6)}])
    assert torch.equal(model[0].weight, model[2].weight)
    assert bake(model)[0].weight is model[2].weight


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    dense, x = layer(2, 5, 0), torch.zeros(9, 5, dtype=torch.float64)
    near = bake(qat(copy.deepcopy(dense), 3, None))
    assert torch.allclose(gptq(dense, 3, [{"inputs": x}]).weight, near.weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(6, 4), nn.Linear(4, 6)
        self.out.weight = self.table.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.table(inputs))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: gptq(m, 1, IMAGES), "from 2 to 16, got 1"),
        (lambda m: gptq(m, 4, IMAGES, damping=0), "damping is positive and finite"),
        (lambda m: gptq(m, 4, []), "saw none of the batches"),
        (lambda m: gptq(qat(copy.deepcopy(m)), 4, IMAGES), "computed from something else"),
        (lambda _: gptq(Tied(), 4, [{"inputs": torch.arange(6)}]), "also an embedding"),
        (lambda _: gptq(nn.Conv1d(2, 2, 1), 4, [{"inputs": torch.ones(1, 2, 3)}]), "neither"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(call, words: str) -> None:
    model = copy.deepcopy(CONV)
    with pytest.raises(ValueError, match=words):
        call(model)
    assert torch.equal(model[0].weight, CONV[0].weight) and type(model[0]) is nn.Conv2d
