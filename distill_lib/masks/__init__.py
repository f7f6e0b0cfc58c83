"""Which values of a term count: by a mask, by labels, by padding."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "IGNORE",
    "about",
    "check_tokens",
    "count_like",
    "following",
    "kept_of",
    "keys_of",
    "masks_of",
    "of_items",
    "weighted",
    "without_nan",
]

# what has one entry a token in the models of Transformers
TOKENS = frozenset({"logits", "hidden_states", "decoder_hidden_states", "last_hidden_state"})
IGNORE = -100  # the label of an item without a label, as in torch.nn.functional.cross_entropy


def following(tokens: Tensor, last: float) -> Tensor:
    """[..., L] what stands one place after each token; ``last`` after the last."""
    return F.pad(tokens[..., 1:], (0, 1), value=last)


def about(batch: Mapping[str, Any], paths: Iterable[str], labeled: bool) -> Mapping[str, Any]:
    """The batch with the padding and the labels of those tokens that a term speaks of.

    ==========================  ==================================================================
    a causal model, shifted     a label of the next token counts if that token is no padding; what
                                needs no label counts if both tokens are none
    an encoder                  its ``attention_mask``; labels are those of the decoder
    a decoder beside it         its ``decoder_attention_mask``, if there is one
    ==========================  ==================================================================

    Args:
        batch: The batch; one of a decoder has an entry ``decoder_…``.
        paths: The signals that the term reads.
        labeled: Whether the term needs labels.
    """
    mask = batch.get("attention_mask")
    if any(key.startswith("decoder_") for key in batch):
        if any(map(_of_encoder, paths)):
            return batch if labeled else {k: v for k, v in batch.items() if k != "labels"}
        mask = batch.get("decoder_attention_mask")
    elif isinstance(mask, Tensor) and mask.ndim in (2, 3) and batch.get("shift"):
        after = following(mask, 0)
        mask = after if labeled else mask.bool() & after.bool()
    else:
        return batch
    rest = {k: v for k, v in batch.items() if k != "attention_mask"}
    return rest if mask is None else {**rest, "attention_mask": mask}


def keys_of(batch: Mapping[str, Any], path: str) -> Any:
    """Which tokens are no padding among the keys of the attention maps at a path."""
    of_decoder = any(key.startswith("decoder_") for key in batch)
    if of_decoder and not path.startswith("cross_") and not _of_encoder(path):
        return batch.get("decoder_attention_mask")
    return batch.get("attention_mask")


def _of_encoder(path: str) -> bool:
    return "encoder" in re.split(r"[./_]", path)


def _begin(key: str, found: torch.Size, shape: torch.Size) -> int | None:
    """The axis of the values at which those of a mask begin."""
    back = len(shape) - len(found)
    # [B] is an item's mask for all its tokens [B, L], or that of all students for theirs [S, B]
    for at in (0, back) if key == "mask" else (back, 0):
        if back >= 0 and shape[at : at + len(found)] == found:
            return at
    return None


def _fits(who: Callable[[], str], batch: Mapping[str, Any], values: Tensor) -> None:
    """A mask applies to the values, or is finer than they are and leaves them alone.

    Raises:
        ValueError: it does neither.
    """
    mask = batch.get("mask")
    if not isinstance(mask, Tensor) or mask.ndim > values.ndim:
        return
    if _begin("mask", mask.shape, values.shape) is None:
        raise ValueError(
            f"{who()}: a mask {list(mask.shape)} says nothing of values {list(values.shape)}; give "
            "it the shape of the items, or of the tokens"
        )


def of_items(batch: Mapping[str, Any], labeled: bool) -> Mapping[str, Any]:
    """The batch without what speaks of tokens, for answers [B, C] that are one an item.

    Else independent labels, or classes, would be taken for as many tokens.
    """
    labels = batch.get("labels")
    many = isinstance(labels, Tensor) and labels.ndim > 1 and not labeled
    left = {"attention_mask", "labels"} if many else {"attention_mask"}
    return {k: v for k, v in batch.items() if k not in left} if left & batch.keys() else batch


def check_tokens(
    who: Callable[[], str],
    shape: torch.Size,
    batch: Mapping[str, Any],
    paths: Iterable[str],
    labeled: bool,
    axis: int | None = None,
) -> None:
    """Padding and labels of tokens are of the tokens that values are of, or they are refused.

    Where an axis of classes was named, labels have one entry a place of what is left.

    Inner layers may have other places, such as the patches of an image; answers and hidden states
    have one a token.
    """
    padding, labels = batch.get("attention_mask"), batch.get("labels")
    if axis is not None:
        if isinstance(labels, Tensor) and labels.ndim == len(shape) > 1 and labels.shape != shape:
            raise ValueError(
                f"{who()}: labels {list(labels.shape)} say nothing of values {list(shape)}: bring "
                "answers to the size of the labels, as F.interpolate in forward=, or take the "
                "labels out of the batch"
            )
        return
    if len(shape) < 2 or not isinstance(padding, Tensor):
        return
    if not all(path.split("/")[0] in TOKENS for path in paths):
        return
    for key in ("attention_mask",) if labeled else ("attention_mask", "labels"):
        found = batch.get(key)
        if not isinstance(found, Tensor) or found.ndim != 2:
            continue
        if _begin(key, found.shape, shape) is None:
            raise ValueError(
                f"{who()}: {key} {list(found.shape)} says nothing of values {list(shape)}, one a "
                "token; give it an entry for each token that is answered, or take it out of the "
                "batch"
            )


def weighted(who: Callable[[], str], batch: Mapping[str, Any], values: Tensor) -> Tensor:
    """The values times ``batch["weight"]``, one number an item, where there is one.

    The batch's mask, too, has to fit the values.

    Raises:
        ValueError: shapes that have no such axes.
    """
    _fits(who, batch, values)
    weight = batch.get("weight")
    if not isinstance(weight, Tensor):
        return values
    at = _begin("mask", weight.shape, values.shape)
    if at is None:
        raise ValueError(
            f"{who()}: weights {list(weight.shape)} do not fit values {list(values.shape)}; give "
            "one an item"
        )
    axes = values.ndim - weight.ndim - at
    return weight.reshape(*weight.shape, *[1] * axes).expand(values.shape) * values


def masks_of(shape: torch.Size, labeled: bool, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Which values are kept, by each key of the batch that says something of them.

    Args:
        shape: Of the values.
        labeled: Whether the values need a label. Else only labels with one entry a token speak:
            they mark padding, while one label an item says nothing of a teacher's targets.
        batch: The batch.

    Returns:
        Booleans in the shape of the values.
    """
    masks = {}
    for key in ("mask", "labels", "attention_mask"):
        found = batch.get(key)
        if not isinstance(found, Tensor) or not found.ndim:
            continue
        if found.ndim < 2 and key != "mask" and not (labeled and key == "labels"):
            continue
        at = _begin(key, found.shape, shape)
        if at is not None:
            kept = found != IGNORE if key == "labels" else found.bool()
            axes = len(shape) - found.ndim - at
            masks[key] = kept.reshape(*kept.shape, *[1] * axes).expand(shape)
            if key == "mask" and not labeled:
                break  # a mask has the last word: [S, B] labels are those of items, not of tokens
    return masks


