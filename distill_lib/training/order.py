"""What the order of batches depends on, so that it can be put back."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["OrderOf"]

RANDOM = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
PARTS = (DataLoader, Sampler, Dataset)
# parts of a loader under these names need not be of torch's classes
SAMPLERS = ("sampler", "batch_sampler")
INNER = (*SAMPLERS, "base_dataloader", "dataset", "collate_fn")


class OrderOf:
    """What the order of batches depends on.

    A state of the source's own; and of a loader, its samplers and data sets, however they are put
    into one another, the generators, the numbers of the epoch, and what samplers keep themselves.
    """

    def __init__(self, batches: Any) -> None:
        inner = getattr(batches, "base_dataloader", batches)
        # a loader of Accelerate says that it has a state, also around one that has none
        source = batches if hasattr(inner, "load_state_dict") else inner
        # that of 🤗 Datasets is a place in a walk, and would begin the epoch at its end
        walks = hasattr(source, "load_state_dict") and not _is_hf(inner)
        self.batches = batches
        self.source: Any = source if walks else None
        # such a source knows its place in a walk, which then need not be walked again
        self.midway: bool = bool(getattr(source, "midway", False))

    def state(self) -> dict[str, Any]:
        """In plain types and tensors."""
        state: dict[str, Any] = {}
        if self.source is not None:
            # what it goes on changing is not kept; one in the middle of a walk is saved at once
            kept = self.source.state_dict()
            state["batches"] = kept if self.midway else copy.deepcopy(kept)
        found = dict(_walk("", self.batches, set()))
        held = {
            "generator": {name: _drawn(one) for name, one in _generators(found).items()},
            "epochs": {name: part.epoch for name, part in found.items() if _is_told(part)},
            "counts": {name: getattr(part, key) for name, part, key in _counting(found)},
            "samplers": {name: copy.deepcopy(part.state_dict()) for name, part in _keeping(found)},
        }
        return {**state, **{what: values for what, values in held.items() if values}}

    def set(self, state: Mapping[str, Any]) -> None:
        """Put it back.

        Raises:
            ValueError: the batches have other generators or samplers than those that it is of.
        """
        found = dict(_walk("", self.batches, set()))
        generators, samplers = _generators(found), dict(_keeping(found))
        drawn = state.get("generator", {})
        if isinstance(drawn, Tensor):  # files of before know of one, and not whose it was
            alone = len({id(one) for one in generators.values()}) == 1
            drawn = dict.fromkeys(generators, drawn) if alone else {"generator": drawn}
        kept = state.get("samplers", {})
        for what, now, before in (("generators", generators, drawn), ("samplers", samplers, kept)):
            if now.keys() != before.keys():
                raise ValueError(
                    f"the order of the batches came from the {what} {[*before]} and would now come "
                    f"from {[*now]}: make the loader as it was made then, generators included"
                )
        if self.source is not None:
            self.source.load_state_dict(state["batches"])
        for name, generator in generators.items():
            _put(generator, drawn[name])
        for name, sampler in samplers.items():
            sampler.load_state_dict(kept[name])
        for name, epoch in state.get("epochs", {}).items():
            if _is_told(found.get(name)):
                found[name].set_epoch(epoch)
        counts = state.get("counts", {})
        for name, part, key in _counting(found):
            if name in counts:
                setattr(part, key, counts[name])

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Put back what a walk changes; an epoch that somebody told a sampler stays.

        Raises:
            ValueError: the batches are others by now.
        """
        self.set({what: values for what, values in state.items() if what != "epochs"})


def _walk(name: str, part: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """A part and the parts in it, each by its path; one that several hold comes once."""
    if id(part) in seen:
        return
    seen.add(id(part))
    yield name, part
    for key, value in getattr(part, "__dict__", {}).items():
        several = isinstance(value, (list, tuple)) and value and isinstance(value[0], PARTS)
        for i, one in enumerate(value if several else [value]):
            path = ".".join(filter(None, [name, key, str(i) if several else ""]))
            if isinstance(one, PARTS) or (key in INNER and hasattr(one, "__dict__")):
                yield from _walk(path, one, seen)


def _is_hf(part: Any) -> bool:
    return type(part).__module__.startswith("datasets.")


def _generators(found: Mapping[str, Any]) -> dict[str, Any]:
    """Generators of random numbers by their paths, of whichever library."""
    held: dict[str, Any] = {}
    for name, part in found.items():
        if _is_seeded(part):
            continue
        for key, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, RANDOM):
                held[f"{name}.{key}".strip(".")] = value
    return held


def _is_seeded(part: Any) -> bool:
    """Accelerate's sampler, which seeds its generator anew for each epoch."""
    from accelerate.data_loader import SeedableRandomSampler

    return isinstance(part, SeedableRandomSampler)


def _is_told(part: Any) -> bool:
    """Whether somebody tells it the epoch, as torch's ``DistributedSampler``."""
    told = callable(getattr(part, "set_epoch", None)) and not _is_seeded(part)
    return told and isinstance(getattr(part, "epoch", None), int)


def _counting(found: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Parts that count their walks themselves, and where."""
    for name, part in found.items():
        if hasattr(part, "base_dataloader") and isinstance(getattr(part, "iteration", None), int):
            yield name, part, "iteration"  # a loader of Accelerate tells its samplers
            continue
        own = not name and not hasattr(part, "load_state_dict")
        draws = (own or name.split(".")[-1] in SAMPLERS) and not _is_told(part)
        if draws and isinstance(getattr(part, "epoch", None), int):
            yield name, part, "epoch"


def _keeping(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Samplers with a state; of those that are told the epoch it is a place in a walk, not a walk.

    They are walked again from the beginning of the epoch, and would begin at that place.
    """
    for name, part in found.items():
        stateful = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
        if stateful and name.split(".")[-1] in SAMPLERS and not hasattr(part, "set_epoch"):
            yield name, part


def _drawn(generator: Any) -> Any:
    """The state of a generator, in plain types and tensors."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.bit_generator.state)


def _put(generator: Any, state: Any) -> None:
    """Put the state of a generator back."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        version, internal, gauss = state
        generator.setstate((version, tuple(internal), gauss))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_arrays(state))
    else:
        generator.bit_generator.state = _arrays(state)


def _plain(state: Any) -> Any:
    """NumPy's states hold arrays, and whole numbers beyond 64 bits."""
    if isinstance(state, Mapping):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state


def _arrays(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _arrays(value) for key, value in state.items()}
    return np.array(state, dtype=np.uint64) if isinstance(state, list) else state
