"""What the student sees of a picture, and that it goes through every walk."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from distill_lib import KD, Stacked, distill, rl
from distill_lib.models import PixelPolicy, Policy


class Painted(gym.Env[Any, Any]):
    """Its picture is as bright as its state, 0 to 9 over an episode of four steps."""

    observation_space = spaces.Box(0, 255, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, side: int = 40, render_mode: str = "rgb_array") -> None:
        self.side, self.render_mode = side, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.light, self.taken = int(self.np_random.integers(200)), 0
        return np.float32([self.light]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.light, self.taken = self.light + 7, self.taken + 1
        return np.float32([self.light]), float(action), False, self.taken == 4, {}

    def render(self) -> Any:
        return np.full((self.side, self.side, 3), self.light, np.uint8)


@given(st.integers(1, 4), st.integers(20, 60), st.integers(20, 60))
def test_frames_are_the_last_pictures_oldest_first(frames: int, size: int, side: int) -> None:
    env = rl.Pixels(Painted(side), size=size, frames=frames)
    seen, _ = env.reset(seed=3)
    assert env.observation_space.contains(seen)
    first = seen["teacher"].item()
    assert (seen["student"] == first).all()
    for step in range(1, 5):
        seen = env.step(0)[0]
        lights = [first + 7 * max(0, step - back) for back in reversed(range(frames))]
        assert seen["student"][:, 0, 0].tolist() == lights
        assert seen["teacher"].item() == lights[-1]
    assert (env.reset(seed=3)[0]["student"] == first).all()


def test_a_smaller_picture_keeps_the_mean_light() -> None:
    env = gym.make("Acrobot-v1", render_mode="rgb_array")
    large = rl.Pixels(env, size=250)
    seen = large.reset(seed=0)[0]["student"][0].astype(float)
    whole = env.render().astype(float) @ [0.299, 0.587, 0.114]  # type: ignore[union-attr]
    assert seen.shape == (250, 250) and abs(seen.mean() - whole.mean()) < 0.5


@pytest.mark.parametrize("seeds", [None, 2])
def test_pictures_go_through_every_walk(seeds: int | None) -> None:
    env = lambda: rl.Pixels(Painted(24), size=24)  # noqa: E731
    nets = [PixelPolicy((2, 24, 24), 2, features=3, critic=True) for _ in range(seeds or 1)]
    student: Any = Stacked(nets, ndim=4) if seeds else nets[0]
    rollouts = rl.Rollouts(env, Policy(1, 2), student, beta=0.5, episodes=2, batch_size=3,
                           updates=2)  # fmt: skip
    assert len(distill(student, rollouts.teacher, rollouts, KD(), epochs=1)) == 2
    assert rollouts.buffer["inputs"].dtype == torch.uint8
    assert rollouts.buffer["inputs"].shape[1:] == (2, 24, 24)
    assert torch.equal(rollouts.buffer["inputs"][:, 1, 0, 0].float(),
                       rollouts.buffer["privileged"][:, 0])  # fmt: skip
    segment = rl.OnPolicy(env, student, envs=2, steps=6, batch_size=4)
    batch = next(iter(segment))
    assert batch["inputs"].shape[-3:] == (2, 24, 24) and "privileged" in batch
    assert rl.evaluate(student, env, 2).lengths.flatten().tolist() == [4] * 2 * (seeds or 1)


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"render_mode is None.*rgb_array"):
        rl.Pixels(gym.make("Acrobot-v1"))
    for wrong in ({"size": 0}, {"frames": 0}):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            rl.Pixels(Painted(), **wrong)
