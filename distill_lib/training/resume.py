"""Checkpoints of a training that is under way: written whole or not at all, read without pickle."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from torch.utils.serialization import config

from distill_lib.checkpoints.files import torch_load, whole_file

from .history import History
from .order import OrderOf
from .processes import Streams, everyones, from_first
from .sharded import gathered, laid_out

__all__ = ["Saver", "Start"]


PROCESSES = "number of processes"
ACCUMULATION = "gradient accumulation"
BATCHES = "number of batches in an epoch"
LATER = (ACCUMULATION, BATCHES)  # of which files of before say nothing


@dataclass
class Start:
    """Where training begins, or goes on."""

    step: int = 0
    epoch: int = 0
    skip: int = 0
    rng: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)


class Saver:
    """Writes and reads one checkpoint file.

    Args:
        path: The file.
        parts: Objects with ``state_dict`` and ``load_state_dict``, by name.
        identity: Texts that must be the same when training goes on.
        batches: The source of batches; its own state is kept where it has one.
        streams: The random numbers; of several processes the first writes, and each finds its own.

    Raises:
        OSError: there is no file yet, and none can be written.
    """

    def __init__(
        self,
        path: str | Path,
        parts: Mapping[str, Any],
        identity: Mapping[str, str],
        batches: Any,
        streams: Streams | None = None,
    ) -> None:
        self.streams: Streams = streams or Streams()
        self.path: Path = Path(path)
        self.parts = parts
        self.identity: dict[str, str] = dict(identity)
        self.order: OrderOf = OrderOf(batches)
        self._begun: Any = self.order.state()

    def begin_epoch(self) -> dict[str, Any]:
        """Remember the state of the source before it is walked; returns that of the generators."""
        self._begun = self.order.state()
        return self.streams.state()

    def save(
        self, step: int, epoch: int, skip: int, begun: Mapping[str, Any] | None, history: History
    ) -> None:
        """Write the file in one move, so that a kill leaves the old one or the new one.

        Raises:
            OSError: it cannot be written, said in every process; the older one is whole.
        """
        history.settle()
        several = self.streams.world > 1
        if self.order.midway:
            skip, begun = 0, self.streams.state()
        if skip == 0:
            self._begun = self.order.state()
        mine = {
            "epoch_rng": dict(begun or {}),
            "rng": self.streams.state(),
            "source": self._begun,
        }
        first, *others = everyones(mine) if several else [mine]
        state = {
            "format": 1,
            "identity": self.identity,
            "step": step,
            "epoch": epoch,
            "skip": skip,
            **first,
            "others": others,
            "records": history.records,
            "parts": {name: gathered(part.state_dict()) for name, part in self.parts.items()},
        }
        problem = self._write(state) if self.streams.rank == 0 else None
        # nobody goes on, to read the file or without one, before it is there
        said = from_first(problem and [problem.errno, problem.strerror]) if several else None
        if problem is not None:
            raise problem
        if said is not None:
            raise OSError(*said)

    def _write(self, state: Mapping[str, Any]) -> OSError | None:
        # with checksums, whatever the user chose: they are compared when training goes on
        checked = config.patch("save.compute_crc32", True)  # type: ignore[attr-defined]
        try:
            with whole_file(self.path) as file, checked:
                torch.save(state, file)
        except OSError as error:
            return error
        return None

    def check(self) -> None:
        """Whether what a checkpoint would hold beside the weights can be read again.

        Raises:
            TypeError: it cannot.
        """
        held = {name: part.state_dict() for name, part in self.parts.items()}
        for what, state in {**held, "batches": self.order.state()}.items():
            file = io.BytesIO()
            try:
                torch.save(tree_map_only(torch.Tensor, lambda _: None, state), file)
                torch.load(io.BytesIO(file.getvalue()), weights_only=True)
            except (pickle.PickleError, AttributeError, TypeError) as error:
                raise TypeError(
                    f"the state of the {what} cannot be in a checkpoint, which is read without "
                    f"running code: it holds more than tensors and plain data ({str(error)[:300]})"
                ) from error

    def load(self) -> Start:
        """Restore every part from the file, if there is one.

        Its checksums are compared; the bounds are those of ``checkpoints.load_checkpoint``.

        Raises:
            ValueError: the file is torn; of another teacher, objective, student, accumulation, or
                number of processes or batches; not there, or not the same, in some processes.
        """
        start = self._load() if os.path.isfile(self.path) else Start()
        steps = everyones(start.step) if self.streams.world > 1 else [start.step]
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes find {self.path} at different steps ({steps}; 0: no such file): "
                "put it on a disk that all of them see"
            )
        return start

    def _load(self) -> Start:
        try:
            state = torch_load(self.path)
            found = {PROCESSES: "1", **state["identity"]}
        except Exception as error:  # bytes that are no checkpoint can end in any error
            raise ValueError(
                f"{self.path} is torn, or not a checkpoint of distill ({type(error).__name__}: "
                f"{error}); delete it, or give another path"
            ) from error
        for what, text in self.identity.items():
            if found.get(what) != text and (what in found or what not in LATER):
                raise ValueError(
                    f"{self.path} was made with another {what}: {found.get(what)!r}, now {text!r}. "
                    "Going on would mix two trainings: pass resume=False to begin anew, or give "
                    "another path"
                )
        try:
            return self._restore(state)
        except Exception as error:  # each part has errors of its own
            raise ValueError(
                f"{self.path} does not fit this training ({type(error).__name__}: {error}): is it "
                "of another student or optimizer? pass resume=False to begin anew, or give another "
                "path"
            ) from error

    def _restore(self, state: Mapping[str, Any]) -> Start:
        for name, part in self.parts.items():
            # older files know nothing of these
            if name in state["parts"] or name not in ("epochs", "settings"):
                laid_out(part, state["parts"][name])
        mine = [state, *state.get("others", ())][self.streams.rank]
        self.order.set(mine["source"])
        step, epoch, skip = (int(state[key]) for key in ("step", "epoch", "skip"))
        start = Start(step, epoch, skip, dict(mine["rng"]), list(state["records"]))
        self._begun = mine["source"]
        now = self.streams.state()
        self.streams.set(start.rng)  # tried here: it is needed after hours of work
        # the epoch is walked again from its beginning; the generators move on when it catches up
        self.streams.set(mine["epoch_rng"] or now)
        return start
