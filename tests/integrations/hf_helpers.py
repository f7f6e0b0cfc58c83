"""Small models, data and settings for tests of the integration with 🤗 Transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PrinterCallback,
    TrainingArguments,
)

from distill_lib import CE, KD, Match, Term
from distill_lib.integrations.transformers import DistillationTrainer

WORDS, LENGTH = 40, 10


def bert(
    width: int = 8,
    layers: int = 1,
    seed: int = 1,
    tokens: bool = False,
    dropout: float = 0.0,
    **k: Any,
) -> nn.Module:
    """A random BERT, always the same for a seed, in double precision."""
    config: dict[str, Any] = dict(
        vocab_size=WORDS,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=LENGTH,
        num_labels=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )
    kind = BertForTokenClassification if tokens else BertForSequenceClassification
    torch.manual_seed(seed)
    return kind(BertConfig(**{**config, **k})).double()


def data(n: int = 64, tokens: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of different lengths; every third has no label."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    rows = []
    for i in range(n):
        length = int(draw(3, LENGTH + 1, 1))
        mask = (torch.arange(LENGTH) < length).long()
        ids = draw(5, WORDS, LENGTH) * mask
        found = torch.where(draw(0, 3, LENGTH) > 0, draw(0, 3, LENGTH), -100)
        each = torch.where(mask.bool(), found, -100)
        label = each if tokens else torch.tensor(-100 if i % 3 == 0 else int(draw(0, 3, 1)))
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": label})
    return rows


def settings(path: Path, size: int = 64, cut: int = 1, **k: Any) -> TrainingArguments:
    """Plain gradient descent, silent, on the CPU."""
    plain: dict[str, Any] = dict(
        per_device_train_batch_size=size,
        per_device_eval_batch_size=16,
        gradient_accumulation_steps=cut,
        max_steps=1,
        max_grad_norm=0.0,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    return TrainingArguments(str(path), **{**plain, **k})


def trainer(
    student: nn.Module, args: TrainingArguments, kind: type = DistillationTrainer, **k: Any
) -> DistillationTrainer:
    """A trainer that prints nothing."""
    made = kind(student, args, **{"train_dataset": data(), **k})
    made.remove_callback(PrinterCallback)
    return made


def weights(*models: nn.Module) -> Tensor:
    """All parameters in a row."""
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])


def update(make: Any, *modules: nn.Module) -> Tensor:
    """What one training changes in the parameters of modules."""
    before = weights(*modules)
    make.train()
    return weights(*modules) - before


def projector(seed: int = 3) -> nn.Module:
    """From the student's width to the teacher's."""
    torch.manual_seed(seed)
    return nn.Linear(8, 16).double()


def answers() -> Any:
    """Labels and the teacher's answers."""
    return 0.3 * CE() + 0.7 * KD(temperature=2)


def states() -> Any:
    """Labels, hidden states and an inner layer, with projectors."""
    inner = ("bert.encoder.layer.1", "bert.encoder.layer.0")
    return (
        CE()
        + Match("hidden_states/1", project=projector())
        + 0.5 * Match(*inner, project=projector(4))
    )


class Watch(Term):
    """Costs nothing, and remembers what it was shown."""

    key = "watch"
    reads = {"student": ("logits",), "teacher": ()}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, dict[str, Any]]] = []

    def values(self, student: Any, teacher: Any, batch: Any, progress: float) -> Tensor:
        self.seen.append((progress, dict(batch)))
        return 0.0 * student["logits"].sum(-1)

    def text(self) -> str:
        return "watch"
