"""Permutations of hidden units: the function stays, and averages meet."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill_lib import CE, data, distill
from distill_lib.fusion import barrier, refresh_batchnorm, soup
from distill_lib.fusion.alignment import align, permute, symmetries
from distill_lib.zoo import MLP, Policy, ResNet, SmallConvNet

pytest.importorskip("scipy")
IMAGES = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
MODELS = {
    "mlp": (lambda: MLP((784, 12, 8, 10)), IMAGES, [12, 8]),
    "conv": (lambda: SmallConvNet(width=6), IMAGES, [6, 6]),
    "resnet": (lambda: ResNet(blocks=1, width=4), IMAGES, [4, 4, 8, 8, 16, 16]),
    "policy": (lambda: Policy(8, 2, (6, 5), continuous=True, critic=True), IMAGES[:, 0, 0, :8],
               [6, 5, 6, 5]),
}  # fmt: skip


def lively(model: nn.Module) -> nn.Module:
    """Every parameter and statistic apart from every other."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand_like(tensor))
    return model.eval()


def answer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        said = model(x)
    return (
        said if isinstance(said, torch.Tensor) else torch.cat([v.flatten() for v in said.values()])
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_permutation_leaves_the_function_and_is_found_again(name: str) -> None:
    build, x, sizes = MODELS[name]
    model = lively(build())
    groups = symmetries(model, x)
    assert sorted(axes.size for axes in groups) == sorted(sizes)
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        mixed = permute(model, groups, [torch.randperm(a.size, generator=g) for a in groups])
        assert any(
            not torch.equal(a, b)
            for a, b in zip(mixed.parameters(), model.parameters(), strict=True)
        )
        torch.testing.assert_close(answer(mixed, x), answer(model, x), atol=1e-4, rtol=1e-4)
        found = align(mixed, model, x)
        for key, tensor in found.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[key]), key


def test_aligning_changes_the_order_and_nothing_else() -> None:
    a, b = (lively(ResNet(blocks=1, width=4)) for _ in range(2))
    before = copy.deepcopy(b.state_dict())
    found = align(b, a, IMAGES)
    torch.testing.assert_close(answer(found, IMAGES), answer(b, IMAGES), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in b.state_dict().items())

    def similarity(model: nn.Module) -> float:
        pairs = zip(model.parameters(), a.parameters(), strict=True)
        return sum(float((p * q).sum().detach()) for p, q in pairs)

    assert similarity(found) > similarity(b)


def test_what_cannot_be_followed_is_left_in_its_order() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x).cumsum(-1)  # the order of these units has a meaning
            return self.c(torch.tanh(self.b(x)))

    groups = symmetries(Odd(), torch.randn(2, 8))
    assert [a.places for a in groups] == [
        (("b.weight", 0, 1), ("b.bias", 0, 1), ("c.weight", 1, 1))
    ]
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(ValueError, match="no hidden units of this network can be permuted"):
        align(grouped, grouped, torch.randn(2, 4, 3, 3))


def test_hidden_units_of_a_bert_can_be_permuted() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, num_labels=2,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.arange(12).view(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.ones(2)}
    groups = symmetries(model, batch)
    assert 12 in [axes.size for axes in groups]
    mixed = permute(model, groups, [torch.randperm(a.size) for a in groups])
    with torch.no_grad():
        torch.testing.assert_close(mixed(ids).logits, model(ids).logits)


def test_an_order_has_each_unit_once() -> None:
    model = MLP((784, 3, 2))
    with pytest.raises(ValueError, match="an order of 3 units, each once"):
        permute(model, symmetries(model, IMAGES), [torch.tensor([0, 0, 1])])


def test_other_architectures_are_refused_by_the_first_key() -> None:
    with pytest.raises(ValueError, match=r"'fc.weight' is \(10, 96\), that of model 0 \(10, 64\)"):
        same = SmallConvNet(width=4)
        other = SmallConvNet(width=4)
        other.fc = nn.Linear(96, 10)
        align(other, same, IMAGES)


# ---- averages ----


def trained(seed: int, train, build) -> nn.Module:
    torch.manual_seed(seed)
    model = build()
    distill(model, None, train.batches(64, seed=seed), CE(), epochs=10, lr=1e-2)
    return model.eval()


def test_alignment_lowers_the_barrier_between_two_students() -> None:
    train, test = data.load("digits", "train"), data.load("digits", "test")
    x, y = test.inputs, test.labels

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(model(x), y).item()

    heights = []
    for seed in (1, 2):
        a, b = (trained(10 * seed + i, train, lambda: MLP((64, 32, 10))) for i in (0, 1))
        moved = align(b, a, x[:2])
        assert loss(moved) == pytest.approx(loss(b), rel=1e-3)
        heights.append((barrier(a, b, loss, 5).height, barrier(a, moved, loss, 5).height))
    assert all(after < 0.4 * before for before, after in heights), heights


def test_an_average_needs_new_statistics() -> None:
    """Of a network and its permuted self, aligned, the average is the network."""
    model = lively(ResNet(blocks=1, width=4))
    refresh_batchnorm(model, [{"inputs": IMAGES}])
    groups = symmetries(model, IMAGES)
    mixed = permute(model, groups, [torch.randperm(a.size) for a in groups])
    middle = soup([model, mixed])
    assert (answer(middle, IMAGES) - answer(model, IMAGES)).abs().max() > 0.01
    healed = soup([model, align(mixed, model, IMAGES)])
    torch.testing.assert_close(answer(healed, IMAGES), answer(model, IMAGES))
