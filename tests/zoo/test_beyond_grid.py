"""The stored runs of small policies beyond their examinations: whole."""

from __future__ import annotations

import json

from distill_lib import zoo

FILE = zoo.FOLDER / "beyond_grid.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
WORLDS = ["exam", "longer", "lighter", "heavier", "weaker gravity"]
SKIES = ["exam", "wind", "less gravity", "more gravity"]


def test_each_policy_of_the_hopper_plays_in_each_world():
    found = [row for row in ROWS if row["part"] == "hopper"]
    kinds = ["teacher", *(f"{how}, {what}" for what in ("16 values", "64 codes")
                          for how in ("rounded", "taught"))]  # fmt: skip
    assert [(r["kind"], r["world"]) for r in found] == [(k, w) for k in kinds for w in WORLDS]
    for row in found:
        assert len(row["return"]) == len(row["whole"]) == 5
        assert row["steps"] == (3000 if row["world"] == "longer" else 1000)


def test_each_pilot_flies_in_each_sky():
    found = [row for row in ROWS if row["part"] == "lander"]
    pilots = ("teacher", "packed")
    assert [(r["kind"], r["world"]) for r in found] == [(k, w) for k in pilots for w in SKIES]
