"""One line of a published table: on CIFAR-100 a ResNet-56 teaches a ResNet-20.

    python -m benchmarks.cifar100                  all of it: eleven trainings, meant for a GPU
    python -m benchmarks.cifar100 --seeds 1        three trainings
    python -m benchmarks.cifar100 --out FILE       where results are added, a line a training

A training whose line is in the file is not run again, and one that was killed goes on after its
last epoch. The settings are those of the repository of Tian et al., *Contrastive representation
distillation*, 2020: 240 epochs of batches of 64, SGD with momentum 0.9, weight decay 5e-4, rate
0.05, divided by 10 after 150, 180 and 210 epochs; images moved by up to 4 pixels and mirrored; for
the student a tenth of the labels' loss and nine tenths of the teacher's at T = 4. As in their table
a training counts with its last epoch. What a move uncovers is the darkest value of the batch here
and black there, which differ a little in blue.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from distill_lib import CE, KD, Teacher, data, distill, evaluate
from distill_lib.data import Dataset
from distill_lib.models import ResNet

LEDGER = Path(__file__).resolve().parents[1] / "_build" / "cifar100.jsonl"
REPORTED = {"teacher": 72.34, "labels": 69.06, "KD": 70.66}  # their table, in percent
BLOCKS = {"teacher": 9, "labels": 3, "KD": 3}  # of ResNet-56 and ResNet-20
EPOCHS, FALLS = 240, (150, 180, 210)
BATCH, RATE, DECAY, TEMPERATURE, SHARE = 64, 0.05, 5e-4, 4, 0.9


def network(kind: str, seed: int, classes: int) -> ResNet:
    """An untrained one, the same for the same seed."""
    torch.manual_seed(seed)
    return ResNet(blocks=BLOCKS[kind], num_classes=classes, in_channels=3)


def train(
    kind: str, seed: int, images: Dataset, teacher: nn.Module | None, epochs: int, save: Path
) -> ResNet:
    """One training by the recipe."""
    net = network(kind, seed, len(images.classes))
    moved = partial(data.flip_and_shift, reach=4)
    batches = images.batches(BATCH, seed=seed, augment=moved)
    falls = [len(batches) * epochs * fall // EPOCHS for fall in FALLS]
    both = (1 - SHARE) * CE() + SHARE * KD(temperature=TEMPERATURE)
    distill(
        net,
        Teacher(teacher) if kind == "KD" and teacher is not None else None,
        batches,
        both if kind == "KD" else CE(),
        epochs=epochs,
        optimizer=lambda own: SGD(own, lr=RATE, momentum=0.9, weight_decay=DECAY),
        lr=lambda optimizer: MultiStepLR(optimizer, falls),
        checkpoint=save,
    )
    return net


def run(
    load: Callable[[str], Dataset], out: Path, seeds: Iterable[int], epochs: int
) -> list[dict[str, Any]]:
    """All trainings that are not in the file yet; returns all lines of this many epochs."""
    out.parent.mkdir(parents=True, exist_ok=True)
    images, test = load("train"), load("test").batches(500, shuffle=False)
    weights = out.with_suffix(f".{epochs}.teacher")
    teacher = network("teacher", 0, len(images.classes))
    for kind, seed in [("teacher", 0), *((k, s) for s in seeds for k in ("labels", "KD"))]:
        known = [line for line in lines(out) if line["epochs"] == epochs]
        if any(line["kind"] == kind and line["seed"] == seed for line in known):
            if kind == "teacher":
                teacher.load_state_dict(torch.load(weights, weights_only=True))
            continue
        save = out.with_suffix(f".{epochs}.{kind}.{seed}.training")
        net = train(kind, seed, images, teacher, epochs, save)
        if kind == "teacher":
            torch.save(net.state_dict(), weights)
            teacher = net
        accuracy = 100 * float(evaluate(net, test)["accuracy"])
        line = {"kind": kind, "seed": seed, "epochs": epochs, "accuracy": accuracy}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        save.unlink(missing_ok=True)
        print(json.dumps(line), flush=True)
    return [line for line in lines(out) if line["epochs"] == epochs]


def lines(out: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    if not out.is_file():
        return []
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def table(found: Iterable[dict[str, Any]]) -> str:
    """Each kind: mean over seeds, its standard error, and what the repository reports."""
    rows = [f"{'':8s} {'ours':>14s} {'reported':>9s}"]
    found = list(found)
    for kind, reported in REPORTED.items():
        ours = [line["accuracy"] for line in found if line["kind"] == kind]
        if ours:
            error = statistics.stdev(ours) / len(ours) ** 0.5 if len(ours) > 1 else float("nan")
            rows.append(f"{kind:8s} {statistics.fmean(ours):6.2f} ± {error:5.2f} {reported:9.2f}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=LEDGER)
    options = parser.parse_args()
    load = partial(data.load, "cifar100")
    print(
        table(
            run(lambda split: load(split=split), options.out, range(options.seeds), options.epochs)
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
