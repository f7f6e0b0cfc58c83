"""The parts of one training and its step, on 🤗 Accelerate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim import Optimizer as TorchOptimizer

from distill_lib.objective import Objective, Step, Term
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.signals import Captured, Forward, as_batch, call, capture, layers_among, tell
from distill_lib.teachers.live import Source, Teacher

from . import resume as resuming
from .history import History

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Optimizer", "Run"]

Optimizer = TorchOptimizer | Callable[[list[nn.Parameter]], TorchOptimizer]


class Run:
    """The parts of one training, made ready by the accelerator."""

    def __init__(
        self,
        student: nn.Module,
        teacher: Source | nn.Module | None,
        objective: Objective | Term,
        accelerator: Accelerator | None,
        forward: Forward | None,
    ) -> None:
        self.student = student
        self.teacher: Any = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        self.objective = 1.0 * objective if isinstance(objective, Term) else objective
        self.forward = forward
        self.logged = 0
        # what leaves the student and Accelerate's global state as they were found
        self.undo = ExitStack()
        if any(model is student for model in getattr(self.teacher, "models", lambda: ())()):
            raise ValueError(
                "the teacher is the student itself and would be frozen; "
                "for an average of its past use EMA(student, decay), for a copy copy.deepcopy"
            )
        if not isinstance(self.objective, Objective):
            raise TypeError(f"expected an objective, got {type(self.objective).__name__}")
        self.accelerator = self._default() if accelerator is None else accelerator
        self.accumulation = self.accelerator.gradient_accumulation_steps
        self.world = self.accelerator.num_processes

    def _default(self) -> Accelerator:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        # a passing one must not decide the precision of those that the caller makes later
        if not AcceleratorState._shared_state:
            self.undo.callback(AcceleratorState._reset_state)
        return Accelerator()

    def prepare(
        self, optimizer: Optimizer | None, lr: Schedule | float | None, clip_norm: float | None
    ) -> None:
        device = self.accelerator.device
        if hasattr(self.teacher, "to"):
            self.teacher.to(device)
        if hasattr(self.teacher, "reveal"):
            self.teacher.reveal(self.objective.reads("teacher"))
        self.undo.callback(tell(self.student, self.objective.reads("student")))
        layers = layers_among(self.student, self.objective.reads("student"))
        view = capture(self.student, *layers) if layers else self.student
        if isinstance(view, Captured) and view is not self.student:
            self.undo.callback(view.release)
        view.to(device)
        self.objective.to(device)
        self.params = [
            p for m in (self.student, self.objective) for p in m.parameters() if p.requires_grad
        ]
        self.lr = None if lr is None else as_schedule(lr)
        self.clip_norm = clip_norm
        optimizer = _make_optimizer(optimizer, self.params, lr)
        has_params = any(p.requires_grad for p in self.objective.parameters())
        self.loss_of = (
            self.accelerator.prepare_model(self.objective) if has_params else self.objective
        )
        self.view = self.accelerator.prepare_model(view)
        for model in (self.view, self.loss_of):
            self.undo.callback(self.accelerator.unwrap_model, model, keep_fp32_wrapper=False)
        self._track()
        # one process in full precision: the wrappers would do nothing, a hundred times a second
        self.plain = self.world == 1 and self.accelerator.mixed_precision == "no"
        self.optimizer: Any = optimizer
        if not self.plain:
            self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.student.train()

    def saver(self, path: str | Path, batches: Iterable[Any]) -> resuming.Saver:
        write = bool(self.accelerator.is_main_process)
        return resuming.Saver(path, self.parts(), self.identity(), batches, write)

    def parts(self) -> dict[str, Any]:
        """Everything whose state a checkpoint holds."""
        parts: dict[str, Any] = {
            "student": self.student,
            "objective": self.objective,
            "optimizer": self.optimizer,
        }
        if hasattr(self.teacher, "state_dict"):
            parts["teacher"] = self.teacher
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts

    def identity(self) -> dict[str, str]:
        """What must be the same when training goes on."""
        return {
            "teacher": self.teacher.fingerprint() if self.teacher is not None else "none",
            "objective": str(self.objective),
        }

    def seed_everything(self, seed: int) -> None:
        from accelerate.utils import set_seed

        set_seed(seed)

    def shard(self, batches: Iterable[Any]) -> Iterator[Any]:
        """This process's share: every world-th batch, in the order of the first process."""
        if self.world > 1:
            from accelerate.utils import synchronize_rng_states

            synchronize_rng_states(["torch"])
        return itertools.islice(iter(batches), self.accelerator.process_index, None, self.world)

    def step(self, group: list[Any], progress: float) -> dict[str, Tensor | float]:
        """One optimizer step over the micro-batches of a group."""
        device = self.accelerator.device
        named = [as_batch(batch) for batch in group]
        if device.type != "cpu":
            from accelerate.utils import send_to_device

            named = [send_to_device(batch, device, non_blocking=True) for batch in named]
        alone = len(named) == 1 and self.world == 1
        whole = None if alone else Step(named, self._total if self.world > 1 else None)
        asked = self.teacher is not None and self.objective.needs_teacher(progress)
        if self.lr is not None:
            for settings in self.optimizer.param_groups:
                settings["lr"] = self.lr(progress)
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(named):
            with self._synced(last=i == len(named) - 1):
                found = self._learn(batch, progress, whole, asked)
            for name, part in found.items():
                sums[name] = sums[name] + part if name in sums else part
        if self.clip_norm is not None and self.plain:
            nn.utils.clip_grad_norm_(self.params, self.clip_norm)
        elif self.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.params, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if hasattr(self.teacher, "update"):
            self.teacher.update(self.student)
        return {**sums, "lr": self.optimizer.param_groups[0]["lr"]}

    def _learn(
        self, batch: Mapping[str, Any], progress: float, whole: Step | None, asked: bool
    ) -> dict[str, Tensor]:
        """Forward and backward over one micro-batch."""
        with nullcontext() if self.plain else self.accelerator.autocast():
            said = call(self.view, batch, self.forward)
            taught = self.teacher(batch) if asked and self.teacher is not None else None
            loss, parts = self.loss_of(said, taught, batch, progress=progress, denom=whole)
        if self.plain:
            loss.backward()
        else:
            # the accelerator divides by the accumulation; the denominator already did
            self.accelerator.backward(loss * self.accumulation)
        return {"loss": loss.detach(), **parts}

    def _synced(self, last: bool) -> AbstractContextManager[Any]:
        if last or self.world == 1:
            return nullcontext()
        unsynced: AbstractContextManager[Any] = self.accelerator.no_sync(self.view)
        return unsynced

    def _total(self, count: Tensor) -> Tensor:
        # gradients are averaged over processes: the denominator is the average count
        reduced = self.accelerator.reduce(count, reduction="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    def log(self, history: History) -> None:
        """Send the rows that are new to the accelerator's trackers."""
        if self.accelerator.trackers:
            for record in history.records[self.logged :]:
                values = {k: v for k, v in record.items() if k != "step"}
                self.accelerator.log(values, step=int(record["step"]))
            self.logged = len(history.records)

    def _track(self) -> None:
        """Start the trackers that the accelerator was made with, and close them at the end."""
        if self.accelerator.log_with and not self.accelerator.trackers:
            self.accelerator.init_trackers("distill")
            self.undo.callback(self.accelerator.trackers.clear)
            for tracker in self.accelerator.trackers:
                self.undo.callback(tracker.finish)


def _make_optimizer(
    optimizer: Optimizer | None, params: list[nn.Parameter], lr: Schedule | float | None
) -> TorchOptimizer:
    if optimizer is None:
        return AdamW(params, lr=1e-3)
    if isinstance(optimizer, TorchOptimizer):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        forgotten = sum(id(p) not in held for p in params)
        if forgotten:
            raise ValueError(
                f"the optimizer forgets {forgotten} of {len(params)} parameters, such as those of "
                "the objective's projectors: build it over [*student.parameters(), "
                "*objective.parameters()], or pass a function from parameters to an optimizer"
            )
        return optimizer
    return optimizer(params)
