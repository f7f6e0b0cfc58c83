"""What the order of batches depends on, so that it can be put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["OrderOf"]


class OrderOf:
    """What the order of batches depends on: a state of the source's own, and a generator."""

    def __init__(self, batches: Any) -> None:
        inner = getattr(batches, "base_dataloader", batches)
        # a loader of Accelerate says that it has a state, also around one that has none
        source = batches if hasattr(inner, "load_state_dict") else inner
        self.source: Any = source if hasattr(source, "load_state_dict") else None
        # such a source knows its place in a walk, which then need not be walked again
        self.midway: bool = bool(getattr(source, "midway", False))
        sampler = getattr(source, "sampler", None)
        own = getattr(source, "generator", None)
        self.generator: Any = own or getattr(sampler, "generator", None)

    def state(self) -> dict[str, Any]:
        """In plain types and tensors."""
        state = {}
        if self.source is not None:
            state["batches"] = self.source.state_dict()
        if isinstance(self.generator, torch.Generator):
            state["generator"] = self.generator.get_state()
        return state

    def set(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        if self.source is not None:
            self.source.load_state_dict(state["batches"])
        if isinstance(self.generator, torch.Generator):
            self.generator.set_state(state["generator"])
