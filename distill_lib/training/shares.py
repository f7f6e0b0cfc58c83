"""Which of several processes trains on which batch: all make the same steps, for any number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data.distributed import DistributedSampler

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["is_shared", "length", "walk"]


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


def walk(accelerator: Accelerator, batches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """This process's batches of one walk, and whether each counts.

    Every process gets as many. One whose share is shorter sees a batch again that does not count:
    it has to take part in every step, since gradients are averaged over all processes.

    Raises:
        ValueError: a loader that was shared out has nothing at all for one of the processes.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    if world == 1:
        yield from ((batch, True) for batch in batches)
    elif is_shared(batches):
        yield from _as_shared(accelerator, batches)
    else:
        from accelerate.utils import synchronize_rng_states

        synchronize_rng_states(["torch"])
        drawn = iter(batches)
        while round_ := list(itertools.islice(drawn, world)):
            counts = rank < len(round_)
            yield round_[rank if counts else -1], counts


def _as_shared(accelerator: Accelerator, batches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """The own share, until every process is through with its own."""
    nothing = object()
    drawn, last = iter(batches), nothing
    while True:
        batch = next(drawn, nothing)
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
