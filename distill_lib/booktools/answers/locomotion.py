"""Answers of the chapter: locomotion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _windows(*, seen: Tensor, frames: int) -> Tensor:
    early = seen[:1].expand(frames - 1, -1)
    every = torch.cat([early, seen])
    return torch.cat([every[i : i + len(seen)] for i in range(frames)], -1)


def _with_zeros(*, seen: Tensor, frames: int) -> Tensor:
    every = torch.cat([torch.zeros_like(seen[:1]).expand(frames - 1, -1), seen])
    return torch.cat([every[i : i + len(seen)] for i in range(frames)], -1)


def _newest_first(*, seen: Tensor, frames: int) -> Tensor:
    early = seen[:1].expand(frames - 1, -1)
    every = torch.cat([early, seen])
    return torch.cat([every[i : i + len(seen)] for i in reversed(range(frames))], -1)


def _from_the_future(*, seen: Tensor, frames: int) -> Tensor:
    every = torch.cat([seen, seen[-1:].expand(frames - 1, -1)])
    return torch.cat([every[i : i + len(seen)] for i in range(frames)], -1)


def _around(*, seen: Tensor, frames: int) -> Tensor:
    return torch.cat([seen.roll(frames - 1 - i, 0) for i in range(frames)], -1)


def _seen(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    return {"seen": torch.randn(12, 3, generator=generator, dtype=torch.float64),
            "frames": 3 + draw}  # fmt: skip


def _reset(*, state: Tensor, done: Tensor) -> Tensor:
    return state * ~done[:, None]


def _kept(*, state: Tensor, done: Tensor) -> Tensor:
    return state


def _others(*, state: Tensor, done: Tensor) -> Tensor:
    return state * done[:, None]


def _all(*, state: Tensor, done: Tensor) -> Tensor:
    return torch.zeros_like(state) if bool(done.any()) else state


def _units(*, state: Tensor, done: Tensor) -> Tensor:
    return state * ~done[None, :]


def _states(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    state = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    return {"state": state, "done": torch.arange(8) % (draw + 3) == 1}


EXERCISES = [
    Exercise(
        id="ex-locomotion-1",
        right=51,
        wrong={
            50: "50 steps reach back 0.4 s, and they lie between 51 frames.",
            3200: "a frame is every 8 ms, not every 8 of them a ms.",
            16: "this is the page's window, which is shorter than a hop.",
            200: "these are the simulator's steps of 2 ms; a frame is every fourth of them.",
        },
        hint="a window of n frames reaches n - 1 steps back.",
    ),
    Exercise(
        id="ex-locomotion-2",
        right=0.21,
        wrong={
            0.1: "this is the best action; what is asked is its mean squared error.",
            0.3: "weigh the squared distances to the best action, not the cases alone.",
            0.22: "this is the mean square of the teacher's action itself, 0.3 · 0.64 + 0.7 · "
            "0.04: subtract the square of its mean.",
            0.25: "the cases are not equally likely, and the best action is not in the middle.",
            0: "one action cannot be right in both cases.",
        },
        hint="the variance of the teacher's action, given what the student sees.",
    ),
    Exercise(
        id="ex-locomotion-3",
        kind="callable",
        right=_windows,
        wrong={
            _with_zeros: "before the first frame stands the first frame again: zeros would be an "
            "observation that no robot has.",
            _newest_first: "the oldest frame comes first.",
            _from_the_future: "a window looks back; this one sees what has not happened yet.",
            _around: "the first windows hold the last frames of the episode, from its future.",
        },
        inputs=_seen,
        hint="put frames - 1 copies of the first row before it, and cut.",
    ),
    Exercise(
        id="ex-locomotion-4",
        kind="callable",
        right=_reset,
        wrong={
            _kept: "the new episode begins with the memory of another body.",
            _others: "the memory of those that go on is gone, and the others' is kept.",
            _all: "one robot fell, and all have lost their memory.",
            _units: "done is one flag a robot, the first axis; this empties units of all robots.",
        },
        inputs=_states,
        hint="a row for each robot; those that are done become zero.",
    ),
]
