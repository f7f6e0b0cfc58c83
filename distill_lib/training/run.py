"""The parts of one training and its step, on 🤗 Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer as TorchOptimizer

from distill_lib.masks.tokens import aligned
from distill_lib.objective import Objective, Step, Term
from distill_lib.signals import (
    Captured,
    Forward,
    layers_among,
    modes_of,
    set_modes,
    tell,
    unwrapped,
)
from distill_lib.teachers.live import Source, Teacher, models_of

from . import resume as resuming
from .before import (
    cannot_write,
    check_accelerator,
    check_kinds,
    check_layers,
    check_optimizer,
    check_relations,
    check_separate,
    check_sparse,
    fixed_parts,
)
from .history import History
from .lesson import Lesson, allow_unused
from .places import bring, carried, home_of, settle_state
from .processes import Streams, from_first
from .rates import Rate, Rates, Settings, make_optimizer
from .sharded import ready, reshard
from .shares import length

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Optimizer", "Run"]

Optimizer = TorchOptimizer | Callable[[list[nn.Parameter]], TorchOptimizer]


class Run:
    """The parts of one training, made ready by the accelerator."""

    params: list[nn.Parameter]
    plain: bool
    rates: Rates
    sharded: bool
    shared: list[nn.Module]

    def __init__(
        self,
        student: nn.Module,
        teacher: Source | nn.Module | None,
        objective: Objective | Term,
        accelerator: Accelerator | None,
        forward: Forward | None,
    ) -> None:
        check_kinds(student, teacher, objective)
        self.student = student
        self.modes: list[tuple[nn.Module, bool]] = modes_of(student, *models_of(teacher))
        self.fixed: set[nn.Module] = fixed_parts(student)
        self.objective: Objective = 1.0 * objective if isinstance(objective, Term) else objective
        self.forward = forward
        self.logged: int = 0
        # what leaves the student and Accelerate's global state as they were found
        self.undo: ExitStack = ExitStack()
        if not isinstance(self.objective, Objective):
            raise TypeError(f"expected an objective, got {type(self.objective).__name__}")
        check_separate(student, teacher, self.objective, self.fixed)
        self.teacher: Any = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        check_layers(student, self.teacher, self.objective, forward)
        self.accelerator: Any = self._default() if accelerator is None else accelerator
        check_accelerator(self.accelerator)
        self.accumulation: int = self.accelerator.gradient_accumulation_steps
        self.world: int = self.accelerator.num_processes
        check_relations(self.objective, self.accumulation * self.world)
        self.streams: Streams = Streams(self.world, self.accelerator.process_index)
        self.undo.callback(self.streams.end)
        self.wrapped: list[nn.Module] = []

    def _default(self) -> Accelerator:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        # a passing one must not decide the precision of those that the caller makes later
        if not AcceleratorState._shared_state:
            self.undo.callback(AcceleratorState._reset_state)
        return Accelerator()

    def prepare(
        self, optimizer: Optimizer | None, lr: Rate | None, clip_norm: float | None
    ) -> None:
        device = self.accelerator.device
        check_sparse(self.student, clip_norm)
        self.sharded = ready(
            self.accelerator, self.student, self.objective, self.teacher, optimizer
        )
        self.undo.callback(set_modes, self.modes)
        self._settle_teacher(device)
        if isinstance(optimizer, TorchOptimizer):
            self.undo.callback(settle_state, optimizer)
        self.undo.callback(tell(self.student, self.objective.reads("student")))
        layers = layers_among(self.student, self.objective.reads("student"))
        view = Captured(self.student, layers, unseen=True) if layers else self.student
        if isinstance(view, Captured) and view is not self.student:
            self.undo.callback(view.release)
        self.view: nn.Module = view
        if not self.sharded:
            bring(self.undo, device, home_of([self.student]), view, self.objective)
        self.params = [
            p for m in (self.student, self.objective) for p in m.parameters() if p.requires_grad
        ]
        self.clip_norm = clip_norm
        optimizer = make_optimizer(optimizer, self.params)
        check_optimizer(optimizer)
        settle_state(optimizer)
        self.settings: Settings = Settings(optimizer)
        self.rates = Rates(optimizer, lr)
        self.undo.callback(self.rates.undo)
        allow_unused(self.accelerator, self.undo)
        # what is sharded averages its own gradients
        self.lesson: Any = self.accelerator.prepare_model(
            Lesson(view, self.objective, self.forward), evaluation_mode=self.sharded
        )
        self.wrapped.append(self.lesson)
        self.undo.callback(self.accelerator.unwrap_model, self.lesson, keep_fp32_wrapper=False)
        self._track()
        # one process in full precision: the wrappers would do nothing, a hundred times a second
        self.plain = self.world == 1 and self.accelerator.mixed_precision == "no"
        self.optimizer: Any = optimizer
        if not self.plain:
            self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.optimizer.zero_grad()  # what an earlier backward() left is of no step of these
        # the modes as the user set them, not as the teacher's eval() left what both use
        set_modes(self.modes)
        self.student.train()
        for part in self.fixed:
            part.training = False

    def _settle_teacher(self, device: torch.device) -> None:
        """Bring the teacher here and have it say what is read, until the end of training."""
        models = models_of(self.teacher)
        places = {p.device.type for model in models for p in model.parameters()}
        # one that the user put on an accelerator stays on it; an average follows the student
        follows = hasattr(self.teacher, "update") or places <= {"cpu", "meta"}
        if hasattr(self.teacher, "to") and follows:
            bring(self.undo, device, home_of(models), self.teacher)
        if hasattr(self.teacher, "reveal"):
            undo = self.teacher.reveal(self.objective.reads("teacher"))
            if callable(undo):
                self.undo.callback(undo)
        mine = set(self.student.modules())
        self.shared = [part for m in models for part in m.modules() if part in mine]

    def saver(self, path: str | Path, batches: Iterable[Any]) -> resuming.Saver:
        """What writes and reads the checkpoint."""
        identity = {
            **self.identity(),
            resuming.PROCESSES: str(self.world),
            # a place in a walk is so many groups of so many batches
            resuming.ACCUMULATION: str(self.accumulation),
        }
        with suppress(TypeError, NotImplementedError):  # some have no length
            identity[resuming.BATCHES] = str(length(self.accelerator, batches))
        return resuming.Saver(path, self.parts(), identity, batches, self.streams)

    def check_place(self, path: str | Path, copies: int = 1) -> None:
        """Whether the checkpoint can be written, asked before the first step.

        Raises:
            OSError: it cannot.
        """
        size = copies * sum(p.nbytes for p in self.params if not is_lazy(p))
        problem = cannot_write(Path(path), size) if self.streams.rank == 0 else None
        if self.world > 1:
            problem = from_first(problem)
        if problem is not None:
            raise OSError(
                f"the checkpoint {str(path)!r} cannot be written ({problem}); give a file in a "
                "folder that can be written to, before the work of an epoch is lost"
            )

    def parts(self) -> dict[str, Any]:
        """Everything whose state a checkpoint holds."""
        parts: dict[str, Any] = {
            "student": unwrapped(self.student),
            "objective": self.objective,
            "optimizer": self.optimizer,
            "settings": self.settings,
        }
        if hasattr(self.teacher, "state_dict"):
            parts["teacher"] = self.teacher
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        if self.rates.scheduler is not None:
            parts["scheduler"] = self.rates.scheduler
        return parts

    def identity(self) -> dict[str, str]:
        """What must be the same when training goes on."""
        return {
            "teacher": self.teacher.fingerprint() if self.teacher is not None else "none",
            "objective": str(self.objective),
        }

    def seed_everything(self, seed: int | None) -> None:
        """Seed the generators, if asked, and give each of several processes its own."""
        if seed is not None:
            from accelerate.utils import set_seed

            set_seed(seed)
        self.streams.begin()

    def step(self, group: list[tuple[Any, bool]], progress: float) -> dict[str, Tensor | float]:
        """One optimizer step over micro-batches, each with whether it counts."""
        device = self.accelerator.device
        named = [aligned(batch, self.student) for batch, _ in group]
        if device.type != "cpu":
            from accelerate.utils import send_to_device

            named = [send_to_device(batch, device, non_blocking=True) for batch in named]
        counts = [count for _, count in group]
        alone = len(named) == 1 and self.world == 1
        whole = None if alone else self._whole(named, counts)
        asked = self.teacher is not None and self.objective.needs_teacher(progress)
        self.rates.before(progress)
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(named):
            with self._synced(last=i == len(named) - 1):
                found = self._learn(batch, progress, whole, asked, counts[i])
            for name, part in found.items():
                sums[name] = sums[name] + part if name in sums else part
        if self.clip_norm is not None and self.plain:
            nn.utils.clip_grad_norm_(self.params, self.clip_norm)
        elif self.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.params, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if hasattr(self.teacher, "update"):
            self._follow()
        rates = [settings["lr"] for settings in self.optimizer.param_groups]
        record = {**self._over_processes(sums), "lr": max(rates, key=lambda rate: rate or 0.0)}
        # as accelerate does: a step that half precision skipped is none
        if not getattr(self.optimizer, "step_was_skipped", False):
            self.rates.after()
        return record

    def _follow(self) -> None:
        """Let the average follow the student; its buffers are those of the first process."""
        buffers = list(self.student.buffers())
        if self.world > 1 and buffers:
            from accelerate.utils import broadcast

            broadcast(buffers)
        if self.sharded:
            for model in models_of(self.teacher):
                reshard(model)
        self.teacher.update(self.student)

    def _whole(self, named: list[Mapping[str, Any]], counts: list[bool]) -> Step:
        """What the denominators are counted over: the batches of all processes that count."""
        if self.world == 1:
            return Step(named)
        if not any(counts):
            return Step(named, lambda count: self._mean(0 * count))
        return Step([b for b, count in zip(named, counts, strict=True) if count], self._mean)

    def _learn(
        self,
        batch: Mapping[str, Any],
        progress: float,
        whole: Step | None,
        asked: bool,
        counts: bool,
    ) -> dict[str, Tensor]:
        """Forward and backward over one micro-batch."""
        with nullcontext() if self.plain else self.accelerator.autocast():
            teach = partial(self._taught, batch, asked)
            loss, parts = self.lesson(batch, teach, progress, whole)
        if not counts:  # the process goes along with the others, and adds nothing
            loss, parts = 0.0 * loss, {name: 0.0 * part for name, part in parts.items()}
        if self.plain:
            loss.backward()
        else:
            # the accelerator divides by the accumulation; the denominator already did
            self.accelerator.backward(loss * self.accumulation)
        return {"loss": loss.detach(), **parts}

    def _taught(self, batch: Mapping[str, Any], asked: bool) -> Any:
        """The teacher's answer; its eval mode does not reach the parts that the student uses."""
        if not asked:
            return None
        modes = [(part, part.training) for part in self.shared]
        with torch.no_grad():
            taught = carried(self.teacher(batch), self.accelerator.device)
        set_modes(modes)
        return taught

    def _synced(self, last: bool) -> AbstractContextManager[Any]:
        if last or self.world == 1:
            return nullcontext()
        unsynced: AbstractContextManager[Any] = self.accelerator.no_sync(
            self.student if self.sharded else self.lesson
        )
        return unsynced

    def _mean(self, value: Tensor) -> Tensor:
        # gradients are averaged over processes: so are the counts they are divided by
        reduced = self.accelerator.reduce(value, reduction="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    def _over_processes(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The step's values over the batches of all processes."""
        if self.world == 1:
            return sums
        values = self._mean(torch.stack([value.float() for value in sums.values()]))
        return dict(zip(sums, values, strict=True))

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
