"""``{student} budget``: what so many operations buy, with and without a teacher on the bill."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

from distill_lib.booktools.sliders import _fragment
from distill_lib.booktools.students import Figure

__all__ = ["BUDGETS", "figure", "operations", "readings"]

PIXELS, CLASSES, BATCH, IMAGES = 196, 10, 128, 60_000
BUDGETS = tuple(round(8 + i / 10, 1) for i in range(33))  # powers of ten


@cache
def operations(width: int) -> tuple[int, int]:
    """For one image, of an answer and of a step of training, by PyTorch's counter."""
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    net = nn.Sequential(nn.Linear(PIXELS, width), nn.ReLU(), nn.Linear(width, CLASSES))
    with FlopCounterMode(display=False) as answer:
        net(torch.zeros(1, PIXELS))
    with FlopCounterMode(display=False) as step:
        net(torch.zeros(1, PIXELS)).sum().backward()
    return answer.get_total_flops(), step.get_total_flops()


@cache
def readings() -> list[dict[str, Any]]:
    """The students of the measured grid, with what each has cost."""
    from distill_lib import zoo

    text = (zoo.FOLDER / "scaling_grid.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    steps_of = {row["width"]: row["steps"] for row in rows if row["part"] == "teacher"}
    found = []
    for row in rows:
        if row["part"] != "student":
            continue
        width, steps, teacher = row["width"], row["steps"], row["teacher"]
        learn = steps * BATCH * operations(width)[1]
        ask = min(IMAGES, steps * BATCH) * operations(teacher)[0] if teacher else 0
        teach = steps_of[teacher] * BATCH * operations(teacher)[1] if teacher else 0
        loss = sum(row["loss"]) / len(row["loss"])
        found.append(
            {"width": width, "steps": steps, "teacher": teacher, "loss": loss}
            | {"paid": learn + ask + teach, "given": learn + ask}
        )
    return found


@cache
def fits() -> list[dict[str, Any]]:
    """For each budget: the best reading on labels, with a teacher that is paid, with one given."""
    found = []
    for power in BUDGETS:
        row: dict[str, Any] = {}
        for name, taught, bill in (
            ("labels", False, "paid"),
            ("paid", True, "paid"),
            ("given", True, "given"),
        ):
            within = [
                r for r in readings() if bool(r["teacher"]) == taught and r[bill] <= 10**power
            ]
            if within:
                best = min(within, key=lambda r: r["loss"])
                row |= {f"{name}_{k}": best[k] for k in ("loss", "width", "steps", "teacher")}
        found.append(row)
    return found


def figure() -> Figure:
    """The figure: all readings by their bill, and the best ones within a budget."""
    config = {
        "label": "Budget",
        "positions": BUDGETS,
        "start": BUDGETS.index(10.0),
        "fits": fits(),
        "points": [[math.log10(r["paid"]), r["loss"], int(r["teacher"] > 0)] for r in readings()],
    }
    fallback = "The log-loss of students against the operations that they and their teachers cost."
    return Figure(_fragment("dlBudget", "knobs.js", config, fallback))
