"""Several processes: whose random numbers are whose, and what ends all when one of them fails."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import socket
import sys
import traceback
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

__all__ = ["Streams", "everyones", "from_first", "rng_state", "set_rng_state", "together"]

PATIENCE = 10.0  # seconds in which processes that fail alike have all said so


def rng_state() -> dict[str, Any]:
    """The state of the generators of Python, NumPy and torch, in plain types and tensors."""
    state = _of_host()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _of_host() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).copy()), *rest],
        "torch": torch.get_rng_state(),
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put the generators back; an empty mapping changes nothing."""
    if not state:
        return
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def from_first(thing: Any) -> Any:
    """What the first process has, in every process: tensors and plain data."""
    from accelerate.utils import broadcast_object_list

    packed = [_pack(thing)]
    broadcast_object_list(packed)
    return _unpack(packed[0])


def everyones(thing: Any) -> list[Any]:
    """What each process has, in the order of the processes: tensors and plain data."""
    from accelerate.utils import gather_object

    return [_unpack(packed) for packed in gather_object([_pack(thing)])]


def _pack(thing: Any) -> bytes:
    # not every tensor can be pickled by torch's own collectives: those of bytes cannot
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


def _unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=True)


class Streams:
    """The random numbers of a training.

    One process has one stream, as ever. Of several, each has a stream of its own, so that no two
    drop the same units; the batches are drawn from another one, a copy of which is in every
    process, so that all see the same order and share it out. That one goes on from the generators
    of the first process, as they were when training began, and is in the generators afterwards.

    Args:
        world: How many processes there are.
        rank: Which of them this is.
    """

    def __init__(self, world: int = 1, rank: int = 0) -> None:
        self.world = world
        self.rank = rank
        self.drawn: dict[str, Any] = {}
        self.begun: list[torch.Tensor] = []

    def begin(self) -> None:
        """Part the streams, when the generators are seeded."""
        if self.world > 1:
            from accelerate.utils import set_seed

            self.drawn = from_first(_of_host())
            set_seed(self._next(take=False) + self.rank)
            self.begun = _own(rng_state())

    @contextlib.contextmanager
    def drawing(self, alike: bool = True) -> Iterator[None]:
        """While batches are drawn, by all processes alike or by each for itself."""
        if self.world == 1 or not alike:
            yield
            return
        own = _of_host()
        set_rng_state(self.drawn)
        try:
            yield
        finally:
            self.drawn = _of_host()
            set_rng_state(own)

    def align(self) -> None:
        """Draw what the first process draws, also where somebody drew more often."""
        self.drawn = from_first(self.drawn)

    def state(self) -> dict[str, Any]:
        """All of it, in plain types and tensors."""
        more = {"drawn": self.drawn, "begun": self.begun}
        return {**rng_state(), **more} if self.drawn else rng_state()

    def set(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`; an empty one changes nothing."""
        set_rng_state(state)
        self.drawn = state.get("drawn", self.drawn)
        self.begun = state.get("begun", self.begun)

    def end(self) -> None:
        """Leave all processes with the same generators."""
        if self.drawn:
            moved = not all(map(torch.equal, self.begun, _own(rng_state())))
            set_rng_state(self.drawn)
            if moved:  # the next training must not begin with the streams of this one
                self._next(take=True)

    def _next(self, take: bool) -> int:
        twin = torch.default_generator if take else torch.Generator()
        twin.set_state(self.drawn["torch"])
        return int(torch.randint(2**31 - 10**6, (), generator=twin))


def _own(state: Mapping[str, Any]) -> list[torch.Tensor]:
    return [state["torch"], *state.get("cuda", ())]


@contextlib.contextmanager
def together(streams: Streams, wrapped: list[torch.nn.Module]) -> Iterator[None]:
    """Where one of several processes fails or is gone, the others end with an error that names it.

    A process that fails says so in the store of its group. If the others do not fail as well, they
    wait for it, in a step or for its gradient: it leaves the group, which under gloo ends their
    waiting, as the death of a process does. NCCL notices neither; there it takes a launcher that
    ends all processes with the first, as torchrun and ``accelerate launch`` do.

    Args:
        streams: Which of how many processes this is.
        wrapped: Where the models are, or will be, that hold on to the group.

    Raises:
        RuntimeError: another process failed, or is gone.
    """
    if streams.world == 1 or not dist.is_initialized():
        yield
        return
    roll = _Roll(streams, wrapped)
    try:
        yield
    except BaseException as error:
        said = roll.close(error)
        if said is None:
            raise
        raise RuntimeError(said) from error


class _Roll:
    """What became of each process, in the store of the group."""

    def __init__(self, streams: Streams, wrapped: list[torch.nn.Module]) -> None:
        self.world, self.rank, self.wrapped = streams.world, streams.rank, wrapped
        name = from_first(uuid.uuid4().hex)
        self.store = c10d.PrefixStore(name, c10d._get_default_store())
        self.store.set(f"who {self.rank}", f"{socket.gethostname()}, pid {os.getpid()}")

    def close(self, error: BaseException) -> str | None:
        """What is to be said instead of the error, where it only followed from another's."""
        lost = isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError) and "gloo" in str(error)
        )
        try:
            self.store.set(str(self.rank), "" if lost else f"{type(error).__name__}: {error}")
            if lost:  # what called the group holds on to it as long as the traceback is there
                traceback.clear_frames(error.__traceback__)
            if lost or not self._all("", PATIENCE):
                _leave(self.wrapped)
                self._all("", 2 * PATIENCE)
            said = self._verdict() if lost else None
            if said is not None:  # at once: a launcher may end this process before its traceback
                print(said, file=sys.stderr, flush=True)
            # the store may be in one of the processes: that one goes last; and with the first that
            # fails a launcher may end the others, before they have said why they end
            self.store.set(f"heard {self.rank}", "")
            if self.rank == 0 or not lost:
                self._all("heard ", PATIENCE)
            return said
        except dist.DistError:
            gone = f"process 0 of {self.world} is gone, and with it the store of the group"
            return f"{gone}; {AFTER}" if lost else None

    def _all(self, what: str, seconds: float) -> bool:
        """Whether every process has said that, soon."""
        keys = [f"{what}{rank}" for rank in range(self.world)]
        try:
            self.store.wait(keys, timedelta(seconds=seconds))
        except dist.DistStoreError:
            return False
        return True

    def _verdict(self) -> str:
        failed, gone = [], []
        for rank in range(self.world):
            text = self.store.get(str(rank)).decode() if self.store.check([str(rank)]) else None
            who = f"process {rank} of {self.world} ({self._who(rank)})"
            if text is None:
                gone.append(f"{who} is gone without a word: killed, or out of memory")
            elif text:
                failed.append(f"{who} failed: {text[:1000]}")
        lost = [f"the connections between the {self.world} processes broke"]
        return f"{'; '.join(failed or gone or lost)}; {AFTER}"

    def _who(self, rank: int) -> str:
        key = f"who {rank}"
        return self.store.get(key).decode() if self.store.check([key]) else "not yet begun"


AFTER = (
    "all processes end with it. Start all of them again: a training with a checkpoint goes on from "
    "its last one"
)


def _leave(wrapped: list[torch.nn.Module]) -> None:
    """Close this process's connections, so that nobody waits for it any longer."""
    with contextlib.suppress(Exception):
        if dist.get_backend() != "gloo":
            dist.group.WORLD.abort()  # type: ignore[union-attr]
            return
        # they close when nothing holds the group, and the error's traceback holds what is wrapped
        for model in wrapped:
            for name in ("reducer", "logger", "process_group"):
                model.__dict__.pop(name, None)
        # as do the defaults of functions that torch imports when it wraps the first model
        world = dist.group.WORLD
        for function in vars(sys.modules.get("torch.distributed.nn.functional", object)).values():
            if defaults := getattr(function, "__defaults__", None):
                function.__defaults__ = tuple(None if one is world else one for one in defaults)
        del world
        dist.destroy_process_group()
        gc.collect()
