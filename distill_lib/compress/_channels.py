"""Whether a model that was made narrower says what the wide one says without these channels."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from distill_lib.signals import as_batch, eval_mode
from distill_lib.ties import copied

from ._inputs import answer, input_of, with_input

__all__ = ["Members", "ask", "check_runs", "check_same", "refused", "restored", "traceable"]

LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.LSTM)  # their channels are the last axis
MIXING = (nn.LayerNorm, nn.GroupNorm)  # what they make of a channel depends on the others
ROUNDS = 32  # how often torch-pruning may pass from one layer to the next
Key = tuple[str, int]


@dataclass
class Members:
    """Which channels go where: those that layers make, and those that layers read."""

    model: nn.Module
    made: dict[str, set[int]] = field(default_factory=dict)
    read: dict[str, set[int]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)  # whose channels a reader reads

    def add(self, graph: Any, group: Any, names: list[str]) -> None:
        """Add the channels of a group of torch-pruning, which the layers of these names make."""
        known = {module: name for name, module in self.model.named_modules()}
        for dep, channels in group:
            if (name := known.get(dep.target.module)) is None:
                continue  # an operation that is no module
            # a norm, and whatever else has as many inputs as outputs, is both
            makes = graph.is_out_channel_pruning_fn(dep.handler)
            (self.made if makes else self.read).setdefault(name, set()).update(channels)
            if not makes:
                self.names[name] = [*self.names.get(name, ()), *names]


def check_runs(model: nn.Module, inputs: Any) -> None:
    """Ask the model whose channels were taken out.

    Raises:
        ValueError: it cannot be asked.
    """
    try:
        with torch.no_grad():
            ask(model, inputs)
    except Exception as error:  # whatever the model's own code raises on other sizes
        raise ValueError(
            f"with channels taken out the model cannot be asked any more ({error}): something in "
            "it counts on its sizes. Leave the layers around it out with keep="
        ) from error


@torch.no_grad()
def check_same(dense: nn.Module, cut: nn.Module, members: Members, inputs: Any) -> None:
    """Compare the narrow model with the wide one whose channels that went are zero.

    Torch-pruning knows what is beside a layer, and not in which order a function hands its
    channels on: so every layer that reads some has to read the same in both, and the answers
    are the same. A norm over channels is one over those that are left.

    Args:
        dense: The model as it was.
        cut: The narrow one.
        members: Which channels went.
        inputs: What both are asked.

    Raises:
        ValueError: they differ; it names the layers.
    """
    near = 1e-4
    try:  # in 64 bits, so that rounding is no difference
        said, seen = _seen(copied(dense).double(), copied(cut).double(), members, inputs)
    except Exception:  # some models hold on to a type of their own
        near = 1e-2
        said, seen = _seen(copied(dense), copied(cut), members, inputs)
    for key, (one, other) in seen.items():
        if not _alike(one, other, near):
            names = [*dict.fromkeys(members.names[key[0]])]
            raise ValueError(
                f"the channels of {', '.join(names)} cannot be cut: {key[0]!r} would not read what "
                "is left of them. On the way they are put in another order, cut apart, averaged "
                f"or counted. Leave them as they are with keep={names!r:.200}"
            )
    for one, other in zip(*said, strict=True):
        if not _alike(one, other, near):
            names = [*dict.fromkeys(name for some in members.names.values() for name in some)]
            raise ValueError(
                f"with channels of {', '.join(names[:6])} taken out the answer is another one "
                f"({list(other.shape)}, of {list(one.shape)}): they are a part of it, or put in "
                f"another order on their way. Leave them as they are with keep={names!r:.200}"
            )


def _seen(
    dense: nn.Module, cut: nn.Module, members: Members, inputs: Any
) -> tuple[tuple[list[Tensor], list[Tensor]], dict[Key, tuple[Tensor, Tensor]]]:
    """The answers of both models, and what each layer reads in both, by its name and call."""
    kind = next((p.dtype for p in dense.parameters()), None)
    inputs = tree_map_only(Tensor, lambda x: _lively(x, kind == torch.float64), inputs)
    narrow = dict(cut.named_modules())
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it asks no layer, so that none could be seen
    try:
        with eval_mode([dense, cut]):
            left: dict[Key, Tensor] = {}
            handles = [
                narrow[name].register_forward_pre_hook(_record(name, left), with_kwargs=True)
                for name in members.read
            ]
            short = _floats(ask(cut, inputs))
            for handle in handles:
                handle.remove()
            right: dict[Key, Tensor] = {}
            for name, module in dense.named_modules():
                if name in members.read:
                    hook = _record(name, right, members.read[name])
                    module.register_forward_pre_hook(hook, with_kwargs=True)
                if name in members.made:
                    zero = _zero(members.made[name], narrow[name])
                    module.register_forward_hook(zero, with_kwargs=True)
            full = _floats(ask(dense, inputs))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return (full, short), {key: (right[key], left[key]) for key in right if key in left}


def _record(name: str, found: dict[Key, Tensor], gone: Collection[int] = ()) -> Callable[..., Any]:
    """A hook that keeps what a layer reads, with the channels that go set to zero."""

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        x = input_of(args, kwargs)
        if not isinstance(x, Tensor):
            return None  # a packed sequence; what makes it is looked at
        axis = _axis(module, x)
        key = (name, sum(one == name for one, _ in found))
        found[key] = x.index_select(axis, _rest(x.shape[axis], gone, x.device))
        return with_input(args, kwargs, x.index_fill(axis, _index(gone, x.device), 0))

    return hook


def _zero(gone: set[int], narrow: nn.Module) -> Callable[..., Any]:
    """A hook that sets the channels that go to zero; norms are of those that are left."""

    def hook(module: nn.Module, args: Any, kwargs: Any, said: Any) -> Any:
        if not isinstance(said, Tensor):
            return None
        axis = _axis(module, said)
        if not isinstance(module, MIXING):
            return said.index_fill(axis, _index(gone, said.device), 0)
        rest = _rest(said.shape[axis], gone, said.device)
        normed = narrow(input_of(args, kwargs).index_select(axis, rest))
        return torch.zeros_like(said).index_copy(axis, rest, normed)

    return hook


def _axis(module: nn.Module, x: Tensor) -> int:
    if isinstance(module, LAST):
        return x.ndim - 1
    if isinstance(module, nn.modules.conv._ConvNd):
        return x.ndim - 1 - len(module.kernel_size)
    return 1


def _index(channels: Collection[int], device: torch.device) -> Tensor:
    return torch.tensor(sorted(channels), dtype=torch.long, device=device)


def _rest(width: int, gone: Collection[int], device: torch.device) -> Tensor:
    return _index(set(range(width)).difference(gone), device)


def _lively(x: Tensor, wide: bool) -> Tensor:
    """An input, wide where it shall be; numbers that are all the same would tell nothing."""
    if not x.is_floating_point():
        return x
    if x.numel() > 1 and bool((x == x.flatten()[0]).all()):
        like = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
        x = like.to(x.device, x.dtype)
    return x.double() if wide else x


def _alike(one: Tensor, other: Tensor, near: float) -> bool:
    if one.shape != other.shape:
        return False
    size = float(one[one.isfinite()].abs().max()) if bool(one.isfinite().any()) else 0.0
    return torch.allclose(one, other, rtol=0, atol=near * size, equal_nan=True)


def ask(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The tensors of a model's answer to a tuple of arguments, or to a batch."""
    said = model(*inputs) if isinstance(inputs, tuple) else answer(model, as_batch(inputs))
    return [said] if isinstance(said, Tensor) else list(_tensors(said))


