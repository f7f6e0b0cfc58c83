"""The stored grid of priorities: whole, at equal budgets, with the same students in each way."""

from __future__ import annotations

import json
from collections import defaultdict

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "priority_grid.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip
WAYS = ["alike", "failed, corrected", "failed", "unsure", "sure", "far"]


def test_each_budget_has_all_ways_and_twenty_students():
    found = defaultdict(list)
    for row in ROWS:
        if row["part"] == "lander":
            found[row["power"], row["labels"], row["batches"]].append(row["way"])
            assert len(row["return"]) == 20
    budgets = [(180, 300), (400, 240), (1200, 400)]
    assert sorted(found) == [(power, *budget) for power in (1, 2) for budget in budgets]
    assert all(ways == WAYS for ways in found.values())
