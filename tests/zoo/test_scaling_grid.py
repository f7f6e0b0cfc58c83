"""The stored grid of the chapter on what teaching costs: whole, and paired."""

from __future__ import annotations

import itertools
import json

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "scaling_grid.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip
TEACHERS, WIDTHS, LENGTHS = (3, 6, 12, 48, 256), (8, 16, 32, 64, 128), (100, 200, 400, 800, 1600)


def test_every_student_had_every_teacher():
    found = [(r["width"], r["steps"], r["teacher"]) for r in ROWS if r["part"] == "student"]
    assert sorted(found) == sorted(itertools.product(WIDTHS, LENGTHS, (0, *TEACHERS)))


def test_there_are_five_of_each():
    rows = [row for row in ROWS if row["part"] != "made"]
    assert all(len(row["loss"]) == len(row["accuracy"]) == 5 for row in rows)


def test_a_wider_teacher_is_a_better_one():
    losses = {r["width"]: sum(r["loss"]) / 5 for r in ROWS if r["part"] == "teacher"}
    assert tuple(losses) == TEACHERS
    assert list(losses.values()) == sorted(losses.values(), reverse=True)


def test_the_grid_says_how_it_was_made():
    (made,) = (row for row in ROWS if row["part"] == "made")
    assert {"date", "torch", "python", "cpu_seconds"} <= set(made)
