"""Draw some states more often than others, six ways, on the lunar lander; to the zoo.

    python teachers/priority_grid.py

Twenty students a way drive themselves after a first round of the teacher's, and learn from as many
states of the teacher's choice of action, in as many batches. What differs is which of their states
are drawn into a batch: all alike; those of episodes that failed, with the weights that correct for
it and without; those in which the teacher is unsure, or sure; those in which the student is far
from it, to the power of 0.6, as in prioritized replay. All of it is done once with these weights,
and once with other seeds and the squares of these weights.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from cards import ZOO, write_table
from torch import Tensor

from distill_lib import KD, Stacked, cosine, distill, losses, piecewise, rl, zoo

FILE, ENV = ZOO / "priority_grid.jsonl", "LunarLander-v3"
SEEDS, EPISODES, RATE, LANDED = 20, 20, 1e-2, 200
# Rounds, episodes a round, states that are labeled a round, batches a round
BUDGETS = ((3, 3, 60, 100), (4, 3, 100, 60), (4, 4, 300, 100))
WAYS = ("alike", "failed, corrected", "failed", "unsure", "sure", "far")

Seen = Mapping[str, Tensor]


def failed(seen: Seen) -> Tensor:
    """Episodes that did not land weigh twenty times as much."""
    return 0.2 + 3.8 * (seen["return"] < LANDED).double()


def unsure(seen: Seen) -> Tensor:
    log_p = seen["answer/logits"].log_softmax(-1)
    return 0.05 - (log_p.exp() * log_p).sum(-1)


def sure(seen: Seen) -> Tensor:
    """How far the best action's logit is above the next."""
    best = seen["answer/logits"].topk(2, -1).values
    return 0.2 + (best[:, 0] - best[:, 1]).clamp(max=10)


def far(nets: Stacked) -> Callable[[Seen], Tensor]:
    def weigh(seen: Seen) -> Tensor:
        x = seen["inputs"]
        logits = nets(x.expand(SEEDS, *x.shape))["logits"][seen["owner"], torch.arange(len(x))]
        return (0.01 + losses.kl(student=logits, teacher=seen["answer/logits"])) ** 0.6

    return weigh


def taught(way: str, power: int, budget: tuple[int, ...], teacher: Any) -> dict[str, Any]:
    """One row of the table: the returns of twenty students."""
    rounds, episodes, labels, updates = budget
    first = 500 * (power - 1)
    nets = []
    for seed in range(first, first + SEEDS):
        torch.manual_seed(seed)
        nets.append(zoo.Policy(8, 4, (16,)).normalize_as(teacher))
    stacked = Stacked(nets, ndim=2)
    ways = {"failed": failed, "unsure": unsure, "sure": sure, "far": far(stacked)}
    weigh = ways.get(way.partition(",")[0])
    play = rl.Rollouts(
        ENV, teacher, stacked, beta=piecewise({0: 1.0, 0.01: 0.0}), rounds=rounds,
        episodes=episodes, labels=labels, updates=updates, batch_size=64, seed=first + 3,
        priority=weigh and (lambda seen: weigh(seen) ** power), correction=float("," in way),
    )  # fmt: skip
    distill(stacked, play.teacher, play, KD(), epochs=rounds, lr=cosine(RATE, 0))
    played = rl.evaluate(stacked, ENV, EPISODES)
    print(power, labels * rounds, way, played, flush=True)
    return {
        "part": "lander", "power": power, "way": way, "labels": rounds * labels,
        "batches": rounds * updates, "return": [round(r, 1) for r in played.each.tolist()],
    }  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    teacher = zoo.load_teacher("lunarlander_ppo")
    every = itertools.product((1, 2), BUDGETS, WAYS)
    rows = [taught(way, power, budget, teacher) for power, budget, way in every]
    write_table(FILE, rows, begun)


if __name__ == "__main__":
    main()
