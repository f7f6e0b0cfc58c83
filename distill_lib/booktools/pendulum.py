"""A pendulum to look at: Gymnasium's, by its equations and its drawing, for many at once.

Behind it stands a picture that has nothing to do with the task.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STEPS", "Episodes", "Pictures", "Scenes", "begin", "shrunk", "swing"]

ANGLES, SIZE, STEPS = 1440, 28, 200


def swing(state: Tensor, torque: Tensor) -> tuple[Tensor, Tensor]:
    """One step of Pendulum-v1, for many at once.

    Args:
        state: [..., 2], the angle from upright and its rate.
        torque: [...], cut at ±2.

    Returns:
        The next state, and the reward [...].
    """
    angle, rate = state.unbind(-1)
    torque = torque.clamp(-2, 2)
    off = (angle + math.pi) % (2 * math.pi) - math.pi
    reward = -(off**2 + 0.1 * rate**2 + 0.001 * torque**2)
    rate = (rate + (15 * angle.sin() + 3 * torque) * 0.05).clamp(-8, 8)
    return torch.stack([angle + 0.05 * rate, rate], -1), reward


class Pictures:
    """What a camera sees: the rod as Gymnasium draws it, over one of many backgrounds.

    Gymnasium draws each quarter of a degree once, without the arrow that shows the torque.

    Args:
        backgrounds: [G, 28, 28], from 0 to 1.
        light: How bright the backgrounds are; the rod has brightness 1.
    """

    def __init__(self, backgrounds: Tensor, light: float = 0.6) -> None:
        import gymnasium as gym

        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draws without a screen
        env: Any = gym.make("Pendulum-v1", render_mode="rgb_array").unwrapped
        env.screen_dim = 2 * SIZE
        env.reset(seed=0)
        drawn = []
        for number in range(ANGLES):
            env.state, env.last_u = np.array([2 * math.pi * number / ANGLES, 0.0]), None
            drawn.append(255 - env.render()[..., 1])  # the rod is red, and the paper white
        env.close()
        rods = F.avg_pool2d(torch.tensor(np.stack(drawn)).float()[:, None], 2)[:, 0]
        self.rods: Tensor = rods / rods.max()
        self.backgrounds, self.light = backgrounds, light

    def look(self, angle: Tensor, background: Tensor) -> Tensor:
        """[..., 28, 28], for angles and numbers of backgrounds [...]."""
        rod = self.rods[(angle / (2 * math.pi) * ANGLES).round().long() % ANGLES]
        return rod + (1 - rod) * self.light * self.backgrounds[background]


class Scenes:
    """Batches of pictures with labels, to train an encoder on.

    Args:
        pictures: Where they come from.
        about: What is labeled: the 36th of the circle where the rod is (``"rod"``), or the
            background's class (``"garment"``).
        classes: Of the backgrounds.
        batches: How many, of 128 pictures each; the same in every walk.
        seed: Of what is drawn.
    """

    def __init__(
        self, pictures: Pictures, about: str, classes: Tensor, batches: int, seed: int = 5
    ) -> None:
        self.pictures, self.about, self.classes = pictures, about, classes
        self.count, self.seed = batches, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.count):
            angle = torch.rand(128, generator=generator) * 2 * math.pi
            number = torch.randint(len(self.classes), (128,), generator=generator)
            sectors = (angle / (2 * math.pi) * 36).long().clamp(max=35)
            labels = sectors if self.about == "rod" else self.classes[number]
            yield {"inputs": self.pictures.look(angle, number)[:, None], "labels": labels}


@dataclass
class Episodes:
    """Episodes [S, E, 200] of S experiments: states, torques, rewards, the expert's torques."""

    states: Tensor
    torques: Tensor
    rewards: Tensor
    expert: Tensor
    backgrounds: Tensor

    @classmethod
    def collect(
        cls, expert: Callable[[Tensor], Tensor], pictures: Pictures, count: int, seeds: list[int]
    ) -> Episodes:
        """Played by an expert whose torques are replaced, in some episodes more often, by others.

        The background of an episode is drawn with it, and stays.
        """
        found = [_play(expert, count, torch.Generator().manual_seed(seed)) for seed in seeds]
        drawn = [torch.Generator().manual_seed(7 * seed + 1) for seed in seeds]
        many = len(pictures.backgrounds)
        numbers = torch.stack([torch.randint(many, (count, 1), generator=g) for g in drawn])
        states, torques, rewards, best = (torch.stack(rows) for rows in zip(*found, strict=True))
        return cls(states, torques, rewards, best, numbers.expand(-1, -1, STEPS))

    def repeat(self, times: int) -> Episodes:
        """The same episodes for so many kinds of world model: [times · S, E, 200]."""
        rows = (torch.cat([row] * times) for row in vars(self).values())
        return Episodes(*rows)

    @property
    def before(self) -> Tensor:
        """The torque before each picture, from -1 to 1."""
        return F.pad(self.torques[..., :-1], (1, 0)) / 2

    def seen(self, pictures: Pictures) -> Tensor:
        """[S, E, 200, 28, 28]."""
        return pictures.look(self.states[..., 0], self.backgrounds)


def begin(count: int, generator: torch.Generator) -> Tensor:
    """States at the start of an episode, [count, 2]."""
    both = 2 * torch.rand(count, 2, generator=generator) - 1
    return both * torch.tensor([math.pi, 1.0])


def _play(
    expert: Callable[[Tensor], Tensor], count: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    state, held = begin(count, generator), torch.zeros(count)
    skill, rows = torch.rand(count, generator=generator), []
    for _ in range(STEPS):
        draw, change, follow = torch.rand(3, count, generator=generator)
        held = torch.where(change < 0.2, 4 * draw - 2, held)  # a torque is held for some steps
        best = expert(state).clamp(-2, 2)
        torque = torch.where(follow < skill, best, held)
        after, reward = swing(state, torque)
        rows.append((state, torque, reward, best))
        state = after
    return tuple(torch.stack(column, 1) for column in zip(*rows, strict=True))


def shrunk(pictures: Tensor) -> Tensor:
    """[..., 28, 28] to [..., 256]: what small encoders see and decoders draw."""
    small = F.adaptive_avg_pool2d(pictures.flatten(0, -3)[:, None], 16)
    return small.reshape(*pictures.shape[:-2], 256)
