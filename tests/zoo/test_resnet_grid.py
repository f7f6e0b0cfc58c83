"""The stored runs of the chapter on ResNets: whole, and told apart by their settings."""

from __future__ import annotations

import json

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "resnet_grid.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip


def test_no_two_rows_have_the_same_settings():
    results = {"accuracy", "agree", "sure", "right_own", "right_other"}
    settings = [json.dumps({k: v for k, v in row.items() if k not in results}) for row in ROWS]
    assert len(set(settings)) == len(settings)


def test_there_are_students_enough_and_all_learned():
    for row in ROWS:
        if row["part"] != "made":
            assert len(row["accuracy"]) == (3 if row["part"] in ("tuning", "trial") else 5)
            assert all(30 < a < 100 for a in row["accuracy"]), row


def test_each_kind_of_lesson_had_its_trials_and_its_best_was_run():
    trials = [row for row in ROWS if row["part"] == "trial"]
    kinds = {(row["student"], row["kind"]) for row in trials}
    assert len(kinds) == 6
    for student, kind in kinds:
        mine = {(r["rate"], r["crops"]): sum(r["accuracy"]) for r in trials
                if (r["student"], r["kind"]) == (student, kind)}  # fmt: skip
        assert len(mine) == (8 if kind == "soft" else 12)
        (best,) = (row for row in ROWS if row["part"] == "both"
                   and (row["student"], row["kind"]) == (student, kind))  # fmt: skip
        assert mine[best["rate"], best["crops"]] == max(mine.values())


def test_each_run_says_how_it_was_made():
    made = {row["run"]: row for row in ROWS if row["part"] == "made"}
    assert set(made) == {row["run"] for row in ROWS}
    assert all({"date", "torch", "python", "cpu_seconds"} <= set(row) for row in made.values())
