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
    padded with zeros where its own ``attention_mask`` is 0, on whichever side. Rows are found by
    ``batch["index"]``.

    Args:
        teacher: Any teacher, or a module that becomes one.
        batches: Batches with ``index`` and ``attention_mask``, walked once; sorted by length they
            cost least.
        signals: The paths to keep, such as an objective's ``reads("teacher")``.
        dtype: Of what is kept; half of single precision by default.

    Raises:
        TypeError: a type that is none of float16, bfloat16 and float32; complex numbers.
        ValueError: batches without ids or masks, or without an item; one id with two answers; a
            mask that is not of 0 and 1;
            signals that are none of [B], [B, C], [B, L, D] and [B, H, L, L] for it; a number too
            large for dtype, beyond 65,504 in float16; whole numbers that it would round, beyond
            2,048.
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
            ids, mask = _both(named)
            said = source(named)
            padded = []
            for path in signals:
                found = pick(said, path, "teacher")
                way = WIDER if found.is_floating_point() else WHOLE
                padded.append(kept(path, _fitting(path, found, mask), dtype, way))
            for i, key in enumerate(ids):
                row = tuple(_cut(x[i], mask[i]).clone() for x in padded)
                if not all(map(_alike, row, self._rows.setdefault(key, row))):
                    raise ValueError(
                        f"two items with the id {key} have other answers: number the items anew, "
                        "as of several data sets in one, or leave out what augments them"
                    )
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
            ValueError: a batch without ids or masks, or of other tokens.
        """
        named = as_batch(batch)
        ids, mask = _both(named)
        unknown = [key for key in ids if key not in self._rows]
        if unknown:
            raise KeyError(
                f"id {unknown[0]} is not among the {len(self)} items that were recorded; record "
                "the teacher on the data set that you train on"
            )
        rows = [self._rows[key] for key in ids]
        found = {}
        for path in self.asked:
            at = self.signals.index(path)
            found[path] = _padded([row[at] for row in rows], mask).to(named["index"].device)
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


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two rows are of one item, up to what its neighbors in a batch do to rounding."""
    if one.shape != other.shape or not one.numel() or one is other:
        return one.shape == other.shape
    one, other = one.float(), other.float()
    most = float(one.abs().amax())
    return bool(torch.isclose(one, other, rtol=0.0, atol=0.05 * most, equal_nan=True).all())


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


def _both(batch: Any) -> tuple[list[int], Tensor]:
    """The ids of a batch, and [B, L] which places are tokens."""
    index, mask = _need(batch, "index"), _need(batch, "attention_mask").detach().cpu()
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"'index' of a batch expected whole numbers, got {told(index)}")
    if mask.shape != (len(index), *mask.shape[-1:]) or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"'attention_mask' of a batch expected [B, L] of 1 for a token and 0 for padding, got "
            f"{told(mask)} for {len(index)} ids"
        )
    return index.tolist(), mask.bool()


def _fitting(path: str, found: Tensor, mask: Tensor) -> Tensor:
    """A signal, once it is known to be one of the items or of the tokens of a batch."""
    ragged = {3: found.shape[1:2], 4: found.shape[2:]}.get(found.ndim, ())
    fits = 0 < found.ndim < 5 and len(found) == len(mask)
    if not fits or any(n != mask.shape[1] for n in ragged):
        raise ValueError(
            f"{path!r} of the teacher is {list(found.shape)} beside an attention_mask "
            f"{list(mask.shape)}, and a record keeps signals [B], [B, C], [B, L, D] or "
            "[B, H, L, L]: make it one of them by Teacher(forward=…)"
        )
    return found


def _cut(one: Tensor, real: Tensor) -> Tensor:
    """An item without its padding: logits [C], hidden states [L, D], attention maps [H, L, L]."""
    if one.ndim == 2:
        return one[real]
    return one[:, real][:, :, real] if one.ndim == 3 else one


def _padded(rows: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Rows of several lengths, each where its item's tokens are."""
    shape = [*rows[0].shape]
    for axis in {2: (0,), 3: (1, 2)}.get(len(shape), ()):
        shape[axis] = mask.shape[1]
    out = torch.zeros(len(rows), *shape, dtype=rows[0].dtype)
    for target, row, real in zip(out, rows, mask, strict=True):
        at = real.nonzero()[:, 0]
        if row.ndim > 1 and row.shape[-2] != len(at):
            raise ValueError(
                f"a text has {row.shape[-2]} tokens in the record and {len(at)} in this batch: "
                "record the teacher on the same tokens"
            )
        if row.ndim == 3:
            target[:, at[:, None], at] = row
        elif row.ndim == 2:
            target[at] = row
        elif row.shape == target.shape:
            target.copy_(row)
        else:
            raise ValueError(
                f"items of {[*target.shape]} and {[*row.shape]} numbers are in the record, and one "
                "batch cannot hold both: if these are of tokens, record them as [B, L, 1]"
            )
    return out.float()
