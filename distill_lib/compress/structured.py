"""Networks made narrower: channels, hidden units and heads taken out for good."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from math import lcm
from typing import Any

from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.signals import suggest
from distill_lib.ties import copied, readers

from ._channels import Members, ask, check_runs, check_same, refused, restored, traceable
from ._layers import check_share, layers_of, name_the_rest, weights_of
from ._needs import need
from ._worth import global_shares, importance_of, lowest, scored
from .plans import Plan, plan_of

__all__ = ["prune_channels"]

TRANSPOSED = nn.modules.conv._ConvTransposeNd
READERS = (nn.modules.conv._ConvNd, nn.Linear, nn.LSTM)
UNEVEN = "a layer with groups sees its channels in another order, or only some of them"


@checked
def prune_channels(
    model: nn.Module,
    example: Any,
    ratio: float | Mapping[str, float],
    importance: str | Callable[[Any], Tensor] = "magnitude",
    keep: Collection[str] = (),
    round_to: int = 1,
    scope: str = "layer",
) -> Plan:
    """Take channels of convolutions and units of linear layers out of a model, in place.

    Layers that a residual connection adds have the same channels taken out. Where a convolution
    has groups, or a group norm, each group loses the channels at the same places. The answers
    keep their shape: output layers are never cut, nor layers that share a weight with another,
    nor what ``nn.MultiheadAttention`` divides into heads.

    The narrow model says what the wide one said with these channels at zero, norms over the
    channels that are left; it is asked and compared, and a cut that means something else, as
    where channels are shuffled on their way, is refused. Its parameters are new ones, so make
    optimizers afterwards.

    Args:
        model: The model, in place.
        example: Inputs as the model takes them: a tensor, a batch, or a tuple of arguments.
        ratio: Share of the channels to take out, in (0, 1); or one a layer, by its name.
        importance: ``magnitude``, the norm of all weights of a channel; ``taylor``, weights times
            gradients, after a ``backward()`` of yours; ``random``; or an importance of
            torch-pruning's.
        keep: Names of layers that are not cut, nor those that are tied to them.
        round_to: Channels are left in multiples of it.
        scope: ``layer``, the same share in each; or ``global``, the least important of all.

    Returns:
        The plan, for :func:`save_pruned`.

    Raises:
        KeyError: a layer that the model does not have.
        ValueError: a ratio outside (0, 1), a layer that cannot be cut: an output, or one that is
            tied to a layer in ``keep`` or to one that shares its weight; scores that are not
            finite or not one a channel; a model that cannot be asked once it is cut, or says
            something else. The model is then as it was.
        ModuleNotFoundError: torch-pruning is not installed.

    Reference:
        Fang et al., *DepGraph: towards any structural pruning*, 2023.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> prune_channels(net, torch.zeros(2, 8), 0.75)["shapes"]
        {'0.weight': [4, 8], '0.bias': [4], '2.weight': [4, 4]}
    """
    tp = need("torch_pruning", "compress.prune_channels")
    layers = layers_of(model)
    weights_of(model)  # refuses those that are computed
    layers |= {name: m for name, m in model.named_modules() if isinstance(m, TRANSPOSED)}
    shared = {n: m for n, m in layers.items() if len(readers(model, m.get_parameter("weight"))) > 1}
    ratios = {name: ratio[name] for name in ratio} if isinstance(ratio, Mapping) else ratio
    _check(layers, ratios, keep, round_to, scope)
    score = importance_of(tp, importance, model)
    inputs = {"inputs": example} if isinstance(example, Tensor) else example
    before = copied(model)
    with restored(model), traceable(model):
        graph = _graph(tp, model, inputs)
        groups, left = _groups(graph, layers, ratios, frozenset(keep), shared)
        if not groups:
            raise ValueError(
                "no layer is left to cut: each is an output, kept, or tied to these"
                + "".join(f"; {name!r} is left, for {why}" for name, why in left.items())
                + (f"; {', '.join(shared)} share a weight" if shared else "")
            )
        if not isinstance(ratios, dict):
            done = [m.get_parameter("weight") for name, m in layers.items() if name not in shared]
            name_the_rest(model, done, "prune_channels", known="layers with a weight of their own")
        scores = [scored(tp, importance, score, group) for group in groups]
        shares = [group.share for group in groups]
        if scope == "global" and not isinstance(ratios, dict):
            shares = global_shares(scores, ratios)
        gone = [
            (group, lowest(worth, share, group.blocks, round_to))
            for group, worth, share in zip(groups, scores, shares, strict=True)
        ]
        members = Members(model)
        for group, channels in gone:  # all by their places in the wide model, before one is cut
            with refused(group.names):
                members.add(graph, _part(graph, group, channels), group.names)
        for group, channels in gone:
            with refused(group.names):
                _part(graph, group, channels).prune()
        check_runs(model, inputs)
        check_same(before, model, members, inputs)
    for param in model.parameters():
        param.grad = None  # of the shapes of before
    return plan_of(before, model)


def _check(
    layers: Mapping[str, nn.Module],
    ratios: dict[str, float] | float,
    keep: Collection[str],
    round_to: int,
    scope: str,
) -> None:
    for name in [*(ratios if isinstance(ratios, dict) else ()), *keep]:
        if name not in layers:
            raise KeyError(f"the model has no such layer {name!r}.{suggest(name, layers)}")
    for value in ratios.values() if isinstance(ratios, dict) else [ratios]:
        check_share(value, "ratio")
    if scope not in ("layer", "global") or round_to < 1:
        raise ValueError(f"scope is 'layer' or 'global', round_to ≥ 1; got {scope!r}, {round_to}")


def _graph(tp: Any, model: nn.Module, inputs: Any) -> Any:
    """Torch-pruning's graph of which channels go with which."""
    owned = {id(p) for m in model.modules() if _known(tp, m) for p in m.parameters(recurse=False)}
    free = [p for p in model.parameters() if id(p) not in owned]
    ask(model, inputs)  # what the model itself does not take is its own error
    try:
        return tp.DependencyGraph().build_dependency(
            model, inputs, forward_fn=_graded, ignored_params=free, verbose=False
        )
    except Exception as error:  # of many classes, whatever its tracing stumbles over
        raise ValueError(
            f"torch-pruning cannot follow this model ({type(error).__name__}: {error}): it knows "
            "torch's own layers. Write others as such, or use prune_transformer or masks"
        ) from error


