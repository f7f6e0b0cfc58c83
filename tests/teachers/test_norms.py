"""norms: the statistics of the batch for one answer, and the user's model as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import KD, Teacher, distill

NORMS: dict[str, Any] = {
    "1d": lambda: nn.BatchNorm1d(4),
    "2d": lambda: nn.BatchNorm2d(4),
    "sync": lambda: nn.SyncBatchNorm(4),
    "without statistics": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "lazy": lambda: nn.LazyBatchNorm1d(),
}


class Net(nn.Module):
    """A model that fails when it is told to."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.fails = norm, False

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.fails:
            raise OSError("the disk of the model is gone")
        return y


def inputs(kind: str) -> Tensor:
    return torch.randn(8, 4, 3, 3) + 5 if kind == "2d" else torch.randn(8, 4) + 5


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("fails", [False, True])
def test_after_an_answer_and_after_an_error_it_is_as_before(kind: str, fails: bool) -> None:
    model, x = Net(NORMS[kind]()), inputs(kind)
    model(x)
    tracks, before = model.norm.track_running_stats, copy.deepcopy(model.state_dict())
    teacher = Teacher(model, bn_train=True)
    model.fails = fails
    for _ in range(2):
        if fails:
            with pytest.raises(OSError, match="is gone"):
                teacher({"inputs": x})
        else:
            said = teacher({"inputs": x})
            assert said.mean((0, *range(2, x.ndim))).abs().max() < 1e-4
    assert model.norm.track_running_stats is tracks and not model.norm.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", ["1d", "2d", "sync"])
def test_the_model_and_its_copies_learn_statistics_again(kind: str) -> None:
    model, x = Net(NORMS[kind]()).train(), inputs(kind)
    student = nn.Sequential(nn.Flatten(2), nn.Linear(9, 9), nn.Unflatten(2, (3, 3)))
    term = KD(axis=1) if kind == "2d" else KD()
    student = student if kind == "2d" else nn.Linear(4, 4)
    distill(student, Teacher(model, bn_train=True), [{"inputs": x}], term, steps=1)
    for learner in (model, copy.deepcopy(model)):
        before = learner.norm.running_mean.clone()
        learner.train()(x)
        assert not torch.equal(before, learner.norm.running_mean)
