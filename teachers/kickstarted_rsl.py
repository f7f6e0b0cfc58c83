"""RSL-RL's PPO alone, with a teacher beside the reward, and with one that learns too; to the zoo.

    python teachers/kickstarted_rsl.py

Small actors learn to swing up a pendulum, in RSL-RL's runner. What differs is the teacher:

- none: reward alone;
- finished: the zoo's, with the objective of a weight of 0.5 that stays, and of one from 2 to 0;
- learning: an actor of the teacher's size in a runner of its own, an iteration of each in turn;
  the student is pulled to what this teacher knows by then, with a weight of 0.5.

RSL-RL chooses its rate so that an update moves the policy by `desired_kl`. Each way tries the same
two, with two seeds; the better one in the end is then run with five others.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cards import ZOO, write_table
from rsl_rl.runners import OnPolicyRunner

from distill_lib import KD, linear, losses, rl
from distill_lib.integrations import rsl_rl as rsl

FILE, TEACHER = ZOO / "kickstarted_rsl.jsonl", ZOO / "pendulum_rsl_rl.pt"
ENVS, STEPS, ITERATIONS, EVERY, EXAM = 16, 128, 24, 3, 50
MOVES, TRIALS, SEEDS = (0.006, 0.02), (100, 101), (0, 1, 2, 3, 4)
SMALL, LARGE = [18, 18], [128, 128]
WAYS: dict[str, Callable[[], Any] | None] = {
    "none": None,
    "finished, 0.5": lambda: 0.5,
    "finished, 2 to 0": lambda: linear(2, 0),
    "learning, 0.5": lambda: 0.5,
}


def network(hidden: list[int], std: float | None = None) -> dict[str, Any]:
    own: dict[str, Any] = {
        "class_name": "MLPModel", "hidden_dims": hidden, "activation": "elu",
        "obs_normalization": True,
    }  # fmt: skip
    if std is not None:
        own["distribution_cfg"] = {"class_name": "GaussianDistribution", "init_std": std}
    return own


def runner(hidden: list[int], move: float, seed: int, weight: Any = None) -> OnPolicyRunner:
    """RSL-RL's runner; with a weight, kickstarted by the zoo's teacher."""
    cfg: dict[str, Any] = {
        "num_steps_per_env": STEPS, "save_interval": 1000,
        "obs_groups": {"actor": ["teacher"], "critic": ["teacher"]},
        "actor": network(hidden, 1.0), "critic": network(LARGE),
        "algorithm": {
            "class_name": "PPO", "num_learning_epochs": 6, "num_mini_batches": 8,
            "learning_rate": 1e-3, "schedule": "adaptive", "desired_kl": move, "gamma": 0.95,
            "lam": 0.95, "entropy_coef": 0.0, "max_grad_norm": 0.5,
        },
    }  # fmt: skip
    if weight is not None:
        cfg["obs_groups"]["teacher"] = ["teacher"]
        cfg["teacher"] = network(LARGE, 1.0)
        cfg["algorithm"] |= {
            "class_name": rsl.Kickstarting, "iterations": ITERATIONS, "teacher_file": str(TEACHER),
            "objective": weight * KD(losses.gaussian_kl, on="gaussian"),
        }  # fmt: skip
    torch.manual_seed(seed)
    return OnPolicyRunner(rsl.GymVecEnv(rsl.Pendula(ENVS), seed), cfg)


def played(made: OnPolicyRunner, folder: Path) -> float:
    """The mean return of the greedy policy, as it is read from its file."""
    made.save(str(folder / "now.pt"))
    policy = rsl.load_teacher(folder / "now.pt", activation="elu")
    return rl.evaluate(policy, rsl.Pendula(EXAM), EXAM, sees="teacher").mean


def learned(way: str, move: float, seed: int) -> dict[str, Any]:
    """One row of the table: the student's returns on the way, and its learning teacher's."""
    weight = WAYS[way]
    returns: list[float] = []
    teachers: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as name:
        student = runner(SMALL, move, seed, weight and weight())
        teacher = runner(LARGE, 0.006, 1000 + seed) if "learning" in way else None
        for done in range(1, ITERATIONS + 1):
            if teacher is not None:
                teacher.learn(1)
                now = copy.deepcopy(teacher.alg.actor.state_dict())
                student.alg._raw_teacher.load_state_dict(now)
            student.learn(1)
            if done % EVERY == 0:
                returns.append(round(played(student, Path(name)), 1))
                if teacher is not None:
                    teachers.append(round(played(teacher, Path(name)), 1))
    row = {"way": way, "move": move, "seed": seed, "steps": EVERY * ENVS * STEPS,
           "return": returns}  # fmt: skip
    print(row, flush=True)
    return {**row, "teacher": teachers} if teachers else row


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun, rows = time.process_time(), []
    for way in WAYS:
        tried = {move: [learned(way, move, seed) for seed in TRIALS] for move in MOVES}
        best = max(tried, key=lambda move: sum(row["return"][-1] for row in tried[move]))
        rows += [{"part": "tried", **row} for trials in tried.values() for row in trials]
        rows += [{"part": "kept", **learned(way, best, seed)} for seed in SEEDS]
    write_table(FILE, rows, begun)


if __name__ == "__main__":
    main()
