"""Readers of text: the packaged MiniLM with shipped adapters, and students that are far smaller."""

from __future__ import annotations

import importlib.util
import operator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_between, check_counts, check_ids, checked, told
from distill_lib.extras import missing

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, LlamaForCausalLM

__all__ = ["BagOfEmbeddings", "BiLSTM", "Words", "small_bert", "small_llama"]


@checked
class Words(nn.Module):
    """An embedding of those word pieces alone that the texts use; all others share one row.

    It is asked with the ids of the whole vocabulary, so that teacher and student read the same
    batch.

    Args:
        pieces: ``[V]`` ids that are kept, such as ``data.tokens.ids.unique()``.
        dim: Width.
        pad: The id of padding, whose row is 0.
        vocabulary: How many ids the tokenizer has, all of which a saved plain table then has rows
            for; by default up to the largest piece.

    Raises:
        ValueError: a piece that is not in the vocabulary, or no piece.

    Shape:
        ``[..., L]`` ids to ``[..., L, dim]``.
    """

    lookup: Tensor

    def __init__(
        self, pieces: Tensor, dim: int, pad: int = 0, vocabulary: int | None = None
    ) -> None:
        super().__init__()
        check_counts(dim=dim)
        check_counts(0, pad=pad)
        if vocabulary is not None:
            check_counts(vocabulary=vocabulary)
        check_ids("pieces", pieces, vocabulary or float("inf"))
        kept = torch.unique(pieces.long())
        kept = kept[kept != pad]
        if not len(kept):
            raise ValueError(f"pieces expected ids other than that of padding, {pad}, got none")
        least = max(int(kept.max()), pad) + 1
        if vocabulary is not None and vocabulary < least:
            raise ValueError(f"vocabulary expected {least} ids or more, got {vocabulary}")
        lookup = torch.ones(vocabulary or least, dtype=torch.int32)
        lookup[pad] = 0
        lookup[kept] = torch.arange(2, len(kept) + 2, dtype=torch.int32)
        self.register_buffer("lookup", lookup)
        self.embedding: nn.Embedding = nn.Embedding(len(kept) + 2, dim, padding_idx=0)
        self.pad: int = pad
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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also read a plain table, one row for each id, as 🤗 Transformers saves it."""
        table = state_dict.pop(f"{prefix}weight", None)
        if table is not None:
            if len(table) != len(self.lookup):
                raise ValueError(
                    f"a table of {len(table)} words does not fit the pieces kept, whose largest id "
                    f"is {len(self.lookup) - 1}: it was saved by a student of other pieces, or of "
                    "another vocabulary="
                )
            rows = self.embedding.weight.detach().clone()
            rows[self.lookup.long()] = table.to(rows)
            own = {"lookup": self.lookup, "embedding.weight": rows}
            state_dict.update({f"{prefix}{name}": value for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @checked
    @torch.no_grad()
    def start_from(self, table: Tensor) -> Words:
        """Begin with the best low-rank picture of another embedding's rows, and return itself.

        Args:
            table: ``[vocabulary, D]`` with ``D ≥ dim``; the rows of the pieces kept are projected
                on their first ``dim`` principal directions.
        """
        kept = (self.lookup > 1).nonzero()[:, 0]
        least = (int(kept[-1]) + 1, self.embedding.embedding_dim)
        if table.ndim != 2 or table.is_complex() or any(map(operator.lt, table.shape, least)):
            raise ValueError(
                f"table expected one row for each piece, {list(least)} at least, got {told(table)}"
            )
        rows = table.detach()[kept].float()
        rows = rows - rows.mean(0)
        dim = self.embedding.embedding_dim
        directions = torch.linalg.svd(rows, full_matrices=False).Vh[:dim]
        self.embedding.weight[2:] = rows @ directions.T
        return self


@checked
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
        check_counts(classes=classes)
        check_counts(0, bigrams=bigrams)
        check_between(0, 1, dropout=dropout)
        self.words: Words = Words(pieces, dim)
        self.pairs: nn.Embedding | None = nn.Embedding(bigrams, dim) if bigrams else None
        if self.pairs is not None:
            nn.init.zeros_(self.pairs.weight)
        self.dropout: nn.Dropout = nn.Dropout(dropout)
        self.head: nn.Linear = nn.Linear(dim, classes)

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


@checked
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
        check_counts(hidden=hidden, classes=classes)
        check_between(0, 1, dropout=dropout)
        self.words: Words = Words(pieces, dim)
        self.ahead: nn.LSTM = nn.LSTM(dim, hidden, batch_first=True)
        self.back: nn.LSTM = nn.LSTM(dim, hidden, batch_first=True)
        self.dropout: nn.Dropout = nn.Dropout(dropout)
        self.head: nn.Linear = nn.Linear(2 * hidden, classes)

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


@checked
def small_bert(
    pieces: Tensor,
    *,
    vocabulary: int | None = None,
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
        vocabulary: How many ids the tokenizer has, ``len(tokenizer)``, for students that will be
            read by ``from_pretrained``; see below.
        layers: Number of layers.
        hidden: Width, a multiple of ``heads``.
        heads: Attention heads.
        intermediate: Width between the two layers of a feed-forward block; ``4 * hidden``.
        labels: Classes.
        max_length: The longest text it can read.
        dropout: Share of the features that is dropped; attention maps are never.
        **config: More of ``transformers.BertConfig``.

    ``save_pretrained`` writes a plain table with a row for each id of the vocabulary, by default up
    to the largest piece, so that ``AutoModelForSequenceClassification.from_pretrained`` gives the
    same answers. That model raises an IndexError for larger ids, which this one reads as unknown:
    with ``vocabulary=len(tokenizer)`` both do.

    Raises:
        ValueError: sizes that do not fit; a piece that is not in the vocabulary.
        ImportError: 🤗 Transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise missing("BERT", "transformers")
    from transformers import BertConfig

    from distill_lib.models._bert import BertForSequenceClassification

    check_counts(layers=layers, hidden=hidden, heads=heads, labels=labels, max_length=max_length)
    check_counts(intermediate=4 * hidden if intermediate is None else intermediate)
    check_between(0, 1, dropout=dropout)
    if hidden % heads:
        raise ValueError(f"hidden expected a multiple of heads, got {hidden} and {heads}")
    sizes: dict[str, Any] = dict(
        vocab_size=2,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate or 4 * hidden,
        max_position_embeddings=max_length,
        num_labels=labels,
        hidden_dropout_prob=float(dropout),
        attention_probs_dropout_prob=0.0,  # a map to be compared must not be dropped out
        attn_implementation="eager",  # the one that tells its attention maps
        **config,
    )
    model = BertForSequenceClassification(BertConfig(**sizes))
    words = Words(pieces, hidden, vocabulary=vocabulary)
    model.set_input_embeddings(words)
    model.config.vocab_size = len(words.lookup)
    return model


@checked
def small_llama(
    vocabulary: int,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    intermediate: int | None = None,
    max_length: int = 256,
    pad: int = 0,
    stop: int = 1,
    seed: int | None = None,
    **config: Any,
) -> LlamaForCausalLM:
    """A small Llama of 🤗 Transformers, from scratch.

    Args:
        vocabulary: Number of tokens.
        hidden: Width, a multiple of ``heads``.
        layers: Number of layers.
        heads: Attention heads.
        intermediate: Width inside a feed-forward block; ``3 * hidden``.
        max_length: The longest text.
        pad: The token that fills short texts.
        stop: The token that ends a text.
        seed: Of the initial weights; by default they are drawn as torch is seeded.
        **config: More of ``transformers.LlamaConfig``.

    Example:
        >>> small_llama(512, hidden=32)(torch.tensor([[2, 3]])).logits.shape
        torch.Size([1, 2, 512])
    """
    if importlib.util.find_spec("transformers") is None:
        raise missing("Llama", "transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    check_counts(vocabulary=vocabulary, hidden=hidden, layers=layers, heads=heads)
    check_counts(intermediate=intermediate or 3 * hidden, max_length=max_length)
    if hidden % heads:
        raise ValueError(f"hidden expected a multiple of heads, got {hidden} and {heads}")
    sizes: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate or 3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_length,
        pad_token_id=pad,
        eos_token_id=stop,
        bos_token_id=None,
    )
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**sizes, **config}))
