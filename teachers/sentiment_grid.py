"""Train readers of film reviews with 1,000 labels and with a teacher of them; answers to the zoo.

    python teachers/sentiment_grid.py           # all that is not there yet, 20 min of one core
    python teachers/sentiment_grid.py tables    # one part

The runs of the chapter on sentiment that take too long for its page. ``<student>.<arm>`` of
``sentiment_grid.safetensors`` is ``[seeds, 2500]``: the probability of *positive* for each test
text, in 256 steps. Arms: ``labels`` (1,000 texts), ``hard`` (the teacher's class for all film
texts) and ``soft`` (its probabilities). Each arm of a student has the same number of steps, two
rates to choose from, and two moments at which its weights may be kept; the validation set
chooses. Plain PyTorch.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cards import ZOO
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.sparse import vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from distill_lib import Cache, Teacher, data, initialize, zoo
from distill_lib.data import TextDataset
from distill_lib.zoo.minilm import minilm

FILE = ZOO / "sentiment_grid.safetensors"
BATCH, READ, TRIAL = 32, (0.5, 1.0), 100
SIZES = dict(hidden=384, heads=12, intermediate=1536)
TOKENIZER = zoo.minilm_tokenizer()


def load(name: str, split: str = "train") -> TextDataset:
    return data.load(name, split).tokenize(TOKENIZER, max_length=64)


TRAIN, HELD, AMBIGUOUS, TEST = (
    load("movie_reviews", split) for split in ("train", "validation", "ambiguous", "test")
)
FEW, FILMS = TRAIN.per_class(500), TRAIN + AMBIGUOUS
EVERY = TRAIN + HELD + AMBIGUOUS
for _name in ("tweets", "amazon_reviews", "editorials"):
    EVERY = EVERY + load(_name)
_ids, _often = EVERY.tokens.ids.unique(return_counts=True)
PIECES, OFTEN = _ids[_often >= 3], _often[_often >= 3]
TEACHER = zoo.load_teacher("movie_minilm_1k")


@functools.cache
def lessons(arm: str) -> tuple[TextDataset, Tensor]:
    """Texts, and the probability of *positive* that is learned."""
    if arm == "labels":
        return FEW, FEW.labels.float()
    cache = Cache.build(ZOO / "movie_minilm_1k.cache", Teacher(TEACHER),
                        EVERY.by_length(), dtype=torch.float16)  # fmt: skip
    p = cache({"index": FILMS.index})["logits"].float().softmax(-1)[:, 1]
    return FILMS, p if arm == "soft" else (p > 0.5).float()


@torch.inference_mode()
def says(net: nn.Module, texts: TextDataset, fast: bool = False) -> Tensor:
    """[N] probabilities of *positive*, in the order of the texts."""
    net.eval()
    order = texts.tokens.lengths().argsort(stable=True)
    found = torch.empty(len(texts))
    for at in order.split(250):
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            z = net(*texts.tokens.padded(at))
        found[at] = getattr(z, "logits", z).float().softmax(-1)[:, 1]
    return found


def right(p: Tensor, texts: TextDataset) -> float:
    return ((p >= 0.5) == texts.labels.bool()).float().mean().item()


def trained(
    make: Callable[[], nn.Module], arm: str, rate: float, steps: int, seed: int, fast: bool
) -> tuple[float, float, Tensor]:
    """Validation accuracy, the share of the steps where it was best, and the answers there."""
    torch.manual_seed(seed)
    net, (texts, p) = make(), lessons(arm)
    both = torch.stack([1 - p, p], 1)
    params = [w for w in net.parameters() if w.requires_grad]
    adam = torch.optim.AdamW(params, rate, weight_decay=0.01, fused=True)
    draws, best, kept = torch.Generator().manual_seed(seed), (-1.0, 0.0), net.state_dict()
    for step in range(steps):
        done = step / steps
        warm = min(1, 10 * done + 0.1)
        adam.param_groups[0]["lr"] = rate * warm * (1 + math.cos(math.pi * done)) / 2
        i = torch.randint(len(texts), (BATCH,), generator=draws)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            z = net.train()(*texts.tokens.padded(i))
        loss = F.cross_entropy(getattr(z, "logits", z).float(), both[i])
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()
        if (step + 1) / steps in READ:
            found = right(says(net, HELD, fast), HELD)
            if found > best[0]:
                best, kept = (found, (step + 1) / steps), copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
    return *best, says(net, TEST, fast) if seed < TRIAL else torch.empty(0)


@torch.no_grad()
def static(body: nn.Module) -> Tensor:
    """[30522, 384] what a transformer makes of each piece alone, rare ones weighted up."""
    table = torch.zeros(30_522, 384)
    for at in PIECES.split(500):
        ids = F.pad(at[:, None], (1, 0), value=101)
        ids = F.pad(ids, (0, 1), value=102)
        table[at] = body(ids).last_hidden_state.mean(1)
    weight = 1e-3 / (1e-3 + OFTEN / OFTEN.sum())
    table[PIECES] = (table[PIECES] - table[PIECES].mean(0)) * weight[:, None]
    return table


@torch.no_grad()
def pooled(body: nn.Module, texts: TextDataset) -> Tensor:
    """[N, 384] the mean of the last states over a text."""
    found, order = torch.empty(len(texts), 384), texts.tokens.lengths().argsort(stable=True)
    for at in order.split(250):
        ids, mask = texts.tokens.padded(at)
        states = body(ids, mask).last_hidden_state
        found[at] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return found


def summed(table: Tensor, texts: TextDataset) -> Tensor:
    """[N, D] the mean of a table's rows over a text."""
    ids, mask = texts.tokens.padded(torch.arange(len(texts)))
    return (table[ids] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def line(
    features: Callable[[TextDataset], Any], texts: TextDataset, p: Tensor,
    strengths: tuple[float, ...] = (0.0003, 0.003, 0.03, 0.3),
) -> Any:  # fmt: skip
    """Logistic regression, its regularization chosen on the validation set."""
    x, best = features(texts), (-1.0, None)
    stack = vstack if hasattr(x, "tocsr") else np.concatenate
    for C in strengths:
        model = LogisticRegression(C=C, max_iter=2_000)
        model.fit(stack([x, x]), np.r_[np.ones(len(p)), np.zeros(len(p))],
                  sample_weight=np.r_[p, 1 - p])  # fmt: skip
        found = model.score(features(HELD), HELD.labels)
        best = max(best, (found, model), key=lambda b: b[0])
    p = torch.tensor(best[1].predict_proba(features(TEST))[:, 1]).float()
    return {"validation": round(best[0], 4), "C": best[1].C}, p[None]


def lines(write: Callable[..., None]) -> None:
    """Counting words, and a line on them."""
    for arm in ARMS:
        texts, p = lessons(arm)
        count = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts.texts)
        write(f"counting.{arm}", *line(lambda t, c=count: c.transform(t.texts), texts, p, WIDE))


