"""Whether a model can go on with texts: it looks back alone, and knows their ids and length."""

from __future__ import annotations

import contextlib
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from distill_lib.masks.tokens import base
from distill_lib.models import SmallGPT
from distill_lib.signals import accepts, eval_mode

__all__ = ["check_length", "check_reader", "first_place", "goes_on", "leftwards", "logits_of"]

_causal: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_goes_on: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


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
    # in half precision, too: without training, what BERT sees changes an answer by 0.3 %
    noise = min(64 * torch.finfo(said.dtype).eps, 0.002) * one.norm(torch.inf)
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


def leftwards(mask: Tensor) -> Tensor:
    """The order of places [..., L] that puts all padding to the right."""
    return (mask == 0).long().argsort(dim=-1, stable=True)


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """[..., B, L, V] for texts that begin at the left, where ``ids`` are.

    Raises:
        ValueError: a model with an encoder, or that reads no ids; a text that is too long.
    """
    inner, here = base(model), ids.to(next(model.parameters()).device)
    if isinstance(inner, SmallGPT):
        found: Any = model(here)
        return torch.as_tensor(found).to(ids.device)
    if getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"{type(inner).__name__} has an encoder, and writes no text of its own")
    if not accepts(inner.forward, "input_ids"):
        raise ValueError(f"expected a causal language model, got {type(inner).__name__}")
    flat = here.flatten(0, -2)
    check_length(inner, torch.ones_like(flat))
    more: dict[str, Any] = {"use_cache": False} if accepts(inner.forward, "use_cache") else {}
    if accepts(inner.forward, "attention_mask"):
        more["attention_mask"] = torch.ones_like(flat)
    said = model(input_ids=flat, **more)
    logits: Tensor = said.logits[:, -flat.shape[1] :]  # PEFT's virtual tokens are answered too
    return logits.reshape(*ids.shape, -1).to(ids.device)


def goes_on(asked: Any, inner: nn.Module, ids: Tensor) -> bool:
    """Whether a text with padding before it, read part by part, is answered as it is alone.

    Not every model can: one has no places that could be told, one keeps nothing of what it has
    read, one keeps padding with it.

    Args:
        asked: A walk through a text, of ids and mask [B, L] to logits [B, V].
        inner: What is asked, once.
        ids: Such as the model knows.
    """
    if inner not in _goes_on:
        _goes_on[inner] = False
        with contextlib.suppress(Exception):
            _goes_on[inner] = _as_alone(asked, inner, ids)
    return _goes_on[inner]


def _as_alone(asked: Any, inner: nn.Module, ids: Tensor) -> bool:
    text = ids.flatten()[torch.arange(6) % ids.numel()].expand(2, -1).clone()
    text[0, :3] = text[0, 0]  # padding, which may hold any id
    mask = (torch.arange(6) > torch.tensor([[2], [-1]])).long().to(ids.device)
    asked(text[:, :4], mask[:, :4])
    said = [asked(text[:, n : n + 1], mask[:, n : n + 1]) for n in (4, 5)]
    alone = [logits_of(inner, text[n : n + 1, at:])[0, -2:] for n, at in enumerate((3, 0))]
    gap = torch.stack(said, 1) - torch.stack(alone)
    return bool(gap.abs().max() <= 0.05 * (alone[1].amax() - alone[1].amin()))
