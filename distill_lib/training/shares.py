"""Which of several processes trains on which batch: all make the same steps, for any number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from .processes import Streams

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["as_said", "is_shared", "length", "walk"]


def is_shared(batches: Iterable[Any]) -> bool:
    """Whether a loader already gives each process a share of its own.

    Accelerate's prepared loaders do, and those with torch's ``DistributedSampler``.
    """
    from accelerate.data_loader import (
        BatchSamplerShard,
        DataLoaderDispatcher,
        DataLoaderShard,
        IterableDatasetShard,
    )

    grouped = getattr(batches, "batch_sampler", None)
    samplers = (grouped, getattr(grouped, "sampler", None), getattr(batches, "sampler", None))
    return (
        isinstance(batches, (DataLoaderShard, DataLoaderDispatcher))
        or isinstance(getattr(batches, "dataset", None), IterableDatasetShard)
        or any(isinstance(s, (BatchSamplerShard, DistributedSampler)) for s in samplers)
    )


def length(accelerator: Accelerator, batches: Iterable[Any]) -> int:
    """How many batches a process trains on in one walk.

    Raises:
        TypeError: the batches have no length.
    """
    own: int = len(batches)  # type: ignore[arg-type]
    world = int(accelerator.num_processes)
    if world == 1 or not is_shared(batches):
        return math.ceil(own / world)
    lengths = accelerator.gather(torch.tensor([own], device=accelerator.device))
    assert isinstance(lengths, torch.Tensor)
    return int(lengths.max())


def walk(
    accelerator: Accelerator, batches: Iterable[Any], streams: Streams
) -> Iterator[tuple[Any, bool]]:
    """This process's batches of one walk, and whether each counts.

    Every process gets as many. One whose share is shorter sees a batch again that does not count:
    it has to take part in every step, since gradients are averaged over all processes.

    Raises:
        ValueError: a loader that was shared out has nothing at all for one of the processes.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    if world == 1:
        yield from ((batch, True) for batch in batches)
        return
    alike = _drawn_alike(batches)
    if alike:
        streams.align()
    with streams.drawing(alike):
        drawn = iter(batches)
    if is_shared(batches):
        yield from _as_shared(accelerator, drawn, streams, alike)
        return
    while round_ := _next(drawn, world, streams, alike):
        counts = rank < len(round_)
        yield round_[rank if counts else -1], counts


def as_said(drawn: Iterator[tuple[Any, bool]], said: int) -> Iterator[tuple[Any, bool]]:
    """The batches of a walk, which are as many as their length said: epochs are counted by it.

    Raises:
        ValueError: the walk ends before, or goes on.
    """
    given = 0
    for given, one in enumerate(drawn, 1):
        if given > said:
            break
        yield one
    if given != said:
        came = f"ended after {given}" if given < said else "went on after them"
        raise ValueError(
            f"epochs are counted by len(batches), by which a walk has {said} batches, and this one "
            f"{came}: make __len__ say how many there are, or give steps= instead of epochs="
        )


def _next(drawn: Iterator[Any], number: int, streams: Streams, alike: bool) -> list[Any]:
    with streams.drawing(alike):
        return list(itertools.islice(drawn, number))


def _drawn_alike(batches: Iterable[Any]) -> bool:
    """Whether the processes share out one order, which all of them have to draw alike.

    Not where each has a loader whose order comes from a generator of its own, or from none: there
    each draws its own items, and augments them by its own random numbers.
    """
    if not is_shared(batches) or "torch" in (getattr(batches, "rng_types", None) or ()):
        return True
    sampler = getattr(batches, "sampler", None)
    grouped = getattr(batches, "batch_sampler", None)
    while grouped is not None:  # Accelerate wraps them in one another
        sampler = getattr(grouped, "sampler", sampler)
        grouped = getattr(grouped, "batch_sampler", None)
    own = isinstance(getattr(sampler, "generator", None), torch.Generator)
    return not (own or isinstance(sampler, (SequentialSampler, DistributedSampler)))


def _as_shared(
    accelerator: Accelerator, drawn: Iterator[Any], streams: Streams, alike: bool
) -> Iterator[tuple[Any, bool]]:
    """The own share, until every process is through with its own."""
    last = nothing = object()
    while True:
        batch = next(iter(_next(drawn, 1, streams, alike)), nothing)
        last = last if batch is nothing else batch
        flags = torch.tensor([[batch is not nothing, last is not nothing]]).int()
        all_flags = accelerator.gather(flags.to(accelerator.device))
        assert isinstance(all_flags, torch.Tensor)
        goes_on, has_any = all_flags.bool().unbind(1)
        if not goes_on.any():
            return
        if not has_any.all():
            raise ValueError(
                f"the loader was shared out and {int((~has_any).sum())} of {len(has_any)} "
                "processes got no batch; use fewer processes or smaller batches, or pass a loader "
                "that was not given to accelerator.prepare"
            )
        yield last, batch is not nothing
