"""Distil a small student of the digits, in as many processes as the launcher starts.

    python -m distill_lib.booktools.processes.train_digits one
    torchrun --nproc_per_node 2 -m distill_lib.booktools.processes.train_digits two

The folder gets ``student.safetensors`` and ``history.json``. Nothing is printed. A step always sees
``--micro`` batches: one process accumulates them, several take them in turns.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("DISTILL_QUIET", "1")

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from distill_lib import CE, KD, cosine, data, distill


def mlp(width: int, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 10),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--micro", type=int, default=2, help="batches in a step, of all processes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--gpu", action="store_true", help="use GPUs where there are some")
    given = parser.parse_args()
    world = int(os.environ.get("WORLD_SIZE", 1))
    if given.micro % world:
        parser.error(f"{given.micro} batches in a step are not shared out to {world} processes")

    accelerator = Accelerator(
        cpu=not given.gpu,
        gradient_accumulation_steps=given.micro // world,
    )
    torch.manual_seed(0)  # the same first weights in all processes
    teacher, student = mlp(256), mlp(32, given.dropout)
    batches = data.load("digits", split="train").batches(64)
    common = {"accelerator": accelerator, "epochs": given.epochs, "seed": 1}
    distill(teacher, None, batches, CE(), lr=cosine(5e-3, 0), **common)
    objective = 0.1 * CE() + 0.9 * KD(temperature=4)
    rate = cosine(1e-2, 0)
    history = distill(student, teacher, batches, objective, lr=rate, **common)

    given.folder.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        save_file(student.cpu().state_dict(), given.folder / "student.safetensors")
        (given.folder / "history.json").write_text(json.dumps(history.records))
    accelerator.end_training()


if __name__ == "__main__":
    main()
