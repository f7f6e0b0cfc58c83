"""Who sets an optimizer's learning rates: a schedule of ours, a scheduler of torch, or nobody."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from distill_lib.schedules import Schedule, as_schedule

__all__ = ["Rate", "Rates", "Settings", "make_optimizer"]

LOOKS = 100  # at a schedule before the first step, beside the look at each step
MARK = "_wrapped_by_lr_sched"  # of torch, on the step of an optimizer that has a scheduler

Rate = Schedule | float | LRScheduler | Callable[[Any], LRScheduler]


class Settings:
    """What an optimizer was given; where it says something new when training goes on, that counts.

    A checkpoint of the optimizer itself would bring back the old settings in silence.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer: Any = optimizer
        self.given: list[dict[str, Any]] = copy.deepcopy(
            [_without_params(g) for g in optimizer.param_groups]
        )

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"given": self.given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what is new; to be called after the optimizer has its own state."""
        groups = self.optimizer.param_groups  # its own state came as new ones
        for group, now, then in zip(groups, self.given, state["given"], strict=True):
            group.update({k: v for k, v in now.items() if k not in then or _differ(v, then[k])})


def _without_params(group: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in group.items() if k != "params"}


def _differ(now: Any, then: Any) -> bool:
    if isinstance(now, (tuple, list)) and isinstance(then, (tuple, list)):
        return len(now) != len(then) or any(map(_differ, now, then))
    return bool(now != then)


class Rates:
    """Sets the rates before each step, or has a scheduler do so after each.

    Args:
        optimizer: The optimizer itself, before an accelerator wraps it.
        lr: A number or a schedule: the highest rate of the groups, the others in proportion. A
            scheduler of torch on this optimizer, or a function from the optimizer to one. None:
            the optimizer has its own rates.

    Raises:
        TypeError: anything else.
        ValueError: a scheduler of another optimizer, or one on this optimizer that would be
            overridden; a schedule with rates below 0, infinite or nan.
    """

    def __init__(self, optimizer: Optimizer, lr: Rate | None) -> None:
        self.optimizer: Any = optimizer
        self.schedule: Schedule | None = None
        self.scheduler: Any = None
        self._undo: list[dict[str, Any]] | None = None
        if isinstance(lr, LRScheduler):
            self._take(lr)
        elif lr is not None:
            if self.has_other:
                raise ValueError(
                    "the optimizer has a scheduler of torch, which lr would override: pass the "
                    "scheduler itself as lr, or an optimizer without one"
                )
            self._undo = copy.deepcopy([_without_params(group) for group in self._groups])
            self._step = vars(optimizer).get("step")
            if callable(lr) and not isinstance(lr, Schedule):
                self._make(lr)
            else:
                self.schedule = as_schedule(lr)
                for look in range(LOOKS + 1 if self.schedule.fixed is None else 1):
                    _check(self.schedule(look / LOOKS), self.schedule, look / LOOKS)
                rates = [float(group["lr"]) for group in self._groups]
                top = max(rates)
                # how the rates of the groups stand to each other, which a schedule keeps
                self._shares = [rate / top if top else 1.0 for rate in rates]

    @property
    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return groups

    @property
    def _inner(self) -> Any:
        # Accelerate's optimizer is a shell around the one that a scheduler was made for
        return getattr(self.optimizer, "optimizer", self.optimizer)

    @property
    def plateau(self) -> str | None:
        """The mode of a scheduler that asks for a number after each epoch: min or max."""
        return self.scheduler.mode if isinstance(self.scheduler, ReduceLROnPlateau) else None

    @property
    def is_idle(self) -> bool:
        """Whether the optimizer has a scheduler of the user's that no hook could step."""
        hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
        return self.has_other and not any(getattr(self._inner, name, None) for name in hooks)

    def check(self, steps: int) -> None:
        """Whether the scheduler goes as far as training; one that does not raises when it is over.

        Raises:
            ValueError: it ends before.
        """
        inner = [self.scheduler, *getattr(self.scheduler, "_schedulers", ())]
        ends = [s.total_steps - s.last_epoch for s in inner if isinstance(s, OneCycleLR)]
        if min(ends, default=steps) < steps:
            raise ValueError(
                f"OneCycleLR ends after {min(ends)} steps, and there are {steps} to go: make it "
                f"with total_steps={steps}"
            )

    def _take(self, scheduler: LRScheduler) -> None:
        if scheduler.optimizer is not self.optimizer and scheduler.optimizer is not self._inner:
            raise ValueError(
                f"lr is a {type(scheduler).__name__} of another optimizer: pass that one as "
                "optimizer= too, or as lr a function from the optimizer to its scheduler"
            )
        self.scheduler = scheduler

    @property
    def has_other(self) -> bool:
        """Whether a scheduler was made for the optimizer elsewhere."""
        unseen = self._undo is None and self.scheduler is None
        return unseen and hasattr(getattr(self._inner, "step", None), MARK)

    def before(self, progress: float) -> None:
        """Set the rates of the step that is to come.

        Raises:
            ValueError: one is below 0, infinite or nan, whoever set it.
        """
        if self.schedule is None:
            for group in self._groups:
                _check(group.get("lr"), self.scheduler or self.optimizer, progress)
        else:
            rate = _check(self.schedule(progress), self.schedule, progress)
            for group, share in zip(self._groups, self._shares, strict=True):
                group["lr"] = share * rate

    def after(self) -> None:
        """Have the scheduler set those of the next."""
        if self.scheduler is not None and self.plateau is None:
            self.scheduler.step()

    def undo(self) -> None:
        """Leave the optimizer with the rates that it came with, as far as they were set here."""
        if self._undo is None:
            return
        for group, settings in zip(self._groups, self._undo, strict=True):
            if self.schedule is not None:
                group["lr"] = settings["lr"]
            else:  # a scheduler sets more: momentum, and marks of its own
                for key in group.keys() - settings.keys() - {"params"}:
                    del group[key]
                group.update(settings)
        if self.schedule is None:
            # a scheduler counts the optimizer's steps by a method of its own
            vars(self.optimizer).pop("step", None)
            vars(self.optimizer).update({} if self._step is None else {"step": self._step})

    def _make(self, lr: Callable[[Any], LRScheduler]) -> None:
        """Have a function make the scheduler."""
        cause, made = None, None
        try:
            made = lr(self.optimizer)
        except TypeError as error:
            cause = error
        if isinstance(made, LRScheduler) and made.optimizer is self.optimizer:
            self.scheduler = made
            return
        self.undo()
        raise TypeError(
            "lr expected a number, a schedule, or a function from the optimizer to one of torch's "
            "schedulers on it, such as lambda optimizer: StepLR(optimizer, 100); it gave "
            f"{cause or type(made).__name__}. A function of progress becomes a schedule by "
            "Schedule(function, 'name')"
        ) from cause


