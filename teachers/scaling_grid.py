"""Train students of several sizes and lengths with teachers of several sizes; losses to the zoo.

    python teachers/scaling_grid.py

The grid of the chapter on what teaching costs: five teachers of each of five widths, and five
students of each of five widths, on labels and with each teacher. A run is read at five lengths.
Networks have one hidden layer and see Fashion-MNIST at 14 × 14 pixels. The range was fixed before
the run, after a trial with other seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from cards import ZOO, write_table
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from distill_lib import Stacked, data

FILE = ZOO / "scaling_grid.jsonl"
SEEDS, BATCH, RATE = 5, 128, 2e-3
TEACHERS, WIDTHS, LENGTHS = (3, 6, 12, 48, 256), (8, 16, 32, 64, 128), (100, 200, 400, 800, 1600)


def clothes(split: str) -> tuple[Tensor, Tensor]:
    """Images of 14 × 14 pixels in a row, and their labels."""
    found = data.load("fashion_mnist", split=split)
    return F.avg_pool2d(found.inputs, 2).flatten(1), found.labels


def trained(
    width: int, x: Tensor, targets: Sequence[Tensor], lengths: Sequence[int], seed: int
) -> Iterator[tuple[int, nn.Module]]:
    """SEEDS students for each target [1 or SEEDS, n, 10], all from the same starts and batches.

    Yields the running average of their weights, over the last tenth of the steps or 100 of them.
    """
    torch.manual_seed(seed)
    starts = [
        nn.Sequential(nn.Linear(196, width), nn.ReLU(), nn.Linear(width, 10)) for _ in range(SEEDS)
    ]
    nets = Stacked(starts * len(targets), ndim=2)
    mean = AveragedModel(nets, avg_fn=lambda old, new, n: old.lerp(new, max(0.01, 10 / (n + 10))))
    adam = torch.optim.Adam(nets.parameters(), RATE)
    for step in range(1, max(lengths) + 1):
        i = torch.randint(len(x), (BATCH,))
        p = torch.cat([t[:, i].expand(SEEDS, -1, -1) for t in targets])
        loss = -(p * nets(x[i]).log_softmax(-1)).sum(-1).mean(-1).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        mean.update_parameters(nets)
        if step in lengths:
            yield step, mean.module


@torch.no_grad()
def judged(nets: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """[count] log-loss and accuracy."""
    z = nets(x)
    loss = torch.stack([F.cross_entropy(each, y) for each in z])
    return loss, (z.argmax(-1) == y).float().mean(-1)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    (x, y), exam = clothes("train"), clothes("test")
    targets, rows = [F.one_hot(y, 10).float()[None]], []

    def write(part: str, loss: Tensor, accuracy: Tensor, **of: int) -> None:
        numbers = {"loss": loss, "accuracy": accuracy}
        rows.append({"part": part, **of, **{k: [round(n, 4) for n in v.tolist()]
                                            for k, v in numbers.items()}})  # fmt: skip
        print(part, of, f"{loss.mean():.4f}", flush=True)

    for width in TEACHERS:
        length = 2 * LENGTHS[-1]
        ((_, nets),) = trained(width, x, targets[:1], (length,), seed=10_000 + width)
        write("teacher", *judged(nets, *exam), width=width, steps=length)
        with torch.no_grad():
            targets.append(torch.cat([nets(part).softmax(-1) for part in x.split(4_000)], 1))
    for width in WIDTHS:
        for step, nets in trained(width, x, targets, LENGTHS, seed=20_000 + width):
            found = [each.view(-1, SEEDS) for each in judged(nets, *exam)]
            for teacher, *numbers in zip((0, *TEACHERS), *found, strict=True):
                write("student", *numbers, width=width, steps=step, teacher=teacher)
    write_table(FILE, rows, begun)


if __name__ == "__main__":
    main()
