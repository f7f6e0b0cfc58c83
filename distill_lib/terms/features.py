"""Terms on features: layers that match, and relations between items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib import losses
from distill_lib.masks import keys_of, masks_of
from distill_lib.objective import Term, name_of
from distill_lib.schedules import Schedule
from distill_lib.signals import Signals, accepts

from .given import both, mapped
from .relations import among_kept, is_relational, of_several

__all__ = ["Match", "Relation"]

Loss = Callable[..., Tensor]


class Match(Term):
    """An inner signal of the student against one of the teacher.

    Args:
        student: Path of the student's signal, such as ``"layer3"`` or ``"hidden_states/2"``.
        teacher: Path of the teacher's; the same by default.
        loss: A feature-based loss.
        project: A module that maps the student's signal to the teacher's shape. It is trained
            along, and its weights are in the optimizer and in checkpoints.
            ``nn.LazyLinear(theirs)`` and ``nn.LazyConv2d(theirs, 1)`` need the teacher's width
            only: they find the student's in the first batch, and stay as they are afterwards.
        project_teacher: A fixed map of the teacher's signal, such as ``nn.AvgPool1d(2)``, where it
            is the teacher's shape that has to change.
        within_micro_batch: Of a loss over relations: that they are those of the items of one
            micro-batch, where gradients are accumulated. Else accumulation is refused.
        **options: More arguments of the loss, such as ``heads=12`` for ``losses.minilm_relation``.
            A loss that takes a ``mask`` gets ``batch["attention_mask"]``.

    Raises:
        ValueError: an empty path; a map of the teacher's that would be trained; in the first batch,
            a signal that a projector cannot take, or a shape that is not the teacher's.
        TypeError: a projector that is not a module; a loss that is none; an option that it does
            not take.

    Reference:
        Romero et al., *FitNets: hints for thin deep nets*, 2015.

    Example:
        >>> import torch
        >>> term = 50 * Match("layer3", "layer2", project=nn.Conv2d(8, 16, 1))
        >>> sum(p.numel() for p in term.parameters())
        144
    """

    key = "match"
    default: Loss = staticmethod(losses.hint)

    def __init__(
        self,
        student: str,
        teacher: str | None = None,
        loss: Loss | None = None,
        project: nn.Module | None = None,
        project_teacher: nn.Module | None = None,
        *,
        within_micro_batch: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        theirs = student if teacher is None else teacher
        for who, path in (("student", student), ("teacher", theirs)):
            if not isinstance(path, str) or not path:
                raise ValueError(
                    f"{type(self).__name__} has nothing to match: the {who}'s signal is {path!r}; "
                    "name one, such as 'layer3' or 'hidden_states/2'"
                )
        for name, module in (("project", project), ("project_teacher", project_teacher)):
            if module is not None and not isinstance(module, nn.Module):
                raise TypeError(
                    f"{name} is a module, so that it can be trained and moved, got {module!r}"
                )
        if project_teacher is not None and any(
            p.requires_grad for p in project_teacher.parameters()
        ):
            raise ValueError(
                f"project_teacher is a {type(project_teacher).__name__} with weights that would be "
                "trained: 0 on both sides would match. Use project=, or requires_grad_(False)"
            )
        _check_loss(loss, type(self).__name__)
        self.paths: tuple[str, str] = (student, theirs)
        self.loss: Loss = self.default if loss is None else loss
        self.project = project
        self.project_teacher = project_teacher
        self.options = options
        self.masked: bool = accepts(self.loss, "mask")
        self.relational: bool = is_relational(self.loss, options)
        self.within_micro_batch = within_micro_batch
        self.reads: Mapping[str, tuple[str, ...]] = {"student": (student,), "teacher": (theirs,)}
        for option in options:
            if not accepts(self.loss, option):
                raise TypeError(f"{name_of(self.loss)} takes no argument {option!r}")

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """One value an item, or a token."""
        mine, theirs = both(student, teacher, *self.paths)
        mine = mine if self.project is None else self._mapped("project", self.project, mine)
        theirs = self.map_teacher(theirs)
        options = dict(self.options)
        if self.masked:
            options.setdefault("mask", keys_of(batch, self.paths[0]))
        if not self.relational:
            return self.loss(student=mine, teacher=theirs, **options)
        seen = self.about(batch)
        padding = seen.get("attention_mask")
        if isinstance(padding, Tensor) and padding.ndim > 1 and padding.shape == mine.shape[:-1]:
            pads = ~padding.bool().unsqueeze(-1)
            mine, theirs = mine.masked_fill(pads, 0.0), theirs.masked_fill(pads, 0.0)
        several = of_several(mine, seen)
        items = mine.shape[: 1 + several]
        kept = masks_of(items, False, {"mask": seen.get("mask")}).get("mask")
        if not several:
            return among_kept(self.loss, mine, theirs, kept, **options)
        shared = theirs.shape[:2] != items  # one teacher's answer for all students
        each = zip(mine, [theirs] * len(mine) if shared else theirs, strict=True)
        masks = [None] * len(mine) if kept is None else kept
        return torch.stack(
            [
                among_kept(self.loss, z, v, k, **options)
                for (z, v), k in zip(each, masks, strict=True)
            ]
        )

    def map_teacher(self, theirs: Tensor) -> Tensor:
        """The teacher's signal as it is matched."""
        if self.project_teacher is None:
            return theirs
        with torch.no_grad():
            return self._mapped("project_teacher", self.project_teacher, theirs)

    def _mapped(self, name: str, module: nn.Module, signal: Tensor) -> Tensor:
        """A signal as a projector shows it."""
        found: Any = mapped(self.text(), name, module, signal)
        if not isinstance(found, Tensor):
            raise TypeError(f"{self.text()}: {name} made a {type(found).__name__}, not a tensor")
        return found

    def text(self) -> str:
        """Such as ``hint(layer3~layer2)``."""
        mine, theirs = self.paths
        return f"{name_of(self.loss)}({mine if mine == theirs else f'{mine}~{theirs}'})"

    def latex(self) -> str:
        """The typeset term."""
        mine, theirs = (p.replace("_", r"\_") for p in self.paths)
        name = name_of(self.loss).replace("_", r"\_")
        return rf"\mathrm{{{name}}}(\mathtt{{{mine}}}, \mathtt{{{theirs}}})"