def _graded(model: nn.Module, inputs: Any) -> list[Tensor]:
    return [one for one in ask(model, inputs) if one.requires_grad]


def _known(tp: Any, module: nn.Module) -> bool:
    return bool(tp.ops.module2type(module) != tp.ops.OPTYPE.ELEMENTWISE)


@dataclass(frozen=True)
class Group:
    """Channels that are cut together."""

    found: Any  # as torch-pruning has them
    share: float
    blocks: int  # equal parts that lose the channels at the same places
    names: list[str]  # of the layers that make them


def _part(graph: Any, group: Group, channels: list[int]) -> Any:
    """Torch-pruning's group of some of the channels."""
    root = group.found[0].dep
    return graph.get_pruning_group(root.target.module, root.handler, channels)


def _groups(
    graph: Any,
    layers: Mapping[str, nn.Module],
    ratios: dict[str, float] | float,
    keep: frozenset[str],
    shared: Mapping[str, nn.Module],
) -> tuple[list[Group], dict[str, str]]:
    """The groups of tied channels that are to be cut; and why layers are not, that could be."""
    names = {module: name for name, module in layers.items()}
    found, left = [], {}
    seen: set[str] = set()
    for group in _tied(graph, names, ratios, keep):
        targets = [(one.dep.target.module, one.dep.handler) for one in group]
        tied = [names[m] for m, f in targets if m in names and graph.is_out_channel_pruning_fn(f)]
        seen.update(tied)
        # through a norm, say, or a depthwise convolution they go on
        read = any(
            isinstance(m, READERS) and not graph.is_out_channel_pruning_fn(f) for m, f in targets
        )
        kept = [name for name in tied if name in keep]
        sharing = [names[m] for m, _ in targets if m in shared.values()]
        if isinstance(ratios, dict):
            given = {name: ratios[name] for name in tied if name in ratios}
            if not given:
                continue
            if sharing:
                raise ValueError(
                    f"{next(iter(given))!r} cannot be cut: {sharing[0]!r} would be cut with it, "
                    "which shares its weight with another layer. Give each its own weight first"
                )
            _refuse(given, tied, kept, read)
            share = next(iter(given.values()))
        else:
            share = ratios
        why, blocks = _whole(graph, group), _blocks(graph, group)
        why = why or ("" if blocks else UNEVEN)
        if isinstance(ratios, dict) and why:
            raise ValueError(f"{tied[0]!r} cannot be cut: {why}")
        if read and not kept and not sharing:
            if why:
                left[tied[0]] = why
            else:
                found.append(Group(group, share, blocks, tied))
    if isinstance(ratios, dict) and (unseen := [name for name in ratios if name not in seen]):
        raise ValueError(f"{unseen[0]!r} cannot be cut: the model does not ask it of the example")
    return found, left


