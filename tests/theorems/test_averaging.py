"""T16: averages of answers, of weights, and of weights in another order."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import Ensemble, losses
from distill_lib.fusion import Axes, Vote, barrier, fold_batchnorm, permute, soup, symmetries
from distill_lib.zoo import MLP

seeds = st.integers(0, 10_000)


def voices(seed: int, members: int = 4, items: int = 30, classes: int = 5) -> Tensor:
    """[K, N, C] logits of members that are sure to different degrees."""
    g = torch.Generator().manual_seed(seed)
    size = torch.rand(members, items, 1, generator=g, dtype=torch.float64) * 6
    return size * torch.randn(members, items, classes, generator=g, dtype=torch.float64)


def committee(said: Tensor, space: str, weights: list[float] | None = None) -> Tensor:
    members = [lambda batch, one=one: one for one in said]
    return Ensemble(members, weights, space=space)({})["logits"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


# ---- (b) averages of answers ----


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_t16_no_committee_pays_more_than_its_members_on_average(seed: int) -> None:
    """On every single item, for every label."""
    said = voices(seed)
    for label in range(said.shape[-1]):
        labels = torch.full((said.shape[1],), label)
        mean = torch.stack([cross_entropy(one, labels) for one in said]).mean(0)
        for space in ("prob", "logit"):
            assert (cross_entropy(committee(said, space), labels) <= mean + 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_t16_what_mean_logits_gain_does_not_depend_on_the_label(seed: int) -> None:
    said = voices(seed)
    log_p = said.log_softmax(-1)
    log_z = log_p.mean(0).logsumexp(-1)
    joint = committee(said, "logit")
    gains = []
    for label in range(said.shape[-1]):
        labels = torch.full((said.shape[1],), label)
        mean = torch.stack([cross_entropy(one, labels) for one in said]).mean(0)
        gains.append(mean - cross_entropy(joint, labels))
        torch.testing.assert_close(gains[-1], -log_z)
    divergence = torch.stack([losses.kl(student=one, teacher=joint) for one in said]).mean(0)
    torch.testing.assert_close(divergence, -log_z)
    assert (log_z <= 1e-12).all() and log_z.min() < -0.1


@settings(max_examples=25, deadline=None)
@given(seed=seeds, free=st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_t16_unequal_weights_are_no_exception(seed: int, free: list[float]) -> None:
    """Both inequalities with weights, and what the geometric mean gains."""
    said = voices(seed)
    w = torch.tensor(free, dtype=torch.float64) / sum(free)
    joint = {space: committee(said, space, w.tolist()) for space in ("prob", "logit")}
    divergence = torch.stack([losses.kl(student=one, teacher=joint["logit"]) for one in said])
    for label in range(said.shape[-1]):
        labels = torch.full((said.shape[1],), label)
        mean = (w[:, None] * torch.stack([cross_entropy(one, labels) for one in said])).sum(0)
        paid = {space: cross_entropy(one, labels) for space, one in joint.items()}
        assert (paid["prob"] <= mean + 1e-9).all()
        torch.testing.assert_close(mean - paid["logit"], (w[:, None] * divergence).sum(0))


def test_t16_the_three_committees_name_three_classes_of_their_own() -> None:
    """Probabilities, logits and voices: the example of the chapter, and one where all differ."""
    said = torch.tensor([[10.0, 0, 0], [0, 2.5, 0], [0, 2.5, 0]], dtype=torch.float64)[:, None]
    prob, logit = committee(said, "prob"), committee(said, "logit")
    assert prob.exp()[0, 1] == pytest.approx(0.573, abs=1e-3)
    assert prob.exp()[0, 0] == pytest.approx(0.380, abs=1e-3)
    assert logit[0].tolist() == pytest.approx([10 / 3, 5 / 3, 0])
    assert (prob.argmax(), logit.argmax()) == (1, 0)
    g = torch.Generator().manual_seed(0)
    draws = voices(1, members=5, items=20_000) + torch.randn(5, 1, 5, generator=g)
    named = [committee(draws, space).argmax(-1) for space in ("prob", "logit")]
    members = [lambda batch, one=one: one for one in draws]
    named.append(Vote(members)({})["logits"].argmax(-1))
    all_three = (named[0] != named[1]) & (named[1] != named[2]) & (named[0] != named[2])
    assert all_three.any()


def test_three_voters_of_eighty_percent_are_right_on_seventy_to_a_hundred_percent() -> None:
    """Every way to hand out the right voices, in tenths of the items."""
    found = []
    for counts in itertools.product(range(11), repeat=3):  # items with 1, 2, 3 right voices
        none = 10 - sum(counts)
        if none >= 0 and counts[0] + 2 * counts[1] + 3 * counts[2] == 24:
            found.append((counts[1] + counts[2]) / 10)
    assert (min(found), max(found)) == (0.7, 1.0)


# ---- (a) convex in the weights ----


def test_t16_for_softmax_regression_the_soup_is_the_committee_of_mean_logits() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(200, 6).double(), torch.randint(0, 3, (200,))
    models = [nn.Linear(6, 3).double() for _ in range(4)]
    mixed = soup(models)
    said = torch.stack([model(x) for model in models])
    torch.testing.assert_close(mixed(x), said.mean(0))

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return cross_entropy(model(x), y).mean().item()

    assert loss(mixed) <= sum(loss(model) for model in models) / 4
    assert barrier(models[0], models[1], loss).height == 0


# ---- (c) networks ----


@functools.cache
def hidden_units() -> list[Axes]:
    """The graph is read once: it is the same for all networks of this shape."""
    return symmetries(MLP((5, 7, 6, 3)), torch.zeros(2, 5))


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_t16_a_permutation_of_hidden_units_leaves_the_function(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = MLP((5, 7, 6, 3)).double(), torch.randn(9, 5).double()
    groups = hidden_units()
    moved = permute(model, groups, [torch.randperm(axes.size) for axes in groups])
    torch.testing.assert_close(moved(x), model(x), rtol=0, atol=1e-13)
    assert any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), moved.parameters(), strict=True)
    )


def test_t16_the_mean_of_all_twins_has_one_hidden_unit() -> None:
    """All orders of three units: the average network has three equal units."""
    torch.manual_seed(0)
    model, x = MLP((4, 3, 2)).double(), torch.randn(5, 4).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    groups = symmetries(model, x)
    twins = [permute(model, groups, [torch.tensor(p)]) for p in itertools.permutations(range(3))]
    assert len(twins) == math.factorial(3)
    mixed = soup(twins)
    first = mixed.layers[1].weight
    torch.testing.assert_close(first, first.mean(0, keepdim=True).expand_as(first))
    torch.testing.assert_close(first[0], model.layers[1].weight.mean(0))
    assert (mixed(x) - model(x)).abs().max() > 0.05


def test_t16_near_each_other_a_soup_is_the_committee_up_to_second_order() -> None:
    """Half the distance, a quarter of the difference; an ordinary average of logits."""
    torch.manual_seed(0)
    center = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(40, 5).double()
    steps = [[torch.randn_like(p) for p in center.parameters()] for _ in range(3)]
    off = []
    for size in (0.1, 0.05, 0.025, 0.0125):
        members = []
        for step in steps:
            one = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
            one.load_state_dict(center.state_dict())
            with torch.no_grad():
                for p, d in zip(one.parameters(), step, strict=True):
                    p.add_(size * d)
            members.append(one)
        mean = torch.stack([one(x) for one in members]).mean(0)
        off.append((soup(members)(x) - mean).norm().item())
    ratios = [a / b for a, b in itertools.pairwise(off)]
    assert ratios[-1] == pytest.approx(4, rel=0.1), ratios


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_t16_the_bound_of_second_order(seed: int) -> None:
    """Quadratics, whose second derivative is known; it is reached where all curvatures are M."""
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(4, 6, generator=g, dtype=torch.float64)
    spread = (points - points.mean(0)).square().sum(-1).mean()
    half = torch.randn(6, 6, generator=g, dtype=torch.float64)
    slope = torch.randn(6, generator=g, dtype=torch.float64)
    for curved in (half + half.T, 3 * torch.eye(6, dtype=torch.float64)):

        def f(theta: Tensor, curved: Tensor = curved) -> Tensor:
            return ((theta @ curved) * theta).sum(-1) / 2 + theta @ slope

        bound = torch.linalg.matrix_norm(curved, 2) / 2 * spread
        off = (f(points.mean(0)) - f(points).mean()).abs()
        assert off <= bound + 1e-9
    torch.testing.assert_close(off, bound)  # of the last one, the multiple of the identity


# ---- folding ----


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_folded_normalization_is_the_same_function(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    with torch.no_grad():
        for tensor in (*net[1].parameters(), net[1].running_mean):
            tensor.copy_(torch.randn(4))
        net[1].running_var.copy_(torch.rand(4) + 0.1)
    x = torch.randn(3, 2, 6, 6).double()
    folded = fold_batchnorm(net.eval())
    torch.testing.assert_close(folded(x), net(x), rtol=0, atol=1e-12)
    scale = net[1].weight / (net[1].running_var + net[1].eps).sqrt()
    torch.testing.assert_close(folded[0].weight, scale[:, None, None, None] * net[0].weight)
