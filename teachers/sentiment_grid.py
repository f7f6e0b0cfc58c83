"""Train readers of film reviews with 1,000 labels and with a teacher of them; answers to the zoo.

    python teachers/sentiment_grid.py           # what is not there yet, 15 min of one core
    python teachers/sentiment_grid.py copies    # one part anew

The runs of the chapter on sentiment that take too long for its page. ``<student>.<arm>`` of
``sentiment_grid.safetensors`` is ``[seeds, 2500]``: the probability of *positive* for each test
text, in 256 steps. Arms: ``labels`` (1,000 texts), ``hard`` (the teacher's class for all film
texts) and ``soft`` (its probabilities). Each arm of a student has the same number of steps, two
rates to choose from, and three moments at which its weights may be kept; the validation set
chooses. Plain PyTorch.
"""

from __future__ import annotations

import argparse
import copy
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
BATCH, READ = 32, (0.25, 0.5, 1.0)
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


def answers(name: str, texts: TextDataset) -> Tensor:
    """[N] the teacher's probability of *positive*."""
    cache = Cache.build(ZOO / f"{name}.cache", Teacher(zoo.load_teacher(name)),
                        EVERY.by_length(), dtype=torch.float16)  # fmt: skip
    return cache({"index": texts.index})["logits"].float().softmax(-1)[:, 1]


def lessons(arm: str) -> tuple[TextDataset, Tensor]:
    """Texts and the probability of *positive* that is learned; ``all …`` are those of all labels."""
    kind = arm.removeprefix("all ")
    name = "movie_minilm" if kind != arm else "movie_minilm_1k"
    if kind == "labels":
        texts = TRAIN if kind != arm else FEW
        return texts, texts.labels.float()
    p = answers(name, FILMS)
    return FILMS, p if kind == "soft" else (p > 0.5).float()


@torch.inference_mode()
def says(net: nn.Module, texts: TextDataset) -> Tensor:
    """[N] probabilities of *positive*, in the order of the texts."""
    net.eval()
    order = texts.tokens.lengths().argsort(stable=True)
    found = torch.empty(len(texts))
    for at in order.split(250):
        z = net(*texts.tokens.padded(at))
        found[at] = getattr(z, "logits", z).softmax(-1)[:, 1]
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
        adam.param_groups[0]["lr"] = rate * min(1, 10 * done + 0.1) * (1 + math.cos(math.pi * done)) / 2
        i = torch.randint(len(texts), (BATCH,), generator=draws)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            z = net.train()(*texts.tokens.padded(i))
        loss = F.cross_entropy(getattr(z, "logits", z).float(), both[i])
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()
        if (step + 1) / steps in READ:
            found = right(says(net, HELD), HELD)
            if found > best[0]:
                best, kept = (found, (step + 1) / steps), copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
    return *best, says(net, TEST)


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


def line(features: Callable[[TextDataset], Any], texts: TextDataset, p: Tensor) -> Any:
    """Logistic regression, its regularization chosen on the validation set."""
    x, best = features(texts), (-1.0, None)
    stack = vstack if hasattr(x, "tocsr") else np.concatenate
    for C in (0.1, 1, 10, 30):
        model = LogisticRegression(C=C, max_iter=2_000)
        model.fit(stack([x, x]), np.r_[np.ones(len(p)), np.zeros(len(p))],
                  sample_weight=np.r_[p, 1 - p])  # fmt: skip
        found = model.score(features(HELD), HELD.labels)
        best = max(best, (found, model), key=lambda b: b[0])
    p = torch.tensor(best[1].predict_proba(features(TEST))[:, 1]).float()
    return {"validation": round(best[0], 4), "C": best[1].C}, p[None]


