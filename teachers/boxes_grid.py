"""Train small detectors on scenes, by true boxes and by a teacher's; results to the zoo.

    python teachers/boxes_grid.py           # the grid
    python teachers/boxes_grid.py --models  # again the teacher and two students of it, to be shown

The grid of the chapter on hints and attention, for boxes: a teacher that saw 4,000 scenes, and
students a seventh of its size that see 300 of other garments. A detector answers in 8 x 8 cells:
a class, background included, and the distances from the middle of the cell to the four sides of its
box. The students of true labels get four trials on other scenes (two rates, two weights of the
boxes), and each kind of distillation, which keeps what these chose, four of its own; the best is
run with other seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cards import ZOO, Rows, parameters
from safetensors.torch import save_file
from scenes import Body, conv, splits
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill_lib import CE, KD, cosine, data, distill
from distill_lib.terms import Label

FILE = ZOO / "boxes_grid.jsonl"
SEEDS, STEPS, GRID = 8, 400, 8
MIDDLES = torch.cartesian_prod(*[4 * torch.arange(GRID) + 2.0] * 2).flip(-1)  # [64, 2], x and y


class Detector(Body):
    """[B, 1, 32, 32] to logits [B, 11, 8, 8] and distances [B, 4, 8, 8] in units of 8 pixels."""

    def __init__(self, w: int) -> None:
        super().__init__(w)
        self.mix, self.head = conv(2 * w, 2 * w), nn.Conv2d(2 * w, 15, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        answer = self.head(self.mix(self.seen(x)[1]))
        return {"logits": answer[:, :11], "boxes": F.softplus(answer[:, 11:])}


def targets(scenes: data.Scenes) -> tuple[Tensor, Tensor]:
    """Class of each cell, [N, 8, 8]; distances to the sides, nan in the background, [N, 4, 8, 8].

    A cell belongs to the box that has its middle, of several to the one in front.
    """
    n = len(scenes.inputs)
    kinds = torch.zeros(n, GRID * GRID, dtype=torch.int64)
    sides = torch.full((n, GRID * GRID, 4), torch.nan)
    for box, kind in zip(scenes.boxes.unbind(1), scenes.kinds.unbind(1), strict=True):
        corner, end = box[:, None, :2], box[:, None, 2:]
        inside = ((corner <= MIDDLES) & (end > MIDDLES)).all(-1)
        kinds[inside] = kind[:, None].expand_as(kinds)[inside]
        sides[inside] = torch.cat([MIDDLES - corner, end - MIDDLES], -1)[inside] / 8
    return kinds.view(n, GRID, GRID), sides.mT.reshape(n, 4, GRID, GRID)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4]."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp_min(0).prod(-1)
    size = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b)]
    return both / (size[0] + size[1] - both)


def found(answer: dict[str, Tensor], least: float = 0.05) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, classes and scores of each scene; of boxes that overlap by half, the surest stays."""
    scores, kinds = answer["logits"].softmax(1)[:, 1:].flatten(2).max(1)
    sides = 8 * answer["boxes"].flatten(2).mT
    boxes = torch.cat([MIDDLES - sides[..., :2], MIDDLES + sides[..., 2:]], -1)
    result = []
    for box, kind, score in zip(boxes, kinds, scores, strict=True):
        order = [i for i in score.argsort(descending=True).tolist() if score[i] > least]
        keep: list[int] = []
        for i in order:
            if not keep or overlap(box[i], box[keep]).max() < 0.5:
                keep.append(i)
        result.append((box[keep], 1 + kind[keep], score[keep]))
    return result


@torch.no_grad()
def precision(net: nn.Module, scenes: data.Scenes) -> float:
    """Average precision in percent at an overlap of one half, mean over the classes."""
    answers = [net(x) for x in scenes.inputs.split(250)]
    scene = [one for answer in answers for one in found(answer)]
    areas = []
    for c in range(1, 11):
        hits: list[tuple[float, bool]] = []
        total = 0
        for (box, kind, score), truth, kinds in zip(scene, scenes.boxes, scenes.kinds, strict=True):
            true = truth[kinds == c].float()
            total += len(true)
            free = torch.ones(len(true), dtype=torch.bool)
            for b, s in zip(box[kind == c], score[kind == c].tolist(), strict=True):
                match = overlap(b, true) * free if len(true) else torch.zeros(1)
                hit = bool(match.max() >= 0.5)
                if hit:
                    free[match.argmax()] = False
                hits.append((s, hit))
        hits.sort(reverse=True)
        right = torch.tensor([float(hit) for _, hit in hits] or [0.0]).cumsum(0)
        exact = right / torch.arange(1, len(right) + 1)
        best = exact.flip(0).cummax(0).values.flip(0)  # precision at this recall or a higher one
        steps = torch.diff(right, prepend=torch.zeros(1)) / max(total, 1)
        areas.append(float((best * steps).sum()))
    return 100 * sum(areas) / len(areas)


