"""Search the settings of the chapter on sequences, and measure many teachers; results to the zoo.

    python teachers/sequences_grid.py

Four experiments that are too long for a page. `race`: each way to learn gets the same rates and
batches, on students that the page does not use. `control`: no teacher at all, a fixed negative
advantage on improbable words, with the same trials and four more at lower rates. `writers`: the
same lessons on words of several writers, where own words might win: long ways, few prompts, a
teacher with noise. `teachers`: fourteen teachers of one task, in seven styles and at two skills,
teach six students each.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_lib import CE, KD, Objective, Teacher, distill, losses, piecewise, zoo
from distill_lib.masks import IGNORE, following
from distill_lib.models import SmallGPT
from distill_lib.objective import Term
from distill_lib.sequences import Completions, Walks, sample
from distill_lib.signals import pick

FILE = Path(zoo.__file__).parent / "sequences_grid.jsonl"
WALKS, SEEDS = Walks(5), 5
LOWER = (3e-5, 1e-4)  # of the control alone, which higher rates destroy
RATES, BATCHES, TEXTS, LOOKS = (3e-4, 1e-3, 3e-3), (16, 64), 5_120, (640, 1_280, 2_560, 5_120)
MIXTURES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0)  # how often a teacher's text goes in style x


def adam(parameters):
    return torch.optim.Adam(parameters, betas=(0.9, 0.98))


def rising(rate: float, steps: int):
    """A constant rate after twenty steps."""
    return rate * piecewise({0: 0.05, min(20 / steps, 0.5): 1, 1: 1})


def spoken(signals, batch) -> Tensor:
    """Log-probability of each word that was written."""
    log_p = pick(signals, "logits").log_softmax(-1)
    return log_p.gather(-1, batch["labels"].clamp_min(0).unsqueeze(-1)).squeeze(-1)


class Advantage(Term):
    """Policy gradient: minus advantage times log-probability, for each word that was written."""

    key, labeled, reads = "advantage", True, {"student": ("logits",), "teacher": ("logits",)}

    def __init__(self, kind: str, below: float = 0.1) -> None:
        super().__init__()
        self.kind, self.below = kind, below
        if kind in ("reward", "none"):
            self.reads = {"student": ("logits",), "teacher": ()}

    def values(self, student, teacher, batch, progress):
        log_q = spoken(student, batch)
        live = batch["labels"] != IGNORE
        if self.kind == "none":  # no teacher: all words that the student finds improbable
            advantage = -(log_q.detach().exp() < self.below).float()
        elif self.kind == "reward":
            reward = WALKS.score(batch["input_ids"])
            advantage = (reward - reward.mean(-1, keepdim=True)).unsqueeze(-1)
        else:
            advantage = (spoken(teacher, batch) - log_q.detach()).clamp(-5, 5)
            if self.kind == "standardized":
                n = live.sum((-2, -1), keepdim=True)
                centered = advantage - (advantage * live).sum((-2, -1), keepdim=True) / n
                deviation = ((centered.square() * live).sum((-2, -1), keepdim=True) / n).sqrt()
                advantage = centered / (deviation + 1e-4)
        return -advantage * log_q

    def text(self) -> str:
        return f"advantage({self.kind})"


def beginners(
    steps: int = 150, seeds: int = SEEDS, seed: int = 12, walks: Walks = WALKS
) -> SmallGPT:
    """Students that have seen a little of the task."""
    students = SmallGPT(16, seeds=seeds, seed=seed)
    texts = Completions(
        walks.prompts, own=0.0, new=walks.new, stop=walks.stop, seeds=seeds, seed=seed,
        texts=walks.answers,
        batch_size=32, updates=steps,
    )  # fmt: skip
    rate = 3e-3 * piecewise({0: 0.05, 0.13: 1, 0.66: 1, 1: 0.02})
    distill(students, None, texts, CE(), epochs=1, lr=rate, optimizer=adam)
    return students


@torch.no_grad()
def written(students: SmallGPT, n: int = 400, walks: Walks = WALKS) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    prompts = walks.prompts(n, draw).expand(students.seeds, -1, -1)
    return sample(students, prompts, walks.new, stop=walks.stop, generator=draw)


def scores(students: SmallGPT, walks: Walks = WALKS) -> list[float]:
    return [
        round(x, 4)
        for x in walks.score(written(students, walks=walks)["input_ids"]).mean(-1).tolist()
    ]


METHODS: dict[str, tuple[float, Objective | Term, bool]] = {  # share of own words, loss, teacher
    "own words, backpropagated": (1.0, KD(losses.reverse_kl), True),
    "own words, as an advantage": (1.0, Advantage("raw"), True),
    "own words, standardized": (1.0, Advantage("standardized"), True),
    "teacher's words (SFT)": (0.0, CE(), False),
    "reward alone (REINFORCE)": (1.0, Advantage("reward"), False),
}
CONTROL = {"no teacher, improbable words": (1.0, Advantage("none"), False)}


def control() -> list[dict]:
    return race(CONTROL, LOWER + RATES)


def race(methods=METHODS, rates: tuple[float, ...] = RATES) -> list[dict]:
    teacher = zoo.load_teacher("walks_gpt")
    first, rows = beginners(), []
    begun, start = first.state_dict(), scores(first)
    for name, (own, loss, asked) in methods.items():
        for rate in rates:
            for size in BATCHES:
                students = SmallGPT(16, seeds=SEEDS)
                students.load_state_dict(begun)
                updates = LOOKS[0] // size
                words = Completions(
                    WALKS.prompts, students, teacher, own=own, new=WALKS.new, stop=WALKS.stop,
                    batch_size=size, updates=updates, rounds=TEXTS // LOOKS[0], seed=7,
                )  # fmt: skip
                seen: dict[str, list[float]] = {}

                def look(epoch, history, students=students, seen=seen):
                    if epoch * LOOKS[0] in LOOKS:
                        seen[str(epoch * LOOKS[0])] = scores(students)
                    return None

                distill(
                    students, Teacher(teacher) if asked else None, words, loss,
                    epochs=TEXTS // LOOKS[0], lr=rising(rate, TEXTS // size), optimizer=adam,
                    each_epoch=look,
                )  # fmt: skip
                rows.append({"method": name, "rate": rate, "batch": size, "start": start,
                             "scores": seen})  # fmt: skip
                print(name, rate, size, {k: round(sum(v) / SEEDS, 3) for k, v in seen.items()},
                      flush=True)  # fmt: skip
    return rows


class Walker(nn.Module):
    """The exact teacher: it knows where each text stands, and slips with a given probability."""

    def __init__(self, walks: Walks, slip: float) -> None:
        super().__init__()
        self.walks, self.slip = walks, slip

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        w = self.walks
        goes, best = input_ids, torch.full_like(input_ids, w.stop)
        for axis, less, more in ((1, w.down, w.up), (0, w.left, w.right)):
            at = ((goes == more).long() - (goes == less).long()).cumsum(-1)
            way = goes[..., axis + 2 : axis + 3] - goes[..., axis : axis + 1] - at
            best = torch.where(way > 0, more, torch.where(way < 0, less, best))
        p = torch.full((*input_ids.shape, w.vocabulary), 1e-3 * self.slip / w.vocabulary)
        p[..., w.left :] += self.slip / 5
        return (p + (1 - self.slip) * nn.functional.one_hot(best, w.vocabulary)).log()

    @torch.no_grad()
    def answers(self, prompts: Tensor, generator: torch.Generator | None = None) -> Tensor:
        ids = prompts
        for _ in range(self.walks.new):
            p = self(ids)[..., -1, :].softmax(-1)
            drawn = torch.multinomial(p.flatten(0, -2), 1, generator=generator)
            ids = torch.cat([ids, drawn.view(*ids.shape[:-1], 1)], -1)
        return ids[..., self.walks.prompt :]


CASES = {  # size of the grid, how often the teacher slips, prompts, batches of school
    "plain": (5, 0.02, None, 150),
    "few prompts": (5, 0.02, 100, 150),
    "long ways": (10, 0.02, None, 400),
    "noise": (5, 0.25, None, 150),
}
ARMS: dict[str, tuple[float, Objective | Term]] = {
    "teacher's words, labels": (0.0, CE()),
    "teacher's words, forward": (0.0, KD()),
    "teacher's words, reverse": (0.0, KD(losses.reverse_kl)),
    "own words, reverse": (1.0, KD(losses.reverse_kl)),
    "words in style y, reverse": (0.0, KD(losses.reverse_kl)),
}


def writers(updates: int = 160) -> list[dict]:
    rows = []
    for case, (size, slip, few, steps) in CASES.items():
        walks = Walks(size)
        exact, draw = Walker(walks, slip), torch.Generator().manual_seed(3)
        begun = beginners(steps, walks=walks)
        prompts = walks.prompts if few is None else walks.prompts(few, draw)
        start = scores(begun, walks)
        for name, (own, loss) in ARMS.items():
            students = copy.deepcopy(begun)
            write = exact.answers if "style" not in name else functools.partial(
                walks.answers, style="y")  # fmt: skip
            words = Completions(
                prompts, students, own=own, new=walks.new, stop=walks.stop, updates=updates,
                texts=write if few is None else write(prompts, generator=draw), seed=7,
            )  # fmt: skip
            rate = 1e-3 * piecewise({0: 0.05, 0.1: 1, 0.5: 1, 1: 0.05})
            distill(students, exact, words, loss, epochs=1, lr=rate, optimizer=adam)
            rows.append({"case": case, "words": name, "start": start,
                         "scores": scores(students, walks)})  # fmt: skip
            print(case, name, sum(start) / SEEDS, sum(rows[-1]["scores"]) / SEEDS, flush=True)
    return rows


def schooled(steps: int, teachers: SmallGPT, seed: int) -> None:
    """All teachers at once, each on its own mixture of styles; random moves are nobody's lesson."""
    draw = torch.Generator().manual_seed(seed)
    share = torch.tensor(MIXTURES * 2).view(-1, 1, 1)
    batches = []
    for _ in range(steps):
        prompts = WALKS.prompts(32, draw, seeds=2 * len(MIXTURES))
        (x, x_lost), (y, y_lost) = (
            WALKS.noisy_answers(prompts, style, 0.2, draw) for style in ("x", "y")
        )
        chosen = torch.rand(*prompts.shape[:2], 1, generator=draw) < share
        moves, lost = torch.where(chosen, x, y), torch.where(chosen, x_lost, y_lost)
        over = (moves == WALKS.stop).long()
        targets = moves.masked_fill(lost | (over.cumsum(-1) - over > 0), IGNORE)
        blank = torch.full_like(prompts, IGNORE)
        batches.append({
            "input_ids": torch.cat([prompts, moves], -1),
            "shift_labels": following(torch.cat([blank, targets], -1), IGNORE),
        })  # fmt: skip
    rate = 3e-3 * piecewise({0: 0.05, 0.1: 1, 0.66: 1, 1: 0.02})
    distill(teachers, None, batches, CE(), epochs=1, lr=rate, optimizer=adam)


