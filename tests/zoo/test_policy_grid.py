"""The stored grid of the chapter on policies in service: whole, and within its budget."""

from __future__ import annotations

import json

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "policy_grid.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip
SHAPES = [row for row in ROWS if row["part"] == "shape"]


def test_the_shapes_are_within_the_budget():
    assert len({tuple(row["hidden"]) for row in SHAPES}) == len(SHAPES) == 16
    for row in SHAPES:
        net = zoo.Policy(11, 3, row["hidden"], continuous=True)
        assert row["parameters"] == sum(p.numel() for p in net.parameters()) <= 1_000


def test_all_numbers_are_there():
    for row in SHAPES:
        assert [int(step) for step in row["loss"]] == [150, 300, 600, 1200, 2400]
        assert {len(losses) for losses in row["loss"].values()} == {len(row["return"])} == {10}
        assert sum(row["loss"]["2400"]) < sum(row["loss"]["150"])
