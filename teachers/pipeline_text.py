"""Shrink the sentiment teacher of the zoo to a file of about two megabytes, in five steps.

    python teachers/pipeline_text.py              # seed 0
    python teachers/pipeline_text.py --seeds 0 1

Word pieces that the reviews hardly use borrow the vector of their nearest neighbor; heads and
hidden units go, those that the loss misses least; what is left is taught by the teacher's answers
and hidden states; the smallest weights go while teaching goes on; the rest share a few values a
layer, which are taught too. Choices were made on the validation set, and the test set is asked at
the end alone. Each step writes a file into the work folder, and a killed run goes on from the last;
the packed file goes to the zoo of the library, with a line of figures a step in pipeline.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib import (
    KD,
    Match,
    Recorded,
    compress,
    cosine,
    data,
    distill,
    initialize,
    steps,
    zoo,
)
from distill_lib.compress.plans import plan_of
from distill_lib.data import TextDataset

ZOO = Path(zoo.__file__).parent
NAME = "movie_minilm"
SIZES = {"layers": 6, "hidden": 384, "heads": 12, "max_length": 64}
WORDS = "bert.embeddings.word_embeddings.embedding"
BITS = {("bert.encoder", "bert.pooler"): 4, (WORDS, "bert.embeddings.position_embeddings"): 3}
SHARED = [layer for layers in BITS for layer in layers]
STEPS = {"trimmed": 0, "narrowed": 0, "distilled": 232, "pruned": 300, "shared": 120}
RATES = {"distilled": 5e-4, "pruned": 5e-4, "shared": 2e-4}
HEADS, UNITS, SPARSITY, T = 0.5, 0.75, 0.5, 2.0
WARM = steps({0: 0.2, 0.03: 0.6, 0.06: 1})
INSIDE = [f"hidden_states/{layer}" for layer in (2, 4, 6)]


class Pipeline:
    """The steps for one seed; ``files`` are what each of them leaves behind."""

    def __init__(self, seed: int, work: Path, share: float) -> None:
        self.seed, self.work, self.scale = seed, work, share
        self.teacher = zoo.load_teacher(NAME)
        self.net: nn.Module = self.teacher
        tokenizer = zoo.minilm_tokenizer()
        train, unsure, self.judge, self.exam = (
            data.load("movie_reviews", split).tokenize(tokenizer)
            for split in ("train", "ambiguous", "validation", "test")
        )
        self.lessons = train + unsure
        self.figures: list[dict[str, Any]] = []

    def steps(self, step: str) -> int:
        return max(int(self.scale * STEPS[step]), 10)

    def trimmed(self) -> None:
        """The teacher over the pieces that occur twice; others are read as their neighbors."""
        table = self.teacher.get_input_embeddings().weight.detach()  # type: ignore[operator]
        counts = torch.bincount(self.lessons.tokens.ids.long(), minlength=len(table))
        kept = (counts >= 2).nonzero()[:, 0]
        net = initialize(zoo.small_bert(kept, **SIZES, dropout=0.0), self.teacher)
        words = net.get_input_embeddings()  # type: ignore[operator]
        rows = F.normalize(table, dim=1)
        near = torch.cat([(part @ rows[kept].T).argmax(1) for part in rows.split(1000)])
        near[0] = -2  # row 0 is padding's, row 1 that of pieces without a neighbor
        words.lookup = (near + 2).int()
        self.net = net

    def narrowed(self) -> None:
        """Without the heads and hidden units that the loss misses least."""

        def loss(model: nn.Module, batch: Any) -> Tensor:
            logits = model(batch["input_ids"], batch["attention_mask"]).logits
            return F.cross_entropy(logits, batch["labels"])

        draw = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.lessons), generator=draw)
        some = self.lessons.subset(order[self.lessons.labels[order] >= 0]).per_class(160)
        worth = compress.unit_scores(self.net, some.by_length().batches(32, shuffle=False), loss)
        compress.prune_transformer(self.net, heads=HEADS, ffn=UNITS, scores=worth)

    def distilled(self) -> None:
        self.teach("distilled")

    def pruned(self) -> None:
        """Teaching goes on while the smallest weights of each layer go."""
        choose = partial(compress.magnitude, scope="layer", layers=SHARED)
        gradual = compress.gradual(0.0, SPARSITY, until=0.5)
        total = self.steps("pruned")
        with compress.Pruned(self.net, gradual, steps=total, every=30, choose=choose):
            self.teach("pruned")

    def shared(self) -> None:
        for layers, bits in BITS.items():
            compress.share(self.net, bits, layers)
        self.teach("shared")
        compress.bake(self.net).half().float()

    def teach(self, step: str) -> None:
        """Go on learning from the teacher's answers and states."""
        goal: Any = 1.0 * KD(temperature=T)
        for path in INSIDE:
            goal = goal + 1.0 * Match(path)
        distill(
            self.net,
            self.recorded,
            self.lessons.batches(32, seed=1_000 * self.seed + list(RATES).index(step)),
            goal,
            steps=self.steps(step),
            lr=WARM * cosine(RATES[step], 0.1 * RATES[step]),
            clip_norm=1.0,
            optimizer=partial(torch.optim.AdamW, fused=True),
            # pruning and sharing go on from their beginning: their masks and codes are not in it
            checkpoint=self.work / f"{step}{self.seed}.training" if step == "distilled" else None,
            save_every=50,
        )

    @cached_property
    def recorded(self) -> Recorded:
        """What the teacher says of the reviews, outside and inside; asked once."""
        walk = self.lessons.by_length().batches(64, shuffle=False)
        return Recorded(self.teacher, walk, ["logits", *INSIDE])

    def run(self, step: str, work: Callable[[], None]) -> None:
        """One step: done, or read where it is done; and its figures."""
        begun, file = time.process_time(), self.file(step)
        if file.is_file():
            self.net = self.left(step)
            self.figures.append(json.loads(file.with_suffix(".json").read_text("utf-8")))
            return
        work()
        pack(self.net, file)
        found = {
            "leg": "text",
            "seed": self.seed,
            "step": step,
            "bytes": file.stat().st_size,
            "raw": compress.file_bytes(self.net),
            "weights": sum(p.numel() for p in self.net.parameters()),
            "macs": compress.macs(self.net, example()),
            "held_out": accuracy(self.net, self.judge),
            "seconds": round(time.process_time() - begun),
        }
        file.with_suffix(".json").write_text(json.dumps(found), "utf-8")
        self.figures.append(found)
        print(found, flush=True)

    def file(self, step: str) -> Path:
        return self.work / f"{step}{self.seed}.packed"

    def left(self, step: str) -> nn.Module:
        """The network as a step has left it."""
        return compress.load_packed(fresh(), self.file(step))


