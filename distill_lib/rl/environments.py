"""Environments side by side, and what teacher and student may see of them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

__all__ = ["Privileged", "Stage", "make", "single"]

Observation = Tensor | dict[str, Tensor]


@contextlib.contextmanager
def _quiet_compiler() -> Iterator[None]:
    """MuJoCo's compiler writes a deprecation of a model file's, not ours, past Python's streams."""
    try:
        held = os.dup(2)
    except OSError:  # no such stream, as in some hosted kernels
        yield
        return
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(held, 2)
            os.close(held)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                if line.strip() and "settotalmass" not in line:
                    print(line, file=sys.stderr)


def single(env: Any, **kwargs: Any) -> gym.Env[Any, Any]:
    """One environment, from an id or a function that makes one."""
    with _quiet_compiler(), warnings.catch_warnings():
        # Box2D's bindings warn while they are imported, and crash where warnings are errors
        warnings.filterwarnings("ignore", "builtin type", DeprecationWarning)
        if callable(env):
            made: gym.Env[Any, Any] = env(**kwargs)
            return made
        return gym.make(env, disable_env_checker=True, **kwargs)


def make(
    env: Any, num_envs: int, autoreset: str = "same step", **kwargs: Any
) -> gym.vector.SyncVectorEnv:
    """Environments side by side in one process, which is the fastest way for small ones.

    Args:
        env: An id such as ``"LunarLander-v3"``, or a function that makes one environment.
        num_envs: How many.
        autoreset: ``"same step"`` or ``"next step"``: when a new episode begins.
        **kwargs: For each environment, such as ``max_episode_steps=200``.

    Raises:
        ValueError: fewer than one, or another autoreset.

    Example:
        >>> make("CartPole-v1", 3).num_envs
        3
    """
    modes = {
        "same step": gym.vector.AutoresetMode.SAME_STEP,
        "next step": gym.vector.AutoresetMode.NEXT_STEP,
    }
    if num_envs < 1:
        raise ValueError(f"num_envs is at least 1, got {num_envs}")
    if autoreset not in modes:
        raise ValueError(f"autoreset is 'same step' or 'next step', got {autoreset!r}")
    return gym.vector.SyncVectorEnv(
        [lambda: single(env, **kwargs) for _ in range(num_envs)], autoreset_mode=modes[autoreset]
    )


