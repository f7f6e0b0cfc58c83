"""Codebooks, and training that moves the shared values."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from distill_lib import KD, distill
from distill_lib.compress import bake, codebook_bits, magnitude, share


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))


def test_the_formula_of_bits() -> None:
    assert codebook_bits(10**6, 16) == pytest.approx(4.000512)
    model = nn.Linear(64, 32)
    book = share(model, 3)["weight"]
    assert book.bits == pytest.approx(math.log2(8) + 32 * 8 / (64 * 32))


def test_a_layer_of_few_weights_has_no_more_values_than_weights() -> None:
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    book = share(model, 8)["weight"]
    assert torch.equal(model.weight, before)
    assert len(book.centroids) == 12 and book.bits == pytest.approx(math.log2(12) + 32)


def test_shared_weights_take_few_values_and_zeros_stay_zero() -> None:
    model = net()
    magnitude(model, 0.5).apply(model)
    before = copy.deepcopy(model)
    books = share(model, 2)
    for name in ("0.weight", "2.weight"):
        weight = model.get_submodule(name[0]).weight
        zero = before.get_parameter(name) == 0
        assert (weight[zero] == 0).all() and (weight[~zero] != 0).all()
        assert len(weight[~zero].unique()) <= 4
        assert books[name].bits == 2 + 32 * 4 / int((~zero).sum())


def test_a_centroid_learns_from_the_sum_over_its_weights() -> None:
    model = nn.Linear(6, 4)
    magnitude(model, 0.25).apply(model)
    book = share(model, 2)["weight"]
    plain = bake(copy.deepcopy(model))
    x = torch.randn(5, 6)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for i in range(len(book.centroids)):
        expected = plain.weight.grad[book.codes == i + 1].sum()
        torch.testing.assert_close(book.centroids.grad[i], expected)


def test_distill_trains_the_centroids() -> None:
    model, teacher = net(), net()
    books = share(model, 2)
    start = books["0.weight"].centroids.detach().clone()
    batches = [{"inputs": torch.randn(16, 12)} for _ in range(4)]
    history = distill(model, teacher, batches, KD(), epochs=10, lr=0.02)
    assert history["kd"][-1] < history["kd"][0]
    assert not torch.equal(books["0.weight"].centroids, start)
    assert len(model[0].weight.unique()) <= 4


def test_baking_a_copy_leaves_the_original_shared() -> None:
    model, x = net(), torch.randn(3, 12)
    names = list(model.state_dict())
    books = share(model, 3)
    said = model(x)
    plain = bake(copy.deepcopy(model))
    assert sorted(plain.state_dict()) == sorted(names) and type(plain[0]) is nn.Linear
    assert torch.equal(plain(x), said) and torch.equal(model(x), said)
    assert plain[0].weight.requires_grad
    with torch.no_grad():
        books["0.weight"].centroids.add_(1.0)
    assert not torch.equal(model(x), said) and torch.equal(plain(x), said)


def test_an_embedding_is_shared_when_it_is_named() -> None:
    model = nn.Sequential(nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 2))
    assert list(share(model, 2)) == ["1.weight"]
    assert list(share(model, 3, layers=["0"])) == ["0.weight"]
    ids = torch.tensor([[0, 1, 7]])
    said = model(ids)
    assert len(model[0].weight.unique()) <= 9 and (model[0].weight[0] == 0).all()
    said.sum().backward()
    bake(model)
    assert type(model[0]) is nn.Embedding and torch.equal(model(ids), said)


def test_the_state_of_a_shared_model_can_be_loaded() -> None:
    model, other = net(), net()
    share(model, 2)
    share(other, 2)
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 12)
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: share(net(), 0), "1 to 8, got 0"),
        (lambda: share(net(), 9), "1 to 8, got 9"),
        (lambda: codebook_bits(0, 4), "n expected a whole number of 1 or more"),
    ],
)
def test_what_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_a_layer_that_was_pruned_away_has_no_codebook() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight.zero_()
    assert list(share(model, 2)) == ["2.weight"]
    assert type(model[0]) is nn.Linear


def test_what_is_shared_already_is_refused() -> None:
    model = net()
    share(model, 2)
    with pytest.raises(ValueError, match="computed from something else"):
        share(model, 2)
    with pytest.raises(ValueError, match="is set by its centroids"):
        model[0].weight = torch.zeros(16, 12)
