"""On which device models are trained, and where they are found again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distill_lib import signals

__all__ = ["bring", "carried", "home_of", "settle_state"]


def home_of(modules: Iterable[Any]) -> torch.device | None:
    """The one device of all their tensors; None where there are none, or several."""
    found = {
        tensor.device
        for module in modules
        for tensor in chain(module.parameters(), getattr(module, "buffers", tuple)())
    }
    return found.pop() if len(found) == 1 else None


def bring(undo: ExitStack, device: torch.device, home: torch.device | None, *what: Any) -> None:
    """Bring models here, and back when ``undo`` is closed: what the user set stays.

    Args:
        undo: Of the training.
        device: Where the work is done.
        home: Where they were found; None where they are to stay.
        what: Anything with a method ``to``.
    """
    for one in what:
        if home is not None and home != device:
            undo.callback(one.to, home)
        one.to(device)


def carried(answers: Any, device: torch.device) -> Any:
    """What a teacher says, where the student is: one of the user's own may keep it on the CPU."""
    return answers if device.type == "cpu" else signals.bring(answers, device)


def settle_state(optimizer: Optimizer) -> None:
    """Bring what an optimizer remembers to its parameters, when they have been moved."""
    for group in optimizer.param_groups:
        counts_there = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                # torch counts steps on the CPU, unless the whole step runs elsewhere
                own = isinstance(value, Tensor) and (value.dim() > 0 or counts_there)
                if own or (isinstance(value, Tensor) and parameter.device.type == "cpu"):
                    state[name] = value.to(parameter.device)
