"""What the weights that stay can do for those that went: optimal brain surgeon, layer by layer."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.signals import Forward, as_batch, call, eval_mode, place
from distill_lib.ties import memory

from ._inputs import watched
from ._layers import TABLES, check_finite, patches, users_of
from .criteria import Masks
from .rounding import wide

__all__ = ["products", "refit"]


@checked
@torch.no_grad()
def refit(
    model: nn.Module,
    masks: Masks,
    batches: Iterable[Any],
    damping: float = 0.01,
    forward: Forward | None = None,
) -> nn.Module:
    r"""Remove weights, and let the others of each row answer for them, in place.

    .. math:: \min_{w} \; \lVert X w - X w_0 \rVert^2 + \lambda \lVert w - w_0 \rVert^2
       \quad \text{with} \quad w_j = 0 \text{ for all removed } j

    Each layer sees the inputs X that it has in the whole network, and no label is used. It is
    optimal brain surgeon for the squared error of the layer's output, with all removals at once;
    for a weight that several layers use, of the sum of their errors.

    Args:
        model: The model as it was before pruning, in place; it is asked in eval mode.
        masks: What is kept, by any criterion.
        batches: Inputs like those that the model will see; some hundred are enough.
        damping: λ, in units of the mean of the diagonal of :math:`X^\top X`.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.

    Returns:
        The model.

    Raises:
        KeyError: the model lacks a parameter of the masks.
        ValueError: masks of other shapes, no batches, batches or weights that are not finite, a
            layer that saw none of them, one that is neither linear nor a 2D convolution without
            groups, or a damping that is not positive and finite. The model is then as it was.

    Reference:
        Hassibi and Stork, *Second order derivatives for network pruning*, 1993; Frantar and
        Alistarh, *SparseGPT*, 2023.

    Example:
        >>> from distill_lib.compress import magnitude
        >>> net, x = nn.Linear(8, 2), torch.randn(64, 8)
        >>> refit(net, magnitude(net, 0.5), [{"inputs": x}]).weight.count_nonzero().item()
        8
    """
    if not 0 < damping < float("inf"):
        raise ValueError(
            f"damping is positive and finite, or rows may have no solution; got {damping:g}"
        )
    kept = _once(model, masks)
    check_finite({name: model.get_parameter(name) for name in kept})
    seen = products(model, list(kept), batches, forward)
    for name in kept:
        if name not in seen:
            raise ValueError(f"the layer of {name!r} saw none of the batches: leave out its mask")
    solved = {
        name: _solved(model.get_parameter(name), mask, *seen[name], damping)
        for name, mask in kept.items()
    }
    for name, weight in solved.items():
        model.get_parameter(name).copy_(weight)
    return masks.apply(model)


def _once(model: nn.Module, masks: Masks) -> Masks:
    """The masks, those of one weight under several names joined."""
    found = Masks()
    names: dict[Hashable, str] = {}
    for name, (param, mask) in masks.of(model).items():
        first = names.setdefault(memory(param), name)
        found[first] = found[first] & mask if first in found else mask
    return found


def _solved(weight: Tensor, mask: Tensor, h: Tensor, counts: Tensor, damping: float) -> Tensor:
    """The weight that serves best among those with zeros where the mask says so."""
    size = h.diagonal().mean() + counts.mean()
    # inputs that are always zero say nothing: then the weights that stay are left alone
    h.diagonal().add_(damping * torch.where(size > 0, size, 1.0))
    old = weight.detach().double().flatten(1)
    wanted = old @ h + counts * old
    found = torch.zeros_like(wanted)
    for row, kept in enumerate(mask.to(h.device).flatten(1)):
        if bool(kept.any()):
            part = h[kept][:, kept]
            part.diagonal().add_(counts[row])
            factor = torch.linalg.cholesky(part)
            found[row, kept] = torch.cholesky_solve(wanted[row, kept, None], factor)[:, 0]
    return found.view_as(weight)


def products(
    model: nn.Module,
    names: list[str],
    batches: Iterable[Any],
    forward: Forward | None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """[K, K] sums of products of the inputs that each row of a weight is multiplied by.

    And [rows, 1] how often each row was looked up, where the weight is also an embedding.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}

    def see(weight: str, name: str, module: nn.Module, x: Tensor) -> None:
        found = _seen(name, module, x)
        if weight in sums:
            found = (sums[weight][0] + found[0], sums[weight][1] + found[1])
        sums[weight] = found

    users = [(weight, *user) for weight in names for user in users_of(model, weight)]
    with eval_mode([model]), watched(users, see):
        for batch in batches:
            call(model, place(as_batch(batch), model), forward)
    return sums


def _seen(name: str, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What one call adds to the products and to the counts of a weight."""
    weight: Any = module.weight
    products = torch.zeros(2 * (weight[0].numel(),), dtype=torch.float64, device=weight.device)
    counts = torch.zeros(len(weight), 1, dtype=torch.float64, device=weight.device)
    if isinstance(module, TABLES):
        counts += x.flatten().bincount(minlength=len(weight)).double()[:, None]
    else:
        rows = wide(_rows(name, module, x))
        products += (rows.mT @ rows).double()
    return products, counts


def _rows(name: str, module: nn.Module, x: Tensor) -> Tensor:
    """[n, K] what a row of the layer's weight is multiplied by."""
    if isinstance(module, nn.Linear):
        return x.flatten(0, -2)
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return patches(module, x).mT.flatten(0, 1)
    raise ValueError(
        f"it knows linear layers, and 2D convolutions without groups; that of {name!r} is neither"
    )
