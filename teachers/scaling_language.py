"""Train small GPTs of several sizes and lengths on CPython's language reference; losses to the zoo.

    python teachers/scaling_language.py

The second family of the chapter on what teaching costs: three networks of each of six widths, with
two layers, on the reference in 512 byte pairs. A run is read at five lengths, as the running
average of its weights. The range was fixed before the run.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from cards import ZOO, write_table
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from distill_lib import zoo
from distill_lib.models import SmallGPT
from distill_lib.sequences import reference_text

FILE = ZOO / "scaling_language.jsonl"
SEEDS, BATCH, LENGTH, RATE = 3, 32, 32, 4e-3
WIDTHS, STEPS = (8, 12, 16, 24, 32, 48), (50, 100, 200, 400, 800)


def ids(split: str) -> Tensor:
    """The tokens of a part of the reference."""
    return torch.tensor(zoo.reference_tokenizer()(reference_text(split))["input_ids"])


def pieces(text: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """[count, LENGTH + 1] stretches from anywhere."""
    start = torch.randint(len(text) - LENGTH - 1, (count, 1), generator=draw)
    return text[start + torch.arange(LENGTH + 1)]


def loss(nets: torch.nn.Module, batch: Tensor) -> Tensor:
    """[SEEDS] nats a token."""
    z = nets(batch[:, :-1])
    said = [F.cross_entropy(each.flatten(0, 1), batch[:, 1:].flatten()) for each in z]
    return torch.stack(said)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun, rows = time.process_time(), []
    train, exam = ids("train"), pieces(ids("test"), 400, torch.Generator().manual_seed(1))
    for width in WIDTHS:
        draw = torch.Generator().manual_seed(width)
        nets = SmallGPT(512, width=width, layers=2, heads=2, length=LENGTH, seeds=SEEDS, seed=width)
        mean = AveragedModel(
            nets, avg_fn=lambda old, new, n: old.lerp(new, max(0.01, 10 / (n + 10)))
        )
        adam = torch.optim.Adam(nets.parameters(), RATE)
        for step in range(1, STEPS[-1] + 1):
            adam.zero_grad()
            loss(nets, pieces(train, BATCH, draw)).sum().backward()
            adam.step()
            mean.update_parameters(nets)
            if step in STEPS:
                with torch.no_grad():
                    found = torch.stack([loss(mean.module, part) for part in exam.split(100)])
                count = sum(p.numel() for p in nets.parameters()) // SEEDS
                rows.append({"width": width, "parameters": count, "steps": step,
                             "loss": [round(n, 4) for n in found.mean(0).tolist()]})  # fmt: skip
                print(rows[-1], flush=True)
    write_table(FILE, rows, begun)


if __name__ == "__main__":
    main()
