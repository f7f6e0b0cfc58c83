"""Networks made narrower: channels, hidden units and heads taken out for good."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import gcd, lcm
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import as_batch, call, eval_mode, suggest
from distill_lib.ties import copied, readers

from ._layers import check_share, layers_of, name_the_rest, weights_of
from ._needs import need
from .plans import Plan, plan_of

__all__ = ["prune_channels"]

IMPORTANCE = {
    "magnitude": "GroupMagnitudeImportance",
    "taylor": "GroupTaylorImportance",
    "random": "RandomImportance",
}
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
    keep their shape: output layers are never cut, nor layers that share a weight with another.
    Its parameters are new ones, so make optimizers afterwards.

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
            tied to a layer in ``keep`` or to one that shares its weight; a model that cannot be
            asked once it is cut. The model is then as it was.
        ModuleNotFoundError: torch-pruning is not installed.

    Reference:
        Fang et al., *DepGraph: towards any structural pruning*, 2023.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> prune_channels(net, torch.zeros(2, 8), 0.75)["shapes"]
        {'0.weight': [4, 8], '0.bias': [4], '2.weight': [4, 4]}
    """
    tp = need("torch_pruning", "compress.prune_channels")
    layers = layers_of(model)
    weights_of(model)  # refuses those that are computed
    shared = {n: m for n, m in layers.items() if len(readers(model, m.get_parameter("weight"))) > 1}
    ratios = {name: ratio[name] for name in ratio} if isinstance(ratio, Mapping) else ratio
    _check(layers, ratios, keep, round_to, scope)
    score = _importance(tp, importance, model)
    before = copied(model)
    with _restored(model), _traceable(model):
        graph = _graph(tp, model, example)
        groups = _groups(graph, layers, ratios, frozenset(keep), shared)
        if not groups:
            raise ValueError(
                "no layer is left to cut: each is an output, kept, or tied to these"
                + (f"; {', '.join(shared)} share a weight" if shared else "")
            )
        if not isinstance(ratios, dict):
            done = [m.get_parameter("weight") for name, m in layers.items() if name not in shared]
            name_the_rest(model, done, "prune_channels", known="layers with a weight of their own")
        scores = [score(group) for group, *_ in groups]
        if odd := [one for one in scores if not isinstance(one, Tensor) or one.ndim != 1]:
            raise TypeError(f"importance expected to score channels [C], got {told(odd[0])}")
        # of channels in blocks, those at one place of all blocks go together, or none of them
        scores = [
            one.view(blocks, -1).mean(0) for one, (*_, blocks) in zip(scores, groups, strict=True)
        ]
        shares = [share for _, share, _ in groups]
        if scope == "global" and not isinstance(ratios, dict):
            shares = _global_shares(scores, ratios)
        for (group, _, blocks), worth, share in zip(groups, scores, shares, strict=True):
            # places of a block, such that blocks times places is a multiple of round_to
            step = round_to // gcd(round_to, blocks)
            left = max(round((1 - share) * len(worth) / step), 1) * step
            if left < len(worth):
                lowest = worth.argsort()[: len(worth) - left].cpu()
                gone = (lowest + len(worth) * torch.arange(blocks)[:, None]).flatten().tolist()
                root = group[0].dep
                graph.get_pruning_group(root.target.module, root.handler, gone).prune()
        _check_runs(model, example)
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


def _importance(tp: Any, importance: str | Callable[[Any], Tensor], model: nn.Module) -> Any:
    if not isinstance(importance, str):
        return importance
    if importance not in IMPORTANCE:
        raise ValueError(f"importance is one of {', '.join(IMPORTANCE)}, got {importance!r}")
    if importance == "taylor" and all(p.grad is None for p in model.parameters()):
        raise ValueError("taylor weighs weights by gradients: call backward() on a loss first")
    return getattr(tp.importance, IMPORTANCE[importance])()


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
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
def _restored(model: nn.Module) -> Iterator[None]:
    """Each module with the parameters, buffers and sizes that it had, if something fails."""
    was = [(vars(m), dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    try:
        yield
    except BaseException:
        for now, attributes, params, buffers in was:
            now.update(attributes)
            now["_parameters"].update(params)
            now["_buffers"].update(buffers)
        raise


def _check_runs(model: nn.Module, example: Any) -> None:
    try:
        with torch.no_grad():
            _forward(model, {"inputs": example} if isinstance(example, Tensor) else example)
    except Exception as error:  # whatever the model's own code raises on other sizes
        raise ValueError(
            f"with channels taken out the model cannot be asked any more ({error}): something in "
            "it counts on its sizes. Leave the layers around it out with keep="
        ) from error


def _forward(module: nn.Module, inputs: Any) -> list[Tensor]:
    said = module(*inputs) if isinstance(inputs, tuple) else call(module, as_batch(inputs))
    found = [said] if isinstance(said, Tensor) else list(_tensors(said.values()))
    return [one for one in found if one.requires_grad]


def _graph(tp: Any, model: nn.Module, example: Any) -> Any:
    """Torch-pruning's graph of which channels go with which."""
    if isinstance(example, Tensor):
        example = {"inputs": example}
    owned = {id(p) for m in model.modules() if _known(tp, m) for p in m.parameters(recurse=False)}
    free = [p for p in model.parameters() if id(p) not in owned]
    _forward(model, example)  # what the model itself does not take is its own error
    try:
        return tp.DependencyGraph().build_dependency(
            model, example, forward_fn=_forward, ignored_params=free, verbose=False
        )
    except Exception as error:  # of many classes, whatever its tracing stumbles over
        raise ValueError(
            f"torch-pruning cannot follow this model ({type(error).__name__}: {error}): it knows "
            "torch's own layers. Write others as such, or use prune_transformer or masks"
        ) from error


def _known(tp: Any, module: nn.Module) -> bool:
    return bool(tp.ops.module2type(module) != tp.ops.OPTYPE.ELEMENTWISE)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _groups(
    graph: Any,
    layers: Mapping[str, nn.Module],
    ratios: dict[str, float] | float,
    keep: frozenset[str],
    shared: Mapping[str, nn.Module],
) -> list[tuple[Any, float, int]]:
    """The groups of tied channels that are to be cut, each with its share and its blocks."""
    names = {module: name for name, module in layers.items()}
    found = []
    for group in graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear]):
        targets = [(one.dep.target.module, one.dep.handler) for one in group]
        tied = [names[m] for m, f in targets if m in names and graph.is_out_channel_pruning_fn(f)]
        read = any(graph.is_in_channel_pruning_fn(f) for m, f in targets if m in names)
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
        blocks = _blocks(graph, group)
        if isinstance(ratios, dict) and not blocks:
            raise ValueError(f"{tied[0]!r} cannot be cut: {UNEVEN}")
        if read and not kept and not sharing and blocks:
            found.append((group, share, blocks))
    return found


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


def _global_shares(scores: list[Tensor], ratio: float) -> list[float]:
    """The share of each group when the least important channels of all are taken out."""
    total = torch.cat(scores)
    bar = total.sort().values[max(round(ratio * len(total)) - 1, 0)]
    return [float((worth <= bar).sum()) / len(worth) for worth in scores]
