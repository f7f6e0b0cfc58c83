"""Distillation in RSL-RL's runner: our algorithm against RSL-RL's own, same runner, same student.

A teacher that sees angle and velocity of a pendulum, students that see the angle. Everything that
is not the algorithm is shared: environments, models, initialization, learning rate, epochs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from importlib.metadata import version
from typing import Any

import torch

from .side_by_side import Result, compare

ENVS, STEPS, EVERY, LIMIT, GOAL = 256, 16, 6, 72, -300.0
SEEDS = range(3)


def _network(hidden: list[int], std: float, **more: Any) -> dict[str, Any]:
    gaussian = {"class_name": "GaussianDistribution", "init_std": std}
    return {
        "class_name": "MLPModel", "hidden_dims": hidden, "activation": "elu",
        "obs_normalization": True, "distribution_cfg": gaussian, **more,
    }  # fmt: skip


def runner(seed: int, memory: bool, **algorithm: Any) -> Any:
    """A runner of RSL-RL with the zoo's teacher and a student that begins the same for a seed."""
    from rsl_rl.runners import DistillationRunner

    from distill_lib import zoo
    from distill_lib.integrations.rsl_rl import GymVecEnv, Pendula, give_teacher

    recurrent = {"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 16}
    settings = {
        "num_steps_per_env": STEPS,
        "save_interval": 1000,
        "obs_groups": {"student": ["student"], "teacher": ["teacher"]},
        "student": _network([18, 18], 0.1, **(recurrent if memory else {})),
        "teacher": _network([128, 128], 1.0),
        "algorithm": {"num_learning_epochs": 2, "gradient_length": 4, "learning_rate": 8e-3,
                      "max_grad_norm": 1.0, **algorithm},
    }  # fmt: skip
    torch.manual_seed(seed)
    with _quiet():
        made = DistillationRunner(GymVecEnv(Pendula(ENVS, keep=[0, 1]), seed), settings)
        give_teacher(made, zoo.FOLDER / "pendulum_rsl_rl.pt")
    return made


@contextlib.contextmanager
def _quiet() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _ours(**algorithm: Any) -> dict[str, Any]:
    from distill_lib.integrations.rsl_rl import Distillation

    return {"class_name": Distillation, **algorithm}


def _learn(made: Any, iterations: int) -> None:
    with _quiet():
        made.learn(iterations)


def _iterations(name: str, memory: bool) -> Result:
    """Processor time of five iterations with the same objective."""
    from distill_lib import Match, losses

    mine = runner(0, memory, **_ours(objective=Match("mean", loss=losses.mse_logits)))
    theirs = runner(0, memory, class_name="Distillation")
    return compare(
        name,
        lambda: _learn(mine, 5),
        lambda: _learn(theirs, 5),
        version=f"rsl-rl-lib {version('rsl-rl-lib')}",
        bound=1 / 1.1,
    )


def iteration_time() -> Result:
    """A student without a memory."""
    return _iterations("distillation in RSL-RL's runner, five iterations", memory=False)


def memory_iteration_time() -> Result:
    """A student with a memory, where the steps of a chunk follow each other."""
    return _iterations("the same, a student with a memory", memory=True)


def _steps_to_goal(seed: int, algorithm: dict[str, Any]) -> int:
    """Environment steps until two evaluations in a row reach the goal, or the limit."""
    from distill_lib.integrations.rsl_rl import Pendula, play

    made = runner(seed, True, **copy.deepcopy(algorithm))
    reached = done = 0
    while reached < 2 and done < LIMIT:
        _learn(made, EVERY)
        done += EVERY
        found = play(made.alg.get_policy(), Pendula(200, keep=[0, 1])).mean
        made.alg.train_mode()
        reached = reached + 1 if found >= GOAL else 0
    return done * ENVS * STEPS


def steps_to_quality() -> Result:
    """Environment steps until a student with a memory plays at −300, mean over three seeds.

    A run that does not get there counts with the limit, so the peer's number is a lower bound.
    """
    ours = sum(_steps_to_goal(s, _ours()) for s in SEEDS) / len(SEEDS)
    peer = sum(_steps_to_goal(s, {"class_name": "Distillation"}) for s in SEEDS) / len(SEEDS)
    name = "steps to a return of −300 with hidden velocity, RSL-RL"
    return Result(
        name, peer / ours, ours, peer, f"rsl-rl-lib {version('rsl-rl-lib')}", "steps", bound=1.0
    )


ALL = [iteration_time, memory_iteration_time, steps_to_quality]
