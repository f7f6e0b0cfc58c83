"""Many pendula as one array, the way simulators on a GPU step their robots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from distill_lib.arguments import check_counts, checked

__all__ = ["Pendula"]

GRAVITY, STEP, LIMIT, FASTEST, STRONGEST = 10.0, 0.05, 200, 8.0, 2.0


@checked
class Pendula(gym.vector.VectorEnv[Any, Any, Any]):
    r"""Gymnasium's ``Pendulum-v1`` for N pendula at once, with observation groups.

    .. math:: \dot\theta \leftarrow \mathrm{clip}\left(\dot\theta
       + (\tfrac32 g \sin\theta + 3 u)\, \tau,\; -8,\, 8\right), \qquad
       \theta \leftarrow \theta + \tau \dot\theta

    The same dynamics, rewards and beginnings as Gymnasium's class, with one call for all pendula
    instead of one for each. The observation is a mapping: ``teacher`` sees
    :math:`\cos\theta, \sin\theta, \dot\theta`, and ``student`` a part of it, with noise.

    Args:
        num_envs: N.
        keep: Positions that the student sees; all by default.
        noise: Standard deviation of Gaussian noise on what the student sees.

    Raises:
        ValueError: fewer than one, or positions that are not there.

    Example:
        >>> env = Pendula(1000, keep=[0, 1])
        >>> env.reset(seed=0)[0]["student"].shape
        (1000, 2)
    """

    angle: Any
    noise: float
    num_envs: int
    speed: Any

    # no ClassVar, as Gymnasium has it
    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, num_envs: int, keep: Sequence[int] | None = None, noise: float = 0.0
    ) -> None:
        check_counts(num_envs=num_envs)
        self.num_envs, self.noise = num_envs, float(noise)
        self.keep: list[int] = [0, 1, 2] if keep is None else list(keep)
        if not self.keep or not {*self.keep} <= {0, 1, 2}:
            raise ValueError(f"keep names positions 0 to 2 of the observation, got {keep}")
        self.spec: gym.envs.registration.EnvSpec | None = gym.spec("Pendulum-v1")
        high = np.array([1, 1, FASTEST], np.float32)
        infinite = np.full(len(self.keep), np.inf, np.float32)
        self.single_observation_space: gym.spaces.Space[Any] = gym.spaces.Dict(
            {"student": gym.spaces.Box(-infinite, infinite), "teacher": gym.spaces.Box(-high, high)}
        )
        self.single_action_space: gym.spaces.Space[Any] = gym.spaces.Box(
            -STRONGEST, STRONGEST, (1,), np.float32
        )
        batched = gym.vector.utils.batch_space
        self.observation_space: gym.spaces.Space[Any] = batched(
            self.single_observation_space, num_envs
        )
        self.action_space: gym.spaces.Space[Any] = batched(self.single_action_space, num_envs)
        self.random: np.random.Generator = np.random.default_rng()
        self.clock: int = 0

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """All pendula anew: any angle, a small velocity."""
        if seed is not None:
            self.random = np.random.default_rng(seed)
        high = np.array([[np.pi], [1.0]])
        self.angle, self.speed = self.random.uniform(-high, high, (2, self.num_envs))
        self.clock = 0
        return self._seen(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One twentieth of a second; after 200 of them all begin anew.

        Raises:
            ValueError: other than one number a pendulum, [N, 1].
        """
        if np.shape(actions) != (self.num_envs, 1):
            raise ValueError(
                f"actions expected [{self.num_envs}, 1], got {list(np.shape(actions))}"
            )
        push = np.clip(actions, -STRONGEST, STRONGEST)[:, 0].astype(float)
        centered = (self.angle + np.pi) % (2 * np.pi) - np.pi
        reward = -(centered**2 + 0.1 * self.speed**2 + 0.001 * push**2)
        pull = 1.5 * GRAVITY * np.sin(self.angle) + 3.0 * push
        self.speed = np.clip(self.speed + STEP * pull, -FASTEST, FASTEST)
        self.angle = self.angle + STEP * self.speed
        self.clock += 1
        over = np.full(self.num_envs, self.clock >= LIMIT)
        seen = self.reset()[0] if self.clock >= LIMIT else self._seen()
        return seen, reward, np.zeros(self.num_envs, bool), over, {}

    def _seen(self) -> dict[str, np.ndarray]:
        full = np.stack([np.cos(self.angle), np.sin(self.angle), self.speed], 1).astype(np.float32)
        part = full[:, self.keep]
        if self.noise:
            part = part + self.noise * self.random.standard_normal(part.shape, np.float32)
        return {"student": part, "teacher": full}