def fresh() -> nn.Module:
    """The network that a file's plan makes narrower: MiniLM's sizes, texts of 64 pieces."""
    return zoo.small_bert(torch.arange(30_522), **SIZES, dropout=0.0)


def pack(net: nn.Module, file: Path) -> int:
    """Write a network with its plan, in the narrowest kinds of numbers that hold it."""
    small = compress.bake(copy.deepcopy(net))
    if "shared" in file.name:  # what is not shared, and the codebooks, fit half precision
        small.half()
    words = small.get_input_embeddings()  # type: ignore[operator]
    words.lookup = words.lookup.to(torch.int16)
    return compress.save_packed(small, file, plan_of(fresh(), small))


def example() -> dict[str, Tensor]:
    """A text of the usual length."""
    ids = torch.full((1, 27), 2023)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.inference_mode()
def accuracy(net: nn.Module, split: TextDataset) -> float:
    net.eval()
    right = 0
    for batch in split.by_length().batches(100, shuffle=False):
        logits = net(batch["input_ids"], batch["attention_mask"]).logits
        right += int((logits.argmax(1) == batch["labels"]).sum())
    return right / len(split)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, to try the script")
    parser.add_argument("--work", type=Path, default=Path("runs/pipeline_text"))
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
    """The packed file, read back, and the figures of all steps on the test texts."""
    file = out / f"movie_small{line.seed}.packed"
    file.write_bytes(line.file("shared").read_bytes())
    for found in line.figures:
        found["test"] = accuracy(line.left(found["step"]), line.exam)
        found["versions"] = f"torch {version('torch')}"
        print(found)
    with (out / "pipeline.jsonl").open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(found) + "\n" for found in line.figures)


if __name__ == "__main__":
    main()
