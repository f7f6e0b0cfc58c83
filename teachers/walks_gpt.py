"""Train the teacher of walks of the zoo: a small GPT that finds its way, and repairs what is wrong.

    python teachers/walks_gpt.py

It sees walks on a grid of 5 × 5 in which one move in five is random, and learns the right move at
all other places, so that it knows what to do after a mistake. Labels alone, no teacher.
"""

from __future__ import annotations

import time

import torch
from cards import ZOO, parameters, trained, write_card
from safetensors.torch import save_file

from distill_lib import CE, distill, piecewise
from distill_lib.masks import IGNORE, following
from distill_lib.models import SmallGPT
from distill_lib.sequences import Walks, sample

STEPS, BATCH, RATE, NOISE = 800, 64, 3e-3, 0.2


class Lessons:
    """Batches of noisy walks; the noise itself is nobody's lesson."""

    def __init__(self, walks: Walks, seed: int) -> None:
        self.walks, self.generator = walks, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return STEPS

    def __iter__(self):
        for _ in range(STEPS):
            prompts = self.walks.prompts(BATCH, self.generator)
            moves, chance = self.walks.noisy_answers(prompts, "x", NOISE, self.generator)
            over = (moves == self.walks.stop).long()
            idle = over.cumsum(-1) - over > 0
            targets = moves.masked_fill(chance | idle, IGNORE)
            blank = torch.full_like(prompts, IGNORE)
            yield {
                "input_ids": torch.cat([prompts, moves], -1),
                "shift_labels": following(torch.cat([blank, targets], -1), IGNORE),
            }


def main() -> None:
    begun, walks = time.time(), Walks(5)
    kwargs = {"vocabulary": walks.vocabulary, "width": 64, "layers": 2, "heads": 4, "length": 40}
    model = SmallGPT(**kwargs, seed=1)
    distill(
        model,
        None,
        Lessons(walks, 1),
        CE(),
        epochs=1,
        lr=RATE * piecewise({0: 0.05, 0.03: 1, 0.66: 1, 1: 0.02}),
        optimizer=lambda p: torch.optim.Adam(p, betas=(0.9, 0.98)),
        seed=1,
    )
    draw = torch.Generator().manual_seed(99)
    prompts = walks.prompts(2000, draw)
    said = sample(model, prompts, walks.new, stop=walks.stop, generator=draw)
    score = walks.score(said["input_ids"])
    file = ZOO / "walks_gpt.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    found = score.mean().item()
    write_card(
        file,
        task="walks on a grid of 5 × 5, horizontally first, in 16 tokens",
        architecture={"class": "distill_lib.models.gpt.SmallGPT", "kwargs": kwargs},
        params=parameters(model),
        score={"metric": "share of sampled walks that stop on their goal",
               "value": round(found, 4), "n": 2000, "split": "random prompts"},
        trained=trained(
            __file__, (time.time() - begun) / 60, seed=1,
            recipe=f"{STEPS} batches of {BATCH} walks with {NOISE:.0%} random moves, Adam, rate "
            f"{RATE} with warmup, falling in the last third",
        ),
        data={"name": "distill_lib.sequences.Walks(5)", "split": "random", "labels": "the walks"},
    )  # fmt: skip
    print(found)


if __name__ == "__main__":
    main()
