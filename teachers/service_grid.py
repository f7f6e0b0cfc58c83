"""Rounded policies of the Hopper beyond their examination, ten students; to the zoo.

    python teachers/service_grid.py

Students are taught and rounded as in the chapter on policies in service. Each then plays the usual
episodes of 1,000 steps, episodes of 3,000, and the usual ones with other masses or weaker gravity.
All kinds of a student meet the same beginnings.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from cards import ZOO, write_table

from distill_lib import KD, Stacked, compress, cosine, distill, losses, rl, zoo

FILE, RUN = ZOO / "service_grid.jsonl", "Hopper-v5"
TEAMS, S, PLAYED = 2, 5, 3  # teams of S students, episodes of each
GAUSS = KD(losses.gaussian_kl, on="gaussian")


def world(steps: int = 1000, mass: float = 1.0, gravity: float = 1.0) -> Callable[..., Any]:
    def make(**settings: Any) -> Any:
        env = gym.make(RUN, max_episode_steps=steps, **settings)
        model: Any = env.unwrapped.model  # type: ignore[attr-defined]
        model.body_mass[:] *= mass
        model.opt.gravity[:] *= gravity
        return env

    return make


WORLDS = {
    "exam": (1000, world()),
    "longer": (3000, world(3000)),
    "lighter": (1000, world(mass=0.8)),
    "heavier": (1000, world(mass=1.2)),
    "weaker gravity": (1000, world(gravity=0.8)),
}


def kinds_of(team: int, teacher: Any) -> dict[str, Stacked]:
    """The students of a team as they are, and rounded."""

    def fresh() -> Stacked:
        nets = []
        for seed in range(S * team, S * team + S):
            torch.manual_seed(seed)
            nets.append(zoo.Policy(11, 3, (32, 32), continuous=True).normalize_as(teacher))
        return Stacked(nets, ndim=2)

    states = rl.Rollouts(
        RUN, teacher, fresh(), episodes=6, updates=3_000, noise=(0, 0.15, 0.3, 0.6, 1),
        batch_size=128, seed=1 + team,
    )  # fmt: skip
    students = fresh()
    distill(students, states.teacher, states, GAUSS, epochs=1, lr=cosine(1e-2, 0))

    def rounded(bits: int) -> list[Any]:
        found = []
        for i, net in enumerate(students.unstack()):
            mine = {"inputs": states.buffer["inputs"][states.buffer["owner"] == i]}
            net = compress.qat(copy.deepcopy(net), bits, 8)
            found.append(compress.calibrate(net, [mine]))
        return found

    def aware(bits: int) -> list[Any]:
        found = Stacked(rounded(bits), ndim=2)
        distill(found, students, states, GAUSS, steps=300, lr=cosine(3e-3, 0))
        return found.unstack()

    kinds = {"8 bits, after": rounded(8), "8 bits, aware": aware(8), "4 bits, aware": aware(4)}
    baked = {k: Stacked([compress.bake(n) for n in nets], ndim=2) for k, nets in kinds.items()}
    return {"float": students, **baked}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun, rows = time.process_time(), []
    teacher = zoo.load_teacher("hopper_ppo")
    for team in range(TEAMS):
        for kind, policy in {"teacher": teacher, **kinds_of(team, teacher)}.items():
            count = PLAYED if isinstance(policy, Stacked) else S * PLAYED
            for where, (steps, env) in WORLDS.items():
                played = rl.evaluate(policy, env, count)
                returns, lengths = (x.view(S, PLAYED) for x in (played.returns, played.lengths))
                rows.append({
                    "part": "hopper", "team": team, "kind": kind, "world": where, "steps": steps,
                    "return": [round(r, 1) for r in returns.mean(-1).tolist()],
                    "whole": (lengths >= steps).float().mean(-1).tolist(),
                })  # fmt: skip
                print(rows[-1], flush=True)
    write_table(FILE, rows, begun)


if __name__ == "__main__":
    main()
