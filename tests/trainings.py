"""Trainings that can be killed and started anew, for the tests of resume."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from distill_lib import CE, EMA, KD, History, Match, Teacher, distill, linear

TOTAL = 14  # steps: two epochs of seven


class Killed(Exception):
    """Stands for a kill."""


class Noisy(Dataset):
    """Items that draw from every global generator, as augmentations do."""

    def __len__(self) -> int:
        return 28

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        noise = torch.rand(5) + random.random() + np.random.rand()
        return noise + i % 3, i % 3


class OwnOrder:
    """Batches with a state of their own, as StatefulDataLoader has."""

    def __init__(self) -> None:
        self.epoch = 0
        self.inputs = torch.arange(140.0).view(28, 5) / 140

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(28, generator=torch.Generator().manual_seed(self.epoch))
        self.epoch += 1
        return iter([(self.inputs[at], at % 3) for at in order.split(4)])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]


def loader(**settings: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    items = TensorDataset(torch.randn(28, 5, generator=generator), torch.arange(28) % 3)
    return DataLoader(items, batch_size=4, **settings)


def own_generator() -> DataLoader[Any]:
    return loader(shuffle=True, generator=torch.Generator().manual_seed(9))


def own_sampler() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(9)
    return loader(sampler=RandomSampler(range(28), generator=generator))


BATCHES = {
    "in order": loader,
    "shuffled": lambda: loader(shuffle=True),
    "own generator": own_generator,
    "own sampler": own_sampler,
    "augmented": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "own state": OwnOrder,
    "list": lambda: list(loader()),
}


class Killable(nn.Module):
    """A student with dropout that is killed at one of its forward passes."""

    def __init__(self, kill_at: int = -1, how: type[BaseException] = Killed) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)
        self.calls, self.kill_at, self.how = 0, kill_at, how

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.kill_at:
            raise self.how
        return self.head(self.body(x))


class Training:
    """One training from scratch, as a script is that is started anew."""

    def __init__(
        self,
        batches: str = "shuffled",
        optimizer: str = "adam",
        average: bool = False,
        kill_at: int = -1,
        how: type[BaseException] = Killed,
    ) -> None:
        torch.manual_seed(0)
        self.student = Killable(kill_at, how)
        self.project = nn.Linear(8, 3)
        teacher = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
        self.teacher = EMA(self.student, 0.9) if average else Teacher(teacher)
        inner = "body.0" if average else "1"
        project = nn.Linear(8, 8) if average else self.project
        self.project = project
        self.objective = (
            linear(1, 0.5) * CE()
            + KD(temperature=linear(4, 1))
            + 0.1 * Match("body.0", inner, project=project)
        )
        self.batches = BATCHES[batches]()
        self.optimizer = {
            "adam": None,
            "momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
        }[optimizer]

    def run(self, checkpoint: Path | None = None, steps: int = TOTAL, **settings: Any) -> History:
        # what the process did before is no part of the training: the seed decides
        torch.manual_seed(random.randrange(1000))
        return distill(
            self.student,
            self.teacher,
            self.batches,
            self.objective,
            steps=steps,
            lr=0.02,
            optimizer=self.optimizer,
            checkpoint=checkpoint,
            seed=7,
            **settings,
        )

    def state(self) -> dict[str, Tensor]:
        state = {**self.student.state_dict(), **self.project.state_dict(prefix="project.")}
        if isinstance(self.teacher, EMA):
            state |= {f"teacher.{k}": v for k, v in self.teacher.state_dict().items()}
        return state
