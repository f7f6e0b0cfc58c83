"""Which hidden units can be permuted, and which axes move with them, from a network's graph."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import as_batch
from distill_lib.ties import copied, memory, ties

__all__ = ["Axes", "symmetries"]

# along how many of its last axes an operator mixes the entries; it treats those of others alike
POOLS = {f"{kind}_pool{n}d": n for kind in ("max", "avg", "adaptive_avg") for n in (1, 2)}
CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
SINGLE = (
    "relu",
    "relu_",
    "tanh",
    "sigmoid",
    "gelu",
    "elu",
    "silu",
    "leaky_relu",
    "hardtanh",
    "clamp",
)
ALIKE = {*POOLS, *SINGLE, "dropout", "clone", "contiguous", "detach", "neg", "add", "add_", "sub"}


@checked
@dataclass(frozen=True)
class Axes:
    """The axes of parameters that one permutation of hidden units moves.

    Attributes:
        size: How many units there are.
        places: (parameter or buffer, axis, block): along the axis, each unit has ``block``
            neighboring entries, as after a flattening of images.
    """

    size: int
    places: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class _Units:
    """Which units lie along an axis of a value."""

    group: int
    axis: int
    block: int = 1


class _Tracer:
    """Walks the graph of a network and finds which axes have to move together."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names  # from placeholders to parameters, one name for each weight
        self.held: dict[tuple[str, int], tuple[int, int]] = {}  # what lies along a weight's axis
        self.parent = [0]  # of a union-find; group 0 is what must not move
        self.size = [0]
        self.places: list[tuple[int, tuple[str, int, int]]] = []
        self.seen: dict[Any, _Units] = {}

    def find(self, group: int) -> int:
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def tie(self, one: int, other: int) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        self.parent[high] = low

    def new(self, size: int) -> int:
        self.parent.append(len(self.parent))
        self.size.append(size)
        return len(self.parent) - 1

    def place(self, node: Any, axis: int, group: int, block: int = 1) -> None:
        if node is None:
            return
        if (name := self.names.get(node.name)) is None:
            self.tie(group, 0)  # it is there in another layout, too
            return
        self.places.append((group, (name, axis, block)))
        # a weight that is used twice moves as one: both uses see the same order
        other, as_block = self.held.setdefault((name, axis), (group, block))
        self.tie(group, other if as_block == block else 0)
        if as_block != block:
            self.tie(other, 0)

    def fix(self, *nodes: Any) -> None:
        for node in nodes:
            if node in self.seen:
                self.tie(self.seen[node].group, 0)

    def pin(self, node: Any) -> None:
        """Something else reads a parameter: none of its axes may move."""
        for axis in range(node.meta["val"].ndim):
            self.place(node, axis, 0)

    def visit(self, node: Any) -> None:
        inputs, known = node.all_input_nodes, len(self.places)
        space, _, rest = str(node.target).partition(".")
        op = rest.partition(".")[0] if space == "aten" else ""
        found: _Units | None = None
        if op == "linear" or op in CONVOLUTIONS:
            found = self._layer(node, op)
        elif op == "batch_norm" and inputs[0] in self.seen:
            found = self.seen[inputs[0]]
            if found.axis == 1:  # it has a scale for each entry there, and one for all elsewhere
                for parameter in node.args[1:5]:
                    self.place(parameter, 0, found.group, found.block)
        elif op in ALIKE:
            found = self._alike(op, inputs)
        elif op == "mean" and inputs[0] in self.seen and len(node.args) > 1:
            found = self._mean(node)
        elif op in ("flatten", "view", "reshape") and inputs[0] in self.seen:
            found = self._flatten(node, inputs[0])
        if found is not None:
            self.seen[node] = found
        else:
            self.fix(*inputs)
        moved = {place[0] for _, place in self.places[known:]}
        for one in inputs:
            if one.name in self.names and self.names[one.name] not in moved:
                self.pin(one)

    def _layer(self, node: Any, op: str) -> _Units | None:
        x, weight, bias = (*node.args[:3], None)[:3]
        grouped = op in CONVOLUTIONS and len(node.args) > 6 and node.args[6] != 1
        flat = weight.meta["val"].ndim < 2  # one output, which has no axis
        if weight.name not in self.names or grouped or flat:
            return None
        axis = node.meta["val"].ndim - 1 - CONVOLUTIONS.get(op, 0)  # 0 for one image alone
        units = self.seen.get(x)
        if units is not None and units.axis == axis:
            self.place(weight, 1, units.group, units.block)
        else:
            self.fix(x)
        group = self.new(weight.meta["val"].shape[0])
        self.place(weight, 0, group)
        self.place(bias, 0, group)
        return _Units(group, axis)

    def _alike(self, op: str, inputs: Sequence[Any]) -> _Units | None:
        wide = [one for one in inputs if one.meta["val"].numel() > 1]
        units = [self.seen[one] for one in wide if one in self.seen]
        shapes = {tuple(one.meta["val"].shape) for one in wide}
        if not units or len(units) < len(wide) or (len(wide) > 1 and len(shapes) > 1):
            return None
        if len({(one.axis, one.block) for one in units}) > 1:
            return None
        if units[0].axis >= len(shapes.pop()) - POOLS.get(op, 0):  # windows over the units
            return None
        for other in units[1:]:
            self.tie(units[0].group, other.group)
        return units[0]

    def _mean(self, node: Any) -> _Units | None:
        units, x = self.seen[node.args[0]], node.args[0].meta["val"]
        dims = [d % x.ndim for d in node.args[1] or ()]
        if not dims or units.axis in dims:  # none is all
            return None
        kept = len(node.args) > 2 and node.args[2]
        return _Units(units.group, units.axis - (0 if kept else sum(d < units.axis for d in dims)))

    def _flatten(self, node: Any, x: Any) -> _Units | None:
        units, old, new = self.seen[x], x.meta["val"].shape, node.meta["val"].shape
        rest = math.prod(old[1:])
        if units.axis != 1 or len(new) != 2 or new[1] != rest:
            return None
        return _Units(units.group, 1, units.block * math.prod(old[2:]))

    def groups(self) -> list[Axes]:
        found: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
        for group, place in self.places:
            if (root := self.find(group)) != 0 and place not in found[root]:
                found[root].append(place)
        return [Axes(self.size[root], tuple(places)) for root, places in found.items() if places]


