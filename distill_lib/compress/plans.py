"""The plan of a network that was made narrower: what rebuilds it around its weights.

A plan is plain data: the new shapes of the tensors and the new sizes that modules remember. With it
a freshly built network is narrowed to fit the weights, so that a pruned network is a file of plain
tensors and not a pickle of objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.checkpoints import Checkpoint, CheckpointError, check_fit, load_checkpoint
from distill_lib.checkpoints.files import whole_file
from distill_lib.ties import ties, turned

from .costs import is_plain

__all__ = ["Plan", "load_pruned", "plan_of", "save_pruned", "shrink"]

Plan = dict[str, dict[str, Any]]


@checked
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
    before, after = _tensors(dense), _tensors(pruned)
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


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, without what is no tensor, such as a module's extra state."""
    return {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_size(one) for one in value)
    return isinstance(value, int) and not isinstance(value, bool)


def shrink(model: nn.Module, plan: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """Give a freshly built network the sizes of a plan, in place; its weights are loaded after.

    A plan narrows: no tensor becomes larger, and only whole numbers that modules have are changed.

    Raises:
        CheckpointError: no plan, one of another network, or one that does not narrow; the network
            is as it was.

    Example:
        >>> shrink(nn.Linear(4, 3), plan_of(nn.Linear(4, 3), nn.Linear(4, 2)))
        Linear(in_features=4, out_features=2, bias=True)
    """
    shapes = planned(model, plan)
    modules = dict(model.named_modules(remove_duplicate=False))
    widest = max((n for tensor in _tensors(model).values() for n in tensor.shape), default=0)
    for name, sizes in plan["sizes"].items():
        _check_sizes(name, sizes, modules.get(name), widest)
    state, same = model.state_dict(keep_vars=True), ties(model)
    made: dict[str, Tensor] = {}  # a weight that is used twice stays one weight
    for name, first in {k: same.get(k, k) for k in state}.items():
        if shapes.get(name) != shapes.get(first):
            raise CheckpointError(
                f"{name} and {first} are one weight, and the plan wants {shapes[name]} and "
                f"{shapes[first]}"
            )
        if first not in plan["shapes"]:
            continue
        owner, _, leaf = name.rpartition(".")
        if (new := made.get(first)) is None:
            old = state[first]
            new = torch.zeros(shapes[first], dtype=old.dtype, device=old.device)
            new = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            made[first] = new
        setattr(modules[owner], leaf, new)
    for name, sizes in plan["sizes"].items():
        for key, value in sizes.items():
            setattr(modules[name], key, tuple(value) if isinstance(value, list) else value)
    follow(model)
    return model


def follow(model: nn.Module) -> None:
    """Let the configuration of a BERT say how many hidden units its layers have, if all as many."""
    made = [m for name, m in model.named_modules() if name.endswith("intermediate.dense")]
    units = {m.out_features for m in made if isinstance(m, nn.Linear)}
    if len(units) == 1 and hasattr(config := getattr(model, "config", None), "intermediate_size"):
        config.intermediate_size = units.pop()  # type: ignore[union-attr]


def planned(model: nn.Module, plan: Any) -> dict[str, list[int]]:
    """The shapes of a model's tensors once :func:`shrink` has followed a plan.

    Raises:
        CheckpointError: no plan, one of another network, or one that does not narrow.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model expected a torch.nn.Module, got {told(model)}")
    if not isinstance(plan, Mapping) or not all(
        isinstance(plan.get(key), Mapping) for key in ("shapes", "sizes")
    ):
        raise CheckpointError("a plan has 'shapes' and 'sizes', each by name; this is no plan")
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(model).items()}
    for name, shape in plan["shapes"].items():
        old = shapes.get(name)
        if old is None or not isinstance(shape, list) or len(shape) != len(old):
            raise CheckpointError(f"the plan is of another network: this one has no such {name!r}")
        if not all(type(n) is int and 0 <= n <= m for n, m in zip(shape, old, strict=True)):
            raise CheckpointError(f"the plan wants {shape} for {name}, which has {old}")
        shapes[name] = shape
    return shapes


def _check_sizes(name: str, sizes: Any, module: nn.Module | None, widest: int) -> None:
    if module is None or not isinstance(sizes, Mapping):
        raise CheckpointError(f"the plan is of another network: this one has no {name!r}")
    for key, value in sizes.items():
        old, new = vars(module).get(key), tuple(value) if isinstance(value, list) else value
        alike = _is_size(old) and _is_size(new) and isinstance(old, tuple) == isinstance(new, tuple)
        if not alike or _largest(new) > max(_largest(old), widest):
            what = type(module).__name__
            raise CheckpointError(f"the plan says {key}={value!r:.60} for a {what}: no size of it")


def _largest(size: Any) -> int:
    """The largest of a size's numbers, whatever their signs."""
    return max(map(_largest, size), default=0) if isinstance(size, tuple) else abs(size)


@checked
def save_pruned(model: nn.Module, path: str | Path, plan: Mapping[str, Any]) -> int:
    """Write weights and plan as one safetensors file; returns its bytes.

    Args:
        model: The pruned network.
        path: The file, ending in ``.safetensors``.
        plan: As :func:`prune_channels` or :func:`plan_of` gave it.

    Raises:
        ValueError: a state that is no plain tensor, or on the meta device.
        OSError: the file cannot be written; an older one is whole.
    """
    from safetensors.torch import save

    state, same = model.state_dict(), once_written(model)
    for name, value in state.items():
        if not is_plain(value):
            raise ValueError(
                f"{name!r} is {told(value)}, no plain tensor that safetensors has: make the model "
                "plain before it is saved, or see save_packed, torch.save(model.state_dict(), …)"
            )
    check_there(model, ValueError)
    once = {k: written_out(v).contiguous() for k, v in state.items() if k not in same}
    data = save(once, {"plan": as_json(plan), "ties": json.dumps(same)})
    with whole_file(path) as file:
        file.write(data)
    return len(data)


def written_out(tensor: Tensor) -> Tensor:
    """The numbers that a tensor stands for, also where it is a conjugate or negative view."""
    return tensor.detach().resolve_conj().resolve_neg()


def check_there(model: nn.Module, error: type[Exception] = CheckpointError) -> None:
    """Refuse a model on the meta device: there are no numbers in it, and none can be read into it.

    Raises:
        CheckpointError: or the ``error``; it names a tensor.
    """
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_meta:
            raise error(
                f"{name!r} is on the meta device, without room for numbers: make the model with "
                'model.to_empty(device="cpu"), or on a device that has some'
            )


def as_json(plan: Mapping[str, Any]) -> str:
    """A plan as text.

    Raises:
        ValueError: it holds more than plain data.
    """
    try:
        return json.dumps(plan)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"plan expected plain data, as prune_channels or plan_of gives it, got more: {error}"
        ) from error


