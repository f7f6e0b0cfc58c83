"""The stored runs of the chapter on TinyBERT: whole, tuned alike, and of ordinary size."""

from __future__ import annotations

import json

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "tinybert_grid.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip
WAYS = {row["way"]: row for row in ROWS if "way" in row}


def test_all_ways_that_the_chapter_compares_are_there() -> None:
    assert {"teacher", "labels", "pseudo-labels", "answers", "random table", "relations",
            "everything", "two stages", "two stages, no attention", "two stages, no layers",
            "answers, a quarter", "copied layers"} <= set(WAYS)  # fmt: skip
    assert all({"date", "torch", "cpu_seconds"} <= set(r) for r in ROWS if r.get("part") == "made")


def test_narrow_students_have_five_seeds_and_two_rates() -> None:
    for way, row in WAYS.items():
        if way != "teacher":
            wide = way == "copied layers"
            assert len(row["accuracy"]) == (3 if wide else 5), way
            assert len(row["validation"]) == (0 if wide else 2), way
            assert all(60 < value < 90 for value in row["accuracy"]), way


def test_the_rate_is_the_best_on_the_validation_set() -> None:
    for way, row in WAYS.items():
        if way not in ("teacher", "copied layers"):
            assert row["rate"] == (2e-3, 5e-3)[row["validation"].index(max(row["validation"]))]
