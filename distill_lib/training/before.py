"""What is asked before the first step, so that nothing is found out after hours of work."""

from __future__ import annotations

import bisect
import contextlib
import inspect
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distill_lib.arguments import checked, told
from distill_lib.signals import Captured, layers_of, suggest
from distill_lib.teachers.live import Teacher, models_of

__all__ = [
    "cannot_write",
    "check_accelerator",
    "check_kinds",
    "check_layers",
    "check_optimizer",
    "check_relations",
    "check_separate",
    "check_settings",
    "check_sparse",
    "fixed_parts",
]


@checked
def check_settings(
    *,
    epochs: int | None,
    steps: int | None,
    clip_norm: float | None,
    checkpoint: str | Path | None,
    save_every: int | None,
    resume: bool,
    seed: int | None,
    forward: Callable[..., Any] | None,
    patience: int | None,
) -> None:
    """The numbers and names of a training.

    Raises:
        TypeError: one of another type.
        ValueError: a number out of its range.
    """
    counts = {"epochs": epochs, "steps": steps, "save_every": save_every or None}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} is at least 1, got {count}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm expected a norm > 0, or None for no limit, got {clip_norm}")
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"seed expected a whole number in [0, 2**32), as NumPy's, got {seed}")


def check_kinds(student: Any, teacher: Any, objective: Any) -> None:
    """A student that can learn, and a teacher that can be asked.

    Raises:
        TypeError: a student that is no module, such as a teacher; a teacher that is none.
        ValueError: nothing that could be trained; gradients that are off.
    """
    if not isinstance(student, nn.Module):
        swapped = callable(getattr(student, "fingerprint", None))
        raise TypeError(
            f"the student is an nn.Module, got {type(student).__name__}"
            + ("; a teacher never learns: it comes second, distill(student, teacher, …)" * swapped)
        )
    if isinstance(teacher, type) or (teacher is not None and not callable(teacher)):
        raise TypeError(
            f"the teacher is a module, a Teacher, a Cache or the like, or None; got "
            f"{type(teacher).__name__}. Several are one Ensemble([...])"
        )
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise ValueError("distill trains, and gradients are off: call it outside torch.no_grad()")
    models = [m for m in (student, objective) if isinstance(m, nn.Module)]
    if not any(p.requires_grad for m in models for p in m.parameters()):
        raise ValueError(
            f"the student, a {type(student).__name__}, has no parameter that can be trained; "
            "if it is frozen, call student.requires_grad_(True)"
        )


def check_accelerator(accelerator: Any) -> None:
    """One of Accelerate's.

    Raises:
        TypeError: something else.
    """
    if isinstance(accelerator, type) or not hasattr(accelerator, "prepare_model"):
        raise TypeError(f"accelerator expected an accelerate.Accelerator, got {told(accelerator)}")


