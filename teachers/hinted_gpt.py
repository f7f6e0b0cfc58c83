"""Train the models of walks with hints of the zoo: five small GPTs, side by side.

    python teachers/hinted_gpt.py

They learn to walk to a field whose column is a digit, horizontally first, vertically first or as
they like, and to use hints: a worked answer to be copied or to be told in their own words, a part
of one, or a fact. In the lessons with hints, the column is a letter that means something else in
each of them; without a hint such a prompt can only be guessed at. Where the order is free, one move
in eight is random and nobody's lesson, so that they learn to repair. Labels alone, no teacher.

In the end the vectors of the letters are moved three tenths of the way to the mean of the digits'.
Nothing that was learned is lost by that, and a letter can be learned: one of the five networks
ignores letters so firmly that it would not move.
"""

from __future__ import annotations

import time

import torch
from cards import ZOO, parameters, trained, write_card
from safetensors.torch import save_file

from distill_lib import CE, distill, piecewise
from distill_lib.booktools.hints import HintedWalks
from distill_lib.masks import IGNORE, following
from distill_lib.models import SmallGPT

STEPS, RATE, SEEDS, NOISE, NEARER = 2500, 3e-3, 5, 0.125, 0.3
# order asked for, kind of hint, letters instead of digits, how many in a batch
PLAN = (
    ("x", "none", False, 7),
    ("y", "none", False, 7),
    ("mixed", "none", False, 7),
    ("mixed", "none", True, 3),
    ("mixed", "fact", True, 6),
    ("mixed", "own", True, 8),
    ("mixed", "first", True, 3),
    ("mixed", "copy", True, 4),
)


class Lessons:
    """Batches [S, B, 23] of walks; each network has its own."""

    def __init__(self, task: HintedWalks, seed: int) -> None:
        self.task, self.generator = task, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return STEPS

    def __iter__(self):
        for _ in range(STEPS):
            parts = [self.some(*row) for row in PLAN]
            prompts, answers, chance = (torch.cat(x, 1) for x in zip(*parts, strict=True))
            over = (answers == self.task.stop).long()
            idle = over.cumsum(-1) - over > 0
            targets = answers.masked_fill(idle | chance, IGNORE)
            blank = torch.full_like(prompts, IGNORE)
            yield {
                "input_ids": torch.cat([prompts, answers], -1),
                "shift_labels": following(torch.cat([blank, targets], -1), IGNORE),
            }

    def some(self, order, kind, letters, count):
        """Prompts, answers and what is random in them [S, count, ...], of one row of the plan."""
        task, g = self.task, self.generator
        walk = task.draw(SEEDS * count, g)
        style = ("x", "y", "mixed")[int(torch.randint(3, (), generator=g))]
        hint = None if kind == "none" else task.hint(walk, kind, style, g)
        noise = NOISE if order == "mixed" and kind != "copy" else 0.0
        answers, chance = task.walks.noisy_answers(task.bare(walk), order, noise, g)
        answers = hint if kind == "copy" else answers
        named = torch.randint(4, (SEEDS * count,), generator=g) if letters else False
        does = "own" if kind == "first" else kind
        prompts = task.prompts(walk, order, letters=named, kind=does, hint=hint)
        return tuple(x.view(SEEDS, count, -1) for x in (prompts, answers, chance))


@torch.no_grad()
def scores(model: SmallGPT, task: HintedWalks) -> dict[str, float]:
    """How often walks stop on their goal, by the hint."""
    g = torch.Generator().manual_seed(99)
    walk = task.draw(400, g).expand(SEEDS, -1, -1)
    found = {}
    for kind in ("none", "fact", "own", "first", "copy"):
        prompts = task.hinted(task.prompts(walk, letters=True), kind)
        found[kind] = task.score(walk, task.write(model, prompts, g)).mean().item()
    plain = task.write(model, task.prompts(walk), g)
    return {"digits": task.score(walk, plain).mean().item(), **found}


def main() -> None:
    begun, task = time.time(), HintedWalks()
    kwargs = {"vocabulary": task.vocabulary, "width": 32, "layers": 2, "heads": 2, "length": 24,
              "seeds": SEEDS}  # fmt: skip
    model = SmallGPT(**kwargs, seed=1)
    distill(
        model,
        None,
        Lessons(task, 1),
        CE(),
        epochs=1,
        lr=RATE * piecewise({0: 0.05, 0.01: 1, 0.6: 1, 1: 0.02}),
        optimizer=lambda p: torch.optim.Adam(p, betas=(0.9, 0.98)),
        seed=1,
    )
    with torch.no_grad():
        letters, digits = model.tokens[:, -4:], model.tokens[:, :4]
        letters.lerp_(digits.mean(1, keepdim=True).expand_as(letters), NEARER)
    half = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    model.load_state_dict(half)
    found = scores(model, task)
    print(found)
    file = ZOO / "hinted_gpt.safetensors"
    save_file(half, file)
    write_card(
        file,
        task="walks on a grid of 4 × 4 with hints, in 27 tokens; five networks in one",
        architecture={"class": "distill_lib.models.gpt.SmallGPT", "kwargs": kwargs},
        params=parameters(model),
        score={"metric": "share of sampled walks to a digit that stop on their goal",
               "value": round(found["digits"], 4), "n": 400 * SEEDS, "split": "random prompts"},
        trained=trained(
            __file__, (time.time() - begun) / 60, seed=1,
            recipe=f"{STEPS} batches of {sum(row[-1] for row in PLAN)} walks for each network, "
            f"Adam, rate {RATE} with warmup, falling in the last two fifths",
        ),
        data={"name": "distill_lib.booktools.hints.HintedWalks()", "split": "random",
              "labels": "the walks"},
    )  # fmt: skip


if __name__ == "__main__":
    main()
