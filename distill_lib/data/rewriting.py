"""New texts out of old ones: nobody has labeled them, but a teacher can be asked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import (
    check_between,
    check_counts,
    check_ids,
    check_numbers,
    checked,
    told,
)
from distill_lib.data.dataset import NO_LABEL, DataError, _generator
from distill_lib.data.text import TextDataset, Tokens

__all__ = ["neighbors", "rewrite"]


@checked
def neighbors(table: Tensor, pieces: Tensor, near: int) -> Tensor:
    """The ``near`` rows of an embedding table that point most nearly the way each row points.

    Args:
        table: ``[V, D]``, such as a teacher's word embeddings.
        pieces: ``[K]`` ids that are asked about, and answered with.
        near: How many.

    Returns:
        ``[K, near]`` ids, the nearest first.

    Raises:
        DataError: There are not that many others.
    """
    _check_table(table)
    check_ids("pieces", pieces, len(table))
    if pieces.ndim != 1:
        raise ValueError(f"pieces expected ids [K], got {told(pieces)}")
    if not 1 <= near < len(pieces):
        raise DataError(f"{near} neighbors were asked for among {len(pieces)} pieces")
    # double, so that machines that sum in another order still agree on who is near
    rows = torch.nn.functional.normalize(table.detach()[pieces].double(), dim=1)
    found = []
    for start in range(0, len(rows), 512):
        likeness = rows[start : start + 512] @ rows.T
        itself = torch.arange(start, start + len(likeness))
        likeness[torch.arange(len(likeness)), itself] = -torch.inf
        found.append(pieces[likeness.topk(near, 1).indices])
    return torch.cat(found)


@checked
def rewrite(
    dataset: TextDataset,
    tokenizer: Any,
    table: Tensor,
    *,
    copies: int = 1,
    swap: float = 0.3,
    whole: float = 0.5,
    near: int = 10,
    first: int = 1_000_000,
    seed: int = 0,
) -> TextDataset:
    """Texts with some words replaced by their neighbors, and parts of texts.

    Each new text is an old one, whole or a stretch of it that begins and ends anywhere; then every
    word that has neighbors is replaced with probability ``swap``. Neighbors are those of an
    embedding table, where *good* lies near *great*, and near *bad*: what the new text says is for
    a teacher to judge, and the labels are -100.

    Args:
        dataset: Tokenized texts.
        tokenizer: The tokenizer that made the tokens.
        table: ``[V, D]`` embeddings of all its pieces.
        copies: New texts for each old one.
        swap: Probability that a word is replaced.
        whole: Probability that a text is not cut.
        near: Neighbors to choose among.
        first: Id of the first new text; the following ones count on.
        seed: The same seed gives the same texts.

    Returns:
        ``copies * len(dataset)`` texts with tokens and without labels.

    Raises:
        DataError: The data set has no tokens.

    Reference:
        Jiao et al., *TinyBERT*, 2020, replace words; Tang et al., *Distilling task-specific
        knowledge from BERT into simple neural networks*, 2019, also cut.
    """
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise TypeError(f"tokenizer expected one of 🤗 Transformers, got {told(tokenizer)}")
    _check_table(table)
    check_counts(copies=copies, near=near)
    check_between(0, 1, swap=swap, whole=whole)
    check_ids("the tokens", dataset._tokens().ids, len(table))
    names: Sequence[str] = tokenizer.convert_ids_to_tokens(range(len(table)))
    counts = torch.bincount(dataset._tokens().ids.long())
    often = (counts > 1).nonzero()[:, 0]
    often = often[torch.tensor([names[i].isalpha() and len(names[i]) > 1 for i in often.tolist()])]
    choices = torch.arange(len(table))[:, None].repeat(1, near)
    choices[often] = neighbors(table, often, near)

    draw = _generator("rewrite", seed, copies, stored=True)
    ids, mask = dataset._tokens().padded(torch.arange(len(dataset)).repeat(copies))
    length = mask.sum(1) - 2  # without [CLS] and [SEP]

    def up_to(most: Tensor) -> Tensor:
        return (torch.rand(len(most), generator=draw, dtype=torch.float64) * most).long()

    kept = torch.where(
        torch.rand(len(ids), generator=draw) < whole, length, 1 + up_to(length.double())
    )
    begin = 1 + up_to((length - kept + 1).double())
    at = torch.arange(ids.shape[1])
    inside = (at >= begin[:, None]) & (at < (begin + kept)[:, None])
    other = choices[ids].gather(2, torch.randint(near, (*ids.shape, 1), generator=draw))[..., 0]
    new = torch.where(torch.rand(ids.shape, generator=draw) < swap, other, ids)
    ends = (at == 0) | (at == (begin + kept)[:, None])
    new = torch.where(at == 0, ids, torch.where(ends, ids[0, int(mask[0].sum()) - 1], new))
    # the closing [SEP] follows the stretch, which need not begin at the text's begin
    return _collect(dataset, names, new, inside | ends, first)


def _check_table(table: Tensor) -> None:
    check_numbers("table", table)
    if table.ndim != 2:
        raise ValueError(f"table expected embeddings [V, D], got {told(table)}")


def _collect(
    dataset: TextDataset, names: Sequence[str], ids: Tensor, keep: Tensor, first: int
) -> TextDataset:
    lengths = keep.sum(1)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    flat = ids[keep].int()
    spelled = [names[i] for i in flat.tolist()]
    bounds = starts.tolist()
    texts = tuple(
        " ".join(spelled[a + 1 : b - 1]).replace(" ##", "").removeprefix("##")
        for a, b in itertools.pairwise(bounds)
    )
    return changed(
        dataset,
        texts=texts,
        labels=torch.full((len(texts),), NO_LABEL),
        index=first + torch.arange(len(texts)),
        ratings=None,
        tokens=Tokens(flat, starts, dataset._tokens().pad),
        name=f"{dataset.name}, rewritten",
    )
