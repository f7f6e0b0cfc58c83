"""What the scripts on scenes share: the data, and the body of their networks."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib import data


def conv(a: int, b: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU())


class Body(nn.Module):
    """Down three times, and up again once with what was seen on the way."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.layer1 = conv(1, w, 2)
        self.layer2 = nn.Sequential(conv(w, 2 * w, 2), conv(2 * w, 2 * w))
        self.layer3 = nn.Sequential(conv(2 * w, 4 * w, 2), conv(4 * w, 4 * w))
        self.up2 = nn.Conv2d(4 * w, 2 * w, 1)

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, w, 16, 16] and [B, 2 w, 8, 8] of images [B, 1, 32, 32]."""
        a = self.layer1(x)
        b = self.layer2(a)
        return a, F.relu(b + F.interpolate(self.up2(self.layer3(b)), scale_factor=2))


def splits(exam: int) -> tuple[data.Scenes, data.Scenes, data.Scenes, data.Scenes]:
    """Scenes of two garments at half size: the teacher's, the students', held-out ones, a test."""
    train, test = (
        replace(found, inputs=F.avg_pool2d(found.inputs, 2))
        for found in (data.load("fashion_mnist", split=split) for split in ("train", "test"))
    )
    return (
        data.scenes(train.subset(range(50_000)), 4_000, size=32, each=2, seed=0),
        data.scenes(train.subset(range(50_000, 55_000)), 300, size=32, each=2, seed=1),
        data.scenes(train.subset(range(55_000, 60_000)), 300, size=32, each=2, seed=2),
        data.scenes(test, exam, size=32, each=2, seed=3),
    )
