"""Drivers of CarRacing: the stored runs, and the world in which they drive."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_lib import zoo

sys.path.append(str(Path(__file__).resolve().parents[2] / "teachers"))
FILE = zoo.FOLDER / "driving_grid.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_each_driver_meets_the_same_roads():
    kinds = ["large", "small", "small, 8 bits", "small, of large", "small, not driving"]
    assert [row["kind"] for row in ROWS[1:-1]] == kinds * 3
    for row in ROWS[:-1]:
        assert len(row["return"]) == len(row["off"]) == len(row["finished"]) == 12


# ---- the road ----


@pytest.fixture(scope="module")
def road() -> Any:
    pytest.importorskip("pygame")
    with warnings.catch_warnings():  # its bindings crash where their warnings are errors
        warnings.simplefilter("ignore")
        importlib.import_module("Box2D")
    from driving_world import Road

    env = Road(patience=3)
    yield env
    env.close()


def test_the_student_sees_green_and_the_teacher_the_road(road):
    seen, _ = road.reset(seed=1)
    assert seen["student"].shape == (2, 48, 48)
    points = seen["teacher"][1:].reshape(-1, 2)
    assert abs(points[0]).max() < 5 and points[-1, 1] > 20  # from the car on, and before it


def test_a_point_to_the_right_is_steered_at(road):
    """Steering right turns the road to the left, as it is seen from the car."""
    from driving_world import Driver

    road.reset(seed=1)
    state = road.observation_space["teacher"].sample() * 0
    state[1::2], state[2::2] = 8.0, 5.0  # all points ahead, on the right
    said = Driver()(torch.from_numpy(state)[None])["mean"][0]
    assert said[0] > 0
    for _ in range(6):
        seen, *_ = road.step([0.0, 0.5])
    ahead = seen["teacher"][1::2][6]
    for _ in range(4):
        seen, *_ = road.step([1.0, 0.0])
    assert seen["teacher"][1::2][5] < ahead


def test_a_lesson_ends_beside_the_road(road):
    road.reset(seed=2)
    for _ in range(200):
        *_, cut, info = road.step([1.0, 0.8])
        if cut:
            break
    assert cut and info["off"] >= 3


def test_what_is_near_is_drawn_as_the_environment_draws_it(road):
    seen, _ = road.reset(seed=3)
    for _ in range(16):  # after the first second, in which the camera comes nearer
        seen, *_ = road.step([0.0, 0.3])
    world = road.unwrapped
    world._draw_colored_polygon = road.polygon
    whole = road.draw("state_pixels")
    world._draw_colored_polygon = road._near
    assert (road._gray(whole) == seen["student"][-1]).all()
