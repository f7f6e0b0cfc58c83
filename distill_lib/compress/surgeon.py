"""What the weights that stay can do for those that went: optimal brain surgeon, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.signals import Forward, as_batch, call, eval_mode, place

from .criteria import Masks

__all__ = ["refit"]


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
    optimal brain surgeon for the squared error of the layer's output, with all removals at once.

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
        ValueError: masks of other shapes, no batches, a layer that saw none of them, one that is
            neither linear nor a 2D convolution without groups, or a damping that is not positive.
            The model is then as it was.

    Reference:
        Hassibi and Stork, *Second order derivatives for network pruning*, 1993; Frantar and
        Alistarh, *SparseGPT*, 2023.

    Example:
        >>> from distill_lib.compress import magnitude
        >>> net, x = nn.Linear(8, 2), torch.randn(64, 8)
        >>> refit(net, magnitude(net, 0.5), [{"inputs": x}]).weight.count_nonzero().item()
        8
    """
    if not damping > 0:
        raise ValueError(f"damping is positive, or rows may have no solution; got {damping:g}")
    products = _products(model, _layers(model, masks), batches, forward)
    for name in masks:
        if name not in products:
            raise ValueError(f"the layer of {name!r} saw none of the batches: leave out its mask")
    for name, mask in masks.items():
        weight, h = model.get_parameter(name), products[name]
        size = h.diagonal().mean()
        # inputs that are always zero say nothing: then the weights that stay are left alone
        h.diagonal().add_(damping * torch.where(size > 0, size, 1.0))
        wanted = weight.detach().double().flatten(1) @ h
        found = torch.zeros_like(wanted)
        for row, kept in enumerate(mask.to(h.device).flatten(1)):
            if bool(kept.any()):
                factor = torch.linalg.cholesky(h[kept][:, kept])
                found[row, kept] = torch.cholesky_solve(wanted[row, kept, None], factor)[:, 0]
        weight.copy_(found.view_as(weight))
    return masks.apply(model)


def _layers(model: nn.Module, masks: Masks) -> dict[str, nn.Module]:
    """The layers of the masks, by the name of the weight."""
    known = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in known:
            raise KeyError(f"the masks are of another model: this one has no {name!r}")
        if known[name].shape != mask.shape:
            raise ValueError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, the parameter "
                f"{tuple(known[name].shape)}: they are of different models"
            )
    return {name: model.get_submodule(name.rpartition(".")[0]) for name in masks}


def _products(
    model: nn.Module,
    layers: dict[str, nn.Module],
    batches: Iterable[Any],
    forward: Forward | None,
) -> dict[str, Tensor]:
    """[K, K] sums of products of the inputs that each row of a weight is multiplied by."""
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = _rows(name, module, args[0])
            found = (x.mT @ x).double()
            sums[name] = sums[name] + found if name in sums else found

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with eval_mode([model]):
            for batch in batches:
                call(model, place(as_batch(batch), model), forward)
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _rows(name: str, module: nn.Module, x: Tensor) -> Tensor:
    """[n, K] what a row of the layer's weight is multiplied by."""
    if isinstance(module, nn.Linear):
        return x.flatten(0, -2)
    plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
    if isinstance(module, nn.Conv2d) and plain and not isinstance(module.padding, str):
        kernel = (module.kernel_size, module.dilation, module.padding, module.stride)
        return F.unfold(x, *kernel).mT.flatten(0, 1)
    raise ValueError(
        "refit knows linear layers, and 2D convolutions without groups whose padding is a number "
        f"of zeros; that of {name!r} is neither"
    )
