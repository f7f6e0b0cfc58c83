"""What a teacher says inside, kept in memory: each item with its own length, in half precision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import Batch, Signals, as_batch, pick

from .cacherows import kept
from .live import Source, Teacher

__all__ = ["Recorded"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDER = "Recorded(…, dtype=torch.bfloat16), or torch.float32; or scale them by Teacher(forward=…)"
WHOLE = "Recorded(…, dtype=torch.float32), which holds them up to 16,777,216"


@checked
class Recorded:
    r"""A teacher that was asked once about some texts, and answers from memory.

    A :class:`distill_lib.Cache` holds rows of one shape on disk, such as logits. What a transformer
    says inside has another shape for each text: hidden states :math:`[L_i, D]`, attention maps
    :math:`[H, L_i, L_i]`. Here every text keeps its own, without padding, and a batch gets them
    padded with zeros to its longest text. Rows are found by ``batch["index"]``.

    Args:
        teacher: Any teacher, or a module that becomes one.
        batches: Batches with ``index`` and ``attention_mask``, walked once; sorted by length they
            cost least.
        signals: The paths to keep, such as an objective's ``reads("teacher")``.
        dtype: Of what is kept; half of single precision by default.

    Raises:
        TypeError: a type that is none of float16, bfloat16 and float32; complex numbers.
        ValueError: batches without ids or masks, or without an item; a number too large for dtype,
            beyond 65,504 in float16; whole numbers that it would round, beyond 2,048.
        KeyError: a signal that the teacher does not have.

    Example:
        >>> batch = {"inputs": torch.tensor([[1.0, 3.0]]).mT, "index": torch.tensor([7, 5])}
        >>> batch["attention_mask"] = torch.ones(2, 1)
        >>> kept = Recorded(nn.Identity(), [batch], ["logits"])
        >>> kept({"index": torch.tensor([5, 7]), "attention_mask": torch.ones(2, 1)})["logits"].mT
        tensor([[3., 1.]])
    """

    asked: tuple[str, ...]
    signals: tuple[str, ...]

    def __init__(
        self,
        teacher: Source | nn.Module,
        batches: Iterable[Batch],
        signals: Sequence[str],
        dtype: torch.dtype = torch.float16,
    ) -> None:
        if dtype not in DTYPES:
            raise TypeError(
                f"a record holds float16, bfloat16 or float32, in which it answers, got {dtype}"
            )
        source: Any = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        if hasattr(source, "reveal"):
            source.reveal(signals)
        self.signals = self.asked = tuple(signals)
        self._rows: dict[int, tuple[Tensor, ...]] = {}
        for batch in batches:
            named = as_batch(batch)
            lengths = _need(named, "attention_mask").sum(-1).tolist()
            said = source(named)
            padded = []
            for path in signals:
                found = pick(said, path, "teacher")
                way = WIDER if found.is_floating_point() else WHOLE
                padded.append(kept(path, found, dtype, way))
            for i, key in enumerate(_need(named, "index").tolist()):
                self._rows[key] = tuple(_cut(x[i], int(lengths[i])).clone() for x in padded)
        if not self._rows:
            raise ValueError("batches is empty: there is nothing to record")
        text = repr((source.fingerprint(), self.signals, str(dtype), sorted(self._rows)))
        self._name = hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        size = sum(x.numel() * x.element_size() for row in self._rows.values() for x in row)
        return f"Recorded({len(self):,} items, {', '.join(self.signals)}, {size / 1e6:.0f} MB)"

    def __call__(self, batch: Batch) -> Signals:
        """The kept signals of the batch's items, by path, in float32.

        Raises:
            KeyError: an item that was not recorded.
            ValueError: a batch without ids or masks, or padded to another length.
        """
        named = as_batch(batch)
        index, length = _need(named, "index"), _need(named, "attention_mask").shape[-1]
        unknown = [key for key in index.tolist() if key not in self._rows]
        if unknown:
            raise KeyError(
                f"id {unknown[0]} is not among the {len(self)} items that were recorded; record "
                "the teacher on the data set that you train on"
            )
        rows = [self._rows[key] for key in index.tolist()]
        found = {}
        for path in self.asked:
            at = self.signals.index(path)
            found[path] = _padded([row[at] for row in rows], length).to(index.device)
        return found

    def reveal(self, paths: Sequence[str]) -> None:
        """Answer with what an objective names, and no more.

        Raises:
            KeyError: a signal that was not recorded.
        """
        for path in paths:
            if path not in self.signals:
                raise KeyError(
                    f"{path!r} was not recorded; there are {', '.join(self.signals)}. Record what "
                    "the objective reads: Recorded(teacher, batches, objective.reads('teacher'))"
                )
        self.asked = tuple(paths)

    def to(self, device: torch.device | str) -> Recorded:
        """Nothing to move: rows go to where the batch's ids are."""
        return self

    def fingerprint(self) -> str:
        """The teacher's fingerprint, with the signals and the items."""
        return self._name


def _need(batch: Any, name: str) -> Tensor:
    if name not in batch:
        raise ValueError(
            f"a recorded teacher keeps its rows by id, each with its own length: the batch needs "
            f"'index' and 'attention_mask'; it has {', '.join(batch)}"
        )
    found = batch[name]
    flat = name == "index"
    if not isinstance(found, Tensor) or not found.numel() or (found.ndim == 1) != flat:
        shape = "[B]" if flat else "[B, L]"
        raise TypeError(f"{name!r} of a batch expected a tensor {shape}, got {told(found)}")
    return found


def _cut(one: Tensor, length: int) -> Tensor:
    """An item without its padding: logits [C], hidden states [L, D], attention maps [H, L, L]."""
    if one.ndim == 2:
        return one[:length]
    return one[:, :length, :length] if one.ndim == 3 else one


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    shape = list(rows[0].shape)
    ragged = {1: (), 2: (0,), 3: (1, 2)}[len(shape)]
    longest = max((row.shape[axis] for row in rows for axis in ragged), default=0)
    if longest > length:
        raise ValueError(
            f"a text has {longest} tokens in the record and at most {length} in this batch: record "
            "the teacher on the same tokens"
        )
    for axis in ragged:
        shape[axis] = length
    out = torch.zeros(len(rows), *shape, dtype=rows[0].dtype)
    for target, row in zip(out, rows, strict=True):
        target[tuple(slice(size) for size in row.shape)] = row
    return out.float()
