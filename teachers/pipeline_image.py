"""Shrink the residual network of the zoo to a file of some thirty kilobytes, in four steps.

    python teachers/pipeline_image.py              # three seeds, about six minutes each
    python teachers/pipeline_image.py --seeds 0    # one of them

Half the channels go, the rest is taught by the network's dense self; weights go by magnitude while
teaching goes on; batch normalization is folded; the weights share sixteen values a layer, which are
taught too. Of the 60,000 training images the last 5,000 are left for choices. Each step writes a
file into the work folder, and a killed run goes on from the last; the packed file goes to the zoo
of the library, with a line of figures in pipeline.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from distill_lib import KD, Cache, Teacher, compress, cosine, data, distill, evaluate, zoo
from distill_lib.fusion.batchnorm import fold_batchnorm, refresh_batchnorm

ZOO = Path(zoo.__file__).parent
NAME, HELD_OUT = "fashion_resnet20", 5_000
STEPS = {"distilled": 1_600, "pruned": 500, "shared": 400}
RATES = {"distilled": 5e-3, "pruned": 2e-3, "shared": 5e-4}
CHANNELS, SPARSITY, BITS, T = 0.5, 0.4, 4, 2.0


class Pipeline:
    """The steps for one seed; ``files`` are what each of them leaves behind."""

    def __init__(self, seed: int, work: Path, share: float) -> None:
        self.seed, self.work, self.scale = seed, work, share
        self.net = zoo.load_teacher(NAME)
        train = data.load("fashion_mnist", split="train")
        order = torch.arange(len(train))
        self.lessons, self.judge = train.subset(order[:-HELD_OUT]), train.subset(order[-HELD_OUT:])
        self.exam = data.load("fashion_mnist", split="test")
        teacher = Teacher(zoo.load_teacher(NAME))
        self.cache = Cache.build(ZOO / f"{NAME}.cache", teacher, train, dtype=torch.float16)
        self.figures: list[dict[str, Any]] = []

    def steps(self, step: str) -> int:
        return max(int(self.scale * STEPS[step]), 10)

    def teach(self, step: str) -> None:
        """Go on learning from the stored answers."""
        walk = sum(map(ord, step))
        batches = self.lessons.batches(64, seed=1_000 * self.seed + walk)
        distill(
            self.net,
            self.cache,
            batches,
            KD(temperature=T),
            steps=self.steps(step),
            lr=cosine(RATES[step], 0),
            checkpoint=self.work / f"{step}{self.seed}.training",
            save_every=200,
        )

    def distilled(self) -> None:
        self.cut()
        self.teach("distilled")

    def cut(self) -> None:
        torch.manual_seed(self.seed)
        compress.prune_channels(self.net, torch.zeros(1, 1, 28, 28), CHANNELS)
        few = self.lessons.subset(torch.randperm(len(self.lessons))[:512])
        refresh_batchnorm(self.net, few.batches(128))

    def pruned(self) -> None:
        schedule = compress.gradual(0.0, SPARSITY, until=0.5)
        with compress.Pruned(self.net, schedule, steps=self.steps("pruned")):
            self.teach("pruned")

    def shared(self) -> None:
        self.net = fold_batchnorm(self.net)
        compress.share(self.net, bits=BITS)
        self.teach("shared")
        compress.bake(self.net)

    def file(self, step: str) -> Path:
        return self.work / f"{step}{self.seed}.safetensors"

    def left(self, step: str) -> nn.Module:
        """The network as a step has left it."""
        net = shape(step)
        net.load_state_dict(load_file(self.file(step)))
        return net

    def run(self, step: str, work: Callable[[], None]) -> None:
        """One step: done, or read where it is done; and its figures."""
        file, begun = self.file(step), time.process_time()
        if file.is_file():
            self.net = self.left(step)
            self.figures.append(json.loads(file.with_suffix(".json").read_text()))
            return
        channels_last(self.net)
        work()
        found = {
            "leg": "image",
            "seed": self.seed,
            "step": step,
            "bytes": compress.save_packed(self.net, self.work / f"{step}{self.seed}.packed"),
            "raw": compress.file_bytes(self.net),
            "held_out": round(accuracy(self.net, self.judge), 4),
            "seconds": round(time.process_time() - begun),
        }
        self.figures.append(found)
        file.with_suffix(".json").write_text(json.dumps(found))
        save_file({k: v.contiguous() for k, v in self.net.state_dict().items()}, file)
        print(found, flush=True)


def shape(step: str) -> nn.Module:
    """The network that the file of a step fits."""
    net = zoo.ResNet(width=8)
    return fold_batchnorm(net) if step == "shared" else net


def channels_last(net: nn.Module) -> None:
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def accuracy(net: nn.Module, images: Any) -> float:
    view = copy.deepcopy(net)
    channels_last(view)
    return float(evaluate(view, images.batches(250, shuffle=False))["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, to try the script")
    parser.add_argument("--work", type=Path, default=Path("runs/pipeline_image"))
    parser.add_argument("--out", type=Path, default=ZOO)
    parser.add_argument("--until", default="shared", choices=list(STEPS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        line = Pipeline(seed, args.work, args.share)
        for step in STEPS:
            line.run(step, getattr(line, step))
            if step == args.until:
                break
        if args.until == "shared":
            ship(line, args.out)


def ship(line: Pipeline, out: Path) -> None:
    """The packed file, read back, and the figures of all steps on the test images."""
    file = out / f"fashion_small{line.seed}.packed"
    line.figures[-1]["bytes"] = compress.save_packed(line.net, file)
    for found in line.figures:
        found["test"] = accuracy(line.left(found["step"]), line.exam)
    again = compress.load_packed(shape("shared"), file)
    assert accuracy(again, line.exam) == line.figures[-1]["test"]
    with (out / "pipeline.jsonl").open("a", encoding="utf-8") as lines:
        for found in line.figures:
            lines.write(json.dumps(found | {"versions": f"torch {version('torch')}"}) + "\n")
            print(found)


if __name__ == "__main__":
    main()
