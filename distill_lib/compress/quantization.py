"""Layers that round: trained so, calibrated, and kept as integers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.signals import Forward, as_batch, call, eval_mode, place

from ._inputs import called, input_of, with_input
from ._layers import FUSED, check_finite, compute_weight, layers_of, users_of, way_of, weights_of
from .rounding import FakeQuant, ends, grid, quantize, wide
from .sharing import Shared

__all__ = ["Integers", "bake", "calibrate", "convert", "qat"]

ORIGINAL = "parametrizations.weight.original"


class _Rounded(nn.Module):
    """Rounds a weight whenever it is used."""

    def __init__(self, bits: int, axis: int | None) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis

    def forward(self, weight: Tensor) -> Tensor:
        return quantize(weight, self.bits, axis=self.axis)


class Integers(nn.Module):
    """A weight that is kept as integers and steps, those of its own grid by default."""

    like: Tensor

    def __init__(
        self, bits: int, axis: int | None, weight: Tensor, trained: bool, step: Tensor | None = None
    ) -> None:
        super().__init__()
        self.bits, self.axis, self.trained = bits, axis, trained
        self._step = step
        self.register_buffer("like", weight.new_zeros(0), persistent=False)  # the type it is of

    def forward(self, integers: Tensor, scale: Tensor) -> Tensor:
        return (integers.to(scale.dtype) * scale).to(self.like.dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        step, self._step = self._step, None
        scale = grid(weight, self.bits, self.axis)[0] if step is None else step
        low, high = ends(self.bits, True)
        integers = (wide(weight) / scale).round().clamp(low, high)
        return integers.to(torch.int8 if self.bits <= 8 else torch.int16), scale


def _round_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    rounding = module.get_submodule("input_rounding")
    return with_input(args, kwargs, rounding(input_of(args, kwargs)))


@checked
def qat(
    model: nn.Module,
    weight_bits: int = 8,
    activation_bits: int | None = 8,
    per_channel: bool = True,
    layers: Sequence[str] | None = None,
) -> nn.Module:
    """Let linear layers and convolutions round their weights and inputs, in place.

    A weight that several layers use is rounded once, for all of them.

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
        ValueError: bits outside 2 to 16, a layer that is shared or rounded already, or a weight
            that is not finite.

    Example:
        >>> net = qat(nn.Linear(64, 1), weight_bits=2, activation_bits=None)
        >>> len(net.weight.unique())
        3
    """
    ends(weight_bits, True)
    if activation_bits is not None:
        ends(activation_bits, False)
    chosen, weights = layers_of(model, layers), weights_of(model, layers, "qat")
    check_finite(weights)
    users = [[module for _, module in users_of(model, name)] for name in weights]
    for modules in users:
        compute_weight(modules, _Rounded(weight_bits, 0 if per_channel else None))
    if activation_bits is not None:
        _round_inputs(chosen, activation_bits)
    return model


def _round_inputs(layers: Mapping[str, nn.Module], bits: int) -> None:
    if fused := [name for name, module in layers.items() if isinstance(module, FUSED)]:
        warnings.warn(
            f"qat leaves the inputs of {', '.join(fused)} as they are: nn.MultiheadAttention uses "
            "the weight without calling the layer",
            UserWarning,
            stacklevel=3,
        )
    for module in layers.values():
        if not isinstance(module, (nn.Embedding, FUSED)):
            fake = FakeQuant(bits).to(module.get_parameter(ORIGINAL).device)
            module.add_module("input_rounding", fake.train(module.training))
            module.register_forward_pre_hook(_round_input, with_kwargs=True)


@checked
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
        ValueError: no batches, some that are not finite, or a model that rounds no activations;
            the model is then as it was.
    """
    named = {name: m for name, m in model.named_modules() if isinstance(m, FakeQuant)}
    watchers = list(named.values())
    if not watchers:
        raise ValueError(
            "the model rounds no activations: call qat(model, activation_bits=…) first"
        )
    before = [(watcher.low.clone(), watcher.high.clone()) for watcher in watchers]
    for watcher in watchers:
        watcher.watching = True
        watcher.low.fill_(float("inf"))
        watcher.high.fill_(float("-inf"))
    try:
        with eval_mode([model]):
            for batch in batches:
                call(model, place(as_batch(batch), model), forward)
        for name, watcher in named.items():
            who = called(name.removesuffix("input_rounding").rstrip("."))
            least, most = float(watcher.low), float(watcher.high)
            if (least, most) == (math.inf, -math.inf):
                raise ValueError(f"batches is empty, or does not reach every layer: not {who}")
            if not math.isfinite(most - least):
                raise ValueError(f"what {who} reads is not finite: broken weights or batches")
    except BaseException:
        for watcher, (low, high) in zip(watchers, before, strict=True):
            watcher.low.copy_(low)
            watcher.high.copy_(high)
        raise
    finally:
        for watcher in watchers:
            watcher.watching = False
    return model


