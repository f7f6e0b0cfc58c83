"""Train the language model of the zoo, and its tokenizer, on the text of Python's own reference.

    python teachers/reference_llama.py

A Llama of 3 layers × 128 reads the first nine tenths of the text as 512 byte pairs. A twentieth of
these chooses the epoch; the last tenth of the text is asked once, for the card. The weights are
shipped in half precision, and are asked as they are shipped.
"""

from __future__ import annotations

import math
import platform
import time

import torch
from cards import ZOO, digest, parameters, trained, write_card
from safetensors.torch import save_file
from torch import Tensor, nn

from distill_lib import CE, cosine, distill, evaluate, warmup
from distill_lib.models import small_llama
from distill_lib.sequences import reference_text, train_tokenizer

NAME, LENGTH, BATCH, EPOCHS, UPDATES, RATE = "reference_llama", 96, 32, 12, 60, 3e-3
SIZES = {"vocabulary": 512, "hidden": 128, "layers": 3, "heads": 4}


class Windows:
    """Batches of windows of a text: at random places, or one after another."""

    def __init__(self, ids: Tensor, seed: int | None) -> None:
        self.ids, self.generator = (
            ids,
            None if seed is None else torch.Generator().manual_seed(seed),
        )
        self.starts = torch.arange(0, len(ids) - LENGTH, LENGTH)

    def __len__(self) -> int:
        return UPDATES if self.generator is not None else math.ceil(len(self.starts) / BATCH)

    def __iter__(self):
        for i in range(len(self)):
            if self.generator is None:
                at = self.starts[i * BATCH : (i + 1) * BATCH]
            else:
                at = torch.randint(len(self.ids) - LENGTH, (BATCH,), generator=self.generator)
            rows = self.ids[at[:, None] + torch.arange(LENGTH)]
            yield {"input_ids": rows, "labels": rows}


def perplexity(model: nn.Module, ids: Tensor) -> float:
    """On windows of 96 tokens, one after another."""
    return math.exp(evaluate(model, Windows(ids, None))["nll"])


def main() -> None:
    begun = time.time()
    tokenizer = train_tokenizer(reference_text("train"), SIZES["vocabulary"])
    path = ZOO / f"{NAME}.bpe"
    tokenizer.backend_tokenizer.save(str(path))
    ids = torch.tensor(tokenizer(reference_text("train")).input_ids)
    cut = int(0.95 * len(ids))
    train, validation = ids[:cut], ids[cut:]
    test = torch.tensor(tokenizer(reference_text("test")).input_ids)
    model = small_llama(**SIZES, seed=0, attention_dropout=0.1)
    history = distill(
        model,
        None,
        Windows(train, 0),
        CE(),
        epochs=EPOCHS,
        lr=RATE * warmup(0.03, cosine(1, 0)),
        optimizer=lambda p: torch.optim.AdamW(p, weight_decay=0.3, betas=(0.9, 0.98)),
        clip_norm=1.0,
        seed=0,
        each_epoch=lambda epoch, history: evaluate(model, Windows(validation, None)),
        keep_best="-nll",
    )
    print([round(math.exp(x), 1) for x in history["nll"]])
    half = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    model.load_state_dict(half)
    file = ZOO / f"{NAME}.safetensors"
    save_file(half, file)
    found = round(perplexity(model, test), 2)
    write_card(
        file,
        license="MIT (the weights); PSF (the text, not shipped)",
        tokenizer={"file": path.name, "sha256": digest(path)},
        task="the language reference of Python, 512 byte pairs",
        architecture={"class": "distill_lib.models.language.small_llama", "kwargs": SIZES},
        params=parameters(model),
        score={"metric": "perplexity a token", "value": found, "n": len(test), "split": "test"},
        trained=trained(
            __file__, (time.time() - begun) / 60, "transformers",
            recipe=f"AdamW, rate {RATE} with warmup and cosine, weight decay 0.3, dropout "
            f"0.1 in attention, {EPOCHS * UPDATES} batches of {BATCH} windows of {LENGTH} tokens, "
            "the best epoch by validation",
        ),
        data={"name": "pydoc_data.topics of Python " + platform.python_version(),
              "split": "first nine tenths", "labels": "the text"},
    )  # fmt: skip
    print(found, "train", round(perplexity(model, train), 2))


if __name__ == "__main__":
    main()