@torch.no_grad()
def compared(students: SmallGPT, teachers: SmallGPT) -> dict[str, list[float]]:
    """What the two say of the students' own text, before a lesson."""
    found = written(students)
    live = found["completion_mask"][..., 1:].float()
    z, v = (model(found["input_ids"])[..., :-1, :] for model in (students, teachers))
    q, p = z.softmax(-1), v.softmax(-1)
    top = [x.topk(2, -1).indices for x in (q, p)]
    places = {
        "shared mass": torch.minimum(p, q).sum(-1),
        "same first": (z.argmax(-1) == v.argmax(-1)).float(),
        "top-2 overlap": (top[0].unsqueeze(-1) == top[1].unsqueeze(-2)).any(-1).float().mean(-1),
        "own KL": losses.reverse_kl(student=z, teacher=v),
    }
    return {k: [round(x, 4) for x in ((v * live).sum((1, 2)) / live.sum((1, 2))).tolist()]
            for k, v in places.items()}  # fmt: skip


def many_teachers(students: int = 6, updates: int = 160) -> list[dict]:
    count = 2 * len(MIXTURES)
    teachers = SmallGPT(16, seeds=count, seed=1)
    schooled(260, teachers, 1)
    half = {k: v.clone() for k, v in teachers.state_dict().items()}
    schooled(340, teachers, 2)
    state = {k: torch.cat([v[: len(MIXTURES)], half[k][len(MIXTURES) :]])
             for k, v in teachers.state_dict().items()}  # fmt: skip
    teachers.load_state_dict(state)
    skill, rows = scores(teachers), []
    print("teachers", skill, flush=True)
    begun = beginners(seeds=students, seed=30)
    for i in range(students):
        copies = begun.one(i).copies(count)
        before, start = compared(copies, teachers), scores(copies)
        words = Completions(
            WALKS.prompts, copies, own=1.0, new=WALKS.new, stop=WALKS.stop, batch_size=16,
            updates=updates, seed=40 + i,
        )  # fmt: skip
        distill(copies, teachers, words, KD(losses.reverse_kl), epochs=1,
                lr=rising(1e-3, updates), optimizer=adam)  # fmt: skip
        after = scores(copies)
        rows.append({"student": i, "start": start[0], "teacher": skill, "style": MIXTURES * 2,
                     "gain": [round(b - a, 4) for a, b in zip(start, after, strict=True)],
                     **before})  # fmt: skip
        print(i, start[0], rows[-1]["gain"], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["race", "control", "writers", "teachers"])
    parts = parser.parse_args().parts
    torch.set_num_threads(1)
    rows: list[dict] = (
        [json.loads(line) for line in FILE.read_text().splitlines()] if (FILE.exists()) else []
    )
    made = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "python": platform.python_version()}  # fmt: skip
    for part in parts:
        begun = time.process_time()
        found = {"race": race, "control": control, "writers": writers,
                 "teachers": many_teachers}[part]()  # fmt: skip
        made["cpu_seconds"] = round(time.process_time() - begun)
        rows = [row for row in rows if row["part"] != part]
        rows += [{"part": part, **row, "made": made} for row in found]
    FILE.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
