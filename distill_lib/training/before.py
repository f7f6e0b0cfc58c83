"""What is asked before the first step, so that nothing is found out after hours of work."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill_lib.teachers.live import models_of

__all__ = ["cannot_write", "check_relations", "check_separate", "fixed_parts"]


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
            "base below an adapter an object whose __call__(batch) switches the adapter off"
        )
    held = {_place_of(t) for m in models for t in (*m.parameters(), *m.buffers())}
    learned = {**_learned(student, fixed), **_learned(objective, set())}
    shared = [name for name, tensor in learned.items() if _place_of(tensor) in held]
    if shared:
        raise ValueError(
            f"the teacher holds {len(shared)} of the {len(learned)} tensors that are trained and "
            f"would change while it teaches: {', '.join(shared[:6])}"
            f"{', …' if len(shared) > 6 else ''}. Give it weights of its own "
            "(copy.deepcopy(teacher)), or freeze what both use: requires_grad_(False) and, with "
            "batch normalization, eval()"
        )


def check_relations(objective: Any, parts: int) -> None:
    """Refuse relations between items that gradient accumulation would cut apart.

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


def _place_of(tensor: Tensor) -> Any:
    """The same for tensors that begin at the same place in memory, else one of its own."""
    try:
        # empty ones all begin at 0; lazy, sparse and quantized ones do not tell
        at = tensor.data_ptr()
    except (RuntimeError, ValueError):
        at = 0
    return (tensor.device, at) if at else id(tensor)


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
