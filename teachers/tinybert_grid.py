"""Teach small BERTs by layers, by answers and by labels, equally long; accuracies to the zoo.

    python teachers/tinybert_grid.py

The grid of the chapter on TinyBERT: students of two layers of width 48, a teacher of six layers of
width 384, film reviews, STEPS updates each. The rate of each way is chosen among RATES on the
validation set, with a seed of its own. Two stages have 60 % of the steps for the inside and 40 %
for the answers, each with a warm-up. The copied layers have the teacher's width,
one rate, and a quarter of the steps; so have the narrow students of `answers, a quarter`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from cards import ZOO, write_table
from torch import nn

from distill_lib import (
    CE,
    KD,
    Cache,
    Match,
    Objective,
    Recorded,
    Term,
    cosine,
    data,
    distill,
    evaluate,
    fit_projectors,
    initialize,
    losses,
    steps,
    tinybert,
    zoo,
)

FILE = ZOO / "tinybert_grid.jsonl"
STEPS, BATCH, RATES, TRIAL, SEEDS, WIDE_SEEDS = 600, 24, (2e-3, 5e-3), 99, range(5), range(3)
WIDE_RATES = (2e-4,)
VALUES = "bert.encoder.layer.{}.attention.self.value"
READ = ["logits", *(f"hidden_states/{n}" for n in (0, 3, 6)), "attentions/2", "attentions/5",
        VALUES.format(5)]  # fmt: skip
PARTS = {"embedding": 3.0, "hidden": 3.0, "attention": 0.02, "prediction": 1.0}
adamw = partial(torch.optim.AdamW, fused=True)
Goal = Objective | Term


class Bench:
    """The texts, the teacher, what it computes for them, and students of one seed."""

    def __init__(self, most: int | None = None) -> None:
        tokenizer = zoo.minilm_tokenizer()
        train, self.held, self.test = (
            data.load("movie_reviews", split).tokenize(tokenizer, 32)
            for split in ("train", "validation", "test")
        )
        self.labeled = train.per_class(500)
        rest = train.subset(~torch.isin(train.index, self.labeled.index)).without_labels()
        self.texts = self.labeled + (rest if most is None else rest.subset(range(most)))
        self.teacher = zoo.load_teacher("movie_minilm_1k")
        self.answers = Cache(ZOO / "movie_minilm_1k.cache")
        by_rule = [
            self.answers(batch)["logits"].argmax(-1)
            for batch in self.texts.batches(500, shuffle=False)
        ]
        self.pseudo = replace(self.texts, labels=torch.cat(by_rule))
        self.some = next(iter(self.texts.batches(200, seed=9)))
        self.pieces = train.tokens.ids.unique()
        torch.manual_seed(0)  # of the row for unknown pieces
        self.words = self.teacher.bert.embeddings.word_embeddings.weight
        self.table = zoo.Words(self.pieces, 48).start_from(self.words).state_dict()

    @cached_property
    def inside(self) -> Recorded:
        """The teacher's states and maps; asked once."""
        return Recorded(self.teacher, self.texts.by_length().batches(50, shuffle=False), READ)

    def small(self, seed: int, table: bool = True, heads: int = 12) -> nn.Module:
        torch.manual_seed(seed)
        net = zoo.small_bert(
            self.pieces, layers=2, hidden=48, heads=heads, dropout=0.0, initializer_range=0.06
        )
        if table:
            net.get_input_embeddings().load_state_dict(self.table)
        return net

    def wide(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = zoo.small_bert(self.pieces, layers=2, hidden=384, heads=12, dropout=0.0)
        return initialize(net, self.teacher)

    def parts(self, net: nn.Module, **without: float) -> Goal:
        return tinybert(net, self.teacher, **{**PARTS, **without})

    def teach(self, net: nn.Module, stages: Any, rate: float, seed: int, fit: bool) -> None:
        """Stages are (texts, objective, share of the steps); each has its warm-up."""
        warm = steps({0: 0.1, 0.05: 0.3, 0.1: 0.6, 0.15: 1})
        for number, (texts, objective, share) in enumerate(stages):
            goal = 1.0 * objective
            reads = {name for name in goal.reads("teacher") if name != "logits"}
            if fit and reads:
                fit_projectors(goal, net, self.inside, self.some)
            teacher = self.inside if reads else self.answers if goal.reads("teacher") else None
            distill(net, teacher, texts.batches(BATCH, seed=seed + 1000 * number), goal,
                    steps=round(share * STEPS), lr=warm * cosine(rate, 0), clip_norm=1.0,
                    optimizer=adamw)  # fmt: skip

    def run(self, way: str, rate: float, seed: int) -> nn.Module:
        fit = way != "random projectors"
        if way in WIDE:
            net = self.wide(seed)
        else:
            net = self.small(seed, way != "random table", 4 if way == "relations" else 12)
        answers: Goal = KD(temperature=1)
        inner = {"prediction": 0.0}
        ways: dict[str, list[tuple[Any, Goal, float]]] = {
            "labels": [(self.labeled, CE(), 1)],
            "pseudo-labels": [(self.pseudo, CE(), 1)],
        }
        if way.startswith("two stages"):
            left = inner | ({"attention": 0.0} if way.endswith("attention") else {})
            left = left | ({"attention": 0.0, "hidden": 0.0} if way.endswith("layers") else {})
            last = (
                (self.labeled, CE(), 0.4) if way.endswith("answers") else (self.texts, answers, 0.4)
            )
            stages: Any = [(self.texts, self.parts(net, **left), 0.6), last]
        elif way in ("everything", "random projectors"):
            stages = [(self.texts, self.parts(net), 1)]
        elif way == "relations":
            match = Match(VALUES.format(1), VALUES.format(5), loss=losses.minilm_relation, heads=12)
            stages = [(self.texts, answers + match, 1)]
        else:
            stages = ways.get(way, [(self.texts, answers, 0.25 if way in (SHORT, *WIDE) else 1)])
        self.teach(net, stages, rate, seed, fit)
        return net

    def accuracy(self, net: nn.Module, texts: Any) -> float:
        return 100 * evaluate(net, texts.by_length().batches(250, shuffle=False))["accuracy"]


WAYS = ["labels", "pseudo-labels", "answers", "random table", "relations", "everything",
        "two stages", "two stages, no attention", "two stages, no layers",
        "two stages, no answers", "random projectors"]  # fmt: skip
WIDE, SHORT = ["copied layers"], "answers, a quarter"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="*", default=[*WAYS, SHORT, *WIDE])
    parser.add_argument("--out", default=str(FILE))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    begun, bench, rows = time.process_time(), Bench(), []
    rows.append({"way": "teacher", "accuracy": [bench.accuracy(bench.teacher, bench.test)],
                 "texts": len(bench.texts), "steps": STEPS, "batch": BATCH})  # fmt: skip
    for way in asked.ways:
        rates = WIDE_RATES if way in WIDE else RATES
        tried = rates if len(rates) > 1 else ()
        held = [bench.accuracy(bench.run(way, rate, TRIAL), bench.held) for rate in tried]
        rate = rates[held.index(max(held))] if held else rates[0]
        found = [
            bench.accuracy(bench.run(way, rate, seed), bench.test)
            for seed in (WIDE_SEEDS if way in WIDE else SEEDS)
        ]
        rows.append({"way": way, "rate": rate, "validation": [round(v, 2) for v in held],
                     "accuracy": [round(v, 2) for v in found]})  # fmt: skip
        print(rows[-1], round(time.process_time() - begun), flush=True)
        write_table(Path(asked.out), rows, begun)


if __name__ == "__main__":
    main()
