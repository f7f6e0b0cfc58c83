"""The hopper of ``locomotion_grid.py``: its bodies, who sees what of it, and its teacher's network.

The chapter on locomotion shows the three classes as they stand here; a test compares them.
"""

import gymnasium as gym
import numpy as np
import torch
from torch import nn

LESSON = {"friction": (0.3, 1.3), "mass": (0.6, 2.0), "motor": (0.6, 1.3), "push": 60.0}
REAL = {"friction": (0.2, 1.5), "mass": (0.5, 2.3), "motor": (0.5, 1.4), "push": 80.0}


class Body(gym.Wrapper):
    """A Hopper that has another body in each episode, and is pushed."""

    def __init__(self, ranges, real=False, steps=500):
        made = gym.make("Hopper-v5", disable_env_checker=True, max_episode_steps=steps)
        super().__init__(made)
        self.model, self.ranges = self.unwrapped.model, ranges
        self.model.opt.integrator = 1 if real else 0  # Runge and Kutta's, or Euler's
        if real:  # stiffer and more sluggish joints, too
            self.model.dof_damping[3:] *= 1.5
            self.model.dof_armature[3:] *= 1.3
        drawn = ("geom_friction", "body_mass", "body_inertia", "actuator_gear")
        self.usual = {name: getattr(self.model, name).copy() for name in drawn}

    def reset(self, **kwargs):
        first, info = super().reset(**kwargs)
        draw = self.unwrapped.np_random.uniform
        self.body = [draw(*self.ranges[k]) for k in ("friction", "mass", "motor")]
        for name, values in self.usual.items():
            getattr(self.model, name)[:] = values
        self.model.geom_friction[:, 0] *= self.body[0]
        self.model.body_mass[1] *= self.body[1]
        self.model.body_inertia[1] *= self.body[1]
        self.model.actuator_gear[:, 0] *= self.body[2]
        self.push, self.left = 0.0, 0
        return first, info

    def step(self, action):
        random = self.unwrapped.np_random
        self.left -= 1
        if self.left < 0:  # a push of 0.1 s, then about a second of none
            over = self.push != 0
            self.push = 0.0 if over else self.ranges["push"] * random.uniform(-1, 1)
            self.left = random.integers(80, 160) if over else 12
        self.unwrapped.data.xfrc_applied[1, 0] = self.push
        return super().step(action)


class Views(gym.Wrapper):
    """The student sees what a robot measures, the teacher also what it is not told."""

    def __init__(self, body, frames=16):
        super().__init__(body)
        self.last = np.zeros((frames, 11), np.float32)
        widths = {"student": 11 * frames, "teacher": 18}
        self.observation_space = gym.spaces.Dict(
            {k: gym.spaces.Box(-np.inf, np.inf, (n,), np.float32) for k, n in widths.items()}
        )

    def reset(self, **kwargs):
        first, info = super().reset(**kwargs)
        self.last[:] = self.frame(first, np.zeros(3))
        return self.views(first), info

    def step(self, action):
        seen, *rest = super().step(action)
        self.last[:-1] = self.last[1:]
        self.last[-1] = self.frame(seen, action)
        return self.views(seen), *rest

    def frame(self, seen, action):  # tilt, three joints, their velocities, what was done
        return np.concatenate([seen[[1, 2, 3, 4, 7, 8, 9, 10]], action])

    def views(self, seen):
        hidden = [*seen[[0, 5, 6]], *self.env.body, self.env.push / 50]  # height, velocity, ...
        told = np.concatenate([self.last[-1], hidden]).astype(np.float32)
        return {"student": self.last.flatten(), "teacher": told}


class Encoded(nn.Module):
    """What the robot sees, and a code of what it is not told: as RMA's base policy."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(18))
        self.register_buffer("std", torch.ones(18))
        self.encoder = nn.Sequential(nn.Linear(7, 32), nn.ELU(), nn.Linear(32, 6), nn.Tanh())
        self.head = nn.Sequential(
            nn.Linear(17, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 3)
        )

    def forward(self, seen):
        x = (seen - self.mean) / self.std
        code = self.encoder(x[..., 11:])
        return {"mean": self.head(torch.cat([x[..., :11], code], -1)), "code": code}
