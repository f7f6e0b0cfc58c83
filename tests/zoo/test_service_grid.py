"""The stored grid of rounded policies: whole, each kind in each world, ten students."""

from __future__ import annotations

import json

from distill_lib import zoo

FILE = zoo.FOLDER / "service_grid.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
KINDS = ["teacher", "float", "8 bits, after", "8 bits, aware", "4 bits, aware"]
WORLDS = ["exam", "longer", "lighter", "heavier", "weaker gravity"]


def test_each_kind_plays_in_each_world():
    found = [(row["team"], row["kind"], row["world"]) for row in ROWS[:-1]]
    assert found == [(t, kind, world) for t in range(2) for kind in KINDS for world in WORLDS]
    for row in ROWS[:-1]:
        assert len(row["return"]) == len(row["whole"]) == 5
        assert row["steps"] == (3000 if row["world"] == "longer" else 1000)
