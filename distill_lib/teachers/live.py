"""Where targets come from: one interface for a live model, a committee, an average.

A teacher is anything that can be called with a batch and returns signals. It is not an
``nn.Module``, so that no ``train()``, ``parameters()`` or ``state_dict()`` of a student reaches it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from distill_lib.signals import (
    Batch,
    Captured,
    Forward,
    Signals,
    as_batch,
    bring,
    call,
    capture,
    layers_among,
    pick,
    place,
    tell,
    unwrapped,
)
from distill_lib.stacked import Stacked, fold, unfold

__all__ = ["EMA", "Ensemble", "Source", "Teacher", "fingerprint"]

# What models carry that their libraries placed, and refuse to move or move wrongly.
UNMOVED = ("hf_device_map", "is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit")


@runtime_checkable
class Source(Protocol):
    """What every teacher offers."""

    def __call__(self, batch: Batch) -> Signals:
        """The targets for a batch."""

    def fingerprint(self) -> str:
        """A name that changes when the targets would."""


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, with their names, shapes and types.

    Capturing layers changes nothing in it, nor does ``torch.compile`` or ``DataParallel``.

    Raises:
        ValueError: an extra state that is neither tensors nor plain data.

    Example:
        >>> fingerprint(nn.Identity())[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    model = model.model if isinstance(model, Captured) else model
    for name, value in unwrapped(model).state_dict().items():
        _feed(digest, name, value)
    return digest.hexdigest()


def _feed(digest: Any, name: str, value: Any) -> None:
    """One entry of a state, down to plain tensors and plain data."""
    parts = {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else None
    if isinstance(value, (tuple, list)):
        parts = {str(k): v for k, v in enumerate(value)}
    elif isinstance(value, Tensor):
        # spread over several processes, it is the same tensor
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        parts = _inner(value.detach())
    if parts is not None:
        for key, part in parts.items():
            _feed(digest, f"{name}/{key}", part)
    elif isinstance(value, Tensor):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    elif value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype)):
        digest.update(f"{name}{value!r}".encode())
    elif isinstance(value, io.BytesIO):
        _feed(digest, name, value.getvalue())
    else:
        raise ValueError(
            f"the state {name!r} is a {type(value).__name__}, which has no fingerprint; derive a "
            "class from Teacher whose fingerprint() returns a name for these weights"
        )


def _inner(tensor: Tensor) -> dict[str, Any] | None:
    """What a sparse or quantized tensor is made of; None for one that is plain."""
    if is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        text = re.sub(r" at 0x\w+", "", repr(context))  # the same in every process
        return {**{name: getattr(tensor, name) for name in names}, "context": text}
    if tensor.is_quantized:
        return {"integers": tensor.int_repr(), "numbers": tensor.dequantize()}
    if tensor.layout is not torch.strided:
        found = tensor.to_sparse(layout=torch.sparse_coo).coalesce()
        return {"shape": [*found.shape], "indices": found.indices(), "values": found.values()}
    return None


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
        home = next((v.device for v in named.values() if isinstance(v, Tensor)), None)
        named = self.preprocess(named) if self.preprocess else named
        named = place(named, self.model)
        index = named.get("index")
        if isinstance(index, Tensor) and index.ndim == 2 and not isinstance(self.model, Stacked):
            # batches [S, B, ...] of several students, and one teacher for all of them
            said = unfold(call(self.model, fold(named), self.forward), len(index))
        else:
            said = call(self.model, named, self.forward)
        # a teacher may live on another device than the student and the batch
        return cast(Signals, said if home is None else bring(said, home))

    def to(self, device: torch.device | str) -> Teacher:
        """Move the model; a quantized one, or one spread by a device map, stays where it is.

        Raises:
            ValueError: a model on the device meta, which has no weights.
        """
        inner = self.model.model if isinstance(self.model, Captured) else self.model
        if any(getattr(inner, mark, None) for mark in UNMOVED):
            return self
        if any(tensor.is_meta for tensor in inner.parameters()):
            raise ValueError("the teacher is on the device meta, without weights: load them first")
        # quantized models of other libraries refuse with a ValueError, before anything has moved
        with contextlib.suppress(ValueError):
            inner.to(device)
        return self

    def models(self) -> Iterator[nn.Module]:
        """The models that must not be trained."""
        yield self.model

    def fingerprint(self) -> str:
        """SHA-256 of the model's weights, and whether the batch's statistics are used."""
        found = fingerprint(self.model)
        return f"{found}+bn_train" if self.bn_train else found

    def reveal(self, paths: Sequence[str]) -> Callable[[], None]:
        """Make the model tell what an objective names: its own signals, and inner layers.

        Returns:
            A function that leaves the model as it was, without the hooks.
        """
        silence, before = tell(self.model, paths), self.model
        base, known = (
            (before.model, before.layers) if isinstance(before, Captured) else (before, ())
        )
        layers = layers_among(base, [*known, *paths])
        if set(layers) > set(known):
            if isinstance(before, Captured):
                before.release()
            self.model = capture(base, *layers)

        def undo() -> None:
            if isinstance(self.model, Captured) and self.model is not before:
                self.model.release()
                self.model = before
                if isinstance(before, Captured):
                    before.attach()
            silence()

        return undo


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
