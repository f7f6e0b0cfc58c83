"""Batch normalization after training: statistics measured anew, and layers folded into one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from distill_lib.signals import Forward, as_batch, call, place

__all__ = ["fold_batchnorm", "refresh_batchnorm"]


@torch.no_grad()
def refresh_batchnorm(
    model: nn.Module, batches: Iterable[Any], forward: Forward | None = None
) -> nn.Module:
    """Measure the statistics of batch normalization anew, in place; nothing is trained.

    Args:
        model: The model; all else stays in eval mode while the batches pass.
        batches: Inputs like those of the training.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.

    Returns:
        The model, in the mode that it was in.

    Raises:
        ValueError: no batches.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # None: all batches count alike
    seen = 0
    try:
        for seen, batch in enumerate(batches, 1):  # noqa: B007
            call(model, place(as_batch(batch), model), forward)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
    if not seen:
        raise ValueError("batches is empty: there is nothing to estimate statistics from")
    return model


def fold_batchnorm(model: nn.Module, pairs: Sequence[tuple[str, str]] | None = None) -> nn.Module:
    r"""A copy, in eval mode, whose batch normalizations are part of the layers before them.

    .. math:: W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W, \qquad
       b' = \beta + \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu)

    Args:
        model: The model.
        pairs: (layer, normalization) by name; found by tracing the model by default.

    Returns:
        The copy; each folded normalization is an identity.

    Raises:
        ValueError: a model that cannot be traced, and no pairs.

    Reference:
        Jacob et al., *Quantization and training of neural networks*, 2018, section 3.2.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
        >>> folded, x = fold_batchnorm(net), torch.randn(2, 1, 8, 8)
        >>> torch.allclose(folded(x), net(x), atol=1e-6), folded[1]
        (True, Identity())
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    found = copy.deepcopy(model).eval()
    known = dict(found.named_modules())
    for layer, norm in _foldable(found) if pairs is None else pairs:
        fuse: Any = (
            fuse_linear_bn_eval if isinstance(known[layer], nn.Linear) else fuse_conv_bn_eval
        )
        _replace(found, layer, fuse(known[layer], known[norm]))
        _replace(found, norm, nn.Identity())
    return found


def _foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Layers whose only reader is a batch normalization, each with it."""
    import torch.fx

    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception as error:  # whatever the model's own code raises on a symbol
        raise ValueError(
            f"cannot follow the model to see what precedes its normalizations ({error}); name "
            "them with pairs=[('conv', 'bn'), …]"
        ) from error
    known = dict(model.named_modules())
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    norms = nn.modules.batchnorm._BatchNorm
    found = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(known[str(node.target)], norms):
            continue
        before = node.args[0]
        is_layer = before.op == "call_module" and isinstance(known[str(before.target)], layers)
        if is_layer and len(before.users) == 1:
            found.append((str(before.target), str(node.target)))
    return found


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
