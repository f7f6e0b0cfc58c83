"""Whether a model can go on with texts: it looks back alone, and knows their ids and length."""

from __future__ import annotations

import contextlib
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from distill_lib.masks.tokens import base
from distill_lib.models import SmallGPT
from distill_lib.signals import eval_mode

__all__ = ["check_length", "check_reader", "first_place"]

_causal: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def check_reader(model: nn.Module, ids: Tensor) -> None:
    """A causal model knows these ids [..., L]; a ``SmallGPT`` says so itself.

    Raises:
        ValueError: another model, or an id beyond its vocabulary.
    """
    inner = base(model)
    if isinstance(inner, SmallGPT):
        return
    words = inner.get_input_embeddings() if hasattr(inner, "get_input_embeddings") else None
    count = getattr(words, "num_embeddings", None)
    if count is not None and not 0 <= int(ids.min()) <= int(ids.max()) < count:
        raise ValueError(
            f"ids run from {int(ids.min())} to {int(ids.max())} in {count} tokens, 0 to "
            f"{count - 1}: is it the same tokenizer?"
        )
    if inner not in _causal:
        _causal[inner] = True
        # some models cannot be asked so shortly: those that need images beside the words, say
        with contextlib.suppress(Exception):
            _causal[inner] = _looks_back(inner, int(ids.flatten()[0]), count or 2)
    if not _causal[inner]:
        raise ValueError(
            f"{type(inner).__name__} reads in both directions, so that it has seen the word that "
            "it is asked for: expected a causal language model (a BERT is one with "
            "is_decoder=True)"
        )


@torch.no_grad()
def _looks_back(inner: Any, word: int, count: int) -> bool:
    """Whether the answer to a word is the same, whatever stands after it."""
    pair = torch.tensor([[word, word], [word, (word + 1) % count]])
    pair = pair.to(next(inner.parameters()).device)
    with eval_mode([inner]):
        said: Tensor = inner(input_ids=pair, attention_mask=torch.ones_like(pair)).logits[:, 0]
    one, other = said[:, said.isfinite().all(0)]  # what is nan is refused where it is drawn from
    noise = 64 * torch.finfo(said.dtype).eps * one.norm(torch.inf)
    return bool(((one - other).abs() <= noise).all())


def check_length(inner: Any, mask: Tensor) -> None:
    """Texts with a mask [B, L] have places in a model of Transformers.

    Raises:
        ValueError: one is too long.
    """
    places = getattr(getattr(inner, "config", None), "max_position_embeddings", None)
    most = places - first_place(inner) if isinstance(places, int) else 0
    if most < 1 or mask.shape[-1] <= most:
        return
    if (length := int((mask != 0).sum(-1).max())) > most:
        raise ValueError(f"a text of {length} tokens, in a model of at most {most}")


def first_place(inner: nn.Module) -> int:
    """The number of a text's first place: RoBERTa and its kin begin after that of padding."""
    for name, part in inner.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            return int(part.padding_idx) + 1
    return 0
