"""Policies of the book that were made small, beyond their examinations; to the zoo.

    python teachers/beyond_grid.py

``hopper``: the teacher with real actions, rounded to sixteen values a joint and to 64 codes, and
five students of each kind of number, taught as in the chapter on pixels and bins; in the worlds of
``teachers/service_grid.py``. ``lander``: the teacher, and the packed pilot of the challenge, in
wind and other gravity. All policies of a part meet the same beginnings.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from cards import ZOO, write_table
from service_grid import RUN, WORLDS
from torch import Tensor, nn

from distill_lib import KD, Stacked, cosine, distill, rl, steps, zoo

ROOT = Path(__file__).resolve().parents[1]
FILE = ZOO / "beyond_grid.jsonl"
S, PLAYED, FLIGHTS = 5, 3, 100
TORQUES = gym.spaces.Box(-1, 1, (3,))
SKIES: dict[str, dict[str, Any]] = {
    "exam": {},
    "wind": {"enable_wind": True},
    "less gravity": {"gravity": -8.0},
    "more gravity": {"gravity": -11.9},
}


class Heads(nn.Module):
    """Three heads of sixteen values."""

    def __init__(self, like: zoo.Policy) -> None:
        super().__init__()
        self.net = zoo.Policy(11, 48).normalize_as(like)

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(observation)["logits"].unflatten(-1, (3, 16))}


def numbered(make: Any = None, **how: Any) -> Any:
    make = make or (lambda **kwargs: gym.make(RUN, **kwargs))
    return lambda **kwargs: rl.Discretized(make(**kwargs), **how)


def hopper() -> list[dict[str, Any]]:
    teacher: Any = zoo.load_teacher("hopper_ppo")
    play = rl.Rollouts(RUN, teacher, episodes=2, noise=(0, 0.3), seed=0)
    play.collect()
    book = rl.codebook(play.buffer["answer/mean"].clamp(-1, 1), 64, seed=0)
    numbers: dict[str, dict[str, Any]] = {"16 values": {"bins": 16}, "64 codes": {"codes": book}}
    policies: dict[str, tuple[Any, dict[str, Any] | None]] = {"teacher": (teacher, None)}
    for name, how in numbers.items():
        policies[f"rounded, {name}"] = rl.DiscretizedPolicy(teacher, TORQUES, std=0.1, **how), how
        nets = []
        for seed in range(S):
            torch.manual_seed(seed)
            own = Heads(teacher) if "bins" in how else zoo.Policy(11, 64).normalize_as(teacher)
            nets.append(own)
        students = Stacked(nets, ndim=2)
        lessons = rl.Rollouts(
            numbered(**how), rl.DiscretizedPolicy(teacher, TORQUES, **how), students,
            beta=steps({0: 1, 0.01: 0}), rounds=4, episodes=3, noise=(0, 0.3, 1), labels=3_000,
            batch_size=128, updates=150,
        )  # fmt: skip
        distill(students, lessons.teacher, lessons, KD(axis=-1), epochs=4, lr=cosine(1e-2, 0))
        policies[f"taught, {name}"] = students, how
    rows = []
    for kind, (policy, how) in policies.items():
        for where, (long, make) in WORLDS.items():
            world = make if how is None else numbered(make, **how)
            played = rl.evaluate(policy, world, PLAYED if isinstance(policy, Stacked) else 15)
            whole = (played.lengths >= long).float()
            rows.append({
                "part": "hopper", "kind": kind, "world": where, "steps": long,
                "return": [round(r, 1) for r in played.returns.view(S, PLAYED).mean(-1).tolist()],
                "whole": whole.view(S, PLAYED).mean(-1).tolist(),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def lander() -> list[dict[str, Any]]:
    sys.path.append(str(ROOT))
    from challenge.entries import load

    packed = ROOT / "challenge" / "entries" / "lander_linear.packed"
    pilots = {"teacher": zoo.load_teacher("lunarlander_ppo"), "packed": load(packed, "lander")}
    rows = []
    for kind, policy in pilots.items():
        for where, sky in SKIES.items():
            played = rl.evaluate(policy, partial(gym.make, "LunarLander-v3", **sky), FLIGHTS)
            rows.append({
                "part": "lander", "kind": kind, "world": where, "bytes": packed.stat().st_size,
                "return": round(played.mean, 1),
                "error": round(float(played.returns.std() / FLIGHTS**0.5), 1),
                "landed": float((played.returns >= 200).float().mean()),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    write_table(FILE, lander() + hopper(), begun)


if __name__ == "__main__":
    main()
