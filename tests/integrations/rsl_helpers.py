"""A small environment and configurations of RSL-RL that the tests share."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

REASON = "rsl-rl-lib is not installed: python make.py setup"
pytest.importorskip("rsl_rl", reason=REASON)
gym = pytest.importorskip("gymnasium")


class Point(gym.Env):
    """A point on a line that is pushed; the target is at 0. Ends when it is far, cut after 6."""

    def __init__(self, groups: bool = False, broken_at: int | None = None) -> None:
        box = gym.spaces.Box(-10, 10, (3,), "float32")
        self.groups, self.broken_at = groups, broken_at
        small = gym.spaces.Box(-10, 10, (2,), "float32")
        self.observation_space = (
            gym.spaces.Dict({"student": small, "teacher": box}) if groups else box
        )
        self.action_space = gym.spaces.Box(-1, 1, (2,), "float32")

    def _see(self) -> Any:
        import numpy as np

        now = np.array([self.x, self.v, self.t / 10], "float32")
        if self.broken_at is not None and self.t >= self.broken_at:
            now[1] = np.nan
        return {"student": now[:2], "teacher": now} if self.groups else now

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.v, self.t = float(self.np_random.normal()), 0.0, 0
        return self._see(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.v += 0.3 * float(action[0] - 0.5 * action[1])
        self.x += self.v
        self.t += 1
        return self._see(), -abs(self.x), abs(self.x) > 3, False, {}


def points(n: int = 4, mode: Any = None, limit: int = 6, **kwargs: Any) -> Any:
    """Points side by side, each episode cut after ``limit`` steps."""
    mode = mode or gym.vector.AutoresetMode.SAME_STEP
    one = lambda: gym.wrappers.TimeLimit(Point(**kwargs), limit)  # noqa: E731
    return gym.vector.SyncVectorEnv([one] * n, autoreset_mode=mode)


def env(n: int = 4, seed: int | None = 0, limit: int = 6, **kwargs: Any) -> Any:
    """The same, as RSL-RL sees it."""
    from distill_lib.integrations.rsl_rl import GymVecEnv

    return GymVecEnv(points(n, limit=limit, **kwargs), seed=seed, max_episode_length=limit)


def scanned(n: int = 4) -> Any:
    """The points, with a group ``scan`` of images [1, 6, 6] that show where they are."""
    import numpy as np

    from distill_lib.integrations.rsl_rl import GymVecEnv

    class Seen(gym.ObservationWrapper):
        def __init__(self) -> None:
            super().__init__(Point(groups=True))
            scan = gym.spaces.Box(0, 1, (1, 6, 6), "float32")
            self.observation_space = gym.spaces.Dict(
                {**self.env.observation_space.spaces, "scan": scan}
            )

        def observation(self, seen: Any) -> Any:
            scan = np.zeros((1, 6, 6), "float32")
            scan[0, :, int(np.clip(seen["teacher"][0] + 3, 0, 5))] = 1
            return {**seen, "scan": scan}

    mode = gym.vector.AutoresetMode.SAME_STEP
    vector = gym.vector.SyncVectorEnv(
        [lambda: gym.wrappers.TimeLimit(Seen(), 6)] * n, autoreset_mode=mode
    )
    return GymVecEnv(vector, seed=0, max_episode_length=6)


def model(hidden: list[int], norm: bool = True, **distribution: Any) -> dict[str, Any]:
    """A model of a runner's configuration."""
    gaussian = {"class_name": "GaussianDistribution", "init_std": 0.5, **distribution}
    return {
        "class_name": "MLPModel",
        "hidden_dims": hidden,
        "activation": "elu",
        "obs_normalization": norm,
        "distribution_cfg": gaussian,
    }


def ppo_config(hidden: list[int], **actor: Any) -> dict[str, Any]:
    critic = model(hidden)
    del critic["distribution_cfg"]
    return {
        "num_steps_per_env": 8,
        "save_interval": 100,
        "obs_groups": {"actor": ["teacher"], "critic": ["teacher"]},
        "actor": model(hidden, **actor),
        "critic": critic,
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2},
    }


def config(**algorithm: Any) -> dict[str, Any]:
    """A distillation: a teacher that sees three numbers, a student that sees two of them."""
    return {
        "num_steps_per_env": 10,
        "save_interval": 100,
        "obs_groups": {"student": ["student"], "teacher": ["teacher"]},
        "student": model([6], init_std=0.2),
        "teacher": model([8, 7]),
        "algorithm": {"gradient_length": 5, "learning_rate": 1e-2, **algorithm},
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the tables that the runner prints; its own warnings are not ours."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def checkpoint() -> Path:
    """A checkpoint that RSL-RL 5 wrote after one iteration of PPO."""
    import torch
    from rsl_rl.runners import OnPolicyRunner

    torch.manual_seed(0)
    path = Path(tempfile.mkdtemp()) / "model_1.pt"
    with quiet():
        runner = OnPolicyRunner(env(groups=True), ppo_config([8, 7]))
        runner.learn(1)
        runner.save(str(path))
    return path
