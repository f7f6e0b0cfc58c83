"""The stored losses of small language models: whole, paired, and falling."""

from __future__ import annotations

import itertools
import json

from distill_lib import zoo

*ROWS, MADE = [json.loads(line) for line in
               (zoo.FOLDER / "scaling_language.jsonl").read_text("utf-8").splitlines()]  # fmt: skip
WIDTHS, STEPS = (8, 12, 16, 24, 32, 48), (50, 100, 200, 400, 800)


def test_every_width_was_read_at_every_length():
    assert [(row["width"], row["steps"]) for row in ROWS] == list(itertools.product(WIDTHS, STEPS))
    assert all(len(row["loss"]) == 3 for row in ROWS)


def test_larger_and_longer_is_better():
    loss = {(row["width"], row["steps"]): sum(row["loss"]) / 3 for row in ROWS}
    for w, s in loss:
        assert all(loss[w, s] > loss[w, t] for t in STEPS if t > s)
        assert all(loss[w, s] > loss[v, s] for v in WIDTHS if v > w)


def test_it_says_how_it_was_made():
    assert {"date", "torch", "python", "cpu_seconds"} <= set(MADE)
