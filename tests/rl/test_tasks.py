"""One student for several environments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill_lib import KD, distill, rl, zoo


class Both(nn.Module):
    """A shared trunk, an entry and an exit for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.ModuleDict({"cart": nn.Linear(4, 16), "acro": nn.Linear(6, 16)})
        self.trunk = nn.Sequential(nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.leave = nn.ModuleDict({"cart": nn.Linear(16, 2), "acro": nn.Linear(16, 3)})

    def forward(self, x: Tensor, task: str) -> Tensor:
        return self.leave[task](self.trunk(self.enter[task](x)))


def tasks(updates: int = 3) -> rl.Tasks:
    made = {"cart": ("CartPole-v1", "cartpole_ppo"), "acro": ("Acrobot-v1", "acrobot_ppo")}
    settings = {"episodes": 2, "batch_size": 16, "updates": updates}
    return rl.Tasks(
        {
            name: rl.Rollouts(env, zoo.load_teacher(teacher), **settings)
            for name, (env, teacher) in made.items()
        }
    )


def test_tasks_take_turns_each_with_its_teacher() -> None:
    found = tasks()
    assert len(found) == 6
    batches = list(found)
    assert [b["task"] for b in batches] == ["cart", "acro"] * 3
    assert [b["inputs"].shape[1] for b in batches] == [4, 6] * 3
    for batch in batches:
        name = {"cart": "cartpole_ppo", "acro": "acrobot_ppo"}[batch["task"]]
        wanted = zoo.load_teacher(name)(batch["inputs"])["logits"]
        torch.testing.assert_close(found.teacher(batch)["logits"], wanted)


def test_one_student_learns_both_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    def run(steps: int, path: Path | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        student, found = Both(), tasks()
        distill(student, found.teacher, found, KD(), steps=steps, checkpoint=path,
                forward=lambda m, b: m(b["inputs"], b["task"]))  # fmt: skip
        return student.state_dict()

    whole = run(12, None)
    run(6, tmp_path / "a.pt")
    parts = run(12, tmp_path / "a.pt")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_tasks_that_cannot_take_turns_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one environment, got none"):
        rl.Tasks({})
    one, two = tasks(3).rollouts["cart"], tasks(4).rollouts["acro"]
    with pytest.raises(ValueError, match=r"updates must be equal; got \{'cart': 3, 'acro': 4\}"):
        rl.Tasks({"cart": one, "acro": two})
    models = list(tasks().teacher.models())
    assert len(models) == 2 and tasks().teacher.fingerprint() == tasks().teacher.fingerprint()