@checked
def convert(model: nn.Module) -> nn.Module:
    """Keep the weights of a model of :func:`qat` as integers and steps, in place.

    Its state holds a byte a weight and its answers stay the same; they are computed from floats
    made of the integers, so that the file is smaller and the arithmetic the same.
    :func:`quantize_onnx` makes models that compute in integers.

    Raises:
        ValueError: no weight is rounded, or one is not finite; the model is then as it was.

    Example:
        >>> net = convert(qat(nn.Linear(8, 2), activation_bits=None))
        >>> net.state_dict()["parametrizations.weight.original0"].dtype
        torch.int8
    """
    found = _computed(model, _Rounded)
    if not found:
        raise ValueError("no weight of the model is rounded: call qat(model) first")
    names = {module: f"{name}.weight".strip(".") for name, module in model.named_modules()}
    check_finite({names[first]: first.get_parameter(ORIGINAL) for first, *_ in found})
    for modules in found:
        rounded, weight = way_of(modules[0]), modules[0].get_parameter(ORIGINAL)
        assert isinstance(rounded, _Rounded)
        integers = Integers(rounded.bits, rounded.axis, weight, weight.requires_grad)
        _set_plain(modules, nn.Parameter(weight.detach().clone(), False))
        compute_weight(modules, integers)
    return model


def _computed(model: nn.Module, *kinds: type[nn.Module]) -> list[list[nn.Module]]:
    """The layers whose weight is computed in one of some ways; those of one weight together."""
    found: dict[nn.Module, list[nn.Module]] = {}
    for module in model.modules():
        way = way_of(module)
        if isinstance(way, kinds):
            parts = module.get_submodule("parametrizations")
            if odd := set(dict(parts.named_children())) - {"weight"}:
                raise ValueError(f"also {', '.join(sorted(odd))} of a layer is parametrized")
            found.setdefault(way, []).append(module)
    return list(found.values())


def _set_plain(modules: Sequence[nn.Module], weight: nn.Parameter) -> None:
    """Give the layers that use a weight their own class back, and the weight.

    Not by ``remove_parametrizations``, which changes the class: a deep copy shares it.
    """
    for module in modules:
        module.__class__ = type(module).__bases__[0]
        del module._modules["parametrizations"]
        module.register_parameter("weight", weight)


@checked
def bake(model: nn.Module, inputs: bool = True) -> nn.Module:
    """Make plain weights of those that are shared or rounded, in place.

    The model says what it said before, under the parameter names of its class. What was frozen
    before it was compressed is frozen after.

    Args:
        model: The model of :func:`share`, :func:`qat` or :func:`convert`.
        inputs: Go on rounding inputs, if it did. Without, as before an export to
            :func:`quantize_onnx`, which rounds them itself.

    Example:
        >>> net = qat(nn.Linear(4, 2))
        >>> list(bake(net, inputs=False).state_dict())
        ['bias', 'weight']
    """
    for modules in _computed(model, Shared, _Rounded, Integers):
        way, weight = way_of(modules[0]), modules[0].weight
        assert isinstance(weight, Tensor)
        if isinstance(way, Integers):
            trained = way.trained
        else:
            trained = modules[0].get_parameter(ORIGINAL).requires_grad
        _set_plain(modules, nn.Parameter(weight.detach().clone(), trained))
    for module in model.modules():
        if not inputs and _round_input in module._forward_pre_hooks.values():
            hooks = module._forward_pre_hooks
            key = next(key for key, hook in hooks.items() if hook is _round_input)
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
            del module._modules["input_rounding"]
    return model
