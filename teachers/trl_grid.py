"""Search the settings of the trainers of the chapter on TRL, and of its control; to the zoo.

    python teachers/trl_grid.py

Each way to learn gets six trials on five students, questions and texts that the page does not use:
six rates, or three rates and two weights of what it adds. Labels alone, the student without a
teacher, get as many as each of the others. The page runs the best trial of each with its own.
"""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib import (
    CE,
    KD,
    Adversarial,
    Ensemble,
    Match,
    Objective,
    Stacked,
    Teacher,
    cosine,
    distill,
    zoo,
)
from distill_lib.masks import IGNORE
from distill_lib.objective import Term
from distill_lib.sequences import Walks, sample

FILE = Path(zoo.__file__).parent / "trl_grid.jsonl"
WALKS, S, SEED, COUNT = Walks(5), 5, 1_000, 150
RATES, FEW = (3e-4, 6e-4, 1e-3, 2e-3, 4e-3, 8e-3), (1e-3, 2e-3, 4e-3)
P, STOP = WALKS.prompt, WALKS.stop
QUESTIONS = torch.cartesian_prod(*[torch.arange(5)] * 4, torch.tensor([WALKS.equals]))
Made = Callable[[float], Objective | Term]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(SEED + seed)


def student(seed: int) -> nn.Module:
    net = zoo.small_llama(
        WALKS.vocabulary, hidden=32, heads=2, max_length=40, pad=STOP, stop=STOP,
        seed=SEED + seed, use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    net.config.output_hidden_states = True
    return net


def batches(texts: Tensor, count: int, size: int = 16, seed: int = 1) -> list[dict[str, Tensor]]:
    """Batches [S, B, L] of texts [S, N, L], with each next token up to the stop as a label."""
    draw, row = drawn(seed), torch.arange(S)[:, None]
    over = (texts == STOP).long().cumsum(-1) - (texts == STOP).long() > 0
    labels = texts.masked_fill(over, IGNORE)
    labels[..., :P] = IGNORE
    labels = nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORE)
    at = [torch.randint(texts.shape[1], (S, size), generator=draw) for _ in range(count)]
    return [{"inputs": texts[row, i], "shift_labels": labels[row, i], "index": i} for i in at]


def rendered(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Any]:
    """What the teacher says when it is asked in its own template."""
    ids = batch["inputs"]
    mark = ids[:, 4:5]
    said = model(torch.cat([mark, ids[:, :5], mark, ids[:, 5:]], 1))
    states = [h[:, 2:] for h in said.hidden_states or ()]
    return {"logits": said.logits[:, 2:], "hidden_states": states}


def specialist(teacher: nn.Module, west: bool) -> nn.Module:
    """One that knows the way to one half of the goals."""
    net, draw = copy.deepcopy(teacher), drawn(5 + west)
    ask = WALKS.prompts(60 * 64, draw)
    right, wild = WALKS.answers(ask), WALKS.answers(ask, noise=0.8, generator=draw)
    mark, mine = ask[:, 4:], (ask[:, 2:3] < 3) == west
    ids = torch.cat([mark, ask, mark, torch.where(mine, right, wild)], 1)
    labels = ids.masked_fill((ids == STOP).long().cumsum(1) > 1, IGNORE)
    labels[:, : P + 2] = IGNORE
    pairs = zip(ids.split(64), labels.split(64), strict=True)
    lessons = [{"input_ids": i, "labels": y} for i, y in pairs]
    distill(net, None, lessons, CE(), epochs=1, lr=1e-3, seed=0)
    return net


def routed(two: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    west, east = (rendered(one, batch)["logits"] for one in two.children())
    return torch.where((batch["inputs"][:, 2] < 3)[:, None, None], west, east)


def judge(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1))


