"""Which weights of a model are compressed, and small checks that several files share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from distill_lib.signals import suggest

__all__ = ["check_share", "layers_of", "weights_of"]

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layers_of(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The linear and convolution layers, by name.

    Args:
        model: Any module.
        layers: Names of modules; each selects itself and what is inside it. All by default. An
            embedding is selected by its own name only: most of its rows are rarely used.

    Raises:
        KeyError: a name that the model does not have.
        ValueError: nothing to compress under a name, or at all.
    """
    known = dict(model.named_modules())
    found: dict[str, nn.Module] = {n: m for n, m in known.items() if isinstance(m, KINDS)}
    if layers is not None:
        if isinstance(layers, str):
            raise TypeError(
                f"layers is a sequence of names, got the string {layers!r}: ({layers!r},)"
            )
        chosen: set[str] = set()
        for name in layers:
            if name not in known:
                raise KeyError(f"the model has no layer {name!r}.{suggest(name, known)}")
            inside = {k for k in found if k == name or k.startswith(f"{name}.")}
            if isinstance(known[name], nn.Embedding):
                inside = {name}
            if not inside:
                raise ValueError(f"there is no linear layer and no convolution in {name!r}")
            chosen |= inside
        found = {name: m for name, m in known.items() if name in chosen}
    if not found:
        raise ValueError("the model has no linear layer and no convolution: nothing to compress")
    return found


def weights_of(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
    """The weights of the linear and convolution layers, by the name of the parameter.

    Raises:
        ValueError: a layer whose weight is no parameter of its own any more, as after
            :func:`share` or :func:`qat`.
    """
    found = {}
    for name, module in layers_of(model, layers).items():
        weight = module.weight
        if not isinstance(weight, nn.Parameter):
            raise ValueError(
                f"the weight of {name!r} is computed from something else (shared or quantized): "
                "prune first, or make it plain with compress.bake(model)"
            )
        found[f"{name}.weight" if name else "weight"] = weight
    return found


def check_share(value: float, name: str) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(
            f"{name} expected a share strictly between 0 and 1, got {value:g}"
            + ("; 90 % is 0.9" if 1 < value <= 100 else "")
        )
