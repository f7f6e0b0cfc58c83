"""Answers of the chapter: fusion."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


PROB = (_sigmoid(4) + 2 * _sigmoid(-1)) / 3
LOGIT = _sigmoid(2 / 3)


def _assigned(gain: Tensor, maximize: bool = True) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(gain.numpy(), maximize=maximize)[1])


def _gain(w_in: Tensor, w_out: Tensor, ref_in: Tensor, ref_out: Tensor) -> Tensor:
    return ref_in @ w_in.T + ref_out.T @ w_out


def _order(*, w_in: Tensor, w_out: Tensor, ref_in: Tensor, ref_out: Tensor) -> Tensor:
    return _assigned(_gain(w_in, w_out, ref_in, ref_out))


def _inverse(*, w_in: Tensor, w_out: Tensor, ref_in: Tensor, ref_out: Tensor) -> Tensor:
    return _order(w_in=w_in, w_out=w_out, ref_in=ref_in, ref_out=ref_out).argsort()


def _farthest(*, w_in: Tensor, w_out: Tensor, ref_in: Tensor, ref_out: Tensor) -> Tensor:
    return _assigned(_gain(w_in, w_out, ref_in, ref_out), maximize=False)


def _incoming_only(*, w_in: Tensor, w_out: Tensor, ref_in: Tensor, ref_out: Tensor) -> Tensor:
    return _assigned(ref_in @ w_in.T)


def _outgoing_only(*, w_in: Tensor, w_out: Tensor, ref_in: Tensor, ref_out: Tensor) -> Tensor:
    return _assigned(ref_out.T @ w_out)


def _each_for_itself(*, w_in: Tensor, w_out: Tensor, ref_in: Tensor, ref_out: Tensor) -> Tensor:
    return _gain(w_in, w_out, ref_in, ref_out).argmax(-1)


def _two_networks(draw: int) -> dict[str, Any]:
    """A reference of 12 units, and itself in another order with a little noise.

    Some units have the same incoming weights, some the same outgoing ones, and one is large enough
    to be the favorite of several.
    """
    g = torch.Generator().manual_seed(draw)
    w_in = torch.randn(12, 6, generator=g, dtype=torch.float64)
    w_out = torch.randn(4, 12, generator=g, dtype=torch.float64)
    w_in[:4] = w_in[:1].clone()
    w_out[:, 4:8] = w_out[:, 4:5].clone()
    w_in[9], w_out[:, 9] = 3 * w_in[8], 3 * w_out[:, 8]
    order = torch.randperm(12, generator=g)
    noise = 0.05 * torch.randn(12, 10, generator=g, dtype=torch.float64)
    return {
        "w_in": w_in[order] + noise[:, :6],
        "w_out": w_out[:, order] + noise[:, 6:].T,
        "ref_in": w_in,
        "ref_out": w_out,
    }


EXERCISES = [
    Exercise(
        id="ex-fusion-1",
        kind="tensor",
        right=[PROB, LOGIT, 1 / 3],
        tolerance=1e-3,
        wrong={
            (LOGIT, PROB, 1 / 3): "the first two are exchanged: the mean of the probabilities, "
            "then the softmax of the mean logits.",
            (PROB, LOGIT, 0.0): "the second class wins, but the first has one vote of three.",
            (PROB, LOGIT, 2 / 3): "two of the three members name the second class.",
            (PROB, 4 / 3, 1 / 3): "the mean of the logits is not yet a probability.",
            (1 - PROB, 1 - LOGIT, 2 / 3): "these are the probabilities of the second class.",
            (PROB, PROB, 1 / 3): "mean logits are averaged before the softmax, not after.",
        },
        hint="With two classes a probability is the sigmoid of the difference of the logits: 4, "
        "-1 and -1.",
    ),
    Exercise(
        id="ex-fusion-2",
        right=0.7,
        tolerance=1e-3,
        wrong={
            0.8: "a vote can be worse than its members: let two be wrong on the same items.",
            0.896: "this is the vote of independent members; nothing makes them independent.",
            0.512: "this is the share where all three are right, if they were independent.",
            0.4: "then two wrong votes an item would be needed on 60 percent of the items, which "
            "are 1.2 an item; the members have only 0.6 to give.",
            0.6: "this is a bound for all three being wrong somewhere; a wrong vote needs two "
            "wrong votes.",
            1.0: "this is the best case, with two right votes on every item.",
        },
        hint="A wrong vote needs two wrong members; there are 0.6 of them an item.",
    ),
    Exercise(
        id="ex-fusion-3",
        kind="callable",
        right=_order,
        inputs=_two_networks,
        wrong={
            _inverse: "the inverse permutation: it says where each unit goes, not which unit "
            "comes to each place.",
            _farthest: "the smallest scalar product: linear_sum_assignment minimizes unless told "
            "maximize=True.",
            _incoming_only: "units with the same incoming weights are told apart by what they "
            "send on: add the outgoing weights.",
            _outgoing_only: "units with the same outgoing weights are told apart by what they "
            "read: add the incoming weights.",
            _each_for_itself: "argmax gives one unit to several places: it is no order. This is "
            "an assignment problem.",
        },
        hint="Entry (i, j) of the gain: how well unit j of the network would stand in place i.",
    ),
    Exercise(
        id="ex-fusion-4",
        kind="tensor",
        right=[6.0, -5.5],
        wrong={
            (6.0, 0.5): "the bias of the convolution and the mean are missing: b' = β + s (b − μ).",
            (6.0, 3.5): "the mean is subtracted before the scale: b' = β + s (b − μ).",
            (6.0, -8.5): "the bias of the convolution passes through the normalization, too.",
            (3.0, -2.5): "the scale is γ divided by the root of σ² + ε, which is 2, not 4.",
            (1.0, -0.5): "γ is missing in the scale.",
            (12.0, -11.5): "the division by the root of σ² + ε is missing.",
        },
        hint="The scale is γ / √(σ² + ε) = 3.",
    ),
]
