"""What is asked of the batches: that they are batches, of several items, that models can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from distill_lib.arguments import told
from distill_lib.signals import DESCRIPTIVE, as_batch

__all__ = ["check_batch", "check_batches", "unreadable"]

LOADER = "DataLoader(data, batch_size=64)"


def check_batches(batches: Any) -> None:
    """Batches, not single items, and not a single batch.

    Raises:
        TypeError: a data set or a tensor, whose elements are items; one batch; several data sets.
    """
    items = isinstance(batches, Dataset) and not isinstance(batches, IterableDataset)
    ours = callable(getattr(batches, "batches", None))
    if items or ours or isinstance(batches, (Tensor, np.ndarray)) or _is_hf(batches):
        way = "data.batches(64)" if ours else LOADER
        raise TypeError(
            f"expected batches, got a {type(batches).__name__}, whose elements are single items; "
            f"give {way}"
        )
    if isinstance(batches, Mapping) and _holds_data(batches):
        raise TypeError(
            f"expected batches, got a {type(batches).__name__} of several data sets "
            f"({', '.join(map(str, batches))}): choose one and cut it into batches, "
            f"{LOADER.replace('data', f'data[{next(iter(batches))!r}]')}"
        )
    if isinstance(batches, Mapping) or _is_pair(batches):
        what = ", ".join(map(str, batches)) if isinstance(batches, Mapping) else "two tensors"
        raise TypeError(
            f"expected batches, got a {type(batches).__name__} ({what}), which is one batch: give "
            "a list of batches, [batch]"
        )
    walked = any(hasattr(type(batches), name) for name in ("__iter__", "__getitem__"))
    if not walked or isinstance(batches, (str, bytes)):
        raise TypeError(f"expected batches, a DataLoader, a list or the like, got {told(batches)}")


def _is_hf(batches: Any) -> bool:
    return type(batches).__module__.startswith("datasets.arrow_dataset")


def _holds_data(splits: Mapping[Any, Any]) -> bool:
    """Whether it is a choice of data sets, such as a ``DatasetDict`` of 🤗 Datasets."""
    kinds = (Dataset, DataLoader)
    hf = ("datasets.arrow_dataset", "datasets.iterable_dataset")
    parts = list(splits.values())
    return bool(parts) and all(
        isinstance(part, kinds) or type(part).__module__.startswith(hf) for part in parts
    )


def _is_pair(batches: Any) -> bool:
    """Whether it is ``(inputs, labels)``; a list of tensors is said of its first element."""
    pair = isinstance(batches, (tuple, list)) and len(batches) == 2
    return pair and all(isinstance(part, (Tensor, np.ndarray)) for part in batches)


def check_batch(batch: Any) -> None:
    """A batch is of several items.

    Raises:
        TypeError: something else that batches came with, such as the inputs alone.
        ValueError: a single item.
    """
    try:
        named = as_batch(batch)
    except TypeError as error:
        alone = isinstance(batch, (Tensor, np.ndarray))
        raise TypeError(
            f"{error}. "
            + ('Inputs alone are {"inputs": x}' if alone else "Name what is in it: {'inputs': …}")
            + f"; single items become batches by {LOADER}"
        ) from None
    for key in ("labels", "index"):
        value = named.get(key)
        if isinstance(value, (int, float, np.generic)) or getattr(value, "shape", None) == ():
            raise ValueError(
                f"expected batches of several items, got a single item: its {key!r} is one number, "
                f"{value!r}. Give {LOADER}; for one of 🤗 Datasets, data.with_format('torch')"
            )


def unreadable(batch: Any, error: Exception) -> str | None:
    """What in a batch may be the reason why a model could not read it."""
    named = as_batch(batch)
    keys = ["inputs"] if "inputs" in named else [key for key in named if key not in DESCRIPTIVE]
    for key in keys:
        value = named[key]
        plain = isinstance(value, (np.ndarray, np.generic, list, tuple, int, float, str))
        # a model that reads texts or arrays is not what a ValueError is about
        if plain and not isinstance(error, ValueError):
            return (
                f"batch[{key!r}] is {told(value)}, and most models read tensors: give "
                f"torch.as_tensor(…), for a data set {LOADER}, for one of 🤗 Datasets with "
                "data.with_format('torch'); or say how it is read with forward="
            )
        if isinstance(value, Tensor) and value.ndim < 2 and value.is_floating_point():
            return (
                f"batch[{key!r}] has the shape {list(value.shape)}: is it a single item? Items "
                f"become batches by {LOADER}"
            )
    return None
