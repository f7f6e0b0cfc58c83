"""The stored answers of students of sentiment: small, whole, and about the texts that there are."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from distill_lib import zoo

FILE = zoo.FOLDER / "sentiment_grid.safetensors"
COPIES = {name: 3 for name in ("copy 1", "copy 2", "copy 3", "plain 3", "long 3")}
SEEDS = {"counting": 1, "static": 1, "tuned": 1, "frozen": 1, **COPIES}


def test_it_is_small_and_each_row_answers_all_test_texts():
    assert FILE.stat().st_size <= 300_000
    for name, p in load_file(FILE).items():
        assert p.shape == (SEEDS[name.split(".")[0]], 2_500) and p.dtype == torch.uint8


def test_each_student_has_a_twin_and_a_note_how_it_was_trained():
    names = set(load_file(FILE))
    with safe_open(FILE, "pt") as file:
        notes = {k: json.loads(v) for k, v in file.metadata().items() if "." in k}
    assert names == set(notes)
    assert {f"{student}.labels" for student in SEEDS} <= names
    assert {f"{student}.soft" for student in SEEDS if student != "frozen"} <= names
    steps = {name: note["steps"] for name, note in notes.items() if "steps" in note}
    for name, count in steps.items():
        assert count == steps[f"{name.split('.')[0]}.labels"]
