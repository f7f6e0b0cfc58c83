"""Rounding where the weights that are still to come answer for the error: GPTQ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.signals import Forward

from ._layers import check_finite, compute_weight, users_of, weights_of
from .quantization import Integers
from .rounding import ends, grid, wide
from .rounding import rounded as rounded_to
from .surgeon import products

__all__ = ["gptq"]


@checked
@torch.no_grad()
def gptq(
    model: nn.Module,
    bits: int,
    batches: Iterable[Any],
    per_channel: bool = True,
    layers: Sequence[str] | None = None,
    damping: float = 0.01,
    forward: Forward | None = None,
) -> nn.Module:
    r"""Round weights one after the other, and let the others of each row answer for it, in place.

    .. math:: \min_{\hat w} \; \lVert X \hat w - X w \rVert^2 + \lambda \lVert \hat w - w \rVert^2
       \quad \text{with } \hat w \text{ on the grid, greedily}

    Like :func:`refit`, for rounding: each layer sees the inputs X that it has in the whole network,
    and no label is used. After a weight is rounded, those behind it move to where the error in the
    layer's output is least. The steps are those of :func:`grid`, as in :func:`qat`; the result is
    kept as integers, as by :func:`convert`, and :func:`bake` makes plain weights of it.

    Args:
        model: The model, in place; it is asked in eval mode.
        bits: 2 to 16, symmetric.
        batches: Inputs like those that the model will see; some hundred are enough.
        per_channel: A step for each output of a layer, or one for the whole weight.
        layers: Names of modules; all linear layers and convolutions by default.
        damping: λ, in units of the mean of the diagonal of :math:`X^\top X`.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.

    Returns:
        The model.

    Raises:
        ValueError: bits outside 2 to 16, no batches, batches or weights that are not finite, a
            layer that saw none of them, one that is neither linear nor a 2D convolution without
            groups, one whose weight is also an embedding's, or a damping that is not positive and
            finite. The model is then as it was.

    Reference:
        Frantar et al., *GPTQ: accurate post-training quantization for generative pre-trained
        transformers*, 2023.

    Example:
        >>> net, x = nn.Linear(8, 2), torch.randn(64, 8)
        >>> len(gptq(net, 2, [{"inputs": x}]).weight[0].unique()) <= 3
        True
    """
    ends(bits, True)
    if not 0 < damping < float("inf"):
        raise ValueError(
            f"damping is positive and finite, or no row has a solution; got {damping:g}"
        )
    weights = weights_of(model, layers, "gptq")
    check_finite(weights)
    seen = products(model, list(weights), batches, forward)
    steps, rounded = {}, {}
    for name, weight in weights.items():
        if name not in seen:
            raise ValueError(f"the layer of {name!r} saw none of the batches: see layers=")
        h, counts = seen[name]
        if bool(counts.any()):
            raise ValueError(f"{name!r} is also an embedding, which gptq does not know")
        size = h.diagonal().mean()
        # inputs that are always zero say nothing: then this is rounding to the nearest
        h.diagonal().add_(damping * torch.where(size > 0, size, 1.0))
        steps[name], _ = grid(weight, bits, 0 if per_channel else None)
        flat = wide(weight).flatten(1).double()
        step = steps[name].flatten(1) if per_channel else steps[name].view(1, 1)
        rounded[name] = _in_turn(flat, h, bits, step.double()).view_as(weight)
    for name, weight in weights.items():
        users = [module for _, module in users_of(model, name)]
        how = Integers(bits, 0 if per_channel else None, weight, weight.requires_grad, steps[name])
        weight.copy_(rounded[name])
        weight.requires_grad_(False)
        compute_weight(users, how)
    return model


def _in_turn(weight: Tensor, h: Tensor, bits: int, step: Tensor) -> Tensor:
    """[rows, K] rounded column by column; the columns that are left make up for each error."""
    weight, found = weight.clone(), torch.empty_like(weight)
    # row j of this factor is how the later columns follow column j, all earlier ones being fixed
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for j in range(weight.shape[1]):
        found[:, j : j + 1] = rounded_to(weight[:, j : j + 1], bits, step)
        error = (weight[:, j] - found[:, j]) / factor[j, j]
        weight[:, j:] -= error[:, None] * factor[j, j:]
    return found
