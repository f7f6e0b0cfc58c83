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
    "MASKS",
    "about",
    "check_tokens",
    "following",
    "kept_of",
    "keys_of",
    "laid",
    "masks_of",
    "of_items",
    "readable",
    "weighted",
    "without_nan",
]

# what has one entry a token in the models of Transformers
TOKENS = frozenset({"logits", "hidden_states", "decoder_hidden_states", "last_hidden_state"})
IGNORE = -100  # the label of an item without a label, as in torch.nn.functional.cross_entropy
MASKS = ("mask", "attention_mask", "decoder_attention_mask")


def readable(batch: Mapping[str, Any], device: torch.device | None = None) -> Mapping[str, Any]:
    """The batch with its masks, weights and labels as tensors; they may come as lists or arrays.

    Labels that no tensor can hold, such as words, stay what they are: who reads them refuses them.

    Raises:
        TypeError: a mask or weights that no tensor can hold.
        ValueError: a mask that is to be added to scores, which would be read the wrong way round.
    """
    brought = {}
    for key in (*MASKS, "weight", "labels"):
        found = batch.get(key)
        if found is not None and not isinstance(found, Tensor):
            try:
                brought[key] = found = torch.as_tensor(found, device=device)
            except (TypeError, ValueError, RuntimeError):
                if key == "labels":
                    continue
                raise TypeError(
                    f"expected batch[{key!r}] as a tensor, an array or a list of numbers, got "
                    f"{type(found).__name__}"
                ) from None
        if isinstance(found, Tensor) and found.layout != torch.strided:
            raise TypeError(
                f"expected batch[{key!r}] as a dense tensor, got {found.layout}; give "
                f"batch[{key!r}].to_dense(), or of a nested one to_padded_tensor(…)"
            )
        if key not in MASKS or found is None or not found.is_floating_point():
            continue
        if bool((found < 0).any()):
            raise ValueError(
                f"batch[{key!r}] has negative numbers; is it one that is added to scores? "
                "Give a mask that is 1 where a value counts and 0 where it does not"
            )
    return {**batch, **brought} if brought else batch


def laid(found: Tensor, shape: torch.Size) -> Tensor:
    """A mask beside values of fewer axes, laid out as they are, where that leaves no doubt.

    Axes of length 1 go: [B, 1, H, W] beside [B, H, W]. Those that the values have as one are made
    one: [B, C, L] beside [B · C, L], the texts of several choices.
    """
    while found.ndim > len(shape) and 1 in found.shape[1:]:
        found = found.squeeze(found.shape.index(1, 1))
    first = found.shape[: found.ndim - len(shape) + 1]
    if found.ndim > len(shape) > 1 and shape == (first.numel(), *found.shape[len(first) :]):
        found = found.flatten(0, len(first) - 1)
    return found


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
    elif isinstance(mask, Tensor) and mask.ndim > 1 and batch.get("shift"):
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
    if not isinstance(mask, Tensor):
        return
    mask, shape = laid(mask, values.shape), values.shape
    if mask.ndim > values.ndim:
        return
    if mask.ndim == 1 < len(mask) and shape[:2] == (len(mask), len(mask)):
        _no_doubt(who, "mask", mask, values, batch)
    if _begin("mask", mask.shape, shape) is None:
        raise ValueError(
            f"{who()}: a mask {list(mask.shape)} says nothing of values {list(values.shape)}; give "
            "it the shape of the items, or of the tokens"
        )


def _no_doubt(
    who: Callable[[], str], key: str, found: Tensor, values: Tensor, batch: Mapping[str, Any]
) -> None:
    """One number an item, beside as many students as items, or as many tokens.

    Raises:
        ValueError: nothing in the batch tells that the second axis is one of tokens or places.
    """
    labels = batch.get("labels")
    if "attention_mask" in batch or (isinstance(labels, Tensor) and labels.ndim > 1):
        return
    raise ValueError(
        f"{who()}: is the {key} {list(found.shape)} beside values {list(values.shape)} one for "
        f"each row or for each column? Give it the shape of the values, as {key}.expand(…) does"
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
        if isinstance(labels, Tensor):
            labels = laid(labels, shape)
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
        if not isinstance(found, Tensor) or (found := laid(found, shape)).ndim != 2:
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
    weight, shape = laid(weight, values.shape), values.shape
    if weight.ndim == 1 < len(weight) and shape[:2] == (len(weight), len(weight)):
        _no_doubt(who, "weight", weight, values, batch)
    at = _begin("mask", weight.shape, shape)
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
        found = laid(found, shape)
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


def __dir__() -> list[str]:
    return __all__