class Privileged(gym.ObservationWrapper[Any, Any, Any]):
    """Teacher and student see different things: observation groups by name.

    The observation becomes a mapping: ``teacher`` is what the environment tells, ``student`` is a
    part of it, of the last few steps, with noise. RSL-RL and Isaac Lab call such parts groups.

    Args:
        env: An environment with a flat observation.
        keep: Positions that the student sees; all by default.
        frames: The student sees its part of so many last steps, the oldest first.
        noise: Standard deviation of Gaussian noise on what the student sees.

    Raises:
        ValueError: positions that are not there, fewer than one frame, or an observation that is
            not flat.

    Example:
        >>> env = Privileged(gym.make("CartPole-v1"), keep=[0, 2], frames=3)
        >>> env.reset(seed=0)[0]["student"].shape
        (6,)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        keep: Sequence[int] | None = None,
        frames: int = 1,
        noise: float = 0.0,
    ) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"Privileged expected a flat observation, got the space {space}")
        self.keep = list(range(space.shape[0])) if keep is None else list(keep)
        if not self.keep or not all(0 <= i < space.shape[0] for i in self.keep):
            raise ValueError(
                f"keep names positions 0 to {space.shape[0] - 1} of the observation, got {keep}"
            )
        if frames < 1:
            raise ValueError(f"frames is at least 1, got {frames}")
        self.noise = noise
        self.seen: deque[np.ndarray] = deque(maxlen=frames)
        shape = (len(self.keep) * frames,)
        mine = gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.observation_space = gym.spaces.Dict({"student": mine, "teacher": space})

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """A new episode, of whose past the student has seen nothing: the first frame repeated."""
        self.seen.clear()
        return super().reset(**kwargs)

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        """The two groups."""
        part = np.asarray(observation, np.float32)[self.keep]
        if self.noise:
            part = part + self.noise * self.np_random.standard_normal(part.shape, np.float32)
        self.seen.append(part)
        while len(self.seen) < (self.seen.maxlen or 1):
            self.seen.append(part)
        return {"student": np.concatenate(self.seen), "teacher": observation}


class Stage:
    """Environments in which each plays one episode; those that are done wait for the others.

    Args:
        env: A vector environment; or an id, or a function that makes one environment.
        num_envs: How many, where ``env`` is not a vector environment.
    """

    def __init__(self, env: Any, num_envs: int | None = None) -> None:
        if isinstance(env, gym.vector.VectorEnv):
            if num_envs is not None and env.num_envs != num_envs:
                raise ValueError(
                    f"{num_envs} episodes at a time need as many environments, got a vector of "
                    f"{env.num_envs}; pass the id, or a vector of {num_envs}"
                )
            self.envs: gym.vector.VectorEnv[Any, Any, Any] = env
        else:
            if num_envs is None or num_envs < 1:
                raise ValueError(f"expected at least one episode, got {num_envs}")
            self.envs = make(env, num_envs)
        self.size = self.envs.num_envs
        self.space = self.envs.single_action_space
        # one by one where that is possible: who is done costs nothing
        self.singly = isinstance(self.envs, gym.vector.SyncVectorEnv)
        self.alive = np.zeros(self.size, bool)

    def begin(self, seed: int) -> Observation:
        """The first observations; environment i is seeded with ``seed + i``."""
        self.alive[:] = True
        if self.singly:
            firsts = [
                env.reset(seed=seed + i)[0]
                for i, env in enumerate(self.envs.envs)  # type: ignore[attr-defined]
            ]
            self.raw: Any = _stack(firsts)
        else:
            self.raw, _ = self.envs.reset(seed=seed)
        return self.observation()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N] rewards, terminated and truncated; zeros for those that wait."""
        acts = self.legal(actions)
        if self.singly:
            reward, ended, cut = self._singly(acts)
        else:
            self.raw, reward, ended, cut, _ = self.envs.step(acts)
        reward = np.where(self.alive, reward, 0.0)
        ended, cut = ended & self.alive, cut & self.alive
        self.alive &= ~(ended | cut)
        return (
            torch.as_tensor(reward, dtype=torch.float32),
            torch.as_tensor(ended),
            torch.as_tensor(cut),
        )

    def _singly(self, actions: Any) -> tuple[Any, Any, Any]:
        reward, ended, cut = np.zeros(self.size), *np.zeros((2, self.size), bool)
        for i in np.flatnonzero(self.alive).tolist():
            seen, reward[i], ended[i], cut[i], _ = self.envs.envs[i].step(actions[i])  # type: ignore[attr-defined]
            _put(self.raw, i, seen)
        return reward, ended, cut

    def legal(self, actions: Tensor) -> Any:
        """Actions as the environments take them: real ones clipped to their bounds."""
        acts = actions.detach().cpu().numpy()
        if isinstance(self.space, gym.spaces.Box):
            acts = acts.reshape(self.size, *self.space.shape)
            return np.clip(acts, self.space.low, self.space.high).astype(self.space.dtype)
        return acts + getattr(self.space, "start", 0)

    def observation(self) -> Observation:
        """[N, D], or one such tensor a group.

        Raises:
            ValueError: an observation that is not finite.
        """
        found = _tensors(self.raw)
        for group, values in found.items() if isinstance(found, dict) else [("", found)]:
            bad = ~values.flatten(1).isfinite().all(-1) & torch.from_numpy(self.alive)
            if bool(bad.any()):
                raise ValueError(
                    f"environment {int(bad.nonzero()[0])} gave an observation"
                    f"{f' {group!r}' if group else ''} that is not finite (nan or inf): a "
                    "simulation that blew up, or a broken wrapper; nothing can be learned from it"
                )
        return found

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


def _stack(seen: list[Any]) -> Any:
    if isinstance(seen[0], dict):
        return {k: np.stack([one[k] for one in seen]) for k in seen[0]}
    return np.stack(seen)


def _put(into: Any, i: int, seen: Any) -> None:
    if isinstance(into, dict):
        for k, v in into.items():
            v[i] = seen[k]
    else:
        into[i] = seen


def _tensors(raw: Any) -> Observation:
    if isinstance(raw, dict):
        return {k: torch.as_tensor(v, dtype=torch.float32).clone() for k, v in raw.items()}
    return torch.as_tensor(raw, dtype=torch.float32).clone()