def tables(write: Callable[..., None]) -> None:
    """A line on a static table, of the packaged body and of the teacher."""
    for name, body in (("static", minilm().eval().bert), ("tuned", TEACHER.bert)):
        rows = static(body)
        mean = rows[PIECES].mean(0)
        where = torch.linalg.svd(rows[PIECES] - mean, full_matrices=False).Vh[:256].T
        table = rows @ where
        scale = summed(table, FILMS).std(0).mean()
        for arm in ARMS:
            mixed = lambda t, m=table, s=scale: (summed(m, t) / s).numpy()  # noqa: E731
            write(f"{name}.{arm}", *line(mixed, *lessons(arm), WIDE))


def frozen(write: Callable[..., None]) -> None:
    """A line on the mean of the packaged body's last states."""
    body, (texts, p) = minilm().eval().bert, lessons("labels")
    known = {id(t): pooled(body, t) for t in (texts, HELD, TEST)}
    scale = known[id(texts)].std(0).mean()
    write("frozen.labels", *line(lambda t: (known[id(t)] / scale).numpy(), texts, p))


def run(
    write: Callable[..., None], name: str, make: Callable[[], nn.Module], arms: tuple[str, ...],
    rates: dict[str, float] | tuple[float, float], *, steps: int, seeds: int, fast: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Some seeds of each arm, at the better of two rates; which one that was."""
    chosen = {}
    for arm in arms:
        if f"{name}.{arm}" in NOTES:
            chosen[arm] = json.loads(NOTES[f"{name}.{arm}"])["rate"]
            continue
        if isinstance(rates, dict):
            rate = rates[arm]
        else:
            tried = {r: trained(make, arm, r, steps, TRIAL, fast)[0] for r in rates}
            rate = max(tried, key=lambda r: tried[r])
        runs = [trained(make, arm, rate, steps, seed, fast) for seed in range(seeds)]
        about = {"rate": rate, "steps": steps, "read": [r[1] for r in runs],
                 "validation": [round(r[0], 4) for r in runs]}  # fmt: skip
        write(f"{name}.{arm}", about, torch.stack([r[2] for r in runs]))
        chosen[arm] = rate
    return chosen


def copied(layers: int, body: nn.Module = TEACHER) -> nn.Module:
    """Some of a model's own layers, the teacher's by default, with its table of words fixed."""
    net = initialize(zoo.small_bert(PIECES, layers=layers, **SIZES), body)
    net.bert.embeddings.requires_grad_(False)
    return net


NOTES: dict[str, str] = {}  # what is known of each row; a student that stands here is not trained
ARMS = ("labels", "soft", "hard")
WIDE = (0.001, 0.01, 0.1, 1, 10, 30)


def copies(
    write: Callable[..., None], layers: int, name: str = "", steps: int = 60, adapted: bool = True
) -> None:
    """Copies of some layers, at the rates that were found with one.

    Controls: the same layers of the packaged body, which no review has changed, and more steps.
    """
    arms = ARMS if steps > 60 else ("labels", "soft")
    rates: Any = (1e-4, 4e-4)
    if layers > 1:
        found = {arm: json.loads(NOTES[f"copy 1.{arm}"])["rate"] for arm in ("labels", "soft")}
        rates = {**found, "hard": found["soft"]}
    body = TEACHER if adapted else minilm().eval()
    run(write, name or f"copy {layers}", lambda: copied(layers, body), arms, rates, steps=steps,
        seeds=3, fast=True)  # fmt: skip


PARTS: dict[str, Callable[..., None]] = {
    "lines": lines,
    "tables": tables,
    "frozen": frozen,
    **{f"copy {n}": functools.partial(copies, layers=n) for n in (1, 2, 3)},
    "plain 3": functools.partial(copies, layers=3, name="plain 3", adapted=False),
    "long 3": functools.partial(copies, layers=3, name="long 3", steps=240),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    tensors: dict[str, Tensor] = {}
    if FILE.exists():
        tensors = load_file(FILE)
        with safe_open(FILE, "pt") as file:
            NOTES.update(file.metadata())

    def write(name: str, about: dict[str, Any], p: Tensor) -> None:
        tensors[name] = (256 * p).clamp(0, 255).to(torch.uint8)
        NOTES[name] = json.dumps(about)
        score = [round(100 * right(row, TEST), 1) for row in p]
        print(name, about, score, f"{time.process_time():.0f} s", flush=True)
        save_file(tensors, FILE, NOTES)

    for part in args.parts or PARTS:
        PARTS[part](write)
    NOTES["torch"] = torch.__version__
    save_file(tensors, FILE, NOTES)


if __name__ == "__main__":
    main()
