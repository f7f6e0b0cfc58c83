"""Texts with labels and human ratings, their tokens, and batches of texts of about one length."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from distill_lib.arguments import checked, told
from distill_lib.data import places
from distill_lib.data.dataset import NO_LABEL, Batches, DataError, Labeled, _generator

__all__ = ["TextBatches", "TextDataset", "Tokens"]

POOL = 20  # batches that are sorted by length together


@dataclass(frozen=True, eq=False)
class Tokens:
    """The ids of all texts in one row: text ``i`` is ``ids[starts[i]:starts[i + 1]]``."""

    ids: Tensor
    starts: Tensor
    pad: int = 0

    def lengths(self) -> Tensor:
        """``[N]`` tokens of each text."""
        return self.starts.diff()

    def padded(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., L]`` ids and attention mask of the texts at positions ``[...]``."""
        begin, length = self.starts[at], self.lengths()[at]
        reach = torch.arange(int(length.max()))
        mask = reach < length[..., None]
        where = (begin[..., None] + reach).clamp_max(len(self.ids) - 1)
        return self.ids[where].masked_fill(~mask, self.pad).long(), mask.long()

    def subset(self, at: Tensor) -> Tokens:
        """The texts at some positions."""
        parts = [self.ids[self.starts[i] : self.starts[i + 1]] for i in at.tolist()]
        lengths = torch.tensor([0, *map(len, parts)])
        return Tokens(torch.cat(parts or [self.ids[:0]]), lengths.cumsum(0), self.pad)


