"""Nine ways to teach a small convolutional student, each with six trials; results to the zoo.

    python teachers/hints_tuned.py           # 10 min of one core

The data, the student and the length of training are those of ``hints_grid.py``, where the rate was
that of the labels for all. Here weight *and* rate are tuned: three multiples (of the weight that
makes a method's gradient at the start as long as cross-entropy's) at two rates; labels alone have
six rates. A trial is two students, scored on 2,000 other images. The best trial is run with fresh
seeds and read on 5,000 test images. Hints and attention sit where their papers put them: hints in
the middle, attention on every stage. The ranges were fixed before the run. A run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cards import WORK, ZOO
from hints_grid import PLACES, Lab, methods

from distill_lib import CE, Match, losses

FILE = ZOO / "hints_tuned.jsonl"
MULTIPLES, RATES = (0.5, 2.0, 6.0), (0.006, 0.016)
PLAIN = (0.004, 0.006, 0.01, 0.016, 0.025, 0.04)
TRIALS, SEEDS, FIRST, FRESH = 2, 8, 5_000, 6_000


def chosen(lab: Lab) -> dict[str, Callable[[], Any]]:
    """The nine ways; labels alone have none beside them."""
    made = methods(lab.few)

    def attention() -> Any:
        """On all three stages."""
        terms = [Match(k, loss=losses.attention_transfer) for k in PLACES]
        return terms[0] + terms[1] + terms[2]

    return {
        "KD": made["KD"],
        "DKD": made["DKD"],
        "DIST": made["DIST"],
        "FitNets": made["hint 2"],
        "AT": attention,
        **{name: made[name] for name in ("SP", "RKD", "CRD")},
    }


def main() -> None:
    """Tune, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shift", type=int, default=0, help="of all seeds")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the best trial")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--work", type=Path, default=WORK / "hints_tuned.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.parent.mkdir(parents=True, exist_ok=True)
    text = args.work.read_text(encoding="utf-8") if args.work.exists() else ""
    kept = {tuple(key): found for key, found in map(json.loads, text.splitlines())}
    lab = Lab(args.shift)
    made = chosen(lab)

    def known(*key: Any, find: Callable[[], Any]) -> Any:
        """A number or the marks of one student: found before, or now and kept."""
        key = (args.shift, *key)
        if key not in kept:
            kept[key] = find()
            with args.work.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, kept[key]]) + "\n")
            print(*key, kept[key], flush=True)
        return kept[key]

    plain = known("norm", "labels", find=lambda: lab.norm(CE))
    rows = []
    for name in ("labels", *made):
        norm = plain if name == "labels" else known(
            "norm", name, find=lambda name=name: lab.norm(made[name])
        )  # fmt: skip

        def student(multiple: float, rate: float, seed: int, name: str = name,
                    norm: float = norm) -> Any:  # fmt: skip
            objective = 1.0 * CE()
            if name != "labels":
                objective = objective + multiple * plain / norm * made[name]()
            return lab.train(objective, seed, rate)

        trials = [(0.0, rate) for rate in PLAIN]
        if name != "labels":
            trials = [(multiple, rate) for multiple in MULTIPLES for rate in RATES]
        tried = {
            trial: [
                known("trial", name, *trial, FIRST + s,
                      find=lambda t=trial, s=s: lab.right(student(*t, FIRST + s), lab.held))
                for s in range(TRIALS)
            ]
            for trial in trials
        }  # fmt: skip
        best = max(tried, key=lambda trial: sum(tried[trial]))
        found = [
            known("run", name, *best, FRESH + s,
                  find=lambda best=best, s=s: lab.marks(student(*best, FRESH + s)))
            for s in range(args.seeds)
        ]  # fmt: skip
        said = [[*trial, *(round(x, 2) for x in value)] for trial, value in tried.items()]
        rows.append({"method": name, "norm": norm / plain, "multiple": best[0], "rate": best[1],
                     "tried": said, "runs": found})  # fmt: skip
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
