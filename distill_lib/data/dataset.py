"""A data set in memory, and batches of it that can be walked again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from distill_lib.arguments import checked, told

__all__ = ["Batches", "DataError", "Dataset"]

Augment = Callable[[Tensor, torch.Generator], Tensor]

NO_LABEL = -100


class DataError(RuntimeError):
    """Data that is not there or not what it should be; the message says what to do."""


class Labeled:
    """What data sets of images and of texts do alike with their labels."""

    kind: ClassVar[str] = "item"
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def _whole(self, **columns: Tensor) -> None:
        """Keep labels and ids as int64: in other types -100 may be another number."""
        for name, column in columns.items():
            kind = column.dtype
            odd = kind.is_floating_point or kind.is_complex or kind == torch.bool
            if column.ndim != 1 or odd:
                raise DataError(
                    f"{self.name}: expected {name} [N] that are whole numbers, got {told(column)}."
                )
            object.__setattr__(self, name, column.long())

    def _check_labels(self) -> None:
        self._whole(labels=self.labels)
        wrong = (self.labels >= len(self.classes)) | (self.labels < 0)
        wrong &= self.labels != NO_LABEL
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise DataError(
                f"{self.name}: {self.kind} {at} has label {int(self.labels[at])}, but there are "
                f"{len(self.classes)} classes; {NO_LABEL} stands for no label."
            )

    def _positions(self, indices: Any) -> Tensor:
        """Positions ``[K]`` that there are, or those of a mask ``[N]`` of bools."""
        try:
            at = torch.as_tensor(indices, device=self.labels.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"{self.name}: expected positions or a mask of bools, got {told(indices)}"
            ) from error
        count = len(self.labels)
        if at.dtype == torch.bool:
            if at.shape != (count,):
                shape = list(at.shape) if at.ndim != 1 else len(at)
                raise DataError(f"{self.name}: a mask of {shape} for {count} {self.kind}s.")
            return at.nonzero()[:, 0]
        whole = not (at.is_floating_point() or at.is_complex()) or not at.numel()
        if at.ndim != 1 or not whole:
            raise DataError(f"{self.name}: expected whole positions [K], got {told(at)}.")
        at = at.to(torch.int64)
        if at.numel() and not -count <= int(at.min()) <= int(at.max()) < count:
            far = int(at.min()), int(at.max())
            raise DataError(f"{self.name}: positions {far[0]} to {far[1]} of {count} {self.kind}s.")
        return at

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """Some of them, with their ids."""
        raise NotImplementedError

    @checked
    def per_class(self, k: int) -> Self:
        """The first ``k`` of each class, in the order of the data."""
        counts = torch.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))
        if k < 1 or int(counts.min()) < k:
            rare = self.classes[int(counts.argmin())]
            raise DataError(
                f"{self.name}: {k} of each class were asked for; {rare!r} has {int(counts.min())}."
            )
        firsts = [(self.labels == c).nonzero()[:k, 0] for c in range(len(self.classes))]
        return self.subset(torch.cat(firsts).sort().values)

    @checked
    def without_labels(self, mask: Tensor | None = None) -> Self:
        """The same with labels -100 where ``mask`` ``[N]`` is true, by default everywhere."""
        mask = torch.ones_like(self.labels, dtype=torch.bool) if mask is None else mask
        if mask.dtype != torch.bool or mask.shape != self.labels.shape:
            raise DataError(
                f"{self.name}: expected a mask of {len(self.labels)} bools, "
                f"got {mask.dtype} of shape {list(mask.shape)}."
            )
        return replace(self, labels=self.labels.masked_fill(mask, NO_LABEL))  # type: ignore[type-var]


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Labeled):
    """Inputs, labels and ids in memory, with their origin.

    Args:
        inputs: ``[N, ...]`` float32, standardized.
        labels: ``[N]`` int64; -100 means that an item has no label.
        classes: Names of the classes.
        index: ``[N]`` int64 ids that stay with the items through :meth:`subset`, so that what is
            cached by id remains right. By default the positions.
        name: Name and split, such as ``"digits/train"``.
        origin: Where the data come from.
        license: Under which terms.

    Raises:
        DataError: The lengths differ, or a label is no class.
    """

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    name: str = "data"
    origin: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        if not (self.inputs.ndim and self.labels.ndim and self.index.ndim):
            raise DataError(f"{self.name}: inputs, labels and index expected items, got a scalar.")
        if len(self.index) == 0 < len(self.inputs):
            object.__setattr__(self, "index", torch.arange(len(self.inputs)))
        lengths = (len(self.inputs), len(self.labels), len(self.index))
        if len(set(lengths)) != 1:
            raise DataError(f"{self.name}: inputs, labels and index have lengths {lengths}.")
        self._whole(index=self.index)
        object.__setattr__(self, "classes", tuple(self.classes))
        self._check_labels()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[i], "labels": self.labels[i], "index": self.index[i]}

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.inputs.shape[1:])
        without = int((self.labels == NO_LABEL).sum())
        missing = f", {without:,} without label" if without else ""
        return (
            f"{type(self).__name__}({self.name}: {len(self):,} items of {shape}, "
            f"{len(self.classes)} classes{missing})"
        )

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """The items at some positions (or under a mask ``[N]`` of bools), with their ids."""
        at = self._positions(indices)
        return replace(self, inputs=self.inputs[at], labels=self.labels[at], index=self.index[at])

    @checked
    def to(self, device: str | torch.device) -> Self:
        """The same data on a device, from where batches are then cut."""
        try:
            device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device expected a name like 'cuda:0', got {device!r}") from error
        parts: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        moved = {n: part.to(device) for n, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **{**parts, **moved})

    def fingerprint(self) -> str:
        """SHA-256 of inputs and ids: all that a teacher's answers depend on.

        Labels are left out, so what is cached for the data also serves it with labels hidden.
        """
        if "_fingerprint" not in self.__dict__:
            digest = hashlib.sha256()
            for tensor in (self.inputs, self.index):
                digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().view(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
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
        augment: Augment | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """Batches ``{"inputs", "labels", "index"}``, in another order at each walk.

        Args:
            batch_size: Items a batch.
            shuffle: Draw a new order for each walk.
            seed: Order and augmentation depend on it and on the number of the walk alone.
            seeds: Several seeds for a :class:`distill_lib.Stacked` model: tensors get a leading
                axis ``[S, B, ...]``, along which seed ``s`` sees what it would see alone.
            augment: ``augment(inputs, generator)`` returns as many changed inputs.
            drop_last: Leave out the last batch where it is smaller.

        Raises:
            ValueError: The batch size does not fit the data, or ``seeds`` is empty.
        """
        chosen = (seed,) if seeds is None else tuple(seeds)
        return Batches(
            self, batch_size, shuffle, chosen, augment, drop_last, stacked=seeds is not None
        )


@checked
class Batches:
    """An iterable of batches; each walk is an epoch with an order of its own.

    ``epoch`` is the number of the next walk. A look at the first batch, ``next(iter(batches))``, is
    no walk. :meth:`state_dict` keeps the number, so that a training that goes on after a kill sees
    the same batches as one that was never interrupted.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool,
        seeds: tuple[int, ...],
        augment: Augment | None,
        drop_last: bool,
        stacked: bool,
    ) -> None:
        if batch_size < 1 or not seeds:
            raise ValueError(f"batch_size >= 1 and a seed are needed, got {batch_size}, {seeds}")
        if drop_last and batch_size > len(dataset):
            raise ValueError(
                f"drop_last with batches of {batch_size} leaves nothing of {len(dataset)} items"
            )
        self.dataset: Any = dataset
        self.batch_size: int = batch_size
        self.shuffle: bool = shuffle
        self.seeds: tuple[int, ...] = tuple(map(int, seeds))
        self.augment: Augment | None = augment
        self.drop_last: bool = drop_last
        self.stacked: bool = stacked
        self.epoch: int = 0
        self._begun = -1  # the walk whose first batch was given last

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = self.epoch
        for number, batch in enumerate(self._walk(epoch)):
            self._begun, self.epoch = epoch, max(self.epoch, epoch + (number > 0))
            yield batch
        self.epoch = max(self.epoch, epoch + 1)

    def broken_off(self) -> None:
        """Count the last walk, also where one batch was all that was needed of it.

        A training of one step calls it, so that the next does not see the same batch.
        """
        self.epoch = max(self.epoch, self._begun + 1)

    def _walk(self, epoch: int) -> Iterator[dict[str, Any]]:
        data = self.dataset
        order = torch.stack([self._order(seed, epoch) for seed in self.seeds])
        if not self.stacked:
            order = order[0]
        for number, at in enumerate(torch.split(order, self.batch_size, -1)[: len(self)]):
            inputs = data.inputs[at]
            if self.augment is not None:
                inputs = self._augmented(inputs, epoch, number)
            batch: dict[str, Any] = {"inputs": inputs, "labels": data.labels[at]}
            batch["index"] = data.index[at]
            if self.augment is not None:
                # a cache of a teacher's answers to the images as they were refuses this batch
                batch["augmentation"] = getattr(self.augment, "__name__", "augmented")
            if self.stacked:
                # [S, B] items, not tokens: those without a label still have a teacher
                batch["mask"] = torch.ones_like(batch["labels"], dtype=torch.bool)
            yield batch

    def _order(self, seed: int, epoch: int) -> Tensor:
        count, device = len(self.dataset), self.dataset.labels.device
        if not self.shuffle:
            return torch.arange(count, device=device)
        return torch.randperm(count, generator=_generator("order", seed, epoch)).to(device)

    def _augmented(self, inputs: Tensor, epoch: int, number: int) -> Tensor:
        draws = [_generator("augment", seed, epoch, number) for seed in self.seeds]
        if not self.stacked:
            return self._changed(inputs, draws[0])
        return torch.stack([self._changed(x, g) for x, g in zip(inputs, draws, strict=True)])

    def _changed(self, x: Tensor, draw: torch.Generator) -> Tensor:
        said: Any = self.augment(x, draw)  # type: ignore[misc]
        if not isinstance(said, Tensor) or said.shape[:1] != x.shape[:1]:
            raise TypeError(f"augment expected to return {len(x)} changed inputs, got {told(said)}")
        return said

    def state_dict(self) -> dict[str, Any]:
        """The number of the next walk, with what the order depends on."""
        return {"epoch": self.epoch, "identity": self._identity()}

    @checked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken.

        Raises:
            ValueError: The state belongs to batches of another size, seed or data set.
        """
        if missing := {"identity", "epoch"} - state.keys():
            raise ValueError(f"state expected what state_dict() gave, without {sorted(missing)}")
        theirs, ours = state["identity"], self._identity()
        if theirs != ours:
            raise ValueError(f"the state is of other batches: it has {theirs}, these have {ours}")
        self.epoch = int(state["epoch"])

    def _identity(self) -> dict[str, Any]:
        return {
            "items": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seeds": list(self.seeds),
            "drop_last": self.drop_last,
        }


def _generator(*key: str | int, stored: bool = False) -> torch.Generator:
    """A generator for a purpose; ``stored`` for data whose answers are kept on disk.

    The seeds of a page can be shifted (booktools.seeds); what is stored must not move with them,
    so its generator is made by the class that nobody can replace.
    """
    key = tuple(part if isinstance(part, str) else int(part) for part in key)  # also of NumPy
    # The generator keeps only the low 32 bits of a seed, so neighboring keys are hashed apart.
    digest = hashlib.sha256(repr(key).encode()).digest()
    make = type(torch.default_generator) if stored else torch.Generator
    return make().manual_seed(int.from_bytes(digest[:4], "big"))
