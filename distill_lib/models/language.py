"""Readers of text: small transformers of 🤗 Transformers, and students that are far smaller."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill_lib.arguments import check_between, check_counts, checked
from distill_lib.extras import missing

from .words import BagOfEmbeddings, BiLSTM, Words

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, LlamaForCausalLM

__all__ = ["BagOfEmbeddings", "BiLSTM", "Words", "small_bert", "small_llama"]

# how settings of both are called here
_SHARED = {
    "hidden_size": "hidden",
    "intermediate_size": "intermediate",
    "max_position_embeddings": "max_length",
    "num_attention_heads": "heads",
    "num_hidden_layers": "layers",
    "vocab_size": "vocabulary",
}
_BERT = {**_SHARED, "hidden_dropout_prob": "dropout", "num_labels": "labels"}
_LLAMA = {**_SHARED, "eos_token_id": "stop", "pad_token_id": "pad"}


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
        **config: More of ``transformers.BertConfig``, under the names that it has there.

    ``save_pretrained`` writes a plain table with a row for each id of the vocabulary, by default up
    to the largest piece, so that ``AutoModelForSequenceClassification.from_pretrained`` gives the
    same answers. That model raises an IndexError for larger ids, which this one reads as unknown:
    with ``vocabulary=len(tokenizer)`` both do.

    Raises:
        ValueError: sizes that do not fit; a piece that is not in the vocabulary.
        TypeError: a setting that has another name here.
        ImportError: 🤗 Transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise missing("BERT", "transformers")
    from transformers import BertConfig

    from distill_lib.models._bert import BertForSequenceClassification

    check_counts(layers=layers, hidden=hidden, heads=heads, labels=labels, max_length=max_length)
    check_counts(intermediate=4 * hidden if intermediate is None else intermediate)
    check_between(0, 1, dropout=dropout)
    _check_names("small_bert", config, _BERT)
    if len(config.get("id2label") or range(labels)) != labels:
        raise ValueError(f"labels={labels} and id2label of {len(config['id2label'])} do not fit")
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
    )
    model = BertForSequenceClassification(BertConfig(**{**sizes, **config}))
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
        **config: More of ``transformers.LlamaConfig``, under the names that it has there.

    Raises:
        ValueError: sizes that do not fit; a token that is not in the vocabulary.
        TypeError: a setting that has another name here.
        ImportError: 🤗 Transformers is not installed.

    Example:
        >>> small_llama(512, hidden=32)(torch.tensor([[2, 3]])).logits.shape
        torch.Size([1, 2, 512])
    """
    if importlib.util.find_spec("transformers") is None:
        raise missing("Llama", "transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    check_counts(vocabulary=vocabulary, hidden=hidden, layers=layers, heads=heads)
    inner = 3 * hidden if intermediate is None else intermediate
    check_counts(intermediate=inner, max_length=max_length)
    _check_names("small_llama", config, _LLAMA)
    for name, token in (("pad", pad), ("stop", stop)):
        if not 0 <= token < vocabulary:
            raise ValueError(f"{name} expected a token from 0 to {vocabulary - 1}, got {token}")
    if hidden % heads or (hidden // heads % 2 and "head_dim" not in config):
        raise ValueError(
            f"hidden expected an even multiple of heads, got {hidden} and {heads}: places are told "
            "by turning pairs of numbers"
        )
    sizes: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
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


def _check_names(who: str, given: Iterable[str], names: Mapping[str, str]) -> None:
    for name in given:
        if name in names:
            raise TypeError(f"{who} has {name} as {names[name]}=: give it once, by that name")