def kept_of(shape: torch.Size, labeled: bool, batch: Mapping[str, Any]) -> Tensor | None:
    """Which values are kept by every key that says something of them; None: all."""
    masks = list(masks_of(shape, labeled, batch).values())
    return functools.reduce(torch.logical_and, masks) if masks else None


def without_nan(found: Tensor, axis: int | None, labeled: bool, batch: Mapping[str, Any]) -> Tensor:
    """A teacher's signal without the nan that is left out: its gradient would be 0 · nan."""
    axis = -1 if axis is None else axis
    last = found if axis == -1 else found.movedim(axis, -1)
    kept = kept_of(last.shape[:-1], labeled, batch)
    if kept is None:
        return found
    dropped = ~kept
    # asking costs a wait on a GPU, and on a CPU less than writing the whole signal anew
    if found.device.type == "cpu" and bool(last[dropped].isfinite().all()):
        return found
    return found.masked_fill(dropped.unsqueeze(axis) & ~found.isfinite(), 0.0)


def count_like(
    values: Tensor, labeled: bool, batch: Mapping[str, Any], other: Mapping[str, Any]
) -> Tensor:
    """How many values a term keeps of another batch, given those it had for this one."""
    keys = masks_of(values.shape, labeled, batch)
    if not keys:
        return torch.tensor(values.numel() * _length(other) / _length(batch))
    key = max(keys, key=lambda k: batch[k].ndim)
    at = _begin(key, batch[key].shape, values.shape)
    assert at is not None
    after = values.shape[at + batch[key].ndim :]
    shape = torch.Size([*values.shape[:at], *other[key].shape, *after])
    return torch.stack(list(masks_of(shape, labeled, other).values())).all(0).sum().float()


def _length(batch: Mapping[str, Any]) -> int:
    for key in ("labels", "inputs", "input_ids"):
        if key in batch:
            return len(batch[key])
    return len(next(iter(batch.values())))


def __dir__() -> list[str]:
    return __all__
