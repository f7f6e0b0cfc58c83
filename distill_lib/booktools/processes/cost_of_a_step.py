"""What the time of a step is made of, in as many processes as the launcher starts.

    python -m distill_lib.booktools.processes.cost_of_a_step one.json
    torchrun --nproc_per_node 2 -m distill_lib.booktools.processes.cost_of_a_step two.json

Writes the medians over the steps, in milliseconds: the teacher's pass, the student's pass, its
backward pass alone, the averaging of the gradients (the backward pass with it less the one
without), and the optimizer. Nothing is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("DISTILL_QUIET", "1")

import torch
from accelerate import Accelerator
from torch import nn

from distill_lib import CE, KD, Teacher


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=512, help="of the student's hidden layers")
    parser.add_argument("--batch", type=int, default=256, help="items a process")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--gpu", action="store_true", help="use GPUs where there are some")
    given = parser.parse_args()

    accelerator = Accelerator(cpu=not given.gpu)
    torch.manual_seed(0)
    teacher = Teacher(mlp(4 * given.width)).to(accelerator.device)
    student = mlp(given.width)
    student, optimizer = accelerator.prepare(student, torch.optim.AdamW(student.parameters()))
    objective = CE() + KD(temperature=4)
    batch = {
        "inputs": torch.randn(given.batch, 1, 8, 8, device=accelerator.device),
        "labels": torch.arange(given.batch, device=accelerator.device) % 10,
    }
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        accelerator.wait_for_everyone()
        begun = time.perf_counter()
        done = work()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        times.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
        return done

    for _ in range(given.steps):
        taught = timed("teacher", lambda: teacher(batch))
        with accelerator.no_sync(student):
            loss, _ = objective(timed("forward", lambda: student(batch["inputs"])), taught, batch)
            timed("backward", loss.backward)
        loss, _ = objective(student(batch["inputs"]), taught, batch)
        timed("backward and averaging", loss.backward)
        timed("optimizer", optimizer.step)
        optimizer.zero_grad()

    if accelerator.is_main_process:
        found = {name: median(some[5:]) for name, some in times.items()}  # the first are warm-up
        found["averaging"] = found.pop("backward and averaging") - found["backward"]
        weights = sum(parameter.numel() for parameter in student.parameters())
        given.file.parent.mkdir(parents=True, exist_ok=True)
        given.file.write_text(
            json.dumps({"processes": accelerator.num_processes, "weights": weights, **found})
        )
    accelerator.end_training()


if __name__ == "__main__":
    main()