@checked
def symmetries(model: nn.Module, example: Any) -> list[Axes]:
    """The hidden units of a network that can be permuted, and which axes move with them.

    Linear layers, convolutions, batch normalization, functions of single numbers, residual sums,
    averages and flattenings are followed; units that reach anything else are left in their order.

    Args:
        model: The network; it is asked in eval mode and not changed.
        example: A tensor, or a batch; labels are left out.

    Returns:
        One entry for each group of units.

    Raises:
        ValueError: a model that cannot be followed with this example.

    Example:
        >>> symmetries(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(2, 4))
        [Axes(size=3, places=(('0.weight', 0, 1), ('0.bias', 0, 1), ('2.weight', 1, 1)))]
    """
    named = {"inputs": example} if isinstance(example, Tensor) else dict(as_batch(example))
    args = (named["inputs"],) if "inputs" in named else ()
    hidden = ("inputs", "labels", "index", "mask", "human")
    kwargs = {k: v for k, v in named.items() if k not in hidden and isinstance(v, Tensor)}
    plain = copied(model).eval()
    try:
        with torch.no_grad():
            program = torch.export.export(plain, args, {} if args else kwargs, strict=False)
    except Exception as error:  # whatever the model's own code, or torch, raises
        raise ValueError(
            f"cannot follow the model with the example {told(example)} ({type(error).__name__}: "
            f"{str(error)[:300]}); give inputs as the model takes them"
        ) from error
    sign = program.graph_signature
    places = {**sign.inputs_to_parameters, **sign.inputs_to_buffers}
    tracer = _Tracer(_one_name(plain, places))
    for node in program.graph.nodes:
        if node.op == "call_function":
            tracer.visit(node)
        elif node.op == "output":
            tracer.fix(*node.all_input_nodes)
    return tracer.groups()


def _one_name(model: nn.Module, places: dict[str, str]) -> dict[str, str]:
    """From placeholders to weights, each under its first name; without what has two layouts."""
    state = {k: v for k, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    same = ties(model)
    names: dict[Any, set[str]] = defaultdict(set)
    for name, value in state.items():
        names[memory(value)].add(same.get(name, name))
    return {
        place: same.get(name, name)
        for place, name in places.items()
        if name in state and len(names[memory(state[name])]) == 1
    }
