"""Train small networks to segment scenes, by labels and by a teacher's maps; results to the zoo.

    python teachers/scenes_grid.py

The grid of the chapter on hints and attention, for dense outputs: a teacher of 78,876 parameters
that saw 4,000 scenes, and students of 12,806 that see 300 of other garments. Each kind of
distillation gets four trials on other scenes (two temperatures, two multiples of the gradient of
cross-entropy); the best is run with five other seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cards import ZOO, Rows
from scenes import Body, splits
from torch import Tensor, nn

from distill_lib import CE, KD, Match, cosine, data, distill, losses

FILE = ZOO / "scenes_grid.jsonl"
RATIOS, TEMPERATURES, SEEDS, STEPS = (0.5, 1.5), (1.0, 4.0), 5, 300


class Painter(Body):
    """[B, 1, 32, 32] to [B, 11, 32, 32], logits of eleven classes a pixel."""

    def __init__(self, w: int) -> None:
        super().__init__(w)
        self.up1 = nn.Conv2d(2 * w, w, 1)
        self.head = nn.Conv2d(w, 44, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.seen(x)
        a = F.relu(a + F.interpolate(self.up1(b), scale_factor=2))
        return F.pixel_shuffle(self.head(a), 2)


@torch.no_grad()
def miou(net: nn.Module, scenes: data.Scenes) -> float:
    """Mean over classes of intersection over union, in percent."""
    said = torch.cat([net(x) for x in scenes.inputs.split(250)]).argmax(1)
    found = [(said == c, scenes.labels == c) for c in range(11)]
    return 100 * float(sum((p & t).sum() / (p | t).sum() for p, t in found)) / 11


def along_rows(T: float) -> Any:
    """The wrong axis: a softmax over the last one, which is that of columns, as of classes."""

    def loss(*, student: Tensor, teacher: Tensor) -> Tensor:
        return T**2 * losses.kl(student=student, teacher=teacher, temperature=T).mean((1, 2))

    return Match("logits", loss=loss)


KINDS: dict[str, Callable[[float], Any]] = {
    "per pixel": lambda T: KD(axis=1, temperature=T),
    "by channels": lambda T: KD(losses.channel_kl, temperature=T),
    "wrong axis": along_rows,
}


def main() -> None:
    """Train the teacher, tune, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shift", type=int, default=0, help="of all seeds")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    write = Rows(args.out)

    many, few, held, exam = splits(1_000)

    def fit(net: nn.Module, seen: data.Scenes, steps: int, batch: int, objective: Any, seed: int,
            taught: Tensor | None = None) -> nn.Module:  # fmt: skip
        teacher = None if taught is None else lambda part: taught[part["index"]]
        batches = seen.batches(batch, seed=seed, drop_last=True)
        distill(net, teacher, batches, objective, steps=steps, lr=cosine(1e-2, 0),
                optimizer=torch.optim.Adam)  # fmt: skip
        return net.eval()

    torch.manual_seed(args.shift)
    teacher = fit(Painter(16), many, 500, 32, CE(axis=1), args.shift)
    with torch.no_grad():
        taught = torch.cat([teacher(x) for x in few.inputs.split(100)])

    def student(objective: Any, seed: int) -> nn.Module:
        torch.manual_seed(args.shift + seed)
        return fit(Painter(6), few, STEPS, 16, objective, args.shift + seed, taught)

    def norm(term: Any) -> float:
        found = 0.0
        for seed in range(3):
            torch.manual_seed(args.shift + seed)
            net, part = Painter(6), next(iter(few.batches(64, seed=args.shift + seed)))
            loss, _ = term(net(part["inputs"]), taught[part["index"]], part)
            grads = torch.autograd.grad(loss, list(net.parameters()))
            found += float(sum(g.square().sum() for g in grads)) ** 0.5 / 3
        return found

    write(kind="teacher", runs=[miou(teacher, exam)])
    plain = norm(CE(axis=1))
    write(kind="labels", runs=[miou(student(1.0 * CE(axis=1), s), exam) for s in range(SEEDS)])
    for kind, make in KINDS.items():
        tried = {}
        for T in TEMPERATURES:
            weight = plain / norm(make(T))
            for ratio in RATIOS:
                objective = CE(axis=1) + ratio * weight * make(T)
                tried[T, ratio] = miou(student(objective, 1000), held)
        T, ratio = max(tried, key=lambda key: tried[key])
        weight = ratio * plain / norm(make(T))
        objective = CE(axis=1) + weight * make(T)
        found = [miou(student(objective, s), exam) for s in range(SEEDS)]
        trials = [[*key, round(value, 2)] for key, value in tried.items()]
        write(kind=kind, temperature=T, ratio=ratio, weight=weight, tried=trials, runs=found)


if __name__ == "__main__":
    main()
