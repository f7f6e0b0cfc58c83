"""The stored grid of the chapter on TRL: whole, and fair to the student without a teacher."""

from __future__ import annotations

import json
from collections import Counter

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "trl_grid.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip


def test_labels_alone_had_as_many_trials_as_each_trainer() -> None:
    trials = {(row["method"], row["rate"], row["weight"]) for row in ROWS}
    assert len(trials) == len(ROWS)
    counts = Counter(row["method"] for row in ROWS)
    assert set(counts.values()) == {6} and len(counts) == 9 and "labels alone" in counts
    assert all(len(row["scores"]) == 5 for row in ROWS)


def test_no_best_rate_of_a_way_that_learns_is_at_an_end_of_those_tried() -> None:
    for name in {row["method"] for row in ROWS} - {"adversarial alone"}:
        tried = [row for row in ROWS if row["method"] == name]
        best = max(tried, key=lambda row: sum(row["scores"]))
        rates = sorted({row["rate"] for row in tried})
        if len(rates) == 6:
            assert rates[0] < best["rate"] < rates[-1], name
