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


@cache
def _smallest() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10)) for _ in range(2))
    return one, other.eval()


def models(small: bool = False) -> tuple[nn.Module, nn.Module]:
    """A student and a teacher, always with the same weights.

    Args:
        small: Two linear models on 7 × 7 pixels, whose own time is so short that what is left is
            the loop's. Of the convolutions nine tenths of an epoch are theirs, and the spread of
            pairs is wider than what two loops differ by.
    """
    student, teacher = _smallest() if small else _initial()
    return copy.deepcopy(student), copy.deepcopy(teacher)


def same(a: nn.Module, b: nn.Module, tolerance: float = 1e-4) -> None:
    """Both loops must have done the same work, or their times say nothing."""
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        if not torch.allclose(x, y, atol=tolerance):
            raise AssertionError(f"the two trainings differ in {name} by {(x - y).abs().max():.2g}")
