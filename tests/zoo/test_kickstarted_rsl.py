"""The stored trainings with RSL-RL: whole, each way tuned alike, with the same students."""

from __future__ import annotations

import json
from collections import defaultdict

from distill_lib import zoo

FILE = zoo.FOLDER / "kickstarted_rsl.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
WAYS = ["none", "finished, 0.5", "finished, 2 to 0", "learning, 0.5"]


def test_each_way_tries_as_much_and_keeps_the_better_rate():
    tried, kept = defaultdict(dict), defaultdict(list)
    for row in ROWS[:-1]:
        assert len(row["return"]) == len(row.get("teacher", row["return"])) == 8
        assert ("teacher" in row) == row["way"].startswith("learning")
        if row["part"] == "tried":
            tried[row["way"]].setdefault(row["move"], {})[row["seed"]] = row["return"][-1]
        else:
            kept[row["way"]].append((row["move"], row["seed"]))
    assert list(tried) == list(kept) == WAYS
    for way, moves in tried.items():
        assert {move: set(found) for move, found in moves.items()} == {
            move: {100, 101} for move in (0.006, 0.02)
        }
        best = max(moves, key=lambda move: sum(moves[move].values()))
        assert kept[way] == [(best, seed) for seed in range(5)]
