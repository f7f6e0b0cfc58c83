"""The five trainers that TRL lacks, each a line: they run, and they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_helpers import bert, data, settings, trainer
from torch import nn
from trl_helpers import GKDTrainer, gkd, llama

from distill_lib import CE, KD, Adversarial, Ensemble, Match, losses

pytestmark = [
    pytest.mark.usefixtures("own_accelerate"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def gap(student: nn.Module, *teachers: nn.Module) -> float:
    """The mean divergence from the teachers, on some words."""
    ids = torch.randint(2, 12, (32, 6), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        said = student(ids).logits
        each = [losses.kl(student=said, teacher=t(ids).logits).mean() for t in teachers]
    return float(sum(each))


def learns(path: Path, objective: Any, teacher: Any = None, **args: Any) -> float:
    """How much nearer the student comes to its teachers in 30 steps."""
    student, one, other = llama(), llama(16, 2, 5), llama(16, 2, 6)
    k = {"objective": objective}
    teachers = [one]
    if teacher is not None:
        k, teachers = {**k, "teacher": teacher([one, other])}, [one, other]
    args = {"lmbda": 0.0, "max_steps": 30, "optim": "adamw_torch", "learning_rate": 0.02, **args}
    before = gap(student, *teachers)
    gkd(GKDTrainer, path, student, one, k, **args).train()
    return before - gap(student, *teachers)


def test_classes(tmp_path: Path) -> None:
    student, teacher = bert(), bert(16, seed=5)
    args = settings(tmp_path, max_steps=30)
    objective = 0.5 * CE() + 0.5 * KD(temperature=2)
    made = trainer(student, args, teacher=teacher, objective=objective, eval_dataset=data())
    before = made.evaluate()["eval_loss"]
    made.train()
    assert made.evaluate()["eval_loss"] < before


def test_sequence_level(tmp_path: Path) -> None:
    assert learns(tmp_path, CE(), seq_kd=True, max_new_tokens=6) > 0.1


def test_several_teachers(tmp_path: Path) -> None:
    assert learns(tmp_path, KD(), teacher=Ensemble) > 0.1


def test_hidden_layers(tmp_path: Path) -> None:
    project = nn.LazyLinear(16, dtype=torch.float64)
    match = Match("hidden_states/1", "hidden_states/2", project=project)
    assert learns(tmp_path, KD() + match) > 0.1


def test_adversarial(tmp_path: Path) -> None:
    judge = nn.Sequential(nn.LazyLinear(16, dtype=torch.float64), nn.Tanh(),
                          nn.Linear(16, 1, dtype=torch.float64))  # fmt: skip
    assert learns(tmp_path, KD() + 0.1 * Adversarial(judge)) > 0.1