def _check_loss(loss: Any, who: str) -> None:
    if isinstance(loss, (int, float, Schedule)):
        raise TypeError(f"{who} expected a loss, got {loss}; a weight is written {loss} * {who}(…)")
    if loss is not None and not (
        callable(loss) and accepts(loss, "student") and accepts(loss, "teacher")
    ):
        raise TypeError(
            f"{who} expected a loss with student= and teacher=, got {loss!r}; such as losses.hint, "
            "or lambda *, student, teacher: …"
        )


class Relation(Match):
    """The geometry of a batch: what is near to what, whatever the space.

    Takes no account of widths, so that no projector is needed.

    Args:
        student: Path of the student's signal.
        teacher: Path of the teacher's; the same by default.
        loss: A loss over the relations in a batch, such as ``losses.similarity``. Items that a
            mask leaves out take no part in them.
        within_micro_batch: That relations inside a micro-batch are meant, as in :class:`Match`.

    Reference:
        Park et al., *Relational knowledge distillation*, 2019.
    """

    key = "relation"
    default: Loss = staticmethod(losses.rkd_distance)

    def __init__(
        self,
        student: str,
        teacher: str | None = None,
        loss: Loss | None = None,
        *,
        within_micro_batch: bool = False,
    ) -> None:
        super().__init__(student, teacher, loss, within_micro_batch=within_micro_batch)
        self.relational = True
