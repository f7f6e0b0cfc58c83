"""Our PPO against Stable-Baselines3's, in return after equally many steps.

Both have the same networks, the same settings and the same examination: 50 greedy episodes of
seeds that neither has learned on. What differs is in the code alone. SB3 standardizes advantages
over each batch, ours over each segment.

The ratio of the ledger is that of what was gained over a policy that acts at random.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from distill_lib import PPO, distill, linear, rl, zoo

from .side_by_side import Result

SEEDS = range(3)
# steps; what the environment gives to random actions; whether actions are real numbers; settings
TASKS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 25_600, "floor": 22.0, "envs": 8, "segment": 32, "batch": 256, "epochs": 20,
        "gamma": 0.98, "lam": 0.8, "lr": 1e-3,
    },
    "Acrobot-v1": {
        "steps": 49_152, "floor": -500.0, "envs": 16, "segment": 256, "batch": 256, "epochs": 4,
        "gamma": 0.99, "lam": 0.94, "lr": 1e-3,
    },
    "Pendulum-v1": {
        "steps": 102_400, "floor": -1_230.0, "envs": 4, "segment": 1024, "batch": 256,
        "epochs": 10, "gamma": 0.9, "lam": 0.95, "lr": 1e-3,
    },
}  # fmt: skip


def ours(env: str, seed: int) -> Any:
    """A policy of ours, trained by ours."""
    task = TASKS[env]
    made = rl.make(env, 1)
    seen: Any = made.single_observation_space
    space: Any = made.single_action_space
    continuous = not hasattr(space, "n")
    made.close()
    torch.manual_seed(seed)
    policy = zoo.Policy(
        seen.shape[0], space.shape[0] if continuous else int(space.n), (64, 64),
        continuous=continuous, critic=True,
    )  # fmt: skip
    play = rl.OnPolicy(
        env, policy, envs=task["envs"], steps=task["segment"], epochs=task["epochs"],
        batch_size=task["batch"], gamma=task["gamma"], lam=task["lam"], seed=seed,
    )  # fmt: skip
    segments = task["steps"] // (task["envs"] * task["segment"])
    distill(
        policy, None, play, PPO(on="gaussian" if continuous else "logits"), epochs=segments,
        lr=linear(task["lr"], 0), clip_norm=0.5,
        optimizer=lambda parameters: torch.optim.Adam(parameters, eps=1e-5),
    )  # fmt: skip
    return policy


def theirs(env: str, seed: int) -> Any:
    """A model of Stable-Baselines3, trained by it."""
    from stable_baselines3 import PPO as TheirPPO
    from stable_baselines3.common.env_util import make_vec_env

    task = TASKS[env]
    model = TheirPPO(
        "MlpPolicy", make_vec_env(env, task["envs"], seed=seed), n_steps=task["segment"],
        batch_size=task["batch"], n_epochs=task["epochs"], gamma=task["gamma"],
        gae_lambda=task["lam"], learning_rate=lambda left: task["lr"] * left, seed=seed,
        device="cpu",
    )  # fmt: skip
    model.learn(task["steps"])
    return model


def in_return(env: str) -> Result:
    """Mean over the seeds of both, on the same examination."""
    found = {
        train.__name__: [rl.evaluate(train(env, seed), env, 50).mean for seed in SEEDS]
        for train in (ours, theirs)
    }
    for name, each in found.items():
        print(f"  {env} {name}: {', '.join(f'{r:.0f}' for r in each)}", flush=True)
    mine, peer = (statistics.fmean(found[name]) for name in ("ours", "theirs"))
    task = TASKS[env]
    return Result(
        f"{env}, return of PPO after {task['steps']:,} steps, {len(SEEDS)} seeds",
        (mine - task["floor"]) / (peer - task["floor"]),
        mine,
        peer,
        f"stable-baselines3 {version('stable-baselines3')}",
        "return",
        0.9,
    )


def _named(env: str) -> Callable[[], Result]:
    job: Any = partial(in_return, env)
    job.__name__ = f"return_{env}"
    return job  # type: ignore[no-any-return]


ALL = [_named(env) for env in TASKS]
