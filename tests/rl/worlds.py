"""Small environments of which everything is known."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

LENGTH = 4  # of the episodes of a World


class Line(gym.Env[Any, Any]):
    """Walks from 0 to ``length``; the observation is the place, the reward 1 for action 1.

    Args:
        length: Steps of an episode.
        cut: Whether it is cut off at its end, instead of ending.
        broken: Step at which the observation is nan.
        real: Whether the action is a real number (rewarded by its value).
    """

    def __init__(
        self, length: int = 5, cut: bool = False, broken: int | None = None, real: bool = False
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,)) if real else gym.spaces.Discrete(2)
        self.length, self.cut, self.broken, self.real = length, cut, broken, real

    def _see(self) -> np.ndarray:
        place = np.nan if self.place == self.broken else self.place
        return np.array([place, self.start], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.start = 0, float(self.np_random.random())
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += 1
        over = self.place >= self.length
        reward = float(np.asarray(action).item())
        return self._see(), reward, over and not self.cut, over and self.cut, {}


class Always(nn.Module):
    """A policy that does the same thing, and remembers what it was asked."""

    def __init__(self, action: int, value: float | None = None) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.0, 9.0] if action else [9.0, 0.0]))
        self.value = value
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.asked.append(x)
        said = {"logits": self.bias.expand(*x.shape[:-1], 2) + 0 * x[..., :1]}
        if self.value is not None:
            said["value"] = torch.full(x.shape[:-1], self.value) * (1 + 0 * x[..., 0])
        return said


class World(gym.Env[Any, Any]):
    """Shows a fixed list of observations of any space, and notes what it showed and what was done.

    Args:
        space: Of the observations.
        actions: Of the actions.
        endless: Whether its episodes never end.
    """

    def __init__(self, space: Any, actions: Any = None, endless: bool = False) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(2) if actions is None else actions
        self.endless = endless
        self.shown: list[Any] = []
        self.done: list[Any] = []

    def _show(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # a scalar of a Box without axes is no array, and vector environments of Gymnasium give it
        action = np.asarray(action) if isinstance(self.action_space, spaces.Box) else action
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.done.append(action)
        self.steps += 1
        return self._show(), 1.0, self.steps >= LENGTH and not self.endless, False, {}


class Reads(nn.Module):
    """Answers whatever it is asked, one row an observation, and remembers it."""

    def __init__(self, name: str = "logits", width: int = 2) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))
        self.name = name
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.asked.append(x)
        number = x.reshape(len(x), -1).double().sum(-1, keepdim=True)
        number = (number % 7).float()
        return {self.name: number * self.scale, "value": number.squeeze(-1)}
