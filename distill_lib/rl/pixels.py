"""The student sees what a camera sees, the teacher sees the state."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from distill_lib.arguments import checked

__all__ = ["Pixels"]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # what a color contributes to its brightness


@checked
class Pixels(gym.ObservationWrapper[Any, Any, Any]):
    """Observation groups: ``student`` is the last few rendered frames, ``teacher`` the observation.

    Frames are gray, and each pixel is the mean of the part of the picture that it covers. For one
    picture without a teacher's view, Gymnasium has ``AddRenderObservation``.

    Args:
        env: An environment that renders: made with ``render_mode="rgb_array"``.
        size: Height and width of a frame in pixels.
        frames: How many frames the student sees, the oldest first; of one picture nobody can tell
            a velocity.

    Raises:
        ValueError: an environment that renders no arrays, or numbers below 1.

    Example:
        >>> env = Pixels(gym.make("Acrobot-v1", render_mode="rgb_array"))
        >>> env.observation_space["student"].shape
        (2, 84, 84)
    """

    def __init__(self, env: gym.Env[Any, Any], size: int = 84, frames: int = 2) -> None:
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ValueError(
                f"Pixels needs pictures, and the environment's render_mode is {env.render_mode!r}: "
                "make it with render_mode='rgb_array'"
            )
        for name, number in {"size": size, "frames": frames}.items():
            if number < 1:
                raise ValueError(f"{name} is at least 1, got {number}")
        self.size = size
        self.seen: deque[np.ndarray] = deque(maxlen=frames)
        seen = gym.spaces.Box(0, 255, (frames, size, size), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {"student": seen, "teacher": env.observation_space}
        )

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """A new episode; the first frame is repeated."""
        self.seen.clear()
        return super().reset(**kwargs)

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        """The two groups."""
        gray = np.asarray(self.env.render(), np.float32) @ LUMA
        if gray.shape != (self.size, self.size):
            gray = adaptive_avg_pool2d(torch.from_numpy(gray)[None], self.size)[0].numpy()
        frame = np.rint(gray).astype(np.uint8)
        self.seen.append(frame)
        while len(self.seen) < (self.seen.maxlen or 1):
            self.seen.append(frame)
        return {"student": np.stack(self.seen), "teacher": observation}
