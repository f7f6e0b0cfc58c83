"""Several models made into one: votes, joined features, averaged weights, folded layers.

Weighted averages of probabilities or logits are :class:`distill_lib.Ensemble`; like the votes here,
a committee is a teacher, so that :func:`distill_lib.distill` makes one student of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import Batch, Signals, pick
from distill_lib.teachers.ensemble import Ensemble
from distill_lib.terms.classes import classes_last
from distill_lib.ties import besides, copied, ties

from ._layout import same_layout
from .batchnorm import refresh_batchnorm
from .joined import Concatenate

__all__ = ["Barrier", "Concatenate", "Vote", "barrier", "greedy_soup", "soup"]


# ---- outputs ----


@checked
class Vote:
    r"""A committee in which each member has one voice for its first choice: a hard vote.

    .. math:: z_c = \log \left( (1 - \epsilon) \sum_k w_k \mathbf 1[c = \arg\max v_k]
       + \epsilon\, \bar p_c \right)

    The mean probability decides between equal numbers of voices; the soft vote is
    :class:`distill_lib.Ensemble`.

    Args:
        teachers: Teachers, or modules that become teachers.
        weights: One a member; equal by default.
        epsilon: Share of the mean probability.
        axis: The axis of the classes, as of :class:`distill_lib.Ensemble`: 1 for images.

    Raises:
        ValueError: members that do not agree on their classes; and what an ensemble refuses.

    Example:
        >>> sure, doubts = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.1]])
        >>> members = [lambda b: sure, lambda b: doubts, lambda b: doubts]
        >>> Vote(members)({})["logits"].argmax(-1), Ensemble(members)({})["logits"].argmax(-1)
        (tensor([1]), tensor([0]))
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        weights: Sequence[float] | None = None,
        epsilon: float = 1e-3,
        axis: int | None = None,
    ) -> None:
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon lies in (0, 1), got {epsilon}")
        self.committee: Ensemble = Ensemble(teachers, weights, axis=axis)
        self.epsilon = epsilon
        self.axis = axis

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Signals:
        """[..., C] ``logits``, their classes on the axis that the members have them on."""
        asked = [
            (Ensemble([teacher], axis=self.axis)(batch), weight)
            for teacher, weight in zip(self.committee.teachers, self.committee.weights, strict=True)
            if weight > 0  # 0 · nan is nan
        ]
        said = [pick(signals, "logits") for signals, _ in asked]
        if len({logits.shape for logits in said}) > 1:
            raise ValueError(
                "the members of a vote must agree on their classes, got shapes "
                f"{[tuple(v.shape) for v in said]}; map them to one set with Teacher(forward=…)"
            )
        axis = -1 if self.axis is None else self.axis - said[0].ndim * (self.axis >= 0)
        logits = torch.stack([classes_last(one, axis) for one in said])
        w = torch.tensor([weight for _, weight in asked], dtype=logits.dtype, device=logits.device)
        w = w.view(-1, *[1] * (logits.ndim - 1))
        voices = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1])
        mean = (w * logits.softmax(-1)).sum(0)
        mixed = (1 - self.epsilon) * (w * voices).sum(0) + self.epsilon * mean
        return {"logits": mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log().movedim(-1, axis)}

    def to(self, device: torch.device | str) -> Vote:
        """Move every member."""
        self.committee.to(device)
        return self

    def models(self) -> Iterator[nn.Module]:
        """The models that must not be trained."""
        return self.committee.models()

    def fingerprint(self) -> str:
        """SHA-256 over the members and their weights."""
        parts = ("vote", self.committee.fingerprint(), self.epsilon)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


# ---- weights ----


@checked
@torch.no_grad()
def soup(models: Sequence[nn.Module], weights: Sequence[float] | None = None) -> nn.Module:
    r"""One model whose weights are the average of those of several.

    .. math:: \bar\theta = \sum_k w_k \theta_k

    It helps where the models lie in one basin, as those fine-tuned from one start do; others are to
    be brought into one order first (:func:`align`). Statistics of batch normalization do not
    average: :func:`refresh_batchnorm` measures them anew.

    Args:
        models: Models of one architecture.
        weights: One a model, non-negative; equal by default; normalized to sum 1.

    Returns:
        A new model, a copy of the first with the averaged state; counters, and a module's extra
        state, are those of the first.

    Raises:
        ValueError: models of different architectures; names the first key that differs. Or weights
            that are kept as whole numbers, or are one weight in the first model only; or a part of
            the state that is no weight, such as a bound or packed integers, and differs.

    Reference:
        Wortsman et al., *Model soups*, 2022.

    Example:
        >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> torch.allclose(soup([a, b]).weight, (a.weight + b.weight) / 2)
        True
    """
    same_layout(models)
    shares = [1.0] * len(models) if weights is None else [float(w) for w in weights]
    fit = len(shares) == len(models) and all(0 <= w < math.inf for w in shares)
    if not fit or not 0 < sum(shares) < math.inf:
        raise ValueError(
            f"expected {len(models)} non-negative weights with a positive sum, all finite, got "
            f"{shares}"
        )
    apart = [{k: repr(v) for k, v in besides(model).items()} for model in models]
    differs = [k for k in apart[0] if any(one.get(k) != apart[0][k] for one in apart)]
    if odd := [k for k in differs if not k.endswith("_extra_state")]:
        raise ValueError(
            f"{odd[0]!r} is no weight, has no average, and differs between the models: give all "
            "the same, or models with plain weights"
        )
    states = [model.state_dict() for model in models]
    found = copied(models[0])
    weights = [share / sum(shares) for share in shares]
    mixed = {name: _average(name, [state[name] for state in states], weights) for name in states[0]}
    for name, first in ties(found).items():
        if not torch.equal(*(mixed[one].nan_to_num() for one in (name, first))):
            raise ValueError(
                f"{name!r} and {first!r} are one weight in model 0 and two in another: average "
                "models that all tie them, or begin with one that does not"
            )
    found.load_state_dict(mixed)
    return found


