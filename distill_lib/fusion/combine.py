"""Several models made into one: votes, joined features, averaged weights, folded layers.

Weighted averages of probabilities or logits are :class:`distill_lib.Ensemble`; like the votes here,
a committee is a teacher, so that :func:`distill_lib.distill` makes one student of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked
from distill_lib.signals import Batch, Signals, pick
from distill_lib.teachers.ensemble import Ensemble
from distill_lib.ties import copied, ties

from ._layout import same_layout
from .batchnorm import refresh_batchnorm

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

    Example:
        >>> sure, doubts = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.1]])
        >>> members = [lambda b: sure, lambda b: doubts, lambda b: doubts]
        >>> Vote(members)({})["logits"].argmax(-1), Ensemble(members)({})["logits"].argmax(-1)
        (tensor([1]), tensor([0]))
    """

    def __init__(
        self, teachers: Sequence[Any], weights: Sequence[float] | None = None, epsilon: float = 1e-3
    ) -> None:
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon lies in (0, 1), got {epsilon}")
        self.committee: Ensemble = Ensemble(teachers, weights)
        self.epsilon = epsilon

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Signals:
        """[..., C] ``logits``."""
        said = [Ensemble([teacher])(batch) for teacher in self.committee.teachers]
        logits = torch.stack([pick(one, "logits") for one in said])
        w = torch.tensor(self.committee.weights, dtype=logits.dtype, device=logits.device)
        w = w.view(-1, *[1] * (logits.ndim - 1))
        voices = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1])
        mean = (w * logits.softmax(-1)).sum(0)
        mixed = (1 - self.epsilon) * (w * voices).sum(0) + self.epsilon * mean
        return {"logits": mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()}

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


# ---- features ----


@checked
class Concatenate(nn.Module):
    """A head trained on what the last layers of several frozen models read.

    Args:
        models: The models; they are shared, frozen, and stay in eval mode.
        heads: The name of the linear layer whose input is taken; one for all, or one a model.
        num_classes: Outputs of the new head.

    Raises:
        ValueError: no models, or a name that is no linear layer.

    Shape:
        The inputs of the models, to ``[B, num_classes]``.

    Example:
        >>> nets = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
        >>> joined = Concatenate(nets, heads="2", num_classes=3)
        >>> joined(torch.zeros(5, 4)).shape, sum(p.requires_grad for p in joined.parameters())
        (torch.Size([5, 3]), 2)
    """

    def __init__(
        self, models: Sequence[nn.Module], heads: str | Sequence[str], num_classes: int
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes)
        names = [heads] * len(models) if isinstance(heads, str) else list(heads)
        if not models or len(names) != len(models):
            raise ValueError(f"expected a head for each model, got {len(names)} for {len(models)}")
        layers = [dict(m.named_modules()).get(n) for m, n in zip(models, names, strict=True)]
        for name, layer in zip(names, layers, strict=True):
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"the head {name!r} is no linear layer of its model")
        self.models: nn.ModuleList = nn.ModuleList(models).requires_grad_(False)
        self.heads = names
        width = sum(layer.in_features for layer in layers if isinstance(layer, nn.Linear))
        # features of all models on one scale
        self.norm: nn.BatchNorm1d = nn.BatchNorm1d(width, affine=False)
        self.head: nn.Linear = nn.Linear(width, num_classes)
        self.train(self.training)

    def train(self, mode: bool = True) -> Concatenate:
        """Only the head is ever trained."""
        super().train(mode)
        self.models.eval()
        return self

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """[B, D] what all heads read, side by side."""
        found: list[Tensor] = []
        for model, name in zip(self.models, self.heads, strict=True):
            layer = model.get_submodule(name)
            handle = layer.register_forward_pre_hook(lambda _, given: found.append(given[0]))
            try:
                with torch.no_grad():
                    model(*args, **kwargs)
            finally:
                handle.remove()
        return torch.cat(found, -1)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """[B, C] logits of the new head."""
        found = self.features(*args, **kwargs)
        if self.training and len(found) == 1:  # one item has no variance: scaled as in eval mode
            mean, var = self.norm.running_mean, self.norm.running_var
            scaled = nn.functional.batch_norm(found, mean, var, eps=self.norm.eps)
        else:
            scaled = self.norm(found)
        logits: Tensor = self.head(scaled)
        return logits


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
        A new model, a copy of the first with the averaged state.

    Raises:
        ValueError: models of different architectures; names the first key that differs. Or weights
            that are kept as whole numbers, or are one weight in the first model only.

    Reference:
        Wortsman et al., *Model soups*, 2022.

    Example:
        >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> torch.allclose(soup([a, b]).weight, (a.weight + b.weight) / 2)
        True
    """
    same_layout(models)
    shares = [1.0] * len(models) if weights is None else [float(w) for w in weights]
    if len(shares) != len(models) or min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(
            f"expected {len(models)} non-negative weights with a positive sum, got {shares}"
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
    if first.is_floating_point() or first.is_complex():
        wide = torch.complex128 if first.is_complex() else torch.float64
        parts = [w * value.to(wide) for w, value in zip(weights, values, strict=True)]
        if first.layout != torch.strided:
            return sum(parts[1:], parts[0]).to(first.dtype)
        return torch.stack(parts).sum(0).to(first)
    # counters count batches, and codes of a weight mean something else in each model
    if first.is_quantized or (first.ndim and not all(torch.equal(first, v) for v in values)):
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
        The soup, and which of the models are in it.

    Reference:
        Wortsman et al., *Model soups*, 2022, recipe 1.
    """
    same_layout(models)
    alone = [score(model) for model in models]
    order = sorted(range(len(models)), key=lambda i: -alone[i])
    chosen, best = [order[0]], alone[order[0]]
    for i in order[1:]:
        found = score(soup([models[k] for k in (*chosen, i)]))
        if found >= best:
            chosen, best = [*chosen, i], found
    return soup([models[k] for k in chosen]), chosen


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

    Reference:
        Frankle et al., *Linear mode connectivity and the lottery ticket hypothesis*, 2020.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> round(barrier(net, net, lambda model: model.weight.sum().item()).height, 6)
        0.0
    """
    if points < 3:
        raise ValueError(f"a barrier lies between two ends: points is at least 3, got {points}")
    alphas = [i / (points - 1) for i in range(points)]
    losses = []
    for alpha in alphas:
        model = soup([a, b], [1 - alpha, alpha])
        if refresh is not None and 0 < alpha < 1:
            refresh_batchnorm(model, refresh)
        losses.append(float(loss(model)))
    gaps = [
        found - ((1 - alpha) * losses[0] + alpha * losses[-1])
        for alpha, found in zip(alphas, losses, strict=True)
    ]
    return Barrier(max(0.0, *gaps[1:-1]), alphas, losses)
