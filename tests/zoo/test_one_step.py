"""The stored flow of the chapter on one step, and what was measured of its students."""

from __future__ import annotations

import json

from safetensors.torch import load_file

from distill_lib import zoo

FILE = zoo.FOLDER / "one_step.safetensors"
ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "one_step.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip


def rows(name, **of):
    return [row for row in ROWS if row["name"] == name and of.items() <= row.items()]


def test_the_flow_is_small_and_whole():
    assert FILE.stat().st_size <= 300_000
    stored = load_file(FILE)
    assert stored["hidden.0.weight"].shape == (184, 196 + 8)
    assert stored["out.weight"].shape == (196, 184)
    assert stored["noises"].shape == stored["matching"].shape == (12, 196)
    assert all(v.isfinite().all() for k, v in stored.items() if k != "matching")


def test_each_number_is_of_three_teachers():
    for row in ROWS[:-1]:
        for name in ("frechet", "features", "precision", "recall", "uneven"):
            assert len(row[name]) == 3


def test_each_number_of_levels_was_tried_with_an_anchor_and_without():
    for name in ("consistency", "anchored"):
        assert [row["levels"] for row in rows(name)] == [2, 4, 8, 16, 48]


def test_more_steps_of_a_teacher_come_closer_in_the_features():
    means = [sum(row["features"]) for row in rows("teacher")]
    assert len(means) == 7 and means == sorted(means, reverse=True)


def test_the_file_says_how_it_was_made():
    assert {"date", "torch", "python", "cpu_seconds"} <= set(ROWS[-1])
