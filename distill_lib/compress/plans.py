"""The plan of a network that was made narrower: what rebuilds it around its weights.

A plan is plain data: the new shapes of the tensors and the new sizes that modules remember. With it
a freshly built network is narrowed to fit the weights, so that a pruned network is a file of plain
tensors and not a pickle of objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.checkpoints import Checkpoint, CheckpointError, load_checkpoint

__all__ = ["Plan", "load_pruned", "plan_of", "save_pruned", "shrink"]

Plan = dict[str, dict[str, Any]]


def plan_of(dense: nn.Module, pruned: nn.Module) -> Plan:
    """What makes a dense network into a narrower one: plain data, fit for JSON.

    Args:
        dense: The network as its class builds it.
        pruned: The same network, with channels or heads taken out.

    Returns:
        ``shapes``: by the name of a tensor, those that changed; ``sizes``: by the name of a module,
        the whole numbers among its attributes that changed.

    Raises:
        ValueError: networks of different layers.

    Example:
        >>> plan_of(nn.Linear(4, 3), nn.Linear(4, 2))["shapes"]
        {'weight': [2, 4], 'bias': [2]}
    """
    before, after = dense.state_dict(), pruned.state_dict()
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[0]
        raise ValueError(f"a plan is between networks of the same layers; only one has {odd!r}")
    shapes = {k: list(v.shape) for k, v in after.items() if v.shape != before[k].shape}
    sizes: dict[str, dict[str, Any]] = {}
    for (name, old), new in zip(dense.named_modules(), pruned.modules(), strict=True):
        changed = {
            k: v
            for k, v in vars(new).items()
            if _is_size(v) and _is_size(vars(old).get(k)) and v != vars(old)[k]
        }
        if changed:
            sizes[name] = changed
    return {"shapes": shapes, "sizes": sizes}


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_size(one) for one in value)
    return isinstance(value, int) and not isinstance(value, bool)


def shrink(model: nn.Module, plan: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """Give a freshly built network the sizes of a plan, in place; its weights are loaded after.

    Raises:
        CheckpointError: a plan of another network.

    Example:
        >>> shrink(nn.Linear(4, 3), plan_of(nn.Linear(4, 3), nn.Linear(4, 2)))
        Linear(in_features=4, out_features=2, bias=True)
    """
    modules = dict(model.named_modules())
    for name, shape in plan["shapes"].items():
        owner, _, leaf = name.rpartition(".")
        old = getattr(modules.get(owner), leaf, None)
        if not isinstance(old, Tensor) or old.ndim != len(shape):
            raise CheckpointError(f"the plan is of another network: this one has no such {name!r}")
        new = torch.zeros(shape, dtype=old.dtype, device=old.device)
        setattr(modules[owner], leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    for name, sizes in plan["sizes"].items():
        if name not in modules:
            raise CheckpointError(f"the plan is of another network: this one has no {name!r}")
        for key, value in sizes.items():
            setattr(modules[name], key, tuple(value) if isinstance(value, list) else value)
    return model


def save_pruned(model: nn.Module, path: str | Path, plan: Mapping[str, Any]) -> int:
    """Write weights and plan as one safetensors file; returns its bytes.

    Args:
        model: The pruned network.
        path: The file, ending in ``.safetensors``.
        plan: As :func:`prune_channels` or :func:`plan_of` gave it.
    """
    from safetensors.torch import save_file

    state = {k: v.detach().contiguous() for k, v in model.state_dict().items()}
    save_file(state, path, {"plan": json.dumps(plan)})
    return Path(path).stat().st_size


def load_pruned(build: Callable[[], nn.Module], path: str | Path) -> nn.Module:
    """Read a pruned network.

    Args:
        build: Makes the network as it was before pruning, such as ``lambda: ResNet(width=16)``.
        path: The file of :func:`save_pruned`.

    Raises:
        CheckpointError: no such file, one without a plan, or the plan of another network.
    """
    found = load_checkpoint(path)
    if "plan" not in found.meta:
        raise CheckpointError(
            f"{path} holds weights without a plan; read it with checkpoints.load_checkpoint"
        )
    model = shrink(build(), json.loads(found.meta["plan"]))
    Checkpoint("pruned", found.tensors).load_into(model)
    return model
