"""Where targets come from: one interface for a live model, a committee, an average, and peers.

A teacher is anything that can be called with a batch and returns signals. It is not an
``nn.Module``, so that no ``train()``, ``parameters()`` or ``state_dict()`` of a student reaches it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from distill_lib.signals import (
    Batch,
    Captured,
    Forward,
    Signals,
    as_batch,
    call,
    capture,
    layers_among,
    pick,
    place,
    tell,
)
from distill_lib.stacked import Stacked, fold, unfold

__all__ = ["EMA", "Ensemble", "Peers", "Source", "Teacher", "fingerprint"]


@runtime_checkable
class Source(Protocol):
    """What every teacher offers."""

    def __call__(self, batch: Batch) -> Signals:
        """The targets for a batch."""

    def fingerprint(self) -> str:
        """A name that changes when the targets would."""


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, with their names, shapes and types.

    Capturing layers changes nothing in it.

    Example:
        >>> fingerprint(nn.Identity())[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    model = model.model if isinstance(model, Captured) else model
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Teacher:
    r"""A model that teaches and never learns: eval mode for ever, no gradient, never changed.

    Args:
        model: Any module. It is shared, not copied, and put in eval mode at every call.
        preprocess: ``preprocess(batch) -> batch``, where the teacher sees the world differently:
            another resolution, normalization or tokenizer.
        bn_train: Let batch normalization use the statistics of the batch, as some papers do. The
            running statistics stay as they are.
        forward: ``forward(model, batch)`` for models that are not called as ``model(inputs)``.

    Example:
        >>> teacher = Teacher(nn.Linear(4, 3))
        >>> teacher({"inputs": torch.zeros(2, 4)}).requires_grad
        False
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        bn_train: bool = False,
        forward: Forward | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"Teacher expected an nn.Module, got {type(model).__name__}; "
                "for outputs on disk use Cache(path), for several models Ensemble([...])"
            )
        self.model = model
        self.preprocess = preprocess
        self.bn_train = bn_train
        self.forward = forward
        self._settle()

    def _settle(self) -> None:
        """Eval mode, also after somebody called ``train()`` on the model."""
        if any(module.training for module in self.model.modules()):
            self.model.eval()
        if self.bn_train:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    # batch statistics without touching the running ones
                    module.training, module.track_running_stats = True, False

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Signals:
        """The model's signals for a batch, without gradient."""
        self._settle()
        named = as_batch(batch)
        named = self.preprocess(named) if self.preprocess else named
        named = place(named, self.model)
        index = named.get("index")
        if isinstance(index, Tensor) and index.ndim == 2 and not isinstance(self.model, Stacked):
            # batches [S, B, ...] of several students, and one teacher for all of them
            return cast(Signals, unfold(call(self.model, fold(named), self.forward), len(index)))
        return call(self.model, named, self.forward)

    def to(self, device: torch.device | str) -> Teacher:
        """Move the model."""
        self.model.to(device)
        return self

    def models(self) -> Iterator[nn.Module]:
        """The models that must not be trained."""
        yield self.model

    def fingerprint(self) -> str:
        """SHA-256 of the model's weights, and whether the batch's statistics are used."""
        found = fingerprint(self.model)
        return f"{found}+bn_train" if self.bn_train else found

    def reveal(self, paths: Sequence[str]) -> None:
        """Make the model tell what an objective names: its own signals, and inner layers."""
        tell(self.model, paths)
        view = self.model if isinstance(self.model, Captured) else None
        base, known = (view.model, view.layers) if view is not None else (self.model, ())
        layers = layers_among(base, [*known, *paths])
        if set(layers) > set(known):
            if view is not None:
                view.release()
            self.model = capture(base, *layers)


