"""Any Gymnasium vector environment, as RSL-RL wants to see one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

from distill_lib.arguments import check_counts, checked, told
from distill_lib.losses import full_precision
from distill_lib.rl.environments import check_apart
from distill_lib.rl.spaces import check_rewards

__all__ = ["GymVecEnv"]


@checked
class GymVecEnv(VecEnv):  # type: ignore[misc]
    """RSL-RL's view of a Gymnasium vector environment.

    Observations become the named groups of a ``TensorDict``: those of a ``Dict`` space keep their
    names, a ``Box`` becomes the one group ``"policy"``. Actions are clipped to the bounds of the
    action space, and nothing else is done to them. An episode that its time limit ends, and not the
    environment, is reported in ``extras["time_outs"]``, so that PPO can bootstrap from its value.

    RSL-RL calls no ``reset``; it expects that the observation after the last step of an episode is
    the first of the next one. This is Gymnasium's same-step autoreset, which has to be asked for.

    Args:
        env: The vector environment, with ``autoreset_mode=AutoresetMode.SAME_STEP``.
        seed: Seeds its first reset.
        device: Where RSL-RL gets its tensors.
        max_episode_length: Steps of the longest episode; by default what the environment says.

    Raises:
        ValueError: Another autoreset mode; environments that are one and the same; actions that are
            not a vector of real numbers; no known length of an episode, or one below 1;
            observations or actions that are not a number (NaN), rewards that are not finite; no
            device, or a negative seed.

    Example:
        >>> mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
        >>> env = gym.make_vec("Pendulum-v1", 4, vectorization_mode="sync", vector_kwargs=mode)
        >>> GymVecEnv(env).get_observations()["policy"].shape
        torch.Size([4, 3])
    """

    high: Any
    low: Any

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        seed: int | None = None,
        device: str = "cpu",
        max_episode_length: int | None = None,
    ) -> None:
        check_counts(0, seed=seed or 0)
        check_counts(
            **{} if max_episode_length is None else {"max_episode_length": max_episode_length}
        )
        _require_device(device)
        _require_same_step(env)
        check_apart(env)
        space = env.single_action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(
                f"RSL-RL's policies act with vectors of real numbers, and {space} is not a space "
                "of vectors; for discrete actions use distill_lib.rl"
            )
        length = max_episode_length or _longest(env)
        self.env = env
        self.num_envs: int = env.num_envs
        self.num_actions: int = space.shape[0]
        self.low, self.high = space.low, space.high
        self.max_episode_length: int = int(length)
        self.episode_length_buf: Tensor = torch.zeros(env.num_envs, dtype=torch.long, device=device)
        self.device = device
        self.cfg: dict[str, Any] = {}
        first, _ = env.reset(seed=None if seed is None else int(seed))
        self._observations = self._groups(first)

    @property
    def unwrapped(self) -> GymVecEnv:
        """Itself: RSL-RL's extensions look for settings here."""
        return self

    def get_observations(self) -> TensorDict:
        """The current observations, by group."""
        return self._observations

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Act in every environment.

        Args:
            actions: [N, A]; clipped to the action space.

        Returns:
            Observations by group, rewards [N], dones [N], and ``{"time_outs": [N]}``.

        Raises:
            ValueError: actions or observations that are not a number, or of another shape; a
                reward that is not finite.
            TypeError: actions that are no tensor of real numbers.
        """
        if not isinstance(actions, Tensor) or actions.is_complex():
            raise TypeError(f"actions expected a tensor of real numbers, got {told(actions)}")
        if actions.shape != (self.num_envs, self.num_actions):
            raise ValueError(
                f"expected actions of shape {[self.num_envs, self.num_actions]}, got "
                f"{list(actions.shape)}"
            )
        if actions.isnan().any():
            rows = int(actions.isnan().any(-1).sum())
            raise ValueError(
                f"the policy acts with NaN in {rows} of {self.num_envs} environments: the training "
                "has diverged; try a smaller learning rate, or max_grad_norm"
            )
        chosen = np.clip(full_precision(actions.detach()).cpu().numpy(), self.low, self.high)
        seen, reward, terminated, truncated, _ = self.env.step(chosen)
        done = self._tensor(terminated | truncated)
        self.episode_length_buf = torch.where(done.bool(), 0, self.episode_length_buf + 1)
        self._observations = self._groups(seen)
        time_outs = self._tensor(truncated & ~terminated)
        rewards = torch.tensor(reward, dtype=torch.float32)
        check_rewards(rewards.cpu().numpy())
        rewards = rewards.to(self.device)
        return self._observations, rewards, done.long(), {"time_outs": time_outs}

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _tensor(self, flags: Any) -> Tensor:
        return torch.as_tensor(np.asarray(flags), device=self.device)

    def _groups(self, seen: Any) -> TensorDict:
        parts = seen if isinstance(seen, Mapping) else {"policy": seen}
        groups = {}
        for name, part in parts.items():
            if not isinstance(part, np.ndarray):
                raise ValueError(
                    f"the observation group {name!r} is a {type(part).__name__}; RSL-RL's groups "
                    "are arrays: flatten it with gymnasium.wrappers.FlattenObservation"
                )
            if np.isnan(part).any():
                rows = np.flatnonzero(np.isnan(part.reshape(len(part), -1)).any(1)).tolist()
                raise ValueError(
                    f"the observation group {name!r} is not a number (NaN) in environment "
                    f"{rows[0]} and {len(rows) - 1} others, after "
                    f"{self.episode_length_buf[rows[0]].item()} steps of its episode: a policy "
                    "can learn nothing from it; look into the environment's step() and reset()"
                )
            # a copy: the environment may write the next observation into the same array
            groups[name] = torch.tensor(part, dtype=torch.float32, device=self.device)
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)


def _require_device(device: str) -> None:
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device expected 'cpu', 'cuda:0' or the like, got {device!r}") from error


def _longest(env: gym.vector.VectorEnv[Any, Any, Any]) -> int:
    for one in (env, *getattr(env.unwrapped, "envs", ())):
        if one.spec is not None and one.spec.max_episode_steps:
            return int(one.spec.max_episode_steps)
    raise ValueError(
        "the environment does not say how long an episode can be; pass max_episode_length"
    )


def _require_same_step(env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
    metadata = env.metadata or {}
    mode = metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        found = getattr(mode, "name", mode)
        raise ValueError(
            "RSL-RL expects that an environment begins its next episode in the step that ends one; "
            f"this one has autoreset_mode {found}, in which the first action of every episode is "
            "ignored. Make it with gymnasium.make_vec(…, vector_kwargs={'autoreset_mode': "
            "gymnasium.vector.AutoresetMode.SAME_STEP})"
        )
