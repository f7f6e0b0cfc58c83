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

from distill_lib.arguments import checked

from .spaces import Observation, Reader, check_action_space, check_rewards, legal

__all__ = ["Privileged", "Stage", "make", "single"]

LIMIT = 10_000  # steps of an episode, where the environment itself names no limit


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
    """One environment, from an id or a function that makes one.

    Raises:
        ValueError: anything else, such as an environment that was made already.
    """
    if not (callable(env) or isinstance(env, (str, gym.envs.registration.EnvSpec))):
        raise ValueError(
            "env is an id such as 'CartPole-v1', or a function that makes one environment, as "
            f"many are needed; got a {type(env).__name__}. Pass lambda: and what made it"
        )
    with _quiet_compiler(), warnings.catch_warnings():
        # Box2D's bindings warn while they are imported, and crash where warnings are errors
        warnings.filterwarnings("ignore", "builtin type", DeprecationWarning)
        if callable(env):
            made = env(**kwargs)
            if not isinstance(made, gym.Env):
                raise ValueError(
                    f"the function that makes one environment made a {type(made).__name__}, and "
                    "not a gymnasium.Env"
                )
            return made
        try:
            return gym.make(env, disable_env_checker=True, **kwargs)
        except gym.error.Error as error:
            malformed = type(error) is gym.error.Error
            if not (malformed or isinstance(error, gym.error.UnregisteredEnv)):
                raise
            raise ValueError(
                f"Gymnasium knows no environment {env!r} ({error}); one of another package is "
                "registered when that package is imported"
            ) from error


@checked
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
        ValueError: fewer than one, another autoreset, or a function that makes one and the same
            environment again and again.

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
    made = gym.vector.SyncVectorEnv(
        [lambda: single(env, **kwargs) for _ in range(num_envs)], autoreset_mode=modes[autoreset]
    )
    check_apart(made)
    return made


def check_apart(envs: Any) -> None:
    """Whether environments side by side are several, and not one that all of them step.

    Raises:
        ValueError: two are the same inside their wrappers.
    """
    inner = [one.unwrapped for one in getattr(envs, "envs", ())]
    if len({id(one) for one in inner}) < len(inner):
        raise ValueError(
            f"{len(inner)} environments side by side are one and the same {type(inner[0]).__name__}"
            ", whose episodes would be stepped all at once: the function has to make a new one "
            "each time, lambda: gym.make(…), and not return one that was made before"
        )


@checked
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
        self.keep: list[int] = list(range(space.shape[0])) if keep is None else list(keep)
        if not self.keep or not all(0 <= i < space.shape[0] for i in self.keep):
            raise ValueError(
                f"keep names positions 0 to {space.shape[0] - 1} of the observation, got {keep}"
            )
        if frames < 1:
            raise ValueError(f"frames is at least 1, got {frames}")
        self.noise = float(noise)
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


HALF = 2**30  # of the seeds that fit into 32 bits with their sign


def seed_to_evaluate(seed: int) -> int:
    """Of the first environment that a policy is evaluated in: the seed itself, if it is small."""
    return int(seed) % (HALF - 2**20)  # so many environments may follow


def seed_to_learn(seed: int) -> int:
    """Of the first environment that one learns in; no evaluation has an episode of it."""
    return HALF + seed_to_evaluate(seed)


