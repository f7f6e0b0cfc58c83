"""Zeros that stay zero whatever trains, and schedules of sparsity."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from distill_lib import KD, distill
from distill_lib.compress import Pruned, gradual, magnitude, random, rewind

BATCHES = [
    {"inputs": torch.randn(8, 6, generator=torch.Generator().manual_seed(s))} for s in (1, 2)
]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


OPTIMIZERS = {
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.05, weight_decay=0.1),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1),
    "RMSprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_zero_under_any_optimizer(name: str) -> None:
    model = net()
    names = list(model.state_dict())
    masks = magnitude(model, 0.6)
    before = copy.deepcopy(model)
    with Pruned(model, masks):
        distill(model, net(), BATCHES, KD(), epochs=3, optimizer=OPTIMIZERS[name])
    assert list(model.state_dict()) == names
    for key, mask in masks.items():
        weight = model.get_parameter(key)
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != before.get_parameter(key)[mask]).any()


def test_momentum_from_before_the_pruning_does_not_bring_weights_back() -> None:
    model, teacher = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.99)
    distill(model, teacher, BATCHES, KD(), epochs=2, optimizer=optimizer)
    masks = magnitude(model, 0.5)
    masks.apply(model)
    with Pruned(model, masks):
        distill(model, teacher, BATCHES, KD(), epochs=2, optimizer=optimizer)
        assert all((model.get_parameter(n)[~m] == 0).all() for n, m in masks.items())
    distill(model, teacher, BATCHES, KD(), epochs=1, optimizer=optimizer)
    assert any((model.get_parameter(n)[~m] != 0).any() for n, m in masks.items())


def test_it_is_the_training_of_the_sparse_network() -> None:
    """The same as multiplying by the mask in the forward pass, clipped norms included."""
    model, teacher = net(), net()
    masks = random(model, 0.5)
    masks.apply(model)
    other = copy.deepcopy(model)

    def masked(student: nn.Module, batch) -> torch.Tensor:
        sparse = {n: student.get_parameter(n) * m for n, m in masks.items()}
        return torch.func.functional_call(student, sparse, (batch["inputs"],))

    settings = {"epochs": 3, "clip_norm": 0.01, "optimizer": OPTIMIZERS["momentum"]}
    with Pruned(model, masks):
        distill(model, teacher, BATCHES, KD(), **settings)
    distill(other, teacher, BATCHES, KD(), forward=masked, **settings)
    for name, mask in masks.items():
        mine, theirs = model.get_parameter(name)[mask], other.get_parameter(name)[mask]
        torch.testing.assert_close(mine, theirs)


def test_other_models_and_later_trainings_are_left_alone() -> None:
    model, other = net(), net()
    masks = magnitude(model, 0.5)
    with Pruned(model, masks) as pruned:
        distill(other, net(), BATCHES, KD(), epochs=1)
    assert pruned.step == 0
    assert all((p != 0).all() for p in other.parameters())
    assert not model[0].weight._post_accumulate_grad_hooks


def test_weights_are_pruned_also_when_the_training_fails() -> None:
    model = net()
    masks = magnitude(model, 0.5)
    with pytest.raises(RuntimeError, match="stop"), Pruned(model, masks):
        with torch.no_grad():
            model[0].weight.fill_(1.0)
        raise RuntimeError("stop")
    assert (model[0].weight[~masks["0.weight"]] == 0).all()


def test_sparsity_grows_along_the_schedule() -> None:
    model, seen = net(), []

    def choose(found: nn.Module, sparsity: float):
        seen.append(round(sparsity, 4))
        return magnitude(found, sparsity)

    schedule = gradual(0.0, 0.8)
    with Pruned(model, schedule, steps=20, every=5, choose=choose) as pruned:
        history = distill(model, net(), BATCHES, KD(), steps=20)
    assert len(history) == 20
    assert seen == [round(schedule(s), 4) for s in (0.25, 0.5, 0.75, 1.0)]
    assert pruned.masks.sparsity == pytest.approx(0.8, abs=0.02)
    zeros = sum(int((model.get_parameter(n) == 0).sum()) for n in pruned.masks)
    assert zeros == round(0.8 * (48 + 24))


def test_the_cubic_schedule_begins_fast_and_ends_flat() -> None:
    schedule = gradual(0.1, 0.9, until=0.5)
    values = [schedule(s / 20) for s in range(21)]
    assert values[0] == pytest.approx(0.1) and values[10:] == [0.9] * 11
    gains = [b - a for a, b in itertools.pairwise(values[:11])]
    assert gains == sorted(gains, reverse=True)
    assert "0.9" in str(schedule)


def test_a_rewound_ticket_has_the_early_weights_and_the_late_zeros() -> None:
    model = net()
    early = {k: v.clone() for k, v in model.state_dict().items()}
    distill(model, net(), BATCHES, KD(), epochs=2)
    masks = magnitude(model, 0.5)
    rewind(model, early, masks)
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name), early[name] * mask)
    assert torch.equal(model[0].bias, early["0.bias"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gradual(0, 1.0), "end expected a share"),
        (lambda: gradual(-0.1, 0.5), "start lies in"),
        (lambda: gradual(0, 0.5, until=0), "until in"),
        (lambda: Pruned(net(), gradual(0, 0.5)), "needs the steps of the training, got steps=None"),
    ],
)
def test_what_cannot_be_scheduled(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
