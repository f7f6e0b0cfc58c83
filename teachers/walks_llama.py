"""Train the Llama of the zoo that finds its way on a grid, asked in a template of its own.

    python teachers/walks_llama.py

It reads ``=sx sy gx gy==`` where others read ``sx sy gx gy=``: two templates of one question. As
walks_gpt it sees walks in which one move in five is random, and learns the right moves only.
"""

from __future__ import annotations

import time

import torch
from cards import ZOO, parameters, trained, write_card
from safetensors.torch import save_file
from torch import Tensor, nn

from distill_lib import CE, distill, piecewise
from distill_lib.masks import IGNORE, following
from distill_lib.models import small_llama
from distill_lib.sequences import Walks, sample

STEPS, BATCH, RATE, NOISE = 1500, 64, 3e-3, 0.2


def asked(prompts: Tensor) -> Tensor:
    """Prompts in the template of this teacher."""
    mark = prompts[..., -1:]
    return torch.cat([mark, prompts, mark], -1)


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
            prompts = asked(prompts)
            blank = torch.full_like(prompts, IGNORE)
            yield {
                "input_ids": torch.cat([prompts, moves], -1),
                "shift_labels": following(torch.cat([blank, targets], -1), IGNORE),
            }


def score(model: nn.Module, walks: Walks, prompts: Tensor, plain: bool = False) -> float:
    """The share of drawn answers that stop on their goal."""
    draw = torch.Generator().manual_seed(99)
    shown = prompts if plain else asked(prompts)
    said = sample(model, shown, walks.new, stop=walks.stop, pad=walks.stop, generator=draw)
    answers = said["input_ids"][:, shown.shape[1] :]
    return walks.score(torch.cat([prompts, answers], -1)).mean().item()


def main() -> None:
    begun, walks = time.time(), Walks(5)
    kwargs = {"vocabulary": walks.vocabulary, "hidden": 64, "layers": 2, "heads": 4,
              "max_length": 40, "pad": walks.stop, "stop": walks.stop}  # fmt: skip
    model = small_llama(**kwargs, seed=1)
    distill(
        model,
        None,
        Lessons(walks, 1),
        CE(),
        epochs=1,
        lr=RATE * piecewise({0: 0.05, 0.03: 1, 0.5: 1, 1: 0.01}),
        optimizer=lambda p: torch.optim.Adam(p, betas=(0.9, 0.98)),
        seed=1,
    )
    half = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    model.load_state_dict(half)
    file = ZOO / "walks_llama.safetensors"
    save_file(half, file)
    prompts = walks.prompts(2000, torch.Generator().manual_seed(98))
    found = score(model, walks, prompts)
    write_card(
        file,
        task="walks on a grid of 5 × 5, horizontally first, asked as =sx sy gx gy==",
        architecture={"class": "distill_lib.models.language.small_llama", "kwargs": kwargs},
        params=parameters(model),
        score={"metric": "share of sampled walks that stop on their goal",
               "value": round(found, 4), "n": 2000, "split": "random prompts"},
        trained=trained(
            __file__, (time.time() - begun) / 60, "transformers", seed=1,
            recipe=f"{STEPS} batches of {BATCH} walks with {NOISE:.0%} random moves, Adam, rate "
            f"{RATE} with warmup, falling in the second half",
        ),
        data={"name": "distill_lib.sequences.Walks(5)", "split": "random", "labels": "the walks"},
    )  # fmt: skip
    print(found, "plain", score(model, walks, prompts, plain=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