def _tied(
    graph: Any,
    names: Mapping[nn.Module, str],
    ratios: dict[str, float] | float,
    keep: frozenset[str],
) -> Iterator[Any]:
    """Torch-pruning's groups, each with all of its channels, in the order of the first layers."""
    seen: set[Any] = set()
    for module in graph.module2node:
        kept = not isinstance(ratios, dict) and names.get(module) in keep
        if module not in names or module in seen or kept:
            continue
        pruner = graph.get_pruner_of_module(module)
        channels = [*range(pruner.get_out_channels(module))]
        try:
            with refused([names[module]]):
                group = graph.get_pruning_group(module, pruner.prune_out_channels, channels)
        except ValueError:
            if isinstance(ratios, dict) and names[module] not in ratios:
                continue  # nobody asked for it
            raise
        outs = (one.dep for one in group if graph.is_out_channel_pruning_fn(one.dep.handler))
        seen.update(dep.target.module for dep in outs)
        yield group


def _whole(graph: Any, group: Any) -> str:
    """Why torch-pruning cannot cut a layer among these; empty where it can."""
    for one in group:
        module = one.dep.target.module
        made = graph.is_out_channel_pruning_fn(one.dep.handler)
        if isinstance(module, nn.MultiheadAttention):
            return "nn.MultiheadAttention would be cut across its heads"
        if isinstance(module, nn.LSTM) and made:
            return "the units of an LSTM cannot be cut"
        if isinstance(module, TRANSPOSED) and module.groups > 1:
            return "a transposed convolution with groups cannot be cut"
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            return f"a LayerNorm over {list(module.normalized_shape)} counts on its sizes"
    return ""


def _blocks(graph: Any, group: Any) -> int:
    """Into how many equal blocks convolutions with groups and group norms divide the channels.

    Channels at the same place of each block are cut together; then all blocks stay equal, and read
    what they have read. 0 where these layers see the channels in another order, or only some.
    """
    blocks, width = 1, len(group[0].idxs)
    for one in group:
        module = one.dep.target.module
        if isinstance(module, nn.modules.conv._ConvNd):
            size = module.in_channels
            size = module.out_channels if graph.is_out_channel_pruning_fn(one.dep.handler) else size
            number = module.groups
            if number == module.in_channels == module.out_channels:
                continue  # of depthwise ones a channel goes with its group
        elif isinstance(module, nn.GroupNorm):
            number, size = module.num_groups, module.num_channels
        else:
            continue
        if number > 1:
            if list(one.idxs) != list(range(size)) or size != width:
                return 0
            blocks = lcm(blocks, number)
    return blocks if width % blocks == 0 else 0


def _refuse(given: Mapping[str, float], tied: list[str], kept: list[str], read: bool) -> None:
    """What was asked for by name and cannot be done is an error; the rest is left out."""
    name = next(iter(given))
    if not read:
        raise ValueError(
            f"the channels of {name!r} cannot be cut: no layer reads them, they are the model's "
            "answer"
        )
    if kept:
        raise ValueError(
            f"{name!r} cannot be cut: a residual connection ties it to {kept[0]!r}, which is to be "
            f"kept. Tied are {', '.join(tied)}"
        )
    if len(set(given.values())) > 1:
        raise ValueError(f"{', '.join(given)} are tied and are cut alike: give one ratio")
