"""Distil a small student of the digits, in as many processes as the launcher starts.

    python -m distill_lib.booktools.processes.train_digits one
    torchrun --nproc_per_node 2 -m distill_lib.booktools.processes.train_digits two

The folder gets ``student.safetensors`` and ``history.json``, and ``dropped.<rank>.json``: how many
units the dropout of each process took at each pass. Nothing is printed. A step always sees
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
    accelerator = Accelerator(cpu=not given.gpu, gradient_accumulation_steps=given.micro // world)
    torch.manual_seed(0)  # the same first weights in all processes
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    drop = nn.Dropout(given.dropout)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), drop, nn.Linear(32, 10))
    dropped: list[int] = []
    drop.register_forward_hook(lambda part, args, out: dropped.append(int((out == 0).sum())))

    train = data.load("digits", split="train")
    distill(
        teacher, None, train.batches(64), CE(),
        epochs=5, lr=cosine(5e-3, 0), accelerator=accelerator, seed=1,
    )  # fmt: skip
    history = distill(
        student, teacher, train.batches(64), 0.1 * CE() + 0.9 * KD(temperature=4),
        epochs=given.epochs, lr=cosine(1e-2, 0), accelerator=accelerator, seed=2,
    )  # fmt: skip

    given.folder.mkdir(parents=True, exist_ok=True)
    name = f"dropped.{accelerator.process_index}.json"
    (given.folder / name).write_text(json.dumps(dropped))
    if accelerator.is_main_process:
        save_file(student.cpu().state_dict(), given.folder / "student.safetensors")
        (given.folder / "history.json").write_text(json.dumps(history.records))
    accelerator.end_training()


if __name__ == "__main__":
    main()
