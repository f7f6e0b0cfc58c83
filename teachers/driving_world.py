"""A road that a teacher sees as a list of points, and its student as pictures.

Gymnasium's CarRacing: a new road in each episode, 1,000 frames at most. The reward is 1,000 for the
whole road, in equal parts, less 0.1 a frame. Actions are two numbers in [-1, 1], steering and
throttle (below 0: brake), each held for four frames, of which the last alone is drawn.
"""

from __future__ import annotations

import math
import os
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nothing is shown on a screen

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

HELD, SIZE, AHEAD = 4, 48, 24  # frames an action, pixels a side, points of road that are seen


class Road(gym.Wrapper[Any, Any, Any, Any]):
    """Two views: ``teacher`` has the speed and the road ahead, ``student`` the last pictures.

    Args:
        frames: Pictures that the student sees, gray, the oldest first.
        watched: The teacher sees the pictures, too.
        blind: Nothing is drawn, and the student sees nothing: for the teacher alone.
        patience: A lesson ends after so many decisions beside the road, from where there is little
            to learn; 0 goes on to the end, as the environment does.
    """

    def __init__(
        self,
        frames: int = 2,
        watched: bool = False,
        blind: bool = False,
        patience: int = 0,
        **how: Any,
    ) -> None:
        # its checker misses a picture of its own in frames that are not drawn
        how = {"disable_env_checker": True, **how}
        super().__init__(gym.make("CarRacing-v3", max_episode_steps=1000, **how))
        self.frames, self.watched, self.blind, self.patience = frames, watched, blind, patience
        self.action_space = gym.spaces.Box(-1, 1, (2,))
        picture = gym.spaces.Box(0, 255, (frames, SIZE, SIZE), np.uint8)
        state = gym.spaces.Box(-math.inf, math.inf, (1 + 2 * AHEAD,), np.float32)
        teacher = picture if watched else state
        self.observation_space = gym.spaces.Dict({"teacher": teacher, "student": picture})
        self.off, self.lost = 0, 0  # decisions with all wheels beside the road; of them in a row
        self.draw = self.unwrapped._render
        self.polygon = self.unwrapped._draw_colored_polygon
        self.unwrapped._draw_colored_polygon = self._near

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        self._drawing(not self.blind)
        seen, info = self.env.reset(**how)
        self.off, self.lost, self.last = 0, 0, [self._gray(seen)] * self.frames
        return self._views(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        steer, throttle = (float(a) for a in action)
        pedals = np.array([steer, max(throttle, 0), max(-throttle, 0)], np.float32)
        total = 0.0
        for frame in range(HELD):
            self._drawing(frame == HELD - 1 and not self.blind)
            seen, reward, ended, cut, info = self.env.step(pedals)
            total += float(reward)
            if ended or cut:
                break
        self.last = [*self.last[1:], self._gray(seen)]
        beside = all(not wheel.tiles for wheel in self.unwrapped.car.wheels)
        self.off, self.lost = self.off + beside, self.lost + 1 if beside else 0
        cut = cut or 0 < self.patience <= self.lost
        info |= {"off": self.off, "finished": bool(info.get("lap_finished", False))}
        return self._views(), total, ended, cut, info

    def _near(self, surface: Any, shape: Any, *how: Any, clip: bool = True) -> None:
        """Draw what can be in the picture; the environment turns all of the land to find out."""
        x, y = self.unwrapped.car.hull.position
        if not clip or abs(shape[0][0] - x) + abs(shape[0][1] - y) < 100:
            self.polygon(surface, shape, *how, clip=clip)

    def _drawing(self, on: bool) -> None:
        """Whether the environment draws: a picture costs a hundred times what physics does."""
        world = self.unwrapped
        blank = getattr(world, "state", np.zeros((96, 96, 3), np.uint8))
        world._render = self.draw if on else lambda mode: blank

    def _gray(self, seen: np.ndarray) -> np.ndarray:
        """[48, 48]: means of four pixels, of the green alone, which tells road and grass apart."""
        return seen[..., 1].reshape(SIZE, 2, SIZE, 2).mean((1, 3)).astype(np.uint8)

    def _views(self) -> dict[str, np.ndarray]:
        pictures = np.stack(self.last)
        return {"teacher": pictures if self.watched else self._state(), "student": pictures}

    def _state(self) -> np.ndarray:
        """The speed, and the next points of the middle of the road, as seen from the car."""
        hull, track = self.unwrapped.car.hull, np.asarray(self.unwrapped.track)[:, 2:]
        away = track - np.array(hull.position)
        near = int((away**2).sum(-1).argmin())
        ahead = np.take(away, range(near, near + AHEAD), axis=0, mode="wrap")
        c, s = math.cos(hull.angle), math.sin(hull.angle)
        turned = ahead @ np.array([[c, -s], [s, c]])  # to the right of the car, and before it
        speed = math.hypot(*hull.linearVelocity)
        return np.concatenate([[speed], turned.ravel()]).astype(np.float32)


class Driver(nn.Module):
    """Steers at a point of the road ahead, as fast as the coming bend allows.

    Its numbers were found by a random search on roads that no exam has.
    """

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """[N, 2] what to do, and how far from it noise may go."""
        speed, road = state[:, 0], state[:, 1:].unflatten(-1, (AHEAD, 2))
        look = (1.54 + 0.056 * speed).clamp(1, AHEAD - 1).round().long()  # the faster, the farther
        x, y = road[torch.arange(len(road)), look].unbind(-1)
        steer = 0.53 * torch.atan2(x, y)
        along = road.diff(dim=1)
        headings = torch.atan2(along[..., 0], along[..., 1])
        bend = (headings[:, 1:9] - headings[:, :1]).sin().abs().amax(-1)
        wanted = (42 / (bend + 1e-3)).clamp(30.3, 65.2)
        throttle = (0.1 * (wanted - speed)).clamp(-0.24, 0.57)
        mean = torch.stack([steer, throttle], -1).clamp(-1, 1)
        return {"mean": mean, "gaussian": torch.cat([mean, torch.full_like(mean, -1.5)], -1)}


def world(**how: Any) -> Any:
    """A function that makes the environment."""
    return lambda **kwargs: Road(**how, **kwargs)
