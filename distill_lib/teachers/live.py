"""Where targets come from: one interface for a live model, and for the average of a student.

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
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from distill_lib.arguments import checked, told
from distill_lib.masks.tokens import decoder_inputs
from distill_lib.signals import (
    Batch,
    Captured,
    Forward,
    Signals,
    as_batch,
    bring,
    call,
    inside,
    layers_among,
    place,
    tell,
)
from distill_lib.stacked import Stacked, fold, unfold
from distill_lib.ties import parts

from .norms import batch_statistics
from .sb3 import adapted
from .shown import COPIES, Shown, prepared

__all__ = ["EMA", "Source", "Teacher", "fingerprint", "models_of"]

EXACT = "exact/"  # before the names of averages kept in float32
# What models carry that their libraries placed, and refuse to move or move wrongly.
UNMOVED = ("hf_device_map", "is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit")


@runtime_checkable
class Source(Protocol):
    """What every teacher offers."""

    def __call__(self, batch: Batch) -> Signals:
        """The targets for a batch."""

    def fingerprint(self) -> str:
        """A name that changes when the targets would."""


@checked
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
    for name, value in inside(model).state_dict().items():
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


def models_of(teacher: Any) -> list[nn.Module]:
    """The modules that a teacher asks, as far as it tells."""
    if isinstance(teacher, nn.Module):
        return [teacher]
    models = getattr(teacher, "models", None)
    return list(models()) if callable(models) else []


class Teacher:
    r"""A model that teaches and never learns: eval mode for ever, no gradient, never changed.

    Args:
        model: Any module, or one that :class:`~distill_lib.teachers.SB3Policy` takes. It is shared,
            not copied, and put in eval mode at every call.
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

    bn_train: bool
    forward: Forward | None
    preprocess: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        bn_train: bool = False,
        forward: Forward | None = None,
    ) -> None:
        model = adapted(model) if forward is None else model
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"Teacher expected an nn.Module, got {type(model).__name__}; "
                "for outputs on disk use Cache(path), for several models Ensemble([...])"
            )
        if not isinstance(bn_train, bool):
            raise TypeError(f"bn_train expected True or False, got {told(bn_train)}")
        self.model: nn.Module = model
        self.preprocess, self.bn_train, self.forward = preprocess, bn_train, forward
        self._settle()

    def _settle(self) -> None:
        """Eval mode, also after somebody called ``train()`` on the model."""
        if any(part.training for part in parts(self.model)):
            self.model.eval()

    @torch.no_grad()
    def __call__(self, batch: Batch | Tensor) -> Signals:
        """The model's signals for a batch, or for bare inputs; one that changes it is refused."""
        self._settle()
        shown = Shown(batch)
        named = {"inputs": batch} if isinstance(batch, Tensor) else as_batch(batch)
        home = next((v.device for v in named.values() if isinstance(v, Tensor)), None)
        named = prepared(self.preprocess(named)) if self.preprocess else named
        named = decoder_inputs(place(named, self.model), self.model)
        index: Any = named.get("index")
        # batches [S, B, ...] of several students, and one teacher for all of them
        many = isinstance(index, Tensor) and index.ndim == 2 and not isinstance(self.model, Stacked)
        with batch_statistics(self.model) if self.bn_train else contextlib.nullcontext():
            said = call(self.model, fold(named) if many else named, self.forward)
        said = unfold(said, len(index)) if many else said
        shown.check("teacher", self.model, COPIES if self.preprocess else None)
        # a teacher may live on another device than the student and the batch
        return cast(Signals, said if home is None else bring(said, home))

    def _base(self) -> nn.Module:
        return self.model.model if isinstance(self.model, Captured) else self.model

    def to(self, device: torch.device | str) -> Teacher:
        """Move the model; a quantized one, or one spread by a device map, stays where it is.

        Raises:
            ValueError: no device of this machine; a model on the device meta, which has no weights.
        """
        try:
            device = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"device expected 'cpu', 'cuda:0' or the like, got {told(device)} ({error})"
            ) from None
        inner = self._base()
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
        return fingerprint(self.model) + ("+bn_train" if self.bn_train else "")

    @checked
    def reveal(self, paths: Sequence[str]) -> Callable[[], None]:
        """Make the model tell what an objective names: its own signals, and inner layers.

        Returns:
            A function that leaves the model as it was, without the hooks.
        """
        silence, before, base = tell(self.model, paths), self.model, self._base()
        known = before.layers if isinstance(before, Captured) else ()
        layers = layers_among(base, [*known, *paths])
        if set(layers) > set(known):
            if isinstance(before, Captured):
                before.release()
            self.model = Captured(base, layers, unseen=base is before)

        def undo() -> None:
            if isinstance(self.model, Captured) and self.model is not before:
                self.model.release()
                self.model = before
                if isinstance(before, Captured):
                    before.attach()
            silence()

        return undo


