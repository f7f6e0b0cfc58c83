"""What a term is given: a user's loss, and the signals of student and teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import told
from distill_lib.masks import IGNORE
from distill_lib.objective import name_of
from distill_lib.schedules import Schedule
from distill_lib.signals import Signals, accepts, pick, signature_of

from .classes import class_axis

__all__ = [
    "ALIKE",
    "along",
    "both",
    "check_call",
    "check_name",
    "check_pair",
    "ignored",
    "mapped",
    "reduces",
    "takes",
    "temperature_at",
    "times_squared",
    "unfit",
    "weights",
    "whole",
    "wrapped",
]

# of torch, of answers and labels in one shape
ALIKE = {
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss"),
    *("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "BCEWithLogitsLoss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "BCELoss"),
}


def takes(loss: Callable[..., Any], name: str) -> bool:
    """Whether a loss can be given a keyword of that name."""
    rest = signature_of(loss).parameters.values()
    return accepts(loss, name) or any(p.kind is p.VAR_KEYWORD for p in rest)


def reduces(loss: Callable[..., Any]) -> bool:
    """Whether a function can be told how to average."""
    return not isinstance(loss, nn.Module) and accepts(loss, "reduction")


def wrapped(loss: Any) -> str:
    """How a loss of torch, of two answers, becomes one of ``student=`` and ``teacher=``."""
    name = name_of(loss)
    if name in ("kl_div", "KLDivLoss"):
        return "losses.kl is that divergence, of logits"
    how = "wrap it: lambda *, student, teacher: "
    mean = ".mean(-1)" if name in ALIKE else ""
    if isinstance(loss, nn.Module):
        kept = 'reduction="none"' if hasattr(loss, "reduction") else "…"
        return f"{how}{name}({kept})(student, teacher){mean}"
    kept = ', reduction="none"' if reduces(loss) else ""
    return f"{how}{name}(student, teacher{kept}){mean}"


def check_call(loss: Callable[..., Any], who: str, *names: str) -> None:
    """A loss can be called with these keywords, and wants no others.

    Raises:
        TypeError: it cannot.
    """
    try:
        signature_of(loss).bind(**dict.fromkeys(names))
    except TypeError as error:
        raise TypeError(
            f"{who} gives {name_of(loss)} {', '.join(names)}, and {error}; give what is missing as "
            f"an option, such as {who}(loss, name=value), or a default"
        ) from None


def check_pair(loss: Callable[..., Any], who: str, options: Mapping[str, Any]) -> None:
    """A loss can be called with an answer, labels, and these options.

    Raises:
        TypeError: it cannot.
    """
    for option in options:
        if not takes(loss, option):
            raise TypeError(f"{name_of(loss)} takes no argument {option!r}")
    try:
        signature_of(loss).bind(None, None, **options)
    except TypeError as error:
        if signature_of(loss).parameters:  # some that are written in C tell nothing
            raise TypeError(
                f"{who} calls {name_of(loss)}(answer, labels), and {error}; give what is missing "
                "as an option, or wrap it: lambda answer, labels: …"
            ) from None


def unfit(who: str, z: Tensor, y: Tensor, error: Exception) -> ValueError:
    """What to say where a loss cannot take answers and labels."""
    if isinstance(error, IndexError):  # as torch has it on a CPU
        return ValueError(
            f"{who}: labels {y.min():g} to {y.max():g} are none of the classes of answers "
            f"{list(z.shape)}; number them from 0, or leave one out: ignore_index="
        )
    return ValueError(
        f"{who}: the loss cannot take answers {list(z.shape)} of {z.dtype} and labels "
        f"{list(y.shape)} of {y.dtype} ({str(error).splitlines()[0]}). Labels in the shape of the "
        "answers get their type, others stay as they are; a loss that wants them otherwise is "
        "wrapped: lambda answer, labels: …"
    )


def check_name(name: str, value: Any, who: str) -> None:
    """A name is a string that is not empty.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str) or not value:
        raise TypeError(f"{who}: {name} is a name, got {value!r}")


