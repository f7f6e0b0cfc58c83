"""Committees, joined features, soups and barriers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill_lib import CE, KD, Ensemble, agreement, distill, evaluate
from distill_lib.fusion import Concatenate, Vote, barrier, greedy_soup, soup
from distill_lib.zoo import MLP, SmallConvNet

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
BATCHES = [{"inputs": a, "labels": b} for a, b in zip(X.split(50), Y.split(50), strict=True)]


def say(*rows: list[float]):
    """A teacher that says the same of everything."""
    return lambda batch: torch.tensor(rows)


def softmax_regression(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Linear(6, 3)
    distill(model, None, BATCHES[seed : seed + 3], CE(), epochs=5, lr=0.05)
    return model


def loss(model) -> float:
    return evaluate(model, BATCHES)["nll"]


# ---- outputs ----


def test_averages_of_probabilities_and_of_logits_disagree() -> None:
    members = [say([10.0, 0.0]), say([0.0, 1.5]), say([0.0, 1.5])]
    prob = Ensemble(members, space="prob")({})["logits"]
    logit = Ensemble(members, space="logit")({})["logits"]
    assert prob.argmax() == 1 and logit.argmax() == 0
    mean = torch.stack([m({}).softmax(-1) for m in members]).mean(0)
    torch.testing.assert_close(prob.exp(), mean)
    geometric = torch.stack([m({}).log_softmax(-1) for m in members]).mean(0).softmax(-1)
    torch.testing.assert_close(logit.softmax(-1), geometric)
    assert not torch.allclose(mean, geometric, atol=0.2)


def test_a_hard_vote_counts_heads_and_a_soft_vote_weighs_them() -> None:
    members = [say([3.0, 0.0, 0.0]), say([0.0, 0.1, 0.0]), say([0.0, 0.1, 0.0])]
    hard, soft = Vote(members)({})["logits"], Ensemble(members)({})["logits"]
    assert hard.argmax() == 1 and soft.argmax() == 0
    assert hard.exp()[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0], abs=2e-3)
    torch.testing.assert_close(hard.exp().sum(), torch.tensor(1.0))
    heavy = Vote(members, weights=[3, 1, 1])({})["logits"]
    assert heavy.argmax() == 0


def test_equal_voices_are_decided_by_the_mean_probability() -> None:
    assert Vote([say([0.0, 0.1]), say([4.0, 0.0])])({})["logits"].argmax() == 0
    assert Vote([say([0.1, 0.0]), say([0.0, 4.0])])({})["logits"].argmax() == 1


def test_a_committee_teaches_one_student() -> None:
    members = [softmax_regression(s) for s in (0, 1, 2)]
    committee = Vote(members)
    student = MLP((6, 16, 3))
    distill(student, committee, BATCHES, KD(), epochs=40, lr=0.02)
    assert agreement(student, committee, BATCHES) > 0.93
    assert list(committee.models()) == members
    other = Vote(members[:2])
    assert committee.fingerprint() != other.fingerprint() == Vote(members[:2]).fingerprint()
    assert committee.to("cpu") is committee
    with pytest.raises(ValueError, match=r"epsilon lies in \(0, 1\)"):
        Vote(members, epsilon=0)


def test_the_committee_is_no_worse_than_its_members_on_average() -> None:
    """Cross-entropy is convex in probabilities and in logits."""
    members = [softmax_regression(s) for s in (0, 1, 2)]
    mean = sum(loss(m) for m in members) / 3
    assert loss(Ensemble(members, space="prob")) <= mean
    assert loss(Ensemble(members, space="logit")) <= mean


# ---- features ----


def test_joined_features_train_a_head_and_nothing_else() -> None:
    torch.manual_seed(0)
    nets = [MLP((6, 8, 3)), MLP((6, 4, 3))]
    for net in nets:
        distill(net, None, BATCHES, CE(), epochs=3)
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    joined = Concatenate(nets, heads="layers.3", num_classes=3)
    assert joined.head.in_features == 12
    distill(joined, None, BATCHES, CE(), epochs=30, lr=0.02)
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
        assert not net.training and not any(m._forward_pre_hooks for m in net.modules())
    best = max(evaluate(net, BATCHES)["accuracy"] for net in nets)
    assert evaluate(joined, BATCHES)["accuracy"] >= best - 0.02
    joined.train()
    assert joined.norm.training and not joined.models.training


@pytest.mark.parametrize("size", [1, 49, 50])
def test_a_last_batch_of_one_item_trains_the_head(size: int) -> None:
    """50 items in batches of 49 leave one; its features are scaled by what is known so far."""
    torch.manual_seed(0)
    nets = [MLP((6, 4, 3)) for _ in range(2)]
    joined = Concatenate(nets, heads="layers.3", num_classes=3)
    before = joined.head.weight.detach().clone()
    batches = [
        {"inputs": a, "labels": b}
        for a, b in zip(X[:50].split(size), Y[:50].split(size), strict=True)
    ]
    distill(joined, None, batches, CE(), epochs=1, lr=0.01)
    assert all(p.isfinite().all() for p in joined.parameters())
    assert not torch.equal(joined.head.weight, before)
    mean = joined.norm.running_mean.clone()
    one = joined.train()(X[:1])
    assert torch.equal(joined.norm.running_mean, mean)
    torch.testing.assert_close(one, joined.eval()(X[:1]))


def test_each_model_may_have_its_own_head() -> None:
    nets = [MLP((784, 5, 10)), SmallConvNet(width=2)]
    joined = Concatenate(nets, heads=["layers.3", "fc"], num_classes=10).eval()
    assert joined(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert joined.features(torch.zeros(3, 1, 28, 28)).shape == (3, 5 + 32)
    for heads, words in ((["fc"], "got 1 for 2"), ("fc", "'fc' is no linear layer")):
        with pytest.raises(ValueError, match=words):
            Concatenate(nets, heads=heads, num_classes=10)


# ---- weights ----


def test_for_softmax_regression_the_soup_is_the_ensemble_of_logits() -> None:
    members = [softmax_regression(s) for s in (0, 1, 2)]
    mixed = soup(members)
    ensemble = Ensemble(members, space="logit")({"inputs": X})["logits"]
    torch.testing.assert_close(mixed(X), ensemble)
    assert loss(mixed) <= sum(loss(m) for m in members) / 3
    assert barrier(members[0], members[1], loss).height == 0


def test_weights_of_a_soup_are_normalized() -> None:
    a, b = softmax_regression(0), softmax_regression(1)
    mixed = soup([a, b], [3, 1])
    torch.testing.assert_close(mixed.weight, 0.75 * a.weight + 0.25 * b.weight)
    assert torch.equal(soup([a, b], [1, 0]).weight, a.weight)
    for weights in ([1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="expected 2 non-negative weights"):
            soup([a, b], weights)


def test_counters_and_types_survive_a_soup() -> None:
    nets = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    nets[0].train()(torch.randn(4, 2))
    mixed = soup([net.half() for net in nets])
    assert mixed[1].num_batches_tracked == 1 and mixed[0].weight.dtype == torch.float16


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (MLP((6, 5, 3)), r"'layers.1.weight' is \(5, 6\), that of model 0 \(4, 6\)"),
        (MLP((6, 4, 4, 3)), r"'layers.3.weight' is \(4, 4\)"),
        (MLP((6, 4)), r"model 1 is of another architecture: no 'layers.3.weight'"),
        (nn.Sequential(MLP((6, 4, 3))), "no 'layers.1.weight'. Did you mean '0.layers.1.weight'"),
    ],
)
def test_other_architectures_are_named_by_the_first_key_that_differs(other, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        soup([MLP((6, 4, 3)), other])
    with pytest.raises(ValueError, match="at least one model"):
        soup([])


def test_what_only_the_other_has_is_named_too() -> None:
    with pytest.raises(ValueError, match="model 0 has no 'bias'"):
        soup([nn.Linear(2, 2, bias=False), nn.Linear(2, 2)])


def test_a_greedy_soup_takes_only_what_helps() -> None:
    base = nn.Linear(1, 1, bias=False)
    models = []
    for value in (1.2, 0.9, 5.0):
        model = copy.deepcopy(base)
        nn.init.constant_(model.weight, value)
        models.append(model)

    def score(model: nn.Module) -> float:
        return -abs(model.weight.item() - 1.0)

    mixed, chosen = greedy_soup(models, score)
    assert chosen == [1, 0] and mixed.weight.item() == pytest.approx(1.05)
    assert greedy_soup(models, lambda m: m.weight.item())[1] == [2]


def test_a_barrier_is_what_lies_above_the_straight_line() -> None:
    a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(a.weight, -1.0)
    nn.init.constant_(b.weight, 1.0)
    found = barrier(a, b, lambda m: 1 - m.weight.item() ** 2 + m.weight.item(), points=5)
    assert found.height == pytest.approx(1.0) and found.alphas == [0, 0.25, 0.5, 0.75, 1]
    assert found.losses == pytest.approx([-1, 0.25, 1, 1.25, 1])
    with pytest.raises(ValueError, match="at least 3"):
        barrier(a, b, loss, points=2)


@pytest.mark.parametrize("other", [nn.Tanh(), nn.Identity(), nn.Dropout()])
def test_models_of_other_layers_without_weights_have_no_average(other: nn.Module) -> None:
    first = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    second = nn.Sequential(nn.Linear(4, 3), other)
    with pytest.raises(ValueError, match=r"architecture: '1' is a .*, that of model 0 a ReLU"):
        soup([first, second])


def test_settings_of_a_training_are_no_architecture() -> None:
    nets = [nn.Sequential(nn.Linear(4, 3), nn.Dropout(p)) for p in (0.1, 0.5)]
    norms: list[nn.Module] = [nn.BatchNorm2d(3), nn.SyncBatchNorm(3)]
    assert soup(nets)[0].weight.shape == (3, 4) and soup(norms).running_mean.shape == (3,)


def test_batches_that_can_be_walked_once_serve_all_points_of_a_barrier() -> None:
    ends = [nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)).eval() for _ in range(2)]
    batches = [{"inputs": torch.randn(16, 4) + i} for i in range(3)]
    x = torch.randn(5, 4)

    def loss(model: nn.Module) -> float:
        return model.eval()(x).detach().square().mean().item()

    found, want = (barrier(*ends, loss, refresh=each) for each in (iter(batches), batches))
    assert found == want
