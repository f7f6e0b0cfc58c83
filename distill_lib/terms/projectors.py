"""Where projectors begin: at the linear map that suits the untrained student best."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from distill_lib.masks import kept_of, readable
from distill_lib.masks.tokens import decoder_inputs
from distill_lib.objective import Objective
from distill_lib.signals import Batch, as_batch, call, capture, eval_mode, layers_among, pick, tell
from distill_lib.teachers.live import Source, Teacher

from .features import Match

__all__ = ["fit_projectors"]


@torch.no_grad()
def fit_projectors(
    objective: Objective,
    student: nn.Module,
    teacher: Source | nn.Module,
    batch: Batch,
    ridge: float = 0.01,
) -> Objective:
    r"""Begin each projector as the linear map that suits the untrained student best, in place.

    .. math:: W = \arg\min_W \lVert X W - Y \rVert^2 + \lambda\, n\, \lVert W \rVert^2
        = (X^\top X + \lambda n I)^{-1} X^\top Y

    with the :math:`n` tokens of the batch, student's rows :math:`X` and teacher's rows :math:`Y`.
    With a random projector the fastest way to lower the loss is to say the same of every token,
    and a student that has learned this has to unlearn it.

    Args:
        objective: One whose :class:`distill_lib.Match` terms project by ``nn.Linear``. Others stay
            as they are; a projector that several terms share is fitted to all of them.
        student: The student, before its training.
        teacher: Its teacher.
        batch: Some hundred texts.
        ridge: :math:`\lambda`.

    Returns:
        The objective.

    Raises:
        TypeError: something else than an objective and a student.
        ValueError: a ridge below 0.
    """
    if not isinstance(objective, Objective) or not isinstance(student, nn.Module):
        raise TypeError(
            "fit_projectors expected an objective, a student and its teacher, got "
            f"{type(objective).__name__}, {type(student).__name__} and {type(teacher).__name__}; "
            "1.0 * term makes an objective of a term"
        )
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge expected a number from 0 on, got {ridge}; 0.01 is usual")
    named = readable(as_batch(batch))
    source: Any = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
    with contextlib.ExitStack() as after, eval_mode([student]):
        if hasattr(source, "reveal") and callable(
            undo := source.reveal(objective.reads("teacher"))
        ):
            after.callback(undo)
        after.callback(tell(student, objective.reads("student")))
        view = capture(student, *layers_among(student, objective.reads("student")))
        after.callback(view.release)
        said, taught = call(view, decoder_inputs(named, student)), source(named)
    unlabeled = {key: value for key, value in named.items() if key != "labels"}
    sums: dict[nn.Linear, list[Tensor]] = {}
    for _, term in objective.pairs():
        project = getattr(term, "project", None)
        if isinstance(term, Match) and isinstance(project, nn.Linear):
            x, y = pick(said, term.paths[0], "student"), pick(taught, term.paths[1], "teacher")
            y = term.map_teacher(y)
            if is_lazy(project.weight):
                project(x)  # which tells it the width
            kept = kept_of(x.shape[:-1], False, term.about(unlabeled))
            if kept is not None:
                x, y = x[kept], y[kept]
            x, y = (v.flatten(0, -2).double() for v in (x, y))
            if project.bias is not None:
                x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            both = sums.setdefault(project, [torch.zeros(()), torch.zeros(())])
            both[0] = both[0] + x.T @ x + ridge * len(x) * torch.eye(x.shape[1]).to(x)
            both[1] = both[1] + x.T @ y
    for project, (inner, outer) in sums.items():
        best = torch.linalg.solve(inner, outer).T.to(project.weight)
        project.weight.copy_(best[:, : project.in_features])
        if project.bias is not None:
            project.bias.copy_(best[:, -1])
    return objective