class Ensemble:
    r"""Several teachers as one: the average of what they say.

    .. math::
        \text{prob: } z = \log \sum_k w_k\, \mathrm{softmax}(v_k)
        \qquad
        \text{logit: } z = \sum_k w_k\, v_k

    The arithmetic mean of probabilities is the teacher that minimizes the mean forward KL; the
    mean of logits is, after normalization, the geometric mean, which the reverse KL asks for. They
    differ: ``[9, 0, 0]`` and ``[0, 1, 0]`` give .606/.288/.106 against .971/.018/.011.

    Args:
        teachers: Teachers, or modules that become teachers.
        weights: One a teacher; equal by default; normalized to sum 1.
        space: ``"prob"`` or ``"logit"``.
        on: The signal that is averaged.

    Raises:
        ValueError: no teacher, weights that do not fit, an unknown space.
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        weights: Sequence[float] | None = None,
        space: str = "prob",
        on: str = "logits",
    ) -> None:
        if not teachers:
            raise ValueError("Ensemble expected at least one teacher, got none")
        if space not in ("prob", "logit"):
            raise ValueError(f"space is 'prob' or 'logit', got {space!r}")
        weights = [1.0] * len(teachers) if weights is None else list(weights)
        if len(weights) != len(teachers) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"expected {len(teachers)} non-negative weights with a positive sum, got {weights}"
            )
        self.teachers = [Teacher(t) if isinstance(t, nn.Module) else t for t in teachers]
        self.weights = [w / sum(weights) for w in weights]
        self.space = space
        self.on = on

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Signals:
        """The averaged signal, under its own name."""
        said = [pick(teacher(batch), self.on, "teacher") for teacher in self.teachers]
        if len({tuple(v.shape) for v in said}) > 1:
            raise ValueError(
                f"the teachers of an ensemble must agree on their classes, got shapes "
                f"{[tuple(v.shape) for v in said]}; map them to one set with Teacher(forward=…)"
            )
        stack = torch.stack([v.float() if v.dtype.itemsize < 4 else v for v in said])
        w = torch.tensor(self.weights, dtype=stack.dtype, device=stack.device)
        w = w.view(-1, *[1] * (stack.ndim - 1))
        if self.space == "logit":
            return {self.on: (w * stack).sum(0)}
        return {self.on: (stack.log_softmax(-1) + w.log()).logsumexp(0)}

    def to(self, device: torch.device | str) -> Ensemble:
        """Move every teacher."""
        for teacher in self.teachers:
            teacher.to(device)
        return self

    def models(self) -> Iterator[nn.Module]:
        """The models that must not be trained."""
        for teacher in self.teachers:
            yield from getattr(teacher, "models", lambda: ())()

    def fingerprint(self) -> str:
        """SHA-256 over the members, their weights and the space."""
        parts = [t.fingerprint() for t in self.teachers]
        return hashlib.sha256(repr((parts, self.weights, self.space)).encode()).hexdigest()


class EMA(Teacher):
    r"""A moving average of the student: the mean teacher.

    .. math:: \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta

    :func:`distill_lib.distill` calls :meth:`update` after every step. Buffers, such as the
    statistics of batch normalization, are copied.

    Args:
        student: The model to follow; the average starts as its copy.
        decay: :math:`d` in [0, 1).

    Raises:
        ValueError: a decay outside [0, 1).

    Reference:
        Tarvainen and Valpola, *Mean teachers are better role models*, 2017.
    """

    def __init__(self, student: nn.Module, decay: float, forward: Forward | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay lies in [0, 1), got {decay}; 0.99 to 0.9999 is usual")
        super().__init__(copy.deepcopy(student), forward=forward)
        self.model.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the average towards the student."""
        pairs = list(zip(self.model.parameters(), student.parameters(), strict=True))
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - self.decay)
        for mine, theirs in zip(self.model.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)

    def fingerprint(self) -> str:
        """A name that does not change while the average moves."""
        shapes = [(k, tuple(v.shape)) for k, v in self.model.state_dict().items()]
        return hashlib.sha256(repr(("EMA", self.decay, shapes)).encode()).hexdigest()

    def state_dict(self) -> dict[str, Tensor]:
        """The average, for checkpoints."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The average, from a checkpoint."""
        self.model.load_state_dict(state)


class Peers(nn.Module):
    r"""Students that teach each other: deep mutual learning.

    As a student, a cohort of K models says ``logits`` of shape [K, B, C], one objective for all.
    As a teacher, :meth:`others` gives each model the mean of what the others just said:

    .. math:: v_k = \log \tfrac{1}{K-1} \sum_{j \ne k} \mathrm{softmax}(z_j)

    Args:
        models: At least two modules with the same classes.

    Raises:
        ValueError: fewer than two models.

    Reference:
        Zhang et al., *Deep mutual learning*, 2018.

    Example:
        >>> cohort = Peers([nn.Linear(4, 3), nn.Linear(4, 3)])
        >>> batch = {"inputs": torch.zeros(5, 4)}
        >>> cohort(batch["inputs"]).shape, cohort.others()(batch).shape
        (torch.Size([2, 5, 3]), torch.Size([2, 5, 3]))
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(models) < 2:
            raise ValueError(f"Peers expected at least two models, got {len(models)}")
        self.models = nn.ModuleList(models)
        self._said: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """[K, B, C] logits of all models."""
        logits = torch.stack(
            [pick(model(*args, **kwargs), "logits", "peer") for model in self.models]
        )
        self._said = logits.detach()
        return logits

    def others(self) -> _Others:
        """The teacher's side of the cohort."""
        return _Others(self)


class _Others:
    """What the other peers said of the batch that the cohort has just seen."""

    def __init__(self, cohort: Peers) -> None:
        self.cohort = cohort

    def __call__(self, batch: Batch) -> Signals:
        said = self.cohort._said
        if said is None:
            raise RuntimeError("the cohort has seen no batch yet: call it before its others()")
        k = len(said)
        said = said.float() if said.dtype.itemsize < 4 else said
        logp = said.log_softmax(-1).unsqueeze(0).expand(k, *said.shape).clone()
        logp[torch.arange(k), torch.arange(k)] = float("-inf")
        return logp.logsumexp(1) - torch.log(torch.tensor(k - 1.0, device=said.device))

    def fingerprint(self) -> str:
        return hashlib.sha256(f"peers {len(self.cohort.models)}".encode()).hexdigest()