def lines(write: Callable[..., None]) -> None:
    """Baselines that train a line, under words, under the frozen body, under a static table."""
    for arm in ("labels", "hard", "soft", "all labels"):
        texts, p = lessons(arm)
        count = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts.texts)
        write(f"counting.{arm}", *line(lambda t, c=count: c.transform(t.texts), texts, p))
    for name, body in (("static", minilm().eval().bert), ("tuned", TEACHER.bert)):
        rows = static(body)
        mean = rows[PIECES].mean(0)
        where = torch.linalg.svd(rows[PIECES] - mean, full_matrices=False).Vh[:256].T
        table = rows @ where
        scale = summed(table, FILMS).std(0).mean()
        for arm in ("labels", "hard", "soft"):
            made = line(lambda t, m=table, s=scale: (summed(m, t) / s).numpy(), *lessons(arm))
            write(f"{name}.{arm}", *made)
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
        if isinstance(rates, dict):
            rate = rates[arm]
        else:
            tried = {r: trained(make, arm, r, steps, 100, fast)[0] for r in rates}
            rate = max(tried, key=lambda r: tried[r])
        runs = [trained(make, arm, rate, steps, seed, fast) for seed in range(seeds)]
        about = {"rate": rate, "steps": steps, "read": [r[1] for r in runs],
                 "validation": [round(r[0], 4) for r in runs]}  # fmt: skip
        write(f"{name}.{arm}", about, torch.stack([r[2] for r in runs]))
        chosen[arm] = rate
    return chosen


def small(words: Tensor, kind: str) -> nn.Module:
    """A bag, a BiLSTM or a BERT of one layer, begun with the best picture of a table."""
    if kind == "bert":
        net: Any = zoo.small_bert(PIECES, layers=1, hidden=64, heads=2)
        net.get_input_embeddings().embedding.weight.data[2:] = words
        return net
    net = zoo.BagOfEmbeddings(PIECES, 48) if kind == "bag" else zoo.BiLSTM(PIECES, 48, 48)
    net.words.embedding.weight.data[2:] = words
    return net


def copied(layers: int) -> nn.Module:
    """Some of the teacher's own layers, with its table of words fixed."""
    net = initialize(zoo.small_bert(PIECES, layers=layers, **SIZES), TEACHER)
    net.bert.embeddings.requires_grad_(False)
    return net


ARMS = ("labels", "hard", "soft")


def begun(table: Tensor, width: int) -> Tensor:
    """[V, width] the table's rows on their first principal directions."""
    return zoo.Words(PIECES, width).start_from(table).embedding.weight.detach()[2:].clone()


def bags(write: Callable[..., None]) -> None:
    plain = TEACHER.bert.embeddings.word_embeddings.weight.detach()
    for name, table in {"bag": plain, "tuned bag": 5 * static(TEACHER.bert)}.items():
        words = begun(table, 48)
        run(write, name, lambda w=words: small(w, "bag"), ARMS, (3e-3, 1e-2), steps=360, seeds=5)


def copies(write: Callable[..., None]) -> None:
    rates: Any = (1e-4, 4e-4)
    for layers in (1, 2, 3):
        rates = run(write, f"copy {layers}", lambda n=layers: copied(n), ARMS, rates, steps=120,
                    seeds=3, fast=True)  # fmt: skip


def readers(write: Callable[..., None]) -> None:
    plain = TEACHER.bert.embeddings.word_embeddings.weight.detach()
    for kind, width in (("bilstm", 48), ("bert", 64)):
        words = begun(plain, width)
        run(write, kind, lambda k=kind, w=words: small(w, k), ARMS, (1e-3, 4e-3), steps=360,
            seeds=5)  # fmt: skip


def rich(write: Callable[..., None]) -> None:
    """The copy of two layers where all labels are there."""
    run(write, "copy 2", lambda: copied(2), ("all labels", "all soft"), (1e-4, 4e-4), steps=120,
        seeds=3, fast=True)  # fmt: skip


PARTS = {"lines": lines, "bags": bags, "copies": copies, "rich": rich, "readers": readers}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    tensors: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    if FILE.exists():
        tensors = load_file(FILE)
        with safe_open(FILE, "pt") as file:
            notes = file.metadata()
    for part in args.parts or PARTS:
        if part in notes and not args.parts:
            continue
        began = time.process_time()

        def write(name: str, about: dict[str, Any], p: Tensor) -> None:
            tensors[name] = (256 * p).clamp(0, 255).to(torch.uint8)
            notes[name] = json.dumps(about)
            score = [round(100 * right(row, TEST), 1) for row in p]
            print(name, about, score, f"{time.process_time() - began:.0f} s", flush=True)
            save_file(tensors, FILE, notes)

        PARTS[part](write)
        notes[part] = json.dumps(
            {"torch": torch.__version__, "cpu_seconds": round(time.process_time() - began)}
        )
        save_file(tensors, FILE, notes)


if __name__ == "__main__":
    main()
