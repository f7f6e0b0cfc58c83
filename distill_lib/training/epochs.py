"""After every epoch: a function of the user's, the best weights so far, and whether to go on."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

from torch import Tensor

from distill_lib.signals import Captured, modes_of, set_modes
from distill_lib.teachers.live import models_of

from .history import History
from .order import OrderOf
from .processes import everyones, rng_state, set_rng_state
from .rates import Rates
from .run import Run
from .sharded import gathered, laid_out

__all__ = ["EachEpoch", "Epochs"]

EachEpoch = Callable[[int, History], Mapping[str, Any] | None]

# what evaluate says of a model and is better when it is smaller
SMALLER = ("nll", "ece", "mae", "mse")


class Epochs:
    """Calls the function, keeps the best weights, and knows when it is enough.

    Args:
        function: ``function(epoch, history)``, or None.
        keep_best: The name of a number, ``"-name"`` where smaller is better, or None.
        patience: How many epochs may pass without a better one.

    Raises:
        TypeError: no function; a name that is no text.
        ValueError: one without what it needs, or a name whose smallest value is the best.
    """

    function: EachEpoch | None
    keep_best: str | None
    patience: int | None

    def __init__(
        self, function: EachEpoch | None, keep_best: str | None, patience: int | None
    ) -> None:
        if function is not None and not callable(function):
            raise TypeError(
                "each_epoch is a function that is called after each epoch, such as lambda epoch, "
                f"history: evaluate(student, batches); got a {type(function).__name__}"
            )
        if function is not None and not _takes_two(function):
            raise TypeError(
                "each_epoch is called with two arguments, the number of the epoch and the history, "
                f"and {inspect.signature(function)} does not take these"
            )
        if keep_best is not None and not (isinstance(keep_best, str) and keep_best.strip("-")):
            raise TypeError(
                "keep_best is the name of a number that each_epoch gives, such as 'accuracy', or "
                f"'-nll' where smaller is better; got {keep_best!r}"
            )
        if keep_best in SMALLER:
            raise ValueError(f"{keep_best} is better when it is smaller: keep_best='-{keep_best}'")
        if keep_best is not None and function is None:
            raise ValueError(
                f"keep_best={keep_best!r} needs each_epoch=, which gives that number, such as "
                "lambda epoch, history: evaluate(student, batches)"
            )
        if patience is not None and keep_best is None:
            raise ValueError("patience needs keep_best=, the name of what has to become better")
        if patience is not None and patience < 1:
            raise ValueError(f"patience is at least 1 epoch, got {patience}")
        self.function, self.keep_best, self.patience = function, keep_best, patience
        self.name: str = (keep_best or "").removeprefix("-")
        self.sign: float = -1.0 if (keep_best or "").startswith("-") else 1.0
        self.step: int = 0  # of the last call
        self.value: float | None = None
        self.since: int = 0
        self.best: dict[str, Any] = {}

    @property
    def stopped(self) -> bool:
        """Whether so many epochs were no better that training ends."""
        return self.patience is not None and self.since >= self.patience

    def check(self, rates: Rates) -> None:
        """Refuse schedulers that would not be stepped, or by the wrong number.

        Raises:
            ValueError: such a scheduler.
        """
        if rates.plateau is not None and self.keep_best is None:
            raise ValueError(
                "ReduceLROnPlateau needs a number after each epoch: give each_epoch= and keep_best="
            )
        if rates.plateau not in (None, "max" if self.sign > 0 else "min"):
            raise ValueError(
                f"ReduceLROnPlateau has mode={rates.plateau!r}, but keep_best={self.keep_best!r}: "
                "'max' goes with 'name', 'min' with '-name'"
            )
        if self.function is None and rates.is_idle:
            raise ValueError(
                "the optimizer has a scheduler of torch that nobody would step: pass the scheduler "
                "itself as lr, to be stepped after each step; or step it in each_epoch"
            )

    def over(
        self, run: Run, batches: Iterable[Any], epoch: int, step: int, history: History
    ) -> None:
        """An epoch is over; a second call at the same step, after a resume, does nothing."""
        if self.function is None or step == self.step:
            return
        numbers = self._ask(run, batches, epoch, history)
        self.step = step
        if numbers:
            history.note(numbers)
            if run.accelerator.trackers:
                run.accelerator.log(numbers, step=step)
        if self.keep_best is not None and (numbers or self.value is None):
            self._compare(run, epoch, numbers)

    def _ask(
        self, run: Run, batches: Iterable[Any], epoch: int, history: History
    ) -> dict[str, float]:
        """What the function says; of several processes, what it says in the first."""
        assert self.function is not None
        numbers: dict[str, float] = {}
        error: Exception | None = None
        with _undisturbed(run, batches):
            try:
                numbers = _numbers(self.function(epoch, history))
            except Exception as caught:
                error = caught
        if run.world > 1:
            every = everyones((numbers, None if error is None else repr(error)))
            failed = [f"{rank} ({what})" for rank, (_, what) in enumerate(every) if what]
            if failed and error is None:
                raise RuntimeError(f"each_epoch failed in process {', '.join(failed)}")
            numbers = every[0][0]
        if error is not None:
            raise error
        # a gradient that the function left would be added to the next one
        run.optimizer.zero_grad()
        return numbers

    def _compare(self, run: Run, epoch: int, numbers: Mapping[str, float]) -> None:
        value = numbers.get(self.name)
        if value is None or math.isnan(value):
            came = ", ".join(f"{name}={number:.4g}" for name, number in numbers.items())
            raise ValueError(
                f"keep_best={self.keep_best!r} needs a number {self.name!r}, and after epoch "
                f"{epoch} each_epoch gave {came or 'nothing'}"
            )
        if self.value is None or self.sign * value > self.sign * self.value:
            self.value, self.since = value, 0
            self.best = {
                name: _copy(gathered(part.state_dict())) for name, part in _trained(run).items()
            }
        else:
            self.since += 1
        if run.rates.plateau is not None:
            run.rates.scheduler.step(value)

    def finish(self, run: Run) -> None:
        """Leave the best weights, where they were to be kept."""
        parts = _trained(run)
        for name, state in self.best.items():
            laid_out(parts[name], state)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: the best weights, their value, and how long ago they were."""
        names = ("keep_best", "step", "value", "since", "best")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint.

        Raises:
            ValueError: it kept the best of another number.
        """
        self.step = int(state["step"])
        if self.keep_best is None or state["value"] is None:
            return
        if state["keep_best"] != self.keep_best:
            raise ValueError(
                f"it kept the best by keep_best={state['keep_best']!r}, now {self.keep_best!r}"
            )
        self.value, self.since = float(state["value"]), int(state["since"])
        self.best = dict(state["best"])


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(1, None)
    except TypeError:
        return False
    except ValueError:  # some functions written in C do not tell
        return True
    return True


def _trained(run: Run) -> dict[str, Any]:
    """What training changes; of the teachers, an average of the student."""
    names = ["student", "objective", *(["teacher"] if hasattr(run.teacher, "update") else [])]
    return {name: part for name, part in run.parts().items() if name in names}


@contextlib.contextmanager
def _undisturbed(run: Run, batches: Iterable[Any]) -> Iterator[None]:
    """Modes, random generators and the order of the batches are afterwards what they were."""
    modes = modes_of(run.student, run.objective, *models_of(run.teacher))
    rng, order = rng_state(), OrderOf(batches)
    # a source that knows its place in a walk plays on: its state is no order of batches
    before = {} if order.midway else order.state()
    view = run.view if isinstance(run.view, Captured) else None
    if view is not None:
        view.release()  # a copy of the student would take the hooks along
    try:
        yield
    finally:
        if view is not None:
            view.attach()
        set_modes(modes)
        if not order.midway and pickle.dumps(order.state()) != pickle.dumps(before):
            with contextlib.suppress(ValueError):  # the user made other batches of it
                order.put_back(before)
        set_rng_state(rng)


def _numbers(found: Any) -> dict[str, float]:
    """Numbers by name; those of a list or tensor are ``name/0``, ``name/1``, …"""
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise TypeError(
            "each_epoch returns a mapping of numbers, such as evaluate(student, batches), or None; "
            f"it returned a {type(found).__name__}"
        )
    return dict(pair for name, value in found.items() for pair in _flat(str(name), value))


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        for i, one in enumerate(value):
            yield from _flat(f"{name}/{i}", one)
    elif isinstance(value, Real):
        yield name, float(value)
    else:
        raise TypeError(
            f"each_epoch returns numbers, and {name!r} is a {type(value).__name__}: {value!r}"
        )


def _copy(value: Any) -> Any:
    """A copy in main memory: the accelerator's is short."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # a state has versions as an attribute
        copied.update({key: _copy(one) for key, one in value.items()})
        return copied
    return copy.deepcopy(value)