def check_optimizer(optimizer: Any) -> None:
    """One step, one loss.

    Raises:
        TypeError: no optimizer, or one that asks for the loss several times a step.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "expected an optimizer of torch, or a function from parameters to one, such as "
            f"lambda parameters: SGD(parameters, lr=0.1); got {told(optimizer)}"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"{type(optimizer).__name__} asks for the loss several times a step, and distill "
            "computes it once; take SGD or AdamW, or call the objective in a loop of your own"
        )


def check_sparse(student: nn.Module, clip_norm: float | None) -> None:
    """Sparse gradients have no norm in torch, and cannot be clipped.

    Raises:
        ValueError: an embedding that is trained has such gradients, and they would be.
    """
    for name, part in student.named_modules():
        trained = isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.weight.requires_grad
        if clip_norm is not None and trained and part.sparse:
            raise ValueError(
                f"clip_norm={clip_norm} needs the norm of all gradients, and torch has none of the "
                f"sparse ones of {name or 'the student'}, a {type(part).__name__}: set its "
                "sparse = False, or leave out clip_norm"
            )


def fixed_parts(student: nn.Module) -> set[nn.Module]:
    """Parts in eval mode that are frozen, such as a fixed batch normalization: they stay so."""
    fixed: set[nn.Module] = set()
    for part in student.modules():
        params = list(part.parameters())
        if params and not part.training and not any(p.requires_grad for p in params):
            fixed.update(inner for inner in part.modules() if not inner.training)
    return fixed


def check_separate(
    student: nn.Module, teacher: Any, objective: nn.Module, fixed: set[nn.Module]
) -> None:
    """Refuse a teacher that training would change.

    Args:
        student: The model to train.
        teacher: A source of targets, or None.
        objective: Its parameters are trained along.
        fixed: The student's :func:`fixed_parts`.

    Raises:
        ValueError: the teacher is the student, or holds tensors that are trained.
    """
    models = models_of(teacher)
    if any(model is student for model in models):
        raise ValueError(
            "the teacher is the student itself and would be frozen; "
            "for an average of its past use EMA(student, decay), for a copy copy.deepcopy, for its "
            "base below an adapter BaseOf(student)"
        )
    held = [t for m in models for t in (*m.parameters(), *m.buffers())]
    learned = {**_learned(student, fixed), **_learned(objective, set())}
    shared = _overlapping(learned, held)
    if shared:
        raise ValueError(
            f"the teacher holds {len(shared)} of the {len(learned)} tensors that are trained and "
            f"would change while it teaches: {', '.join(shared[:6])}"
            f"{', …' if len(shared) > 6 else ''}. Give it weights of its own "
            "(copy.deepcopy(teacher)), or freeze what both use: requires_grad_(False) and, with "
            "batch normalization, eval()"
        )


def check_layers(student: Any, teacher: Any, objective: Any, forward: Any) -> None:
    """Names with a dot are those of layers, and are looked for before a model is asked.

    What a model says itself, and what ``forward=`` makes of it, is known only afterwards.

    Raises:
        KeyError: a name with a dot that no layer has.
    """
    asked: list[tuple[str, Any]] = [] if forward is not None else [("student", student)]
    if isinstance(teacher, Teacher) and teacher.forward is None:
        asked.append(("teacher", teacher.model))
    for who, model in asked:
        told_of = model.layers if isinstance(model, Captured) else ()
        known = [*layers_of(model)]
        for path in objective.reads(who):
            name = path.split("/")[0]
            if "." in name and not {name, path} & {*known, *told_of}:
                raise KeyError(
                    f"the {who} has no layer {name!r}; it has {', '.join(known[:40])}"
                    f"{', …' if len(known) > 40 else ''}.{suggest(name, known)} A name with a dot "
                    "that the model itself gives an answer needs forward="
                )


def check_relations(objective: Any, parts: int) -> None:
    """Refuse relations between items that accumulation, or several processes, would cut apart.

    Raises:
        ValueError: a term over relations, and several micro-batches a step.
    """
    cut = [t.text() for t in objective.terms if t.relational and not t.within_micro_batch]
    if parts > 1 and cut:
        raise ValueError(
            f"{', '.join(cut)} compares the items of a batch with each other, and a step is cut "
            f"into {parts} micro-batches, whose items it would not compare: take batches of the "
            "size of the step, or say within_micro_batch=True if relations inside each are meant"
        )


def _learned(model: nn.Module, fixed: set[nn.Module]) -> dict[str, Tensor]:
    """The tensors that training changes: parameters, and statistics of batch normalization."""
    named = model.named_parameters(remove_duplicate=False)
    found: dict[str, Tensor] = {name: p for name, p in named if p.requires_grad}
    for name, part in model.named_modules():
        stats = isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats
        if stats and part not in fixed:
            found |= {f"{name}.{key}".strip("."): b for key, b in part.named_buffers()}
    return found


def _overlapping(learned: dict[str, Tensor], held: list[Tensor]) -> list[str]:
    """The names of tensors that have a byte of memory in common with one that is held."""
    ids, places = {id(t) for t in held}, sorted(filter(None, map(_place_of, held)))
    ends = list(itertools.accumulate((end for *_, end in places), max))
    found = []
    for name, tensor in learned.items():
        mine = _place_of(tensor)
        # of all that begin before this one ends, the one that reaches farthest
        at = bisect.bisect_left(places, mine[1], key=lambda place: place[0]) if mine else 0
        if id(tensor) in ids or (mine and at and ends[at - 1] > mine[0]):
            found.append(name)
    return found


def _place_of(tensor: Tensor) -> tuple[int, int] | None:
    """Where a tensor begins and ends in memory; None for those that do not tell."""
    try:
        begin = tensor.data_ptr()
        # empty ones begin at 0; lazy, sparse and quantized ones of some kinds have no strides
        steps = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    except (RuntimeError, ValueError):
        return None
    return (begin, begin + (steps + 1) * tensor.element_size()) if begin else None


def cannot_write(path: Path, size: int) -> str | None:
    """Why a checkpoint of at least so many bytes could not be written, tried beside it."""
    try:
        if path.is_dir():
            return "it is a folder"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as trial:
            trial.write(b"distill")
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long says so
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    enough = free >= size
    return None if enough else f"{free:,} bytes are free and the weights alone take {size:,}"
