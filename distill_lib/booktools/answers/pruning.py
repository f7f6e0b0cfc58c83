"""Answers of the chapter: pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _inverse(h: Tensor) -> Tensor:
    """The diagonal of the inverse."""
    inverse: Tensor = torch.linalg.inv(h)
    return inverse.diagonal()


def _surgeon(*, w: Tensor, h: Tensor) -> Tensor:
    return w.square() / (2 * _inverse(h))


def _damage(*, w: Tensor, h: Tensor) -> Tensor:
    return 0.5 * h.diagonal() * w.square()


def _divided_by_the_hessian(*, w: Tensor, h: Tensor) -> Tensor:
    return w.square() / (2 * h.diagonal())


def _no_half(*, w: Tensor, h: Tensor) -> Tensor:
    return w.square() / _inverse(h)


def _inverse_in_place_of_hessian(*, w: Tensor, h: Tensor) -> Tensor:
    return 0.5 * _inverse(h) * w.square()


def _magnitude(*, w: Tensor, h: Tensor) -> Tensor:
    return 0.5 * w.square()


def _problem(draw: int) -> dict[str, Any]:
    """Six weights and the Hessian of a least-squares problem."""
    generator = torch.Generator().manual_seed(draw)
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([0.3, 0.6, 1.0, 1.5, 2.0, 3.0]) + x[:, :1]
    return {"w": torch.randn(6, generator=generator, dtype=torch.float64), "h": x.T @ x / 30}


def _fours(w: Tensor) -> Tensor:
    return w.abs().reshape(len(w), -1, 4)


def _two_of_four(*, w: Tensor) -> Tensor:
    return (_fours(w).argsort(-1).argsort(-1) >= 2).reshape(w.shape).double()


def _signed(*, w: Tensor) -> Tensor:
    order = w.reshape(len(w), -1, 4).argsort(-1).argsort(-1)
    return (order >= 2).reshape(w.shape).double()


def _the_smaller(*, w: Tensor) -> Tensor:
    return 1 - _two_of_four(w=w)


def _half_of_the_row(*, w: Tensor) -> Tensor:
    half = w.shape[1] // 2
    return (w.abs().argsort(-1).argsort(-1) >= half).double()


def _along_the_outputs(*, w: Tensor) -> Tensor:
    return _two_of_four(w=w.T.contiguous()).T


def _first_two(*, w: Tensor) -> Tensor:
    return torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(w.shape[1] // 4).expand(w.shape).double()


def _weights(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    return {"w": torch.randn(8, 12, generator=generator, dtype=torch.float64)}


def _keeps_two(function: Any) -> str | None:
    """Two of each four stay, whatever the weights."""
    w = _weights(7)["w"]
    mask = torch.as_tensor(function(w=w)).double()
    if not bool((mask.reshape(8, 3, 4).sum(-1) == 2).all()):
        return "in some four there are not two left."
    return None


EXERCISES = [
    Exercise(
        id="ex-pruning-1",
        kind="tensor",
        right=[1.45, 0.02375],
        wrong={
            (1.0, 0.125): "this is optimal brain damage: the other weight stays as it is. Here it "
            "may move, and nine tenths of its input is the same.",
            (0.55, 0.02375): "the cost is right, but the weight moved the wrong way: its input "
            "agrees with that of the removed one, so it has to take over.",
            (1.45, 0.125): "the weight is right; the cost is lower, because it moved.",
            (1.45, 0.0475): "the weight is right; the cost has a factor of one half.",
            (1.5, 0.0): "it can take over only the share 0.9 of the other's work: the inputs are "
            "alike, not equal.",
        },
        hint="H⁻¹ = [[1, -0.9], [-0.9, 1]] / 0.19. Then δ = -(w_q / [H⁻¹]_qq) H⁻¹ e_q.",
    ),
    Exercise(
        id="ex-pruning-2",
        kind="callable",
        right=_surgeon,
        inputs=_problem,
        wrong={
            _damage: "this is optimal brain damage, ½ H_qq w_q²: the other weights do not move.",
            _divided_by_the_hessian: "divided by the diagonal of H; the formula has that of its "
            "inverse.",
            _no_half: "twice too large: the loss is ½ δᵀ H δ.",
            _inverse_in_place_of_hessian: "multiplied by the diagonal of the inverse; the formula "
            "divides by it.",
            _magnitude: "this looks at the weights only; H does not occur in it.",
        },
        hint="Invert H first, then take the diagonal.",
        tolerance=1e-6,
    ),
    Exercise(
        id="ex-pruning-3",
        kind="callable",
        right=_two_of_four,
        inputs=_weights,
        properties=(_keeps_two,),
        wrong={
            _signed: "a large negative weight is large: compare absolute values.",
            _the_smaller: "these are the ones that go; the mask marks those that stay.",
            _half_of_the_row: "half of each row stays, but not two of each four neighbors.",
            _along_the_outputs: "the fours run along the outputs; they run along the inputs, the "
            "second axis.",
            _first_two: "the same two for all, whatever they are worth.",
        },
        hint="reshape to [O, I / 4, 4] and rank within the last axis.",
    ),
    Exercise(
        id="ex-pruning-4",
        right=9.0,
        wrong={
            8.0: "this is the values alone; something has to say where they belong.",
            16.0: "these are the bits of the dense matrix.",
            10.0: "two bits are enough to name one of four places, and there are two names in "
            "each four.",
            18.0: "this is for two weights; share it among the four places.",
            12.0: "the two names of a four cost four bits together, not sixteen.",
        },
        hint="A four keeps two values of 16 bits, and for each its place, one of four.",
    ),
]
