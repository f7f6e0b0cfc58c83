"""Layers that round: trained so, calibrated, and kept as integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distill_lib.signals import Forward, as_batch, call, eval_mode, place

from ._layers import layers_of, weights_of
from .rounding import FakeQuant, ends, grid, quantize
from .sharing import Shared

__all__ = ["bake", "calibrate", "convert", "qat"]


class _Rounded(nn.Module):
    """Rounds a weight whenever it is used."""

    def __init__(self, bits: int, axis: int | None) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis

    def forward(self, weight: Tensor) -> Tensor:
        return quantize(weight, self.bits, axis=self.axis)


class _Integers(nn.Module):
    """A weight that is kept as integers and steps."""

    def __init__(self, bits: int, axis: int | None) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis

    def forward(self, integers: Tensor, scale: Tensor) -> Tensor:
        return integers.to(scale.dtype) * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale, _ = grid(weight, self.bits, self.axis)
        low, high = ends(self.bits, True)
        integers = (weight / scale).round().clamp(low, high)
        return integers.to(torch.int8 if self.bits <= 8 else torch.int16), scale


def _round_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    rounding = module.get_submodule("input_rounding")
    return (rounding(args[0]), *args[1:])


def qat(
    model: nn.Module,
    weight_bits: int = 8,
    activation_bits: int | None = 8,
    per_channel: bool = True,
    layers: Sequence[str] | None = None,
) -> nn.Module:
    """Let linear layers and convolutions round their weights and inputs, in place.

    Trained like this, by :func:`distill_lib.distill` or otherwise, the weights learn to be rounded.
    Without training, after :func:`calibrate`, it is quantization after training. :func:`convert`
    then keeps integers.

    Args:
        model: The model, in place. Fold batch normalization before, as it is in deployment.
        weight_bits: 2 to 16, symmetric.
        activation_bits: 2 to 16, asymmetric; None leaves activations as they are.
        per_channel: A step for each output of a layer, or one for the whole weight.
        layers: Names of modules; all linear layers and convolutions by default.

    Returns:
        The model.

    Raises:
        ValueError: bits outside 2 to 16, or a layer that is shared or rounded already.

    Example:
        >>> net = qat(nn.Linear(64, 1), weight_bits=2, activation_bits=None)
        >>> len(net.weight.unique())
        3
    """
    ends(weight_bits, True)
    weights = weights_of(model, layers)
    for module, weight in zip(layers_of(model, layers).values(), weights.values(), strict=True):
        rounded = _Rounded(weight_bits, 0 if per_channel else None)
        parametrize.register_parametrization(module, "weight", rounded)
        if activation_bits is not None and not isinstance(module, nn.Embedding):
            fake = FakeQuant(activation_bits).to(weight.device)
            module.add_module("input_rounding", fake.train(module.training))
            module.register_forward_pre_hook(_round_input)
    return model


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[Any], forward: Forward | None = None
) -> nn.Module:
    """Let a model of :func:`qat` see the range of its activations, in eval mode; no training.

    Args:
        model: The model, in place.
        batches: Inputs like those that the model will see.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.

    Raises:
        ValueError: no batches, or a model that rounds no activations.
    """
    watchers = [m for m in model.modules() if isinstance(m, FakeQuant)]
    if not watchers:
        raise ValueError(
            "the model rounds no activations: call qat(model, activation_bits=…) first"
        )
    for watcher in watchers:
        watcher.watching = True
        watcher.low.fill_(float("inf"))
        watcher.high.fill_(float("-inf"))
    try:
        with eval_mode([model]):
            for batch in batches:
                call(model, place(as_batch(batch), model), forward)
    finally:
        for watcher in watchers:
            watcher.watching = False
    if not all(bool(watcher.low.isfinite()) for watcher in watchers):
        raise ValueError("batches is empty, or does not reach every layer")
    return model


def convert(model: nn.Module) -> nn.Module:
    """Keep the weights of a model of :func:`qat` as integers and steps, in place.

    Its state holds a byte a weight and its answers stay the same; they are computed from floats
    made of the integers, so that the file is smaller and the arithmetic the same.
    :func:`quantize_onnx` makes models that compute in integers.

    Raises:
        ValueError: no weight is rounded.

    Example:
        >>> net = convert(qat(nn.Linear(8, 2), activation_bits=None))
        >>> net.state_dict()["parametrizations.weight.original0"].dtype
        torch.int8
    """
    done = 0
    for module in list(model.modules()):
        rounded = _way(module)
        if isinstance(rounded, _Rounded):
            _set_plain(module, module.get_parameter("parametrizations.weight.original"))
            module.weight.requires_grad_(False)
            integers = _Integers(rounded.bits, rounded.axis)
            parametrize.register_parametrization(module, "weight", integers)
            done += 1
    if not done:
        raise ValueError("no weight of the model is rounded: call qat(model) first")
    return model


def _way(module: nn.Module) -> nn.Module | None:
    """How the weight of a layer is computed, where it is computed."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    return module.get_submodule("parametrizations.weight.0")


def _set_plain(module: nn.Module, weight: Any) -> None:
    """Give a layer its own class back, and a weight.

    Not by ``remove_parametrizations``, which changes the class: a deep copy shares it.
    """
    parts = module.get_submodule("parametrizations")
    assert isinstance(parts, nn.ModuleDict)
    if len(parts) > 1:
        raise ValueError(f"also {', '.join(set(parts) - {'weight'})} of a layer is parametrized")
    plain = nn.Parameter(weight.detach().clone())
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]
    module.register_parameter("weight", plain)


def bake(model: nn.Module, inputs: bool = True) -> nn.Module:
    """Make plain weights of those that are shared or rounded, in place.

    The model says what it said before, under the parameter names of its class.

    Args:
        model: The model of :func:`share`, :func:`qat` or :func:`convert`.
        inputs: Go on rounding inputs, if it did. Without, as before an export to
            :func:`quantize_onnx`, which rounds them itself.

    Example:
        >>> net = qat(nn.Linear(4, 2))
        >>> list(bake(net, inputs=False).state_dict())
        ['bias', 'weight']
    """
    for module in list(model.modules()):
        if isinstance(_way(module), (Shared, _Rounded, _Integers)):
            _set_plain(module, module.weight)
        if not inputs and _round_input in module._forward_pre_hooks.values():
            hooks = module._forward_pre_hooks
            del hooks[next(key for key, hook in hooks.items() if hook is _round_input)]
            del module._modules["input_rounding"]
    return model
