"""The stored grid of the chapter on sequences: whole, and fair."""

from __future__ import annotations

import json
from collections import Counter

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "sequences_grid.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip
PARTS = {part: [row for row in ROWS if row["part"] == part]
         for part in ("race", "control", "writers", "teachers")}  # fmt: skip


def test_every_way_had_the_same_trials():
    trials: dict[str, set[tuple[float, int]]] = {}
    for row in PARTS["race"]:
        trials.setdefault(row["method"], set()).add((row["rate"], row["batch"]))
    assert len(trials) == 5 and len({frozenset(of) for of in trials.values()}) == 1
    assert Counter(row["method"] for row in PARTS["race"]) == dict.fromkeys(trials, 6)


def test_the_control_had_these_trials_and_more():
    theirs = {(row["rate"], row["batch"]) for row in PARTS["race"]}
    mine = {(row["rate"], row["batch"]) for row in PARTS["control"]}
    assert theirs < mine and len(PARTS["control"]) == len(mine) == 10
    best = max(PARTS["control"], key=lambda row: sum(row["scores"]["5120"]))
    higher = [row for row in PARTS["control"] if row["rate"] > best["rate"]]
    assert len(higher) >= 6  # the best is at no upper end of what was tried


def test_all_numbers_are_there():
    for row in PARTS["race"] + PARTS["control"]:
        assert len({*map(len, row["scores"].values())} | {5}) == 1
    assert len(PARTS["writers"]) == 20
    assert all(len(row["scores"]) == len(row["start"]) == 5 for row in PARTS["writers"])
    assert all(len(row[key]) == 14 for row in PARTS["teachers"] for key in ("gain", "shared mass"))
