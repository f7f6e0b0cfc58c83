"""One weight used twice is one weight: which names of a model stand for the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    *("besides", "copied", "home", "memory", "parts", "readers", "settings", "ties", "turned"),
]


def memory(tensor: Tensor) -> Hashable:
    """The same for tensors of the same numbers in memory, transposed and reshaped ones included.

    Example:
        >>> w = torch.zeros(3, 2)
        >>> memory(w) == memory(nn.Parameter(w.mT)), memory(w) == memory(w[:2])
        (True, False)
    """
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.is_quantized or tensor.is_meta or not tensor.numel():
        return id(tensor)  # these do not tell where they are
    axes: list[tuple[int, int]] = []
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and axes and stride == axes[-1][0] * axes[-1][1]:
            axes[-1] = (axes[-1][0], axes[-1][1] * size)  # one axis, seen as two
        elif size > 1:
            axes.append((stride, size))
    return (tensor.device, tensor.dtype, tensor.data_ptr(), *axes)


def parts(model: nn.Module) -> Iterator[nn.Module]:
    """All modules of a model, without the names that ``modules()`` makes on its way."""
    found: list[nn.Module | None] = [model]
    for part in found:
        if part is not None:
            yield part
            found.extend(part._modules.values())


def home(model: nn.Module) -> torch.device | None:
    """The device of the first weight."""
    weights = (weight for part in parts(model) for weight in part._parameters.values())
    return next((weight.device for weight in weights if weight is not None), None)


def ties(model: nn.Module) -> dict[str, str]:
    """From each later name in the model's state to the first name of the same tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> net[1].weight = net[0].weight
        >>> ties(net)
        {'1.weight': '0.weight'}
    """
    first: dict[Hashable, str] = {}
    found = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            place = (memory(value), value.shape, _strides(value))
            if first.setdefault(place, name) != name:
                found[name] = first[place]
    return found


def turned(model: nn.Module) -> dict[str, tuple[str, list[int]]]:
    """From each later name to the first name of the same numbers with its axes in another order.

    The second is ``first.permute(order)``, a transpose in most cases.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False))
        >>> net[1].weight = nn.Parameter(net[0].weight.mT)
        >>> turned(net)
        {'1.weight': ('0.weight', [1, 0])}
    """
    first: dict[Hashable, tuple[str, Tensor]] = {}
    found, same = {}, ties(model)
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or name in same:
            continue
        other, one = first.setdefault(memory(value), (name, value))
        if other != name and (order := _order(one, value)) is not None:
            found[name] = (other, order)
    return found


def _order(one: Tensor, other: Tensor) -> list[int] | None:
    """Where the axes of the other lie in the one; None if they do not."""
    left = list(enumerate(zip(one.shape, one.stride(), strict=True)))
    order = []
    for size, stride in zip(other.shape, other.stride(), strict=True):
        # where an axis of length 1 would go on does not matter
        at = next((k for k in left if k[1] == (size, stride) or k[1][0] == size == 1), None)
        if at is None:
            return None
        left.remove(at)
        order.append(at[0])
    return None if left else order


def _strides(tensor: Tensor) -> tuple[int, ...]:
    return tensor.stride() if tensor.layout == torch.strided else ()


def readers(model: nn.Module, weight: Tensor) -> list[tuple[str, nn.Module, str]]:
    """Who holds a weight: the name of each module, the module, and what the weight is to it."""
    place = memory(weight)
    return [
        (name, module, leaf)
        for name, module in model.named_modules()
        for leaf, one in module._parameters.items()
        if one is not None and memory(one) == place
    ]


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, in which also parameters that merely share their numbers go on sharing them."""
    found = copy.deepcopy(model)
    first: dict[Hashable, tuple[Tensor, Tensor]] = {}
    for old, new in zip(model.parameters(), found.parameters(), strict=True):
        like, base = first.setdefault(memory(old), (old, new))
        if like is not old and base.stride() == like.stride():
            new.data = base.data.as_strided(new.shape, old.stride(), base.storage_offset())
    return found


def besides(model: nn.Module) -> dict[str, Any]:
    """What the state of a model says that is neither parameter nor buffer, as plain data."""
    named = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    named |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    said = {k: v for k, v in model.state_dict().items() if k not in named}
    return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in said.items()}


def settings(module: nn.Module) -> dict[str, Any]:
    """What a module computes by besides its weights: numbers, words and functions.

    Example:
        >>> settings(nn.LeakyReLU(0.2))
        {'negative_slope': 0.2, 'inplace': False}
    """
    found = {k: v for k, v in vars(module).items() if k != "training" and k[0] != "_"}
    return {
        k: getattr(v, "__qualname__", type(v).__name__) if callable(v) else v
        for k, v in found.items()
        if callable(v) or _is_plain(v)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, complex, str))
