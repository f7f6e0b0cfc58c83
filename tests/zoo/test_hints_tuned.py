"""The stored grid of losses on layers, a rate for each: equal trials, and the best run anew."""

from __future__ import annotations

import json

from distill_lib import zoo

ROWS = [json.loads(line) for line in
        (zoo.FOLDER / "hints_tuned.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip


def test_every_way_had_the_same_trials():
    assert {row["method"] for row in ROWS} == {
        "labels", "KD", "DKD", "DIST", "FitNets", "AT", "SP", "RKD", "CRD"}  # fmt: skip
    assert len(ROWS) == 9
    for row in ROWS:
        assert len({(multiple, rate) for multiple, rate, *_ in row["tried"]}) == 6
        assert {len(scores) for _, _, *scores in row["tried"]} == {2}


def test_the_best_trial_was_run_with_fresh_seeds():
    for row in ROWS:
        best = max(row["tried"], key=lambda trial: sum(trial[2:]))
        assert [row["multiple"], row["rate"]] == best[:2]
        assert len(row["runs"]) == 8


def test_the_rate_of_labels_alone_is_at_no_end_of_what_was_tried():
    (labels,) = [row for row in ROWS if row["method"] == "labels"]
    rates = [rate for _, rate, *_ in labels["tried"]]
    assert min(rates) < labels["rate"] < max(rates)
