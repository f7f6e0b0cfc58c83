"""Whether models are of one architecture, by the names and shapes of their states."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from distill_lib.signals import suggest

__all__ = ["same_layout"]


def same_layout(models: Sequence[nn.Module]) -> None:
    """Refuse models of different architectures, by the first key that differs."""
    if not models:
        raise ValueError("expected at least one model, got none")
    first = models[0].state_dict()
    for number, model in enumerate(models[1:], 1):
        other = model.state_dict()
        for name in first:
            if name not in other:
                near = suggest(name, other)
                raise ValueError(f"model {number} is of another architecture: no {name!r}.{near}")
            shapes = [tuple(getattr(state[name], "shape", ())) for state in (other, first)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"model {number} is of another architecture: {name!r} is {shapes[0]}, that of "
                    f"model 0 {shapes[1]}"
                )
        for name in other:
            if name not in first:
                raise ValueError(
                    f"model {number} is of another architecture: model 0 has no {name!r}"
                )
