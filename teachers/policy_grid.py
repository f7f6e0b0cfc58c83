"""Train students of sixteen shapes under one budget of parameters on the Hopper; to the zoo.

    python teachers/policy_grid.py

The grid of the chapter on policies in service: one to four hidden layers, at most a thousand
parameters, ten students of each shape, each on states of its own. The divergence on held-out states
of the teacher is read at five lengths of one training; the return at its end.
"""

from __future__ import annotations

import argparse
import time

import torch
from cards import ZOO, parameters, write_table

from distill_lib import KD, Stacked, cosine, distill, losses, rl, zoo

FILE, ENV = ZOO / "policy_grid.jsonl", "Hopper-v5"
SEEDS, EPISODES, RATE = 10, 10, 1e-2
LENGTHS = (150, 300, 600, 1200, 2400)
SHAPES = (
    (8,), (16,), (32,), (64,),
    (6, 6), (10, 10), (16, 16), (24, 24),
    (5, 5, 5), (8, 8, 8), (12, 12, 12), (18, 18, 18),
    (4, 4, 4, 4), (7, 7, 7, 7), (10, 10, 10, 10), (15, 15, 15, 15),
)  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    teacher = zoo.load_teacher("hopper_ppo")

    def fresh(hidden: tuple[int, ...]) -> Stacked:
        nets = []
        for seed in range(SEEDS):
            torch.manual_seed(1_000 * len(hidden) + 10 * hidden[0] + seed)
            net = zoo.Policy(11, 3, hidden, continuous=True)
            nets.append(net.normalize_as(teacher))
        return Stacked(nets, ndim=2)

    how = {"noise": (0, 0.15, 0.3, 0.6, 1), "batch_size": 128, "updates": LENGTHS[0]}
    play = rl.Rollouts(ENV, teacher, fresh((8,)), episodes=6, seed=20, **how)
    held = rl.Rollouts(ENV, teacher, episodes=10, noise=how["noise"], seed=21)
    held.collect()
    exam, answers = held.buffer["inputs"], held.buffer["answer/gaussian"]
    rows = []
    for hidden in SHAPES:
        nets, found = fresh(hidden), {}

        @torch.no_grad()
        def look(epoch: int, _: object, nets: Stacked = nets, found: dict = found) -> None:
            step = epoch * LENGTHS[0]
            if step in LENGTHS:
                said = nets(exam)["gaussian"]
                kl = losses.gaussian_kl(student=said, teacher=answers.expand_as(said))
                found[step] = [round(v, 5) for v in kl.mean(-1).tolist()]

        distill(nets, play.teacher, play, KD(losses.gaussian_kl, on="gaussian"),
                epochs=LENGTHS[-1] // LENGTHS[0], lr=cosine(RATE, 0), each_epoch=look)  # fmt: skip
        played = rl.evaluate(nets, ENV, EPISODES)
        rows.append({
            "part": "shape", "hidden": hidden, "parameters": parameters(nets.unstack()[0]),
            "loss": found, "return": [round(r, 1) for r in played.each.tolist()],
        })  # fmt: skip
        print(hidden, f"{found[LENGTHS[-1]][0]:.4f}", played, flush=True)
    write_table(FILE, rows, begun)


if __name__ == "__main__":
    main()