def _average(name: str, values: Sequence[Any], weights: Sequence[float]) -> Any:
    """The average of a tensor; what has none is that of the first model, if it may be."""
    first = values[0]
    if not isinstance(first, Tensor):  # a module's extra state
        return first
    plain = type(first) in (Tensor, nn.Parameter)  # torchao's hold integers and steps
    if plain and (first.is_floating_point() or first.is_complex()):
        wide = torch.complex128 if first.is_complex() else torch.float64
        # 0 · inf is nan: what has no weight is left out
        parts = [w * value.to(wide) for w, value in zip(weights, values, strict=True) if w > 0]
        if first.layout != torch.strided:
            return sum(parts[1:], parts[0]).to(first.dtype)
        return torch.stack(parts).sum(0).to(first)
    # counters count batches, and codes of a weight mean something else in each model
    if not plain or first.is_quantized or (first.ndim and not all(map(first.equal, values))):
        raise ValueError(
            f"{name!r} holds whole numbers that differ between the models and have no average: "
            "make weights plain before, with compress.bake or Tensor.dequantize"
        )
    return first


@checked
def greedy_soup(
    models: Sequence[nn.Module], score: Callable[[nn.Module], float]
) -> tuple[nn.Module, list[int]]:
    """Average from the best model on, and keep each next one only where it does not hurt.

    Args:
        models: Models of one architecture.
        score: ``score(model)``, larger is better, on data that no test sees.

    Returns:
        The soup, and which of the models are in it. A soup whose score is nan is not kept.

    Raises:
        TypeError: a score that is no number.
        ValueError: models of different architectures, or one whose score is nan.

    Reference:
        Wortsman et al., *Model soups*, 2022, recipe 1.
    """
    same_layout(models)
    alone = [_number(score(model), f"the score of model {i}") for i, model in enumerate(models)]
    for number, one in enumerate(alone):
        if math.isnan(one):
            raise ValueError(
                f"the score of model {number} is nan, which is neither more nor less than another: "
                "leave the model out"
            )
    order = sorted(range(len(models)), key=lambda i: -alone[i])
    chosen, best = [order[0]], alone[order[0]]
    for i in order[1:]:
        mixed = soup([models[k] for k in (*chosen, i)])
        found = _number(score(mixed), f"the score with model {i}")
        if found >= best:
            chosen, best = [*chosen, i], found
    return soup([models[k] for k in chosen]), chosen


def _number(said: Any, what: str) -> float:
    """What a function of the user's answered, if it is a number."""
    try:
        return float(said)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{what} expected a number, got {told(said)}") from None


class Barrier(NamedTuple):
    """The loss on the straight way from one model to another."""

    height: float
    alphas: list[float]
    losses: list[float]


@checked
def barrier(
    a: nn.Module,
    b: nn.Module,
    loss: Callable[[nn.Module], float],
    points: int = 11,
    refresh: Iterable[Any] | None = None,
) -> Barrier:
    r"""How much worse the models between two models are than their ends would let expect.

    .. math:: \max_\alpha \; L\big((1 - \alpha)\,\theta_a + \alpha\,\theta_b\big)
       - \big((1 - \alpha)\,L(\theta_a) + \alpha\,L(\theta_b)\big)

    Args:
        a: One end.
        b: The other, of the same architecture.
        loss: ``loss(model)``, smaller is better.
        points: How many models are looked at, with the ends.
        refresh: Batches with which batch normalization is re-estimated between the ends.

    Returns:
        The height, 0 where there is none; and where the losses were measured.

    Raises:
        TypeError: a loss that is no number.
        ValueError: fewer than 3 points, models of different architectures, or a loss that is not
            finite, beside which nothing has a height.

    Reference:
        Frankle et al., *Linear mode connectivity and the lottery ticket hypothesis*, 2020.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> round(barrier(net, net, lambda model: model.weight.sum().item()).height, 6)
        0.0
    """
    if points < 3:
        raise ValueError(f"a barrier lies between two ends: points is at least 3, got {points}")
    refresh = list(refresh) if isinstance(refresh, Iterator) else refresh  # walked more than once
    alphas = [i / (points - 1) for i in range(points)]
    losses = []
    for alpha in alphas:
        model = soup([a, b], [1 - alpha, alpha])
        if refresh is not None and 0 < alpha < 1:
            refresh_batchnorm(model, refresh)
        losses.append(_number(loss(model), f"the loss at alpha {alpha:g}"))
        if not math.isfinite(losses[-1]):
            raise ValueError(
                f"the loss at alpha {alpha:g} is {losses[-1]}, and a barrier has a height where "
                "all are finite: bound the loss, or measure batch normalization anew with refresh="
            )
    gaps = [
        found - ((1 - alpha) * losses[0] + alpha * losses[-1])
        for alpha, found in zip(alphas, losses, strict=True)
    ]
    return Barrier(max(0.0, *gaps[1:-1]), alphas, losses)