def _floats(said: list[Tensor]) -> list[Tensor]:
    return [one for one in said if one.is_floating_point() and one.numel()]


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values.values() if isinstance(values, Mapping) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Eval mode, and gradients for all: torch-pruning follows the graph of autograd."""
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    model.requires_grad_(True)
    try:
        with eval_mode([model]), torch.enable_grad():
            yield
    finally:
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Each module with the parameters, buffers and sizes that it had, if something fails."""
    was = [
        # lists, such as an LSTM's of its weights, are changed in place
        ({k: [*v] if type(v) is list else v for k, v in vars(m).items()}, m)
        for m in model.modules()
    ]
    own = [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    try:
        yield
    except BaseException:
        for attributes, module in was:
            vars(module).update(attributes)
        for module, params, buffers in own:
            module._parameters.update(params)
            module._buffers.update(buffers)
        raise


@contextmanager
def refused(names: Collection[str]) -> Iterator[None]:
    """What torch-pruning stumbles over, in words that say how to go on."""
    try:
        with _no_circles():
            yield
    except Exception as error:  # of many classes
        raise ValueError(
            f"the channels of {', '.join(names)} cannot be cut ({type(error).__name__}: {error}): "
            "torch-pruning does not know what a layer behind them makes of them. Leave them as "
            f"they are with keep={[*names]!r:.200}"
        ) from error


@contextmanager
def _no_circles() -> Iterator[None]:
    """An error where torch-pruning would go round for ever.

    It follows channels from layer to layer, and goes on where they come to places that it has not
    seen. Halves that are put together the other way round, as for rotary places, make ever new
    ones; elsewhere it passes from a layer to the next once.
    """
    graph: Any = importlib.import_module("torch_pruning.dependency.graph")
    plain: Any = graph.Group

    class Group(plain):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.passed: Counter[tuple[int, ...]] = Counter()

        def add_dep(self, dep: Any, idxs: Any) -> None:
            way = id(dep.source), id(dep.target), id(dep.handler)
            self.passed[way] += 1
            if self.passed[way] > ROUNDS:
                raise ValueError("they come back to a layer at ever new places")
            super().add_dep(dep, idxs)

    graph.Group = Group
    try:
        yield
    finally:
        graph.Group = plain
