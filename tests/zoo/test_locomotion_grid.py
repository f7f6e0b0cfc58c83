"""The stored grid of locomotion: whole, at equal budgets; the page shows the world of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill_lib import zoo

ROOT = Path(__file__).resolve().parents[2]
TABLE = (zoo.FOLDER / "locomotion_grid.jsonl").read_text(encoding="utf-8")
ROWS = [json.loads(line) for line in TABLE.splitlines()]
STUDENTS = ["one frame", "history", "memory", "RMA"]
RIVALS = ["asymmetric", "symmetric"]


def test_each_way_has_five_seeds_and_two_exams():
    for way in [*STUDENTS, *RIVALS]:
        rows = [row for row in ROWS if row.get("way") == way]
        assert sorted(row["seed"] for row in rows) == [0, 1, 2, 3, 4]
        for row in rows:
            assert row["lessons"] > 0 and row["real"] > 0
            assert 0 <= row["lessons fell"] <= 1 and 0 <= row["real fell"] <= 1


def test_what_ppo_trained_was_looked_at_four_times():
    """At equal steps: the ways by reward differ in who sees what alone."""
    curves = [row["curve"] for row in ROWS if row.get("way") in ("teacher", *RIVALS)]
    assert {len(curve) for curve in curves} == {4}


def test_the_teacher_has_a_code_of_what_the_robot_is_not_told():
    state = load_file(zoo.FOLDER / "locomotion_grid.safetensors")
    assert state["mean"].shape == state["std"].shape == torch.Size([18])
    assert state["encoder.0.weight"].shape[1] == 7
    assert state["head.0.weight"].shape[1] == 11 + state["encoder.2.weight"].shape[0]


@pytest.mark.parametrize("name", ["Body", "Views", "Encoded"])
def test_the_page_shows_the_world_of_the_script(name):
    script = (ROOT / "teachers/locomotion_world.py").read_text(encoding="utf-8")
    page = (ROOT / "chapters/policies/locomotion.md").read_text(encoding="utf-8")
    found = re.search(rf"^class {name}\(.*?(?=^\S|\Z)", script, re.DOTALL | re.MULTILINE)
    assert found and found[0].strip() in page
    for line in ("LESSON", "REAL"):
        (ranges,) = re.findall(rf"^{line} = .*$", script, re.MULTILINE)
        assert ranges in page
