"""Students that drive by pictures, taught by the road or by a larger network; to the zoo.

    python teachers/driving_grid.py

The teacher of CarRacing sees the road as points (``teachers/driving_world.py``). A large network of
pictures learns from it; small ones, with a bottleneck of 32 numbers, learn from the teacher, from
the large network, and from the teacher's drives alone (no student at the wheel). All have the same
rounds, roads and steps. Each then drives on the same new roads. Three seeds; a killed run goes on
with the seed that it was at.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from typing import Any

import torch
from cards import WORK, ZOO, parameters, write_table
from driving_world import SIZE, Driver, world

from distill_lib import KD, compress, cosine, distill, losses, rl, steps
from distill_lib.models import PixelPolicy

FILE, KEPT = ZOO / "driving_grid.jsonl", WORK / "driving_grid.jsonl"
SEEDS, ROADS, BATCH = 3, 12, 64
ROUNDS, EPISODES, UPDATES = 16, 6, 800
MEANS = KD(losses.mse_logits, on="mean")


def net(large: bool, seed: int) -> PixelPolicy:
    torch.manual_seed(seed)
    size: dict[str, Any] = (
        {"features": 256, "width": 32, "hidden": (256,)} if large else {"width": 12}
    )
    return PixelPolicy((2, SIZE, SIZE), 2, continuous=True, std=0.2, **size)


def taught(
    student: PixelPolicy,
    teacher: Any,
    seed: int,
    drives: bool = True,
    watched: bool = False,
) -> PixelPolicy:
    """A student after all rounds; in the first the teacher drives, with more or less noise."""
    play = rl.Rollouts(
        world(watched=watched, patience=8), teacher, student, rounds=ROUNDS,
        episodes=EPISODES, beta=steps({0: 1, 0.01: 0}) if drives else 1.0, noise=(0, 0.5, 1),
        batch_size=BATCH, updates=UPDATES, seed=100 + seed,
    )  # fmt: skip
    play.collect()
    student.normalize_to(play.buffer["inputs"])
    distill(student, play.teacher, play, MEANS, epochs=ROUNDS, lr=cosine(1e-3, 0))
    return student


def rounded(student: PixelPolicy, teacher: Any, seed: int) -> PixelPolicy:
    """Weights and activations of 8 bits, with ranges from one drive of the teacher."""
    play = rl.Rollouts(world(), teacher, student, episodes=1, seed=200 + seed)
    play.collect()
    small = compress.qat(copy.deepcopy(student), 8, 8)
    return compress.bake(compress.calibrate(small, [{"inputs": play.buffer["inputs"]}]))


def exam(policy: Any, **how: Any) -> dict[str, list[float]]:
    """Return, decisions beside the road and whether the lap was finished, on each road."""
    env, found = world(**how)(), {"return": [], "off": [], "finished": []}
    sees = "teacher" if isinstance(policy, Driver) else "student"
    for road in range(ROADS):
        seen, _ = env.reset(seed=1_000_000 + road)
        total, done = 0.0, False
        while not done:
            said = rl.ask(policy, torch.from_numpy(seen[sees])[None])
            seen, reward, ended, cut, info = env.step(said["mean"][0].numpy())
            total, done = total + reward, ended or cut
        found["return"].append(round(total, 1))
        found["off"].append(info["off"])
        found["finished"].append(float(info["finished"]))
    env.close()
    return found


def of_seed(seed: int) -> list[dict[str, Any]]:
    driver = Driver()
    large = taught(net(True, seed), driver, seed)
    small = taught(net(False, seed), driver, seed)
    found = {
        "large": large,
        "small": small,
        "small, 8 bits": rounded(small, driver, seed),
        "small, of large": taught(net(False, seed), large, seed, watched=True),
        "small, not driving": taught(net(False, seed), driver, seed, drives=False),
    }
    return [
        {"part": "students", "seed": seed, "kind": kind, "parameters": parameters(policy),
         **exam(policy)}
        for kind, policy in found.items()
    ]  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    lines = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []
    rows = [json.loads(line) for line in lines]
    if not rows:
        rows = [{"part": "teacher", "kind": "driver", **exam(Driver(), blind=True)}]
    for seed in range(max((row.get("seed", -1) for row in rows), default=-1) + 1, SEEDS):
        rows += of_seed(seed)
        KEPT.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for row in rows[-5:]:
            print(seed, row["kind"], sum(row["return"]) / ROADS, sum(row["off"]), flush=True)
    write_table(FILE, rows, begun)


if __name__ == "__main__":
    main()