@checked
def load_pruned(build: Callable[[], nn.Module], path: str | Path) -> nn.Module:
    """Read a pruned network.

    No more memory is taken than for the file and the network that ``build`` makes. The format is
    safetensors, which has no checksum: see :func:`distill_lib.checkpoints.write_manifest`.

    Args:
        build: Makes the network as it was before pruning, such as ``lambda: ResNet(width=16)``.
        path: The file of :func:`save_pruned`.

    Raises:
        CheckpointError: no such file, one without a plan, or the plan of another network; a
            network on the meta device.
    """
    found = load_checkpoint(path)
    if "plan" not in found.meta:
        raise CheckpointError(
            f"{path} holds weights without a plan; read it with checkpoints.load_checkpoint"
        )
    try:
        plan, same = json.loads(found.meta["plan"]), json.loads(found.meta.get("ties", "{}"))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the plan in {path} is torn: {error}") from error
    model = build()
    check_there(model)
    tensors = all_names(found.tensors, same, model)
    shapes = planned(model, plan)
    check_fit("pruned", {k: v.shape for k, v in tensors.items()}, shapes)
    Checkpoint("pruned", tensors).load_into(shrink(model, plan))
    return model


def once_written(model: nn.Module) -> dict[str, Any]:
    """From each later name of a weight to the first, with the order of its axes if that is another.

    As JSON has it: the name, or ``[name, order]``.
    """
    other: dict[str, Any] = {name: list(first) for name, first in turned(model).items()}
    return {**{name: other.get(first, first) for name, first in ties(model).items()}, **other}


def shapes_of_all(shapes: Mapping[str, Sequence[int]], same: Any) -> dict[str, Sequence[int]]:
    """The shapes of what a file holds once, under all the names that it has.

    Raises:
        CheckpointError: other names than those of tensors, or an order that is none.
    """
    found = dict(shapes)
    for name, first in _pairs(same):
        first, order = first if isinstance(first, list) and len(first) == 2 else (first, None)
        if name in shapes or not isinstance(first, str) or first not in shapes:
            raise CheckpointError("it says that a weight is another, which is not there")
        axes = list(range(len(shapes[first])))
        order = axes if order is None else order
        if not isinstance(order, list) or any(type(n) is not int for n in order):
            raise CheckpointError(f"the axes of {name} are no whole numbers: {order!r:.60}")
        if sorted(order) != axes:
            raise CheckpointError(f"the axes of {name} are {order}, expected each of {axes} once")
        found[name] = [shapes[first][n] for n in order]
    return found


def _pairs(same: Any) -> list[tuple[str, Any]]:
    if not isinstance(same, Mapping):
        raise CheckpointError("it says that a weight is another, which is not there")
    return list(same.items())


def all_names(tensors: Mapping[str, Tensor], same: Any, model: nn.Module) -> dict[str, Tensor]:
    """What a file holds once, under all the names that it has.

    Args:
        tensors: By name.
        same: From each other name to the one in the file, as :func:`once_written` has it.
        model: What it is for.

    Raises:
        CheckpointError: other names than those of tensors, an order of axes that is none, or two
            values for one weight of the model.
    """
    shapes_of_all({name: tensor.shape for name, tensor in tensors.items()}, same)
    found = dict(tensors)
    for name, first in same.items():
        plain = isinstance(first, str)
        found[name] = tensors[first] if plain else tensors[first[0]].permute(first[1])
    for name, first in ties(model).items():
        if {name, first} <= found.keys() and not _equal(found[name], found[first]):
            raise CheckpointError(
                f"{name} and {first} are one weight of the model, and two in the file: it is of a "
                "network that does not tie them"
            )
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether each bit is the same, so that numbers that are none are equal to themselves."""
    if one is other:
        return True
    alike = one.shape == other.shape and one.dtype == other.dtype
    both = (written_out(t).contiguous().view(-1).view(torch.uint8) for t in (one, other))
    return alike and torch.equal(*both)