def objective(boxes: float, classes: tuple[float, float] | None = None, by: str = "",
              of: float = 0.0) -> Any:  # fmt: skip
    """True cells and boxes; classes of the teacher (weight, temperature); boxes of the teacher."""
    loss = CE(axis=1) + boxes * Label(F.smooth_l1_loss, on="boxes", labels="boxes",
                                      ignore_index=torch.nan)  # fmt: skip
    if classes is not None:
        loss = loss + classes[0] * KD(axis=1, temperature=classes[1])
    if by:
        loss = loss + of * Label(F.smooth_l1_loss, on="boxes", labels=by, ignore_index=torch.nan)
    return loss


def keep(teacher: nn.Module, student: Any, exam: data.Scenes) -> None:
    """The teacher and two students of the grid, in half precision, as they were there."""
    rows = {row["kind"]: row for row in map(json.loads, FILE.read_text("utf-8").splitlines())}
    nets = {"teacher": teacher} | {k: student(0, **rows[k]["how"]) for k in ("labels", "both")}
    for kind, net in nets.items():
        assert abs(precision(net, exam) - rows[kind]["runs"][0]) < 1e-6, kind
    tensors = {f"{kind}.{name}": t.half() if t.is_floating_point() else t
               for kind, net in nets.items() for name, t in net.state_dict().items()}  # fmt: skip
    save_file(tensors, FILE.with_suffix(".safetensors"))


def main() -> None:
    """Train the teacher, tune, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shift", type=int, default=0, help="of all seeds")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--models", action="store_true", help="keep models of the grid")
    args = parser.parse_args()
    torch.set_num_threads(1)

    many, few, held, exam = splits(500)

    def rows(scenes: data.Scenes, **more: Tensor) -> list[dict[str, Tensor]]:
        kinds, sides = targets(scenes)
        parts = {"inputs": scenes.inputs, "labels": kinds, "boxes": sides, **more}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(kinds))]

    def fit(net: nn.Module, seen: list[dict[str, Tensor]], loss: Any, batch: int, seed: int,
            rate: float, teacher: Any = None, steps: int = STEPS) -> nn.Module:  # fmt: skip
        draws = torch.Generator().manual_seed(args.shift + seed)
        batches: Any = DataLoader(seen, batch, shuffle=True, drop_last=True, generator=draws)  # type: ignore[arg-type]
        distill(net, teacher, batches, loss, steps=steps, lr=cosine(rate, 0))
        return net.eval()

    torch.manual_seed(args.shift)
    teacher = fit(Detector(16), rows(many), objective(1.0), 32, 0, 1e-2, steps=600)
    with torch.no_grad():
        told = teacher(few.inputs)
    sure = 1 - told["logits"].softmax(1)[:, :1]
    seen = rows(few, everywhere=told["boxes"], number=torch.arange(len(few.inputs)),
                where=told["boxes"].masked_fill(sure < 0.5, torch.nan))  # fmt: skip
    stored = lambda batch: {k: v[batch["number"]] for k, v in told.items()}  # noqa: E731

    def student(seed: int, rate: float, **how: Any) -> nn.Module:
        torch.manual_seed(args.shift + seed)
        source = stored if how.get("classes") else None
        return fit(Detector(6), seen, objective(**how), 16, seed, rate, source)

    if args.models:
        return keep(teacher, student, exam)
    write = Rows(args.out)
    write(kind="teacher", parameters=[parameters(teacher), parameters(Detector(6))],
          runs=[precision(teacher, exam)])  # fmt: skip

    def best(kind: str, *trials: dict[str, Any]) -> dict[str, Any]:
        tried = [precision(student(1_000, **how), held) for how in trials]
        how = trials[max(range(len(trials)), key=tried.__getitem__)]
        runs = [precision(student(seed, **how), exam) for seed in range(SEEDS)]
        write(kind=kind, how=how, tried=[round(t, 2) for t in tried], runs=runs)
        return how

    own = best("labels", *({"rate": r, "boxes": b} for r in (5e-3, 1e-2) for b in (1.0, 4.0)))
    classes = best("classes", *({**own, "classes": (w, T)} for T in (1.0, 4.0) for w in (1.0, 3.0)))
    for by in ("where", "everywhere"):
        boxes = best(by, *({**own, "by": by, "of": w} for w in (0.5, 1.0, 2.0, 4.0)))
        if by == "where":
            both = {**classes, "by": by}
            trials = [{**both, "of": w, "classes": (v * classes["classes"][0], T)}
                      for T in (classes["classes"][1],)
                      for v in (0.5, 1.0) for w in (0.5 * boxes["of"], boxes["of"])]  # fmt: skip
            best("both", *trials)


if __name__ == "__main__":
    main()