@checked
@dataclass(frozen=True, eq=False, repr=False)
class TextDataset(Labeled):
    """Texts, labels, ids, and what each human rater said.

    Args:
        texts: The texts, none of them empty.
        labels: ``[N]`` int64; -100 means that a text has no label.
        classes: Names of the classes.
        index: ``[N]`` int64 ids that stay with the texts. By default the positions.
        ratings: ``[N, 9]`` how many raters said -4, -3, … 4, where that is known.
        tokens: Made by :meth:`tokenize`.
        name: Name and split.
        origin: Where the texts come from.
        license: Under which terms.

    Raises:
        DataError: The lengths differ, a text is empty, a label is no class.
    """

    kind: ClassVar[str] = "text"

    texts: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    ratings: Tensor | None = None
    tokens: Tokens | None = None
    name: str = "texts"
    origin: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        if any(one is not None and not one.ndim for one in (self.labels, self.index, self.ratings)):
            raise DataError(f"{self.name}: labels, index and ratings expected items, got a scalar.")
        if len(self.index) == 0 < len(self.texts):
            object.__setattr__(self, "index", torch.arange(len(self.texts)))
        columns = [self.texts, self.labels, self.index]
        columns += [] if self.ratings is None else [self.ratings]
        lengths = [len(column) for column in columns]
        if len(set(lengths)) != 1:
            raise DataError(
                f"{self.name}: texts, labels, index (and ratings) have lengths {lengths}."
            )
        for i, text in enumerate(self.texts):
            if not text.strip():
                raise DataError(
                    f"{self.name}: text {i} (id {int(self.index[i])}) is empty: leave it out, for "
                    "a model would answer to [CLS] [SEP] alone."
                )
        if self.ratings is not None and self.ratings.shape[1:] != (9,):
            raise DataError(
                f"{self.name}: expected ratings [N, 9], how many raters said -4 to 4, got "
                f"{told(self.ratings)}."
            )
        self._whole(index=self.index)
        object.__setattr__(self, "texts", tuple(self.texts))
        object.__setattr__(self, "classes", tuple(self.classes))
        self._check_labels()

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> dict[str, Any]:
        one = self._batch(torch.tensor([i]))
        return {k: v[0] if isinstance(v, Tensor) else v for k, v in one.items()}

    def __repr__(self) -> str:
        without = int((self.labels == NO_LABEL).sum())
        missing = f", {without:,} without label" if without else ""
        kind = "texts" if self.tokens is None else f"texts, {len(self.tokens.ids):,} tokens"
        return (
            f"TextDataset({self.name}: {len(self):,} {kind}, {len(self.classes)} classes{missing})"
        )

    @property
    def human(self) -> Tensor:
        """``[N, 2]`` the share of the raters on the negative and on the positive side.

        A rating of 0 counts as half a rater for each side.

        Raises:
            DataError: These texts have no ratings.
        """
        if self.ratings is None:
            raise DataError(f"{self.name} has no human ratings")
        counts = self.ratings.double()
        half = counts[:, 4] / 2
        sides = torch.stack([counts[:, :4].sum(1) + half, counts[:, 5:].sum(1) + half], 1)
        return (sides / sides.sum(1, keepdim=True)).float()

    @property
    def mean_rating(self) -> Tensor:
        """``[N]`` the mean of the ratings, from -4 to 4."""
        if self.ratings is None:
            raise DataError(f"{self.name} has no human ratings")
        counts = self.ratings.double()
        return (counts @ torch.arange(-4.0, 5.0, dtype=torch.float64) / counts.sum(1)).float()

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """The texts at some positions (or under a mask ``[N]`` of bools), with their ids."""
        at = self._positions(indices)
        return replace(
            self,
            texts=tuple(self.texts[i] for i in at.tolist()),
            labels=self.labels[at],
            index=self.index[at],
            ratings=None if self.ratings is None else self.ratings[at],
            tokens=None if self.tokens is None else self.tokens.subset(at),
        )

    def by_length(self) -> Self:
        """The same texts, the short ones first: the order in which padding costs least."""
        return self.subset(self._tokens().lengths().argsort(stable=True))

    def __add__(self, other: TextDataset) -> TextDataset:
        """Both, one after the other. Tokens and ratings stay where both have them."""
        if self.classes != other.classes:
            raise DataError(
                f"{self.name} has classes {self.classes}, {other.name} has {other.classes}"
            )
        twice = set(self.index.tolist()) & set(other.index.tolist())
        if twice:
            raise DataError(f"{self.name} and {other.name} share ids, such as {min(twice)}")
        tokens = ratings = None
        if self.tokens is not None and other.tokens is not None:
            starts = torch.cat(
                [self.tokens.starts[:-1], other.tokens.starts + len(self.tokens.ids)]
            )
            tokens = Tokens(torch.cat([self.tokens.ids, other.tokens.ids]), starts, self.tokens.pad)
        if self.ratings is not None and other.ratings is not None:
            ratings = torch.cat([self.ratings, other.ratings])
        return replace(
            self,
            texts=self.texts + other.texts,
            labels=torch.cat([self.labels, other.labels]),
            index=torch.cat([self.index, other.index]),
            ratings=ratings,
            tokens=tokens,
            name=f"{self.name}+{other.name}",
        )

    @checked
    def tokenize(self, tokenizer: Any, max_length: int = 64) -> TextDataset:
        """The same texts with their tokens; what was tokenized once is read from the disk.

        Args:
            tokenizer: A tokenizer of 🤗 Transformers.
            max_length: Longer texts lose their end, or what the tokenizer's truncation_side says.

        Raises:
            DataError: ``max_length`` is more than the tokenizer's model can read, or below 3; a
                tokenizer without a token to pad with.
        """
        if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
            raise TypeError(f"tokenizer expected one of 🤗 Transformers, got {told(tokenizer)}")
        most = getattr(tokenizer, "model_max_length", max_length)
        if not 3 <= max_length <= most:
            raise DataError(
                f"max_length={max_length}, but the model of this tokenizer reads from 3 to {most} "
                "tokens; longer texts are cut at max_length"
            )
        if tokenizer.pad_token_id is None:
            raise DataError(
                "the tokenizer has no token to pad with, and batches are padded: set it, such as "
                "tokenizer.pad_token = tokenizer.eos_token"
            )
        path = _place(tokenizer, max_length, self.texts)
        try:
            ids, starts = _kept(path, len(self), max_length)
        except Exception:  # not there, or torn in any way: they are made again
            rows = tokenizer(list(self.texts), truncation=True, max_length=max_length)["input_ids"]
            ids = np.concatenate([np.asarray(row, np.int32) for row in rows])
            starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
            _keep(path, ids, starts)
        tokens = Tokens(torch.from_numpy(ids), torch.from_numpy(starts), tokenizer.pad_token_id)
        return replace(self, tokens=tokens)

    def fingerprint(self) -> str:
        """SHA-256 of tokens (else texts) and ids: all that a teacher's answers depend on."""
        if "_fingerprint" not in self.__dict__:
            digest = hashlib.sha256(self.index.numpy().tobytes())
            if self.tokens is None:
                digest.update(repr(self.texts).encode())
            else:
                digest.update(self.tokens.ids.numpy().tobytes())
                digest.update(self.tokens.starts.numpy().tobytes())
            object.__setattr__(self, "_fingerprint", digest.hexdigest())
        return str(self.__dict__["_fingerprint"])

    @checked
    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        drop_last: bool = False,
    ) -> TextBatches:
        """Batches ``{"input_ids", "attention_mask", "labels", "index"}``, and ``"human"`` if known.

        With ``shuffle``, texts of about one length come together (all are shuffled, then sorted
        within pools of twenty batches, then the batches are shuffled); without, the order is that
        of the data. Arguments and errors as in :meth:`distill_lib.data.Dataset.batches`.
        """
        self._tokens()
        chosen = (seed,) if seeds is None else tuple(seeds)
        stacked = seeds is not None
        return TextBatches(self, batch_size, shuffle, chosen, None, drop_last, stacked)

    def _tokens(self) -> Tokens:
        if self.tokens is None:
            raise DataError(f"{self.name} has no tokens yet: call tokenize(tokenizer) first")
        return self.tokens

    def _batch(self, at: Tensor) -> dict[str, Any]:
        ids, mask = self._tokens().padded(at)
        batch = {"input_ids": ids, "attention_mask": mask}
        batch |= {"labels": self.labels[at], "index": self.index[at]}
        if self.ratings is not None:
            if "_human" not in self.__dict__:
                object.__setattr__(self, "_human", self.human)
            batch["human"] = self.__dict__["_human"][at]
        return batch


