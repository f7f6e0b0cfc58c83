"""Answers of the chapter: sharing and quantization."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _ends(bits: int) -> int:
    return int(2 ** (bits - 1)) - 1


def _through(exact: Tensor) -> Tensor:
    return exact + (exact.round() - exact).detach()


def _rounded(*, weight: Tensor, bits: int) -> Tensor:
    step = weight.detach().abs().amax(1, keepdim=True) / _ends(bits)
    return step * _through(weight / step)


def _one_step(*, weight: Tensor, bits: int) -> Tensor:
    step = weight.detach().abs().amax() / _ends(bits)
    return step * _through(weight / step)


def _by_column(*, weight: Tensor, bits: int) -> Tensor:
    step = weight.detach().abs().amax(0, keepdim=True) / _ends(bits)
    return step * _through(weight / step)


def _one_too_many(*, weight: Tensor, bits: int) -> Tensor:
    step = weight.detach().abs().amax(1, keepdim=True) / (_ends(bits) + 1)
    return step * _through(weight / step)


def _cut(*, weight: Tensor, bits: int) -> Tensor:
    step = weight.detach().abs().amax(1, keepdim=True) / _ends(bits)
    exact = weight / step
    return step * (exact + (exact.floor() - exact).detach())


def _integers(*, weight: Tensor, bits: int) -> Tensor:
    step = weight.detach().abs().amax(1, keepdim=True) / _ends(bits)
    return _through(weight / step)


def _weights(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    weight = torch.randn(6, 10, generator=generator, dtype=torch.float64)
    weight *= 2.0 ** torch.arange(-2, 4, dtype=torch.float64)[:, None]
    return {"weight": weight, "bits": (3, 4, 8)[draw % 3]}


def _goes_through(function: Callable[..., Any]) -> str | None:
    """The gradient of a straight-through rounding is one for weights within the grid."""
    given = _weights(0)
    value = function(weight=given["weight"].requires_grad_(), bits=given["bits"])
    if not value.requires_grad:
        return "there is no gradient: a detach cut it, or the rounding was done without one."
    (gradient,) = torch.autograd.grad(value.sum(), given["weight"])
    if (gradient == 0).double().mean() > 0.5:
        return "the gradient is zero: round passes none; add the rounding error as a constant."
    # the largest weight of a row may also carry the gradient of the step
    middle = gradient[(gradient - 1).abs() < 1e-9]
    if len(middle) < 0.8 * gradient.numel():
        return "within the grid the straight-through gradient is one."
    return None


def _entropy(*, codes: Tensor) -> Tensor:
    counts = codes.flatten().bincount()
    p = counts[counts > 0].double() / codes.numel()
    return -(p * p.log2()).sum()


def _nats(*, codes: Tensor) -> Tensor:
    return _entropy(codes=codes) * math.log(2)


def _fixed_length(*, codes: Tensor) -> Tensor:
    return torch.tensor(float(len(torch.unique(codes)))).log2()


def _in_all(*, codes: Tensor) -> Tensor:
    return _entropy(codes=codes) * codes.numel()


def _of_the_codes(*, codes: Tensor) -> Tensor:
    p = codes.double() / codes.sum()
    return -(p * p.clamp_min(1e-300).log2()).sum()


def _whole_bits(*, codes: Tensor) -> Tensor:
    return _entropy(codes=codes).ceil()


def _codes(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    drawn = (2 * torch.randn(60, generator=generator)).round().long()
    return {"codes": drawn - drawn.min()}


EXERCISES = [
    Exercise(
        id="ex-sharing_and_quantization-1",
        right=3.0,
        wrong={
            5.0: "these are the bits that are lost; eight minus five are left.",
            8.0: "that is what is written down; the step is set by the largest weight of all.",
            0.25: "8 / 32: bits are logarithms, each halving of the range costs one.",
            8 / 5: "bits are subtracted, not divided.",
            4.0: "3.2 / 0.1 is 32, which is 2 to the fifth.",
        },
        hint="Each factor of two between the largest weight and the others costs one bit.",
    ),
    Exercise(
        id="ex-sharing_and_quantization-2",
        kind="callable",
        right=_rounded,
        inputs=_weights,
        properties=(_goes_through,),
        wrong={
            _one_step: "one step for the whole weight: each row should have its own.",
            _by_column: "the steps are those of the columns; outputs are rows.",
            _one_too_many: "the largest integer of a symmetric grid is 2^(bits - 1) - 1.",
            _cut: "floor cuts off; round to the nearest, or each weight is half a step too low.",
            _integers: "these are the integers; multiply by the step again.",
        },
        hint="step = largest of the row / (2^(bits - 1) - 1); round weight / step; times step.",
    ),
    Exercise(
        id="ex-sharing_and_quantization-3",
        kind="callable",
        right=_entropy,
        inputs=_codes,
        tolerance=1e-6,
        wrong={
            _nats: "in nats: use the logarithm to the base 2.",
            _fixed_length: "this is a code of fixed length; frequent codes can be shorter.",
            _in_all: "these are the bits of all weights together; asked is one weight.",
            _of_the_codes: "p is how often a code occurs, not its value.",
            _whole_bits: "words have whole bits, their mean length need not.",
        },
        hint="Count how often each code occurs; minus the sum of p log2 p.",
    ),
    Exercise(
        id="ex-sharing_and_quantization-4",
        right=0.56,
        wrong={
            0.96: "this is rounding to the nearest, both weights to 0: the second did not answer.",
            0.24: "the second weight has not been rounded yet: 0.6 is not on the grid.",
            0.52: "this is the squared error of the weights; asked is the one with H.",
            1.04: "the signs: the errors are -0.4 and +0.6, so the mixed term is negative.",
            0.28: "H has 2 on its diagonal, and counts the mixed term twice.",
        },
        hint="-0.4 first; the second moves by -delta_1 H_12 / H_22, then is rounded; then the sum.",
    ),
]
