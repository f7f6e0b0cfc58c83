"""Small causal models, words and settings for tests of the integration with TRL."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback

pytest.importorskip("trl", reason="TRL is not installed: python make.py setup")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
with warnings.catch_warnings():
    # TRL and its dependencies announce deprecations of each other
    warnings.simplefilter("ignore")
    from trl import DistillationConfig
    from trl.experimental.gkd import GKDConfig

    from distill_lib.integrations.trl import DistillationTrainer, GKDTrainer

__all__ = ["DistillationTrainer", "GKDTrainer"]

SPECIAL, LETTERS = ["<pad>", "<eos>"], [*"abcdefghij"]


def tokenizer(letters: list[str] = LETTERS) -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate([*SPECIAL, *letters])}
    found = Tokenizer(models.WordLevel(words, unk_token="a"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def llama(width: int = 8, layers: int = 1, seed: int = 1, **k: Any) -> nn.Module:
    """A random Llama whose answers are not flat, in double precision."""
    torch.manual_seed(seed)
    config = dict(
        vocab_size=len(SPECIAL + LETTERS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(LlamaConfig(**{**config, **k})).double()


def prompts(n: int = 32) -> Dataset:
    """Prompts of one to three words."""
    return Dataset.from_list([{"prompt": " ".join("abcdefghij"[i % 8 :][: 1 + i % 3])}
                              for i in range(n)])  # fmt: skip


def texts(n: int = 32) -> Dataset:
    """Prompts and completions of different lengths, as ids."""
    rows = []
    for i in range(n):
        asked, said = 1 + i % 3, 2 + i % 4
        ids = [2 + (i + j) % 10 for j in range(asked + said)]
        rows.append({"prompt": "a", "input_ids": ids,
                     "completion_mask": [0] * asked + [1] * said})  # fmt: skip
    return Dataset.from_list(rows)


def settings(path: Path, **k: Any) -> dict[str, Any]:
    """Plain gradient descent on the CPU, silent."""
    return {
        "output_dir": str(path),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        **k,
    }


def stable(kind: Any, path: Path, student: Any, teacher: Any, k: Any = None, **args: Any) -> Any:
    """A stable trainer, TRL's or ours."""
    config = DistillationConfig(**settings(path, **{"max_completion_length": 5, **args}))
    return _made(kind, config, student, teacher, {"train_dataset": prompts(), **(k or {})})


def gkd(kind: Any, path: Path, student: Any, teacher: Any, k: Any = None, **args: Any) -> Any:
    """A GKD trainer, TRL's or ours."""
    config = GKDConfig(**settings(path, **{"max_new_tokens": 3, "temperature": 1.0, **args}))
    return _made(kind, config, student, teacher, {"train_dataset": texts(), **(k or {})})


def _made(kind: Any, config: Any, student: Any, teacher: Any, k: dict[str, Any]) -> Any:
    made = kind(student, teacher, args=config, processing_class=tokenizer(), **k)
    made.remove_callback(PrinterCallback)
    return made


def weights(*models: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])


def update(trainer: Any, *modules: nn.Module) -> Tensor:
    """What one training changes."""
    before = weights(*modules)
    trainer.train()
    return weights(*modules) - before
