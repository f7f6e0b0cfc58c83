"""Checkpoints of a training that is under way: written whole or not at all, read without pickle."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.serialization import config

from distill_lib.checkpoints.files import torch_load, whole_file

from .history import History
from .order import OrderOf

__all__ = ["Saver", "Start", "rng_state", "set_rng_state"]


@dataclass
class Start:
    """Where training begins, or goes on."""

    step: int = 0
    epoch: int = 0
    skip: int = 0
    rng: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)


def rng_state() -> dict[str, Any]:
    """The state of the generators of Python, NumPy and torch, in plain types and tensors."""
    kind, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).copy()), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


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


class Saver:
    """Writes and reads one checkpoint file.

    Args:
        path: The file.
        parts: Objects with ``state_dict`` and ``load_state_dict``, by name.
        identity: Texts that must be the same when training goes on.
        batches: The source of batches; its own state is kept where it has one.
        write: Whether this process writes; of several, one does.

    Raises:
        OSError: there is no file yet, and none can be written.
    """

    def __init__(
        self,
        path: str | Path,
        parts: Mapping[str, Any],
        identity: Mapping[str, str],
        batches: Any,
        write: bool = True,
    ) -> None:
        self.write = write
        self.path = Path(path)
        self.parts = parts
        self.identity = dict(identity)
        self.order = OrderOf(batches)
        self._begun: Any = self.order.state()

    def begin_epoch(self) -> dict[str, Any]:
        """Remember the state of the source before it is walked; returns that of the generators."""
        self._begun = self.order.state()
        return rng_state()

    def save(
        self, step: int, epoch: int, skip: int, begun: Mapping[str, Any] | None, history: History
    ) -> None:
        """Write the file in one move, so that a kill leaves the old one or the new one.

        Raises:
            OSError: it cannot be written; the older one is whole.
        """
        history.settle()
        if self.order.midway:
            skip, begun = 0, rng_state()
        if skip == 0:
            self._begun = self.order.state()
        if not self.write:
            return
        state = {
            "format": 1,
            "identity": self.identity,
            "step": step,
            "epoch": epoch,
            "skip": skip,
            "epoch_rng": dict(begun or {}),
            "rng": rng_state(),
            "source": self._begun,
            "records": history.records,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        # with checksums, whatever the user chose: they are compared when training goes on
        checked = config.patch("save.compute_crc32", True)  # type: ignore[attr-defined]
        with whole_file(self.path) as file, checked:
            torch.save(state, file)

    def load(self) -> Start:
        """Restore every part from the file, if there is one.

        Raises:
            ValueError: the file is torn, of another teacher, objective or student, or no such file
                at all.
        """
        if not self.path.exists():
            return Start()
        try:
            state = torch_load(self.path)
            found = dict(state["identity"])
        except Exception as error:  # bytes that are no checkpoint can end in any error
            raise ValueError(
                f"{self.path} is torn, or not a checkpoint of distill ({type(error).__name__}: "
                f"{error}); delete it, or give another path"
            ) from error
        for what, text in self.identity.items():
            if found.get(what) != text:
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
            # older files know nothing of epochs
            if name in state["parts"] or name != "epochs":
                part.load_state_dict(state["parts"][name])
        self.order.set(state["source"])
        step, epoch, skip = (int(state[key]) for key in ("step", "epoch", "skip"))
        start = Start(step, epoch, skip, dict(state["rng"]), list(state["records"]))
        self._begun = state["source"]
        # the epoch is walked again from its beginning; the generators move on when it catches up
        set_rng_state(state["epoch_rng"])
        return start