class Stage:
    """Environments in which each plays one episode; those that are done wait for the others.

    Args:
        env: A vector environment; or an id, or a function that makes one environment.
        num_envs: How many, where ``env`` is not a vector environment.
        sees: The groups of the observation that are read.
        max_steps: An episode of more steps is an error. By default 10,000, or the environment's own
            time limit where that is longer.

    Attributes:
        alive: [N], whose episode goes on.
        returns: [N], the rewards so far.
        lengths: [N], the steps so far.

    Raises:
        ValueError: spaces that no policy can read or act in, numbers that do not fit, a vector
            whose environments have to be reset from outside, or are one and the same.
        KeyError: groups that are not there.
    """

    alive: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    returns: np.ndarray[Any, Any]
    taken: int

    def __init__(
        self,
        env: Any,
        num_envs: int | None = None,
        sees: Sequence[str] = ("student", "teacher"),
        max_steps: int | None = None,
    ) -> None:
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps is at least 1, got {max_steps}")
        if isinstance(env, gym.vector.VectorEnv):
            if num_envs is not None and env.num_envs != num_envs:
                raise ValueError(
                    f"{num_envs} episodes at a time need as many environments, got a vector of "
                    f"{env.num_envs}; pass the id, or a vector of {num_envs}"
                )
            self.envs: gym.vector.VectorEnv[Any, Any, Any] = env
            check_apart(env)
        else:
            if num_envs is None or num_envs < 1:
                raise ValueError(f"expected at least one episode, got {num_envs}")
            self.envs = make(env, num_envs)
        self.size: int = self.envs.num_envs
        self.space: gym.Space[Any] = self.envs.single_action_space
        check_action_space(self.space)
        self.reader: Reader = Reader(self.envs.single_observation_space, sees)
        self.limit: int = max_steps or max(LIMIT, _time_limit(self.envs))
        # one by one where that is possible: who is done costs nothing
        self.singly: bool = isinstance(self.envs, gym.vector.SyncVectorEnv)
        mode = (self.envs.metadata or {}).get("autoreset_mode")
        if mode == gym.vector.AutoresetMode.DISABLED and not self.singly:
            raise ValueError(
                "a vector with AutoresetMode.DISABLED cannot be stepped while some of its episodes "
                "wait for the others: make it with autoreset_mode=AutoresetMode.SAME_STEP, or pass "
                "the SyncVectorEnv itself, without a wrapper"
            )
        self.alive, self.taken = np.zeros(self.size, bool), 0

    def begin(self, seed: int) -> Observation:
        """The first observations; environment i is seeded with ``seed + i``."""
        self.alive = np.ones(self.size, bool)
        # in 64 bits, in which long sums of small rewards are exact enough
        self.returns, self.lengths = np.zeros(self.size), np.zeros(self.size, np.float32)
        self.taken = 0
        if self.singly:
            self.raw: Any = [
                env.reset(seed=seed + i)[0]
                for i, env in enumerate(self.envs.envs)  # type: ignore[attr-defined]
            ]
        else:
            self.raw, _ = self.envs.reset(seed=seed)
        return self.observation()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N] rewards, terminated and truncated; zeros for those that wait.

        Raises:
            ValueError: an episode that does not end; a reward that is not finite.
        """
        acts, alive = legal(actions, self.space), self.alive
        if self.singly:
            reward, ended, cut = self._singly(acts)
        else:
            self.raw, reward, ended, cut, _ = self.envs.step(acts)
            reward = np.where(alive, reward, 0.0)
            ended, cut = ended & alive, cut & alive
        self.returns += reward
        with np.errstate(over="ignore"):  # looked at here
            reward = reward.astype(np.float32)
            check_rewards(self.returns.astype(np.float32))
        self.lengths += alive
        self.alive = alive & ~(ended | cut)
        self.taken += 1
        if self.taken >= self.limit and self.alive.any():
            raise ValueError(
                f"the episode of environment {int(self.alive.argmax())} has not ended after "
                f"{self.limit} steps, and whole episodes are played: give the environment a time "
                "limit, gym.wrappers.TimeLimit(env, max_episode_steps=1000), or, if its episodes "
                "are longer, pass max_steps"
            )
        return torch.from_numpy(reward), torch.from_numpy(ended), torch.from_numpy(cut)

    def _singly(self, actions: Any) -> tuple[Any, Any, Any]:
        reward, (ended, cut) = np.zeros(self.size), np.zeros((2, self.size), bool)
        envs, raw = self.envs.envs, self.raw  # type: ignore[attr-defined]
        for i in self.alive.nonzero()[0].tolist():
            raw[i], reward[i], ended[i], cut[i], _ = envs[i].step(actions[i])
        return reward, ended, cut

    def observation(self) -> Observation:
        """[N, ...], or one such tensor a group, as :class:`distill_lib.rl.spaces.Reader` reads it.

        Raises:
            ValueError: an observation that is not finite.
        """
        return self.reader.read(self.raw, self.alive)

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


def _time_limit(envs: gym.vector.VectorEnv[Any, Any, Any]) -> int:
    """The longest time limit that the environments name; 0 for none."""
    named = [getattr(envs.spec, "max_episode_steps", None)]
    for env in getattr(envs, "envs", ()):
        while isinstance(env, gym.Wrapper):
            if isinstance(env, gym.wrappers.TimeLimit):
                named.append(env._max_episode_steps)
            env = env.env
    return max((limit for limit in named if limit), default=0)
