"""The models and data that all loops share: a student on Fashion-MNIST, half a small ResNet."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill_lib import data
from distill_lib.models.vision import ResNet, SmallConvNet

BATCH, TEMPERATURE, WEIGHT, LR = 128, 4.0, 0.9, 0.05


@cache
def images(n: int = 6400) -> tuple[Tensor, Tensor]:
    """The first images of the training set and their labels."""
    train = data.load("fashion_mnist", split="train")
    return train.inputs[:n].clone(), train.labels[:n].clone()


def loader(n: int = 6400) -> DataLoader[tuple[Tensor, ...]]:
    """Batches in a fixed order, as a plain DataLoader gives them."""
    return DataLoader(TensorDataset(*images(n)), batch_size=BATCH)


@cache
def _initial() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return SmallConvNet(), ResNet(blocks=1, width=8).eval()


def models() -> tuple[nn.Module, nn.Module]:
    """A student and a teacher, always with the same weights."""
    student, teacher = _initial()
    return copy.deepcopy(student), copy.deepcopy(teacher)


def same(a: nn.Module, b: nn.Module, tolerance: float = 1e-4) -> None:
    """Both loops must have done the same work, or their times say nothing."""
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        if not torch.allclose(x, y, atol=tolerance):
            raise AssertionError(f"the two trainings differ in {name} by {(x - y).abs().max():.2g}")