def _copy(student: nn.Module) -> nn.Module:
    """A copy of a student that can be copied."""
    if any(is_lazy(p) for p in student.parameters()):
        raise ValueError(
            "EMA: the student has lazy layers, which have no weights to average yet; ask it about "
            "one batch first"
        )
    try:
        return copy.deepcopy(student)
    except RuntimeError as error:
        raise ValueError(
            f"EMA: the student cannot be copied ({error}); of weight_norm and spectral_norm "
            "take those of torch.nn.utils.parametrizations"
        ) from error


@checked
class EMA(Teacher):
    r"""A moving average of the student: the mean teacher.

    .. math:: \bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta

    :func:`distill_lib.distill` calls :meth:`update` after every step. Buffers, such as the
    statistics of batch normalization, and whole numbers are copied. Of half-precision weights the
    average is kept in float32: a step of :math:`1 - d` is less than their last digit.

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
        super().__init__(_copy(student), forward=forward)
        self.model.requires_grad_(False)
        self.decay = decay
        named = self._base().named_parameters()
        self._exact = {k: p.float() for k, p in named if p.is_floating_point() and p.itemsize < 4}

    @checked
    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the average towards the student, which may be on another device."""
        model, averages, values = self._base(), list[Tensor](), list[Tensor]()
        named, weights = list(model.named_parameters()), list(student.parameters())
        if [mine.shape for _, mine in named] != [weight.shape for weight in weights]:
            raise ValueError("EMA: these weights are not of the shapes that it is the average of")
        for (name, mine), weight in zip(named, weights, strict=True):
            theirs = weight.to(mine.device)
            if name in self._exact:
                exact = self._exact[name] = self._exact[name].to(mine.device)
                mine.copy_(exact.lerp_(theirs.float(), 1 - self.decay))
            elif mine.is_floating_point() or mine.is_complex():
                averages.append(mine)
                values.append(theirs)
            else:
                mine.copy_(theirs)
        if averages:
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        kept, found = list(model.buffers()), list(student.buffers())
        if len(kept) != len(found):
            raise ValueError(
                f"EMA: the student has {len(found)} buffers and had {len(kept)} when its average "
                "began; make the average after the first batch"
            )
        for buffer, value in zip(kept, found, strict=True):
            if buffer.shape == value.shape:
                buffer.copy_(value)
            else:  # such as a cache of as many places as the last batch had
                buffer.data = value.detach().clone().to(buffer.device)

    def fingerprint(self) -> str:
        """A name that does not change while the average moves."""
        shapes = [(k, tuple(getattr(v, "shape", ()))) for k, v in self._base().state_dict().items()]
        return hashlib.sha256(repr(("EMA", self.decay, shapes)).encode()).hexdigest()

    def state_dict(self) -> dict[str, Tensor]:
        """The average, for checkpoints."""
        return {**self._base().state_dict(), **{f"{EXACT}{k}": v for k, v in self._exact.items()}}

    @checked
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The average, from a checkpoint; of one without float32 it is what the weights say."""
        own = {k: v for k, v in state.items() if not k.startswith(EXACT)}
        self._base().load_state_dict(own)
        for name, value in self._exact.items():
            value.copy_(state.get(f"{EXACT}{name}", own[name]))
