"""The hidden units of two networks brought into one order, so that their weights can be averaged.

The order of hidden units is arbitrary: permuting the outputs of one layer and the inputs of the
next in the same way leaves the function as it is. Which axes go together is read from the graph of
the network.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.extras import missing
from distill_lib.ties import copied, ties

from ._graph import Axes, symmetries
from ._layout import same_layout

__all__ = ["Axes", "align", "permute", "symmetries"]

State = dict[str, Tensor]


def _order(order: Tensor, block: int) -> Tensor:
    return (order[:, None] * block + torch.arange(block, device=order.device)).flatten()


def _move(state: State, axes: Axes, order: Tensor) -> None:
    for name, axis, block in axes.places:
        state[name] = state[name].index_select(axis, _order(order, block).to(state[name].device))


@checked
def permute(model: nn.Module, groups: Iterable[Axes], orders: Iterable[Tensor]) -> nn.Module:
    r"""A copy with its hidden units in another order: the same function of its input.

    .. math:: W_2\, \sigma(W_1 x) = (W_2 P^\top)\, \sigma(P W_1 x)

    Args:
        model: The network.
        groups: As :func:`symmetries` gave them.
        orders: [size] for each group: the old position of each new unit.

    Raises:
        TypeError: groups or orders that are none.
        ValueError: not an order for each group, or one that names a unit twice or not at all; or
            groups of a model of other sizes.
        KeyError: groups of another model.
    """
    state, groups, orders = dict(model.state_dict()), list(groups), list(orders)
    if len(groups) != len(orders):
        raise ValueError(f"expected an order a group, got {len(orders)} for {len(groups)} groups")
    for axes, order in zip(groups, orders, strict=True):
        if not isinstance(axes, Axes) or not isinstance(order, Tensor):
            raise TypeError(
                "expected groups as symmetries() gives them, and a tensor for each; got "
                f"{told(axes)} and {told(order)}"
            )
        if sorted(order.flatten().tolist()) != list(range(axes.size)) or order.ndim != 1:
            raise ValueError(f"expected an order of {axes.size} units, each once; got {order}")
        if missing_ones := [name for name, *_ in axes.places if name not in state]:
            raise KeyError(f"the model has no {missing_ones[0]!r}: the groups are another model's")
        for name, axis, block in axes.places:
            shape, long = list(state[name].shape), axes.size * block
            if not 0 <= axis < len(shape) or shape[axis] != long:
                raise ValueError(
                    f"{name!r} is {shape}, and its axis {axis} was to be {long} long, of "
                    f"{axes.size} units: the groups are another model's; ask symmetries() anew"
                )
        _move(state, axes, order)
    return _with(model, state)


def _with(model: nn.Module, state: State) -> nn.Module:
    """A copy with other weights; where one has several names, those of the first."""
    found = copied(model)
    found.load_state_dict(state | {name: state[first] for name, first in ties(found).items()})
    return found


@checked
@torch.no_grad()
def align(
    model: nn.Module,
    reference: nn.Module,
    example: Any,
    rounds: int = 50,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""A copy of a network with its hidden units in the order of another network: Git Re-Basin.

    .. math:: \max_{P_1, \dots, P_L} \sum_\ell \left\langle W_\ell^{\text{ref}},\,
       P_\ell W_\ell P_{\ell-1}^\top \right\rangle

    one permutation after the other, each a linear assignment, until none moves. The copy computes
    what the network computes. For an average of the two, re-estimate batch normalization after.

    Args:
        model: The network to bring into order.
        reference: A network of the same architecture.
        example: A tensor, or a batch, from which the graph is read.
        rounds: At most so many passes over all groups.
        generator: For the order of the groups; a fixed one by default.

    Returns:
        The aligned copy.

    Raises:
        ValueError: different architectures, or no units that can be permuted.
        ModuleNotFoundError: SciPy is not installed.

    Reference:
        Ainsworth et al., *Git Re-Basin: merging models modulo permutation symmetries*, 2023.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> mixed = permute(net, symmetries(net, torch.ones(2, 4)), [torch.tensor([2, 0, 1])])
        >>> torch.equal(align(mixed, net, torch.ones(2, 4))[0].weight, net[0].weight)
        True
    """
    try:
        assign = importlib.import_module("scipy.optimize").linear_sum_assignment
    except ModuleNotFoundError as error:
        raise missing("fusion.align", "scipy") from error
    same_layout([reference, model])
    groups = symmetries(model, example)
    if not groups:
        raise ValueError("no hidden units of this network can be permuted")
    wanted, state = dict(reference.state_dict()), dict(model.state_dict())
    learned = {name for name, _ in model.named_parameters()}
    generator = generator or torch.Generator().manual_seed(0)
    for _ in range(rounds):
        moved = False
        for i in torch.randperm(len(groups), generator=generator).tolist():
            axes = groups[i]
            gain = torch.zeros(axes.size, axes.size, dtype=torch.float64)
            for name, axis, block in axes.places:
                if name in learned:
                    gain += _rows(wanted[name], axis, block) @ _rows(state[name], axis, block).T
            order = torch.from_numpy(assign(gain.numpy(), maximize=True)[1])
            stay = torch.arange(axes.size)
            if gain[stay, order].sum() > gain.trace() + 1e-9 * gain.abs().max():
                _move(state, axes, order)
                moved = True
        if not moved:
            break
    return _with(model, state)


def _rows(tensor: Tensor, axis: int, block: int) -> Tensor:
    """[size, …] the numbers of each unit, flat."""
    moved = tensor.detach().double().cpu().movedim(axis, 0)
    return moved.reshape(len(moved) // block, -1)