def whole(name: str, value: Any, hint: str) -> int:
    """A whole number, of Python or of numpy.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} expected a whole number, got {told(value)}; {hint}")
    return int(value)


def ignored(value: Any, loss: Any) -> float | None:
    """The label of what is left out, said or known to the loss; None where it is the default.

    Raises:
        TypeError: what is no number.
    """
    if value is None:  # else a loss of torch would call it 0, and the mean would count it
        known = getattr(loss, "keywords", {}).get("ignore_index", IGNORE)
        known = getattr(loss, "ignore_index", known)
        value = None if known == IGNORE else known
    if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
        raise TypeError(f"ignore_index expected a number, or nan, got {told(value)}; -100 is usual")
    return None if value is None else value if isinstance(value, int) else float(value)


def weights(name: str, given: Any) -> Tensor | None:
    """One number a class, at least 0.

    Raises:
        TypeError: what holds no numbers.
        ValueError: other numbers, or another shape.
    """
    if given is None:
        return None
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is one number a class, as [1.0, 5.0], got {told(given)}") from None
    real = not found.is_complex()
    found = found if found.is_floating_point() or not real else found.to(torch.get_default_dtype())
    if not real or found.ndim != 1 or not bool(((found >= 0) & found.isfinite()).all()):
        raise ValueError(f"{name} is one number a class, at least 0, got {given!r}")
    return found


def along(weight: Tensor, shape: torch.Size, axis: int | None, who: str) -> Tensor:
    """Numbers [C] laid along the axis of the classes, so that they multiply logits.

    Raises:
        ValueError: another number of classes; an axis that was not named and may be another.
    """
    if len(weight) == 1:  # of a yes or no, whose axis may be missing
        return weight
    at = class_axis(shape, axis, None, who) if len(shape) > 1 else 0
    if not at or shape[at] != len(weight):
        raise ValueError(
            f"{who} has {len(weight)} numbers for {shape[at] if at else 1} labels, logits "
            f"{list(shape)}; give one a label, and axis= where it is not the last"
        )
    return weight.reshape(-1, *[1] * (-at - 1))


def mapped(who: str, name: str, module: nn.Module, signal: Tensor) -> Any:
    """What a module of a term says of a signal.

    Raises:
        ValueError: it cannot take it.
    """
    try:
        return module(signal)
    except (RuntimeError, ValueError, IndexError) as error:
        way = (
            "nn.LazyLinear(theirs) fits the last axis and nn.LazyConv2d(theirs, 1) the channels "
            "of a map, and each finds the width itself"
        )
        kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
        if kinds - {signal.dtype} and "type" in str(error):
            way = f"the signal is of {signal.dtype}: call .to({signal.dtype}) on the {name}"
        raise ValueError(
            f"{who}: {name}={module} cannot take a signal {list(signal.shape)} "
            f"({str(error).splitlines()[0]}); {way}"
        ) from error


def temperature_at(temperature: Schedule, progress: float, who: str) -> float:
    """A temperature as it is now.

    Raises:
        ValueError: one that is not positive, which a schedule may have at some time.
    """
    T = temperature(progress)
    if not T > 0:
        raise ValueError(
            f"{who}: temperature expected a number > 0, got {T:g} at progress {progress:g} of "
            f"{temperature}; a schedule may end at 0, and be nowhere below"
        )
    return T


def both(
    student: Signals, teacher: Signals | None, on: str, teacher_on: str
) -> tuple[Tensor, Tensor]:
    """What a term compares: the student's signal and the teacher's, through which nothing flows."""
    assert teacher is not None  # an objective asks for one where a term reads its signals
    return pick(student, on, "student"), pick(teacher, teacher_on, "teacher").detach()


def times_squared(values: Tensor, T: float, theirs: float) -> Tensor:
    r"""T·T' times a divergence, as long as the type can tell it from its own rounding.

    The divergence falls like 1/T², its rounding does not: in float32 a loss of 8 is read as 7 at
    T = 10,000, and as -14 at 100,000.

    Raises:
        ValueError: temperatures above about 1,000 in float32, 20 million in float64.
    """
    if T == theirs == 1.0 or not isinstance(values, Tensor):  # which the objective refuses
        return values
    if T * theirs > 0.1 / torch.finfo(values.dtype).eps:
        raise ValueError(
            f"at temperature {max(T, theirs):g} the rounding of {values.dtype} is about as large "
            "as the loss; take a few hundred at most, or what high temperatures tend to: "
            "0.5 * KD(losses.mse_logits, center=True)"
        )
    return T * theirs * values
