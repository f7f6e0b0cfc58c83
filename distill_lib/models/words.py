"""Readers of words that are far smaller than a transformer: a bag of them, and two LSTMs."""

from __future__ import annotations

import contextlib
import operator
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_between, check_counts, check_ids, checked, told

__all__ = ["BagOfEmbeddings", "BiLSTM", "Words"]


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
        """The rows of the table that ids stand for; 1 is that of all pieces not kept.

        Raises:
            TypeError: something else than whole numbers.
            ValueError: a number below 0.
        """
        if not torch.compiler.is_compiling():
            ids = _as_ids(ids)
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
        pieces: ``[V]`` ids that are kept; 0 is padding.
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
        """Logits; what the mask leaves out is padding, too."""
        rows = self.words.rows(input_ids)
        real = rows != 0
        if attention_mask is not None:
            real = real & _as_mask(attention_mask, input_ids)
        mask = real.float()[..., None]
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
        """Logits; of a text without a word, the bias alone."""
        if attention_mask is None:
            mask = input_ids != self.words.pad
        else:
            mask = _as_mask(attention_mask, input_ids)
        # texts begin at the left, or the first LSTM would begin with padding
        order = (~mask).long().argsort(dim=1, stable=True)
        input_ids, mask = input_ids.gather(1, order), mask.gather(1, order)
        words = self.dropout(self.words(input_ids))
        # each text is turned within its own length, so that padding comes last both ways: the
        # same as packed sequences, at less than half the time of a training step on a CPU
        last = mask.sum(1, keepdim=True) - 1
        turned = (last - torch.arange(mask.shape[1], device=mask.device)).clamp_min(0)
        around = words.gather(1, turned[..., None].expand_as(words))
        states = torch.cat([self.ahead(words)[0], self.back(around)[0]], -1)
        read = states.masked_fill(~mask[..., None], -torch.inf).amax(1)
        read = read.masked_fill(~mask.any(1, keepdim=True), 0.0)
        return cast(Tensor, self.head(self.dropout(read)))


def _as_ids(ids: Tensor) -> Tensor:
    """Ids as torch looks them up: a table indexed by -1 or by True gives another row."""
    if not isinstance(ids, Tensor) or ids.dtype == torch.bool or ids.is_floating_point():
        raise TypeError(f"expected ids as a tensor of whole numbers, got {told(ids)}")
    if ids.numel() and _any_below(ids):
        raise ValueError(f"expected ids from 0 on, got {int(ids.min())}; padding is an id, too")
    return ids.long()


def _any_below(x: Tensor) -> bool:
    """Whether a number is below 0; no where nobody can look, as under ``vmap``."""
    with contextlib.suppress(RuntimeError):
        return not torch.compiler.is_compiling() and bool((x < 0).any())
    return False


def _as_mask(mask: Tensor, ids: Tensor) -> Tensor:
    """Booleans [..., L], true for tokens that are no padding.

    Raises:
        ValueError: another shape, or a mask that is to be added to scores.
    """
    mask = torch.as_tensor(mask, device=ids.device)
    if mask.shape != ids.shape:
        raise ValueError(f"expected a mask {list(ids.shape)}, one a token, got {told(mask)}")
    if mask.is_floating_point() and _any_below(mask):
        raise ValueError(
            "a mask with negative numbers is one that is added to scores; give one that is 1 for "
            "tokens that are no padding, and 0 for padding"
        )
    return mask.bool()