class TextBatches(Batches):
    """Batches of texts; each walk is an epoch with an order of its own."""

    dataset: TextDataset

    def _walk(self, epoch: int) -> Iterator[dict[str, Any]]:
        order = torch.stack([self._order(seed, epoch) for seed in self.seeds])
        for at in torch.split(order if self.stacked else order[0], self.batch_size, -1)[
            : len(self)
        ]:
            batch = self.dataset._batch(at)
            if self.stacked:
                # [S, B] items, not tokens: those without a label still have a teacher
                batch["mask"] = torch.ones_like(batch["labels"], dtype=torch.bool)
            yield batch

    def _order(self, seed: int, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        draw = _generator("order", seed, epoch)
        lengths, size = self.dataset._tokens().lengths(), self.batch_size
        pools = torch.split(torch.randperm(len(self.dataset), generator=draw), POOL * size)
        sorted_ = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools])
        whole = len(sorted_) // size
        turned = sorted_[: whole * size].view(whole, size)[torch.randperm(whole, generator=draw)]
        return torch.cat([turned.flatten(), sorted_[whole * size :]])


def _place(tokenizer: Any, max_length: int, texts: tuple[str, ...]) -> Path:
    """Where tokens are kept, by all that they depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    known = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    side = getattr(tokenizer, "truncation_side", "right")
    own = getattr(tokenizer, "init_kwargs", {}) if backend is None else {}
    if side != "right" or own:  # of a tokenizer in Python, the words do not tell the rules
        known = (known, side, type(tokenizer).__qualname__, sorted(map(repr, own.items())))
    key = repr((known, max_length, texts)).encode()
    return places.home() / "tokens" / f"{hashlib.sha256(key).hexdigest()[:32]}.npz"


def _kept(path: Path, texts: int, max_length: int) -> tuple[Any, Any]:
    """The ids and starts that :func:`_keep` wrote; anything else is an error of some kind."""
    with zipfile.ZipFile(path) as archive:
        ids = _array(archive, "ids.npy", np.dtype(np.int32), texts * max_length)
        starts = _array(archive, "starts.npy", np.dtype(np.int64), texts + 1)
    lengths = np.diff(starts)
    if len(starts) != texts + 1 or starts[0] != 0 or starts[-1] != len(ids) or (lengths < 0).any():
        raise ValueError("starts do not fit")
    return ids, starts


def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], most: int) -> Any:
    """An array of the file, of ``most`` numbers at most; its header allocates nothing."""
    with archive.open(name) as member:
        file = io.BytesIO(places.read(member, most * dtype.itemsize + 1024))
    np.lib.format.read_magic(file)
    shape, _, found = np.lib.format.read_array_header_1_0(file)
    values = np.frombuffer(file.read(), dtype)
    if found != dtype or shape != values.shape:
        raise ValueError(f"{name} holds {shape} {found}")
    return values.copy()  # writable


def _keep(path: Any, ids: Any, starts: Any) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, ids=ids, starts=starts)
    try:
        places.write(path, buffer.getvalue())
    except OSError:
        return  # nowhere to keep them: the next run tokenizes again
