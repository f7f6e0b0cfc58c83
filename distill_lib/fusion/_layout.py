"""Whether models are of one architecture, by their states and by the layers that they are of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from distill_lib.signals import suggest
from distill_lib.ties import settings

__all__ = ["same_layout"]

NORMS = nn.modules.batchnorm._BatchNorm
# how torch's layers are trained, in which models of one architecture may differ
TRAINING = {"p", "dropout", "inplace", "momentum"}


def same_layout(models: Sequence[nn.Module]) -> None:
    """Refuse models of different architectures, by the first key that differs."""
    if not models:
        raise ValueError("expected at least one model, got none")
    first, layers = models[0].state_dict(), dict(models[0].named_modules())
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
        for name, layer in model.named_modules():
            kinds = [type(one).__name__ for one in (layer, layers.get(name, layer))]
            norms = all(isinstance(one, NORMS) for one in (layer, layers.get(name)))
            if kinds[0] != kinds[1] and not norms:  # synchronized over processes, or not
                raise ValueError(
                    f"model {number} is of another architecture: {name!r} is a {kinds[0]}, that "
                    f"of model 0 a {kinds[1]}"
                )
            if not type(layer).__module__.startswith("torch.nn.") or norms or name not in layers:
                continue  # what a class of the user's remembers need be no setting
            theirs, ours = settings(layer), settings(layers[name])
            if odd := sorted(
                k for k in (theirs.keys() | ours.keys()) - TRAINING if theirs.get(k) != ours.get(k)
            ):
                raise ValueError(
                    f"model {number} is of another architecture: {odd[0]} of {name!r} is "
                    f"{theirs.get(odd[0])}, that of model 0 {ours.get(odd[0])}"
                )
