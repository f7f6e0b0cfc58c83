"""Image students: the depthwise net, and residual networks of Transformers in the one loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill_lib import CE, KD, Cache, Stacked, Teacher, distill, evaluate
from distill_lib.data import Dataset
from distill_lib.models import DepthwiseNet, ResNet


def images(n: int = 60) -> Dataset:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    x = torch.randn(n, 1, 14, 14, generator=draws) + labels.view(-1, 1, 1, 1)
    return Dataset(x, labels, ("dark", "gray", "bright"))


def test_a_depthwise_net_has_its_layers_sizes_and_parameters():
    net = DepthwiseNet()
    assert sum(p.numel() for p in net.parameters()) == 1_370
    assert {"conv", "layer1", "layer2", "fc"} == {name for name, _ in net.named_children()}
    for size in (7, 14, 28, 33):
        assert net(torch.zeros(2, 1, size, size)).shape == (2, 10)
    assert DepthwiseNet(4, 7, 3)(torch.zeros(2, 3, 14, 14)).shape == (2, 7)
    assert all(c.groups == c.in_channels for c in (net.layer1[0], net.layer2[0]))


def test_a_stack_of_depthwise_nets_says_what_each_says():
    nets = [DepthwiseNet(2) for _ in range(3)]
    x = torch.randn(5, 1, 14, 14)
    for mode in (False, True):  # in training mode with the statistics of the batch
        together = Stacked([net.train(mode) for net in nets], ndim=4).train(mode)(x)
        torch.testing.assert_close(together, torch.stack([net(x) for net in nets]))


def theirs(**sizes: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
        num_labels=3, **sizes,
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config)


def test_a_resnet_of_transformers_is_taught():
    torch.manual_seed(0)
    data, student = images(), theirs()
    distill(student, None, data.batches(20), CE(), steps=40, lr=1e-2)
    assert evaluate(student, data.batches(20))["accuracy"] > 0.9


def test_a_resnet_of_transformers_teaches_also_from_a_cache(tmp_path):
    torch.manual_seed(0)
    data, teacher = images(), theirs()
    distill(teacher, None, data.batches(20), CE(), steps=40, lr=1e-2)
    before = Teacher(teacher).fingerprint()
    kept = Cache.build(tmp_path / "answers.cache", Teacher(teacher), data)
    batch = next(iter(data.batches(60)))
    torch.testing.assert_close(kept(batch)["logits"], Teacher(teacher)(batch)["logits"])
    student = ResNet(blocks=1, width=4, num_classes=3)
    distill(student, kept, data.batches(20), KD(temperature=4), steps=40, lr=1e-2)
    assert evaluate(student, data.batches(20))["accuracy"] > 0.9
    assert Teacher(teacher).fingerprint() == before
