"""Where the time of a step goes: the parts of our loop, and what the loop adds to them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from . import loops
from .setting import TEMPERATURE, WEIGHT, loader, models

ROUNDS = 7


def shares(n: int = 6400) -> dict[str, float]:
    """Milliseconds of processor time a step, in the median of seven walks, by part.

    ``the loop`` is what is left of a step of ``distill`` when its parts are taken off: moving
    batches, schedules, history, checks of labels.
    """
    from distill_lib import CE, KD

    student, teacher = models()
    objective = (1 - WEIGHT) * CE() + WEIGHT * KD(temperature=TEMPERATURE)
    optimizer = loops._sgd(student.parameters())
    run, _ = loops.ours(n)
    batches = list(loader(n))
    walks: dict[str, list[float]] = {}
    for turn in range(ROUNDS + 1):
        found = dict.fromkeys(
            ("data", "teacher", "student", "objective", "backward", "optimizer"), 0.0
        )

        def timed(name: str, job: Callable[[], Any], found: dict[str, float] = found) -> Any:
            begun = time.process_time()
            result = job()
            found[name] += time.process_time() - begun
            return result

        timed("data", lambda: list(loader(n)))
        for x, y in batches:
            with torch.no_grad():
                v = timed("teacher", lambda x=x: teacher(x))
            z = timed("student", lambda x=x: student(x))
            loss, _ = timed("objective", lambda z=z, v=v, y=y: objective(z, v, {"labels": y}))
            timed("backward", loss.backward)
            timed("optimizer", lambda: (optimizer.step(), optimizer.zero_grad()))
        begun = time.process_time()
        run()
        whole = time.process_time() - begun
        found["the loop"] = whole - sum(found.values())
        for name, seconds in found.items() if turn else ():
            walks.setdefault(name, []).append(1000 * seconds / len(batches))
    return {name: statistics.median(times) for name, times in walks.items()}


def show() -> None:
    """The table, in percent of a step."""
    found = shares()
    whole = sum(found.values())
    print(f"a KD step takes {whole:.1f} ms:", flush=True)
    for name, part in found.items():
        print(f"  {name:10s} {part:6.2f} ms  {part / whole:6.1%}", flush=True)
