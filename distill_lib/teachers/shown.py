"""What several models are shown: one that changes it would change the answers of the next."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from distill_lib.arguments import told
from distill_lib.masks import readable
from distill_lib.signals import inside

__all__ = ["COPIES", "Shown", "named_of", "prepared"]

COPIES = "have preprocess= return a new batch, of clones where it or the model works in place"


class Shown:
    """A batch as it was before models were asked about it.

    A model whose first layer works in place, such as ``ReLU(inplace=True)``, leaves something else
    in the batch for whoever is asked next, and for the next epoch. Torch counts the changes of each
    tensor; of those made in ``inference_mode``, which have no count, a copy is compared. Changes
    through ``.data`` or NumPy are not seen.

    Args:
        batch: A tensor of inputs, a mapping, or an ``(inputs, labels)`` pair, with tensors in lists
            and mappings too. Each entry of a dict stays the same object; others may be added.

    Example:
        >>> import torch
        >>> batch = {"inputs": torch.tensor([-1.0, 2.0])}
        >>> shown, relu = Shown(batch), nn.ReLU(inplace=True)
        >>> _ = relu(batch["inputs"].clone())
        >>> shown.check("student", relu)
        >>> _ = relu(batch["inputs"])
        >>> shown.check("student", relu)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the student, a ReLU, changes batch['inputs'] in place, and others are shown ...
    """

    def __init__(self, batch: Any) -> None:
        # of mappings of other kinds each look may make a new tensor
        self._batch: dict[str, Any] = batch if type(batch) is dict else dict(_named(batch))
        self._held = self._batch.copy()
        self._counts = _counts(self._held.values())

    def check(self, who: str, model: Any = None, way: str | None = None) -> None:
        """Whether the batch is still as it was.

        Args:
            who: The part that the model plays, such as ``student``.
            model: What was asked, where it is known.
            way: What else helps; by default a copy by ``forward=``.

        Raises:
            ValueError: it is not; the message names the model and what it changed.
        """
        held, there = self._held.values(), self._batch.values()
        now = _counts(held)
        if now != self._counts:
            changes = map(operator.ne, now, self._counts)
            name = next(k for k, changed in zip(self._held, changes, strict=True) if changed)
            copied = f"give it a copy: forward=lambda model, batch: model(batch[{name!r}].clone())"
            raise ValueError(
                f"{_titled(who, model)} changes batch[{name!r}] in place, and others are shown the "
                f"same. Set inplace=False in its first layers, or {way or copied}"
            )
        if len(there) < len(held) or not all(map(operator.is_, held, there)):
            raise ValueError(
                f"{_titled(who, model)} replaces entries of the batch, and others are shown the "
                "same. Make a new batch of it instead: {**batch, 'inputs': …}"
            )


class _Copy:
    """What a tensor held, where torch does not count its changes."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.clone()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Copy) or self.x.shape != other.x.shape:
            return False
        both_nan = (self.x != self.x) & (other.x != other.x)
        return bool(((self.x == other.x) | both_nan).all())


def _counts(values: Iterable[Any]) -> list[Any]:
    """How often each tensor was changed so far, or those that an entry of a batch is made of."""
    try:  # the usual batch, of tensors, in a third of a microsecond
        return [value._version for value in values]
    except (AttributeError, RuntimeError):  # no tensor, or one of inference_mode
        return [_count(value) for value in values]


def _count(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Copy(value) if value.is_inference() else value._version
    if isinstance(value, Mapping):
        return _counts(value.values())
    return _counts(value) if isinstance(value, (tuple, list)) else None


def prepared(batch: Any) -> Mapping[str, Any]:
    """The batch that ``preprocess`` made.

    Raises:
        TypeError: it made none.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(
            "preprocess= returns a batch by name, such as {**batch, 'inputs': …}; it returned "
            f"{told(batch)}"
        )
    return batch


def named_of(batch: Any) -> Mapping[str, Any]:
    """What lies beside the inputs by name, the labels as a tensor where one can hold them."""
    named = dict(_named(batch))
    return {**named, **readable({"labels": named.get("labels")})}


def _named(batch: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        return batch.items()
    if isinstance(batch, (tuple, list)):
        return zip(("inputs", "labels"), batch, strict=False)
    return (("inputs", batch),)


def _titled(who: str, model: Any) -> str:
    if model is None:
        return f"the {who}"
    if isinstance(model, nn.Module):
        model = inside(model)
    return f"the {who}, a {type(model).__name__},"