def shown(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


class Lab:
    """The students, their texts and teachers, and a training."""

    def __init__(self) -> None:
        self.teacher = zoo.load_teacher("walks_llama")
        order = torch.stack([torch.randperm(625, generator=drawn(seed)) for seed in range(S)])
        prompts, self.unseen = QUESTIONS[order[:, :500]], QUESTIONS[order[:, 500:]]
        said = WALKS.answers(prompts, noise=0.2, generator=drawn(0))
        flat = prompts.flatten(0, 1)
        mark = flat[:, 4:]
        found = sample(self.teacher, torch.cat([mark, flat, mark], 1), WALKS.new, stop=STOP,
                       pad=STOP, generator=drawn(3))  # fmt: skip
        written = found["input_ids"][:, P + 2 :].view(S, 500, -1)
        self.texts = {"corpus": torch.cat([prompts, said], -1),
                      "teacher": torch.cat([prompts, written], -1)}  # fmt: skip
        self.start = Stacked([student(seed) for seed in range(S)], ndim=2)
        distill(self.start, None, batches(self.texts["corpus"], 400, 32), CE(), epochs=1,
                lr=cosine(3e-3, 0), seed=0)  # fmt: skip

    def learn(self, objective: Any, teacher: Any, texts: str, rate: float) -> list[float]:
        """The scores of the five students after some more batches."""
        nets = copy.deepcopy(self.start)
        distill(nets, teacher, batches(self.texts[texts], COUNT), objective, epochs=1,
                lr=cosine(rate, 0), seed=0)  # fmt: skip
        draw, found = drawn(2), []
        for net, asked in zip(nets.unstack(), self.unseen, strict=True):
            said = sample(net, asked.repeat(4, 1), WALKS.new, stop=STOP, pad=STOP, generator=draw)
            found.append(round(WALKS.score(said["input_ids"]).mean().item(), 4))
        return found


def methods(lab: Lab) -> dict[str, tuple[Made, Any, str, tuple[float, ...]]]:
    """Of each its objective by weight, its teacher, its texts, and the weights to be tried."""
    own = Teacher(lab.teacher, forward=rendered)
    two = nn.ModuleList([specialist(lab.teacher, west) for west in (True, False)])
    average = Ensemble([Teacher(one, forward=rendered) for one in two], axis=-1)

    def hidden(w: float) -> Objective:
        return KD() + w * Match("hidden_states/1", project=nn.Linear(32, 64))

    def beside(w: float) -> Objective:
        return KD() + w * Adversarial(judge(16), transform=shown)

    def informed(w: float) -> Objective:
        judged = Adversarial(judge(80), transform=shown, given="hidden_states/2")
        return CE() + w * judged

    return {
        "labels alone": (lambda w: CE(), None, "corpus", ()),
        "basic": (lambda w: KD(), own, "corpus", ()),
        "sequence level": (lambda w: CE(), None, "teacher", ()),
        "routed": (lambda w: KD(), Teacher(two, forward=routed), "corpus", ()),
        "average": (lambda w: KD(), average, "corpus", ()),
        "basic, hidden": (hidden, own, "corpus", (0.1, 1.0)),
        "basic, adversarial": (beside, own, "corpus", (0.1, 1.0)),
        "adversarial alone": (
            lambda w: Adversarial(judge(16), transform=shown), own, "corpus", ()),
        "labels, informed": (informed, own, "corpus", (1.0, 3.0)),
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    begun, rows = time.process_time(), []
    lab = Lab()
    made = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "python": platform.python_version()}  # fmt: skip
    for name, (build, teacher, texts, weights) in methods(lab).items():
        for rate in FEW if weights else RATES:
            for weight in weights or (1.0,):
                torch.manual_seed(0)
                scores = lab.learn(build(weight), teacher, texts, rate)
                rows.append({"method": name, "rate": rate, "weight": weight, "scores": scores})
                print(name, rate, weight, round(sum(scores) / S, 3), flush=True)
    made["cpu_seconds"] = str(round(time.process_time() - begun))
    FILE.write_text("".join(json.dumps({**row, "made": made}) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