def _check(rate: Any, who: object, progress: float) -> Any:
    """A rate below 0 would train uphill, without a word.

    Raises:
        ValueError: such a rate, or one that is no finite number.
    """
    # some optimizers have none; one on an accelerator is not looked at, which would wait for it
    unseen = rate is None or (isinstance(rate, Tensor) and rate.device.type != "cpu")
    if unseen or 0 <= rate < math.inf:
        return rate
    if isinstance(who, Schedule):
        of = "" if who.fixed is not None else f" of {who} at progress {progress:g}"
    else:
        of = f" of {type(who).__name__} at progress {progress:g}"
    raise ValueError(
        f"a learning rate is at least 0 and finite, got {float(rate):g}{of}; to maximize, give an "
        "optimizer with maximize=True"
    )


def make_optimizer(optimizer: Any, params: list[nn.Parameter]) -> Optimizer:
    """The optimizer that was given, made, or AdamW."""
    if optimizer is None:
        # One call a step instead of ten for each tensor, a third of the time of a small network. On
        # an accelerator torch has its own choice, and mixed precision counts skipped steps by it.
        plain = all(p.device.type == "cpu" and p.is_floating_point() for p in params)
        return AdamW(params, lr=1e-3, fused=plain or None)
    makes = callable(optimizer) and not isinstance(optimizer, Optimizer)
    made: Any = optimizer(params) if makes else optimizer
    if isinstance(made, Optimizer):
        held = {id(p) for group in made.param_groups for p in group["params"]}
        forgotten = sum(id(p) not in held for p in params)
        if forgotten:
            raise ValueError(
                f"the optimizer forgets {forgotten} of {len(params)} parameters, such as those of "
                "the objective's projectors: build it over [*student.parameters(), "
                "*objective.parameters()], or pass a function from parameters to an optimizer of "
                "all that it is given; what is not to be trained is requires_grad_(False)"
            )
    return made  # type: ignore[no-any-return]
