"""Student and objective as one module, whose answer is the loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from distill_lib.objective import Step
from distill_lib.signals import Forward, call, layers_of
from distill_lib.teachers.shown import Shown

__all__ = ["Lesson", "allow_unused"]


class Lesson(nn.Module):
    """What several processes average the gradients of.

    DDP waits for the gradient of every weight that what a module returns depends on. The loss need
    not depend on all that the student's answers do: a term on a hidden layer trains no head.
    """

    def __init__(self, view: nn.Module, objective: nn.Module, ask: Forward | None) -> None:
        super().__init__()
        self.view: nn.Module = view
        self.objective: nn.Module = objective
        self.ask: Forward | None = ask

    def forward(
        self,
        batch: Mapping[str, Any],
        teach: Callable[[], Any],
        progress: float,
        denom: Step | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts; the teacher is asked after the student.

        Raises:
            KeyError: a signal or a layer that the student does not have.
            ValueError: a student or a teacher that changes the batch, of which both are asked; a
                loss without a gradient.
        """
        shown = Shown(batch)
        said = call(self.view, batch, self.ask)
        shown.check("student", self.view)
        taught = teach()
        shown.check("teacher")
        try:
            found: tuple[Tensor, dict[str, Tensor]] = self.objective(
                said, taught, batch, progress=progress, denom=denom
            )
        except KeyError as error:  # a signal that is none may be a layer that is misspelt
            names = [*layers_of(self.view)]
            raise KeyError(
                f"{error.args[0]} The student's layers are {', '.join(names[:40])}"
                f"{', …' if len(names) > 40 else ''}"
            ) from error
        if not found[0].requires_grad:
            raise ValueError(
                "the loss depends on nothing that is trained: what the objective reads of the "
                "student was detached, answered under torch.no_grad(), or is class numbers (argmax)"
            )
        return found


def allow_unused(accelerator: Any, undo: ExitStack) -> None:
    """Have DDP leave weights alone that no process has a gradient for, as one process does."""
    if accelerator.num_processes == 1 or accelerator.ddp_handler is not None:
        return
    from accelerate import DistributedDataParallelKwargs

    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    undo.callback(setattr, accelerator, "ddp_handler", None)
    undo.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified", UserWarning)
