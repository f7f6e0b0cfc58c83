"""An exercise knows its right answer, and the wrong ones that students give.

An exercise asks for a
number, a tensor, a choice among words, or a function. A function is run on drawn inputs against
the reference, then against the listed mistakes, then against properties such as "has a gradient".
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Exercise", "verdict"]

Property = Callable[[Callable[..., Any]], "str | None"]

NEARLY = 0.02  # relative error of an answer that only lacks digits
KINDS = ("number", "tensor", "choice", "callable")


@dataclass(frozen=True)
class Exercise:
    """What is asked, what is right, and which mistakes have a name.

    Args:
        id: As in the text, such as ``"ex-temperature_and_kl-2"``: the page's name, then a number.
        right: The number, tensor, word, or reference function.
        wrong: Listed wrong answers, each with the reason the student reads.
        kind: ``"number"``, ``"tensor"``, ``"choice"`` or ``"callable"``.
        tolerance: Allowed error, relative to the size of the right answer where that is above 1.
        inputs: For functions: the draw (0, 1, 2, …) to keyword arguments.
        properties: For functions: each takes the student's function and returns what is wrong
            with it, or None.
        hint: Said after an answer that is wrong in no listed way.

    Raises:
        ValueError: A listed wrong answer would be accepted, or the definition is incomplete.
    """

    id: str
    right: Any
    wrong: Mapping[Any, str] = field(default_factory=dict)
    kind: str = "number"
    tolerance: float = 1e-4
    inputs: Callable[[int], dict[str, Any]] | None = None
    properties: tuple[Property, ...] = ()
    hint: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.id}: kind must be one of {', '.join(KINDS)}.")
        if self.kind == "callable" and self.inputs is None:
            raise ValueError(f"{self.id}: a function is checked on inputs; give inputs=.")
        for answer, reason in self.wrong.items():
            if not reason.strip():
                raise ValueError(f"{self.id}: the wrong answer {answer!r} has no reason.")
            if verdict(self, answer, listed=False) is None:
                raise ValueError(f"{self.id}: the listed wrong answer {answer!r} is accepted.")
        if (complaint := verdict(self, self.right)) is not None:
            raise ValueError(f"{self.id}: the right answer is refused: {complaint}")


def verdict(exercise: Exercise, answer: Any, *, listed: bool = True) -> str | None:
    """What is wrong with an answer, or None when it is right.

    Args:
        exercise: The exercise.
        answer: The student's answer.
        listed: Name the reason when the answer is a listed wrong one.
    """
    if exercise.kind == "callable":
        return _verdict_callable(exercise, answer, listed)
    if exercise.kind == "choice":
        return _verdict_choice(exercise, answer, listed)
    return _verdict_value(exercise, answer, listed)


def _verdict_choice(exercise: Exercise, answer: Any, listed: bool) -> str | None:
    if not isinstance(answer, Hashable):
        return f"expected one word, got {type(answer).__name__}."
    if _word(answer) == _word(exercise.right):
        return None
    reasons = {_word(key): why for key, why in exercise.wrong.items()}
    if listed and _word(answer) in reasons:
        return reasons[_word(answer)]
    options = sorted({_word(exercise.right), *reasons})
    return f"{answer!r} is not among the options {', '.join(options)}."


def _word(answer: Hashable) -> str:
    return str(answer).strip().lower()


def _verdict_value(exercise: Exercise, answer: Any, listed: bool) -> str | None:
    right = _values(exercise.right)
    try:
        given = _values(answer)
    except (TypeError, ValueError, RuntimeError):
        what = "a number" if exercise.kind == "number" else f"a tensor of shape {right[0]}"
        return f"expected {what}, got {type(answer).__name__}."
    if _close(given, right, exercise.tolerance):
        return None
    near = given[0] == right[0] and _near(given, right)
    if listed:
        # rounded as the exercise asks, a mistake is still the same mistake
        for tolerance in (exercise.tolerance, *(() if near else (5e-3,))):
            for mistake, why in exercise.wrong.items():
                if _close(given, _values(mistake), tolerance):
                    return why
    if given[0] != right[0]:
        return f"expected {_shape(right[0])}, got {_shape(given[0])}."
    if not all(math.isfinite(v) for v in given[1]):
        return "the answer is not finite: look for a logarithm of 0 or a division by 0."
    if near:
        return "nearly: give more digits."
    return "not yet." + (f" {exercise.hint}" if exercise.hint else "")


def _verdict_callable(exercise: Exercise, answer: Any, listed: bool) -> str | None:
    if not callable(answer):
        return f"expected a function, got {type(answer).__name__}; pass it without calling it."
    assert exercise.inputs is not None
    draws = range(3)
    try:
        inspect.signature(answer).bind(**exercise.inputs(0))
    except TypeError as error:
        names = ", ".join(exercise.inputs(0))
        return f"the function must take the keyword arguments {names} ({error})."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of reduction="mean"; our reason is longer
            results = [answer(**exercise.inputs(draw)) for draw in draws]
    except Exception as error:  # a student's function may raise anything
        return f"the function raised {type(error).__name__}: {error}"
    try:
        given = [_values(result) for result in results]
    except (TypeError, ValueError, RuntimeError):
        return f"expected a number or a tensor back, got {type(results[0]).__name__}."
    right = [_values(exercise.right(**exercise.inputs(draw))) for draw in draws]
    if all(_close(g, r, exercise.tolerance) for g, r in zip(given, right, strict=True)):
        complaints = (_complaint(prop, answer) for prop in exercise.properties)
        return next((complaint for complaint in complaints if complaint), None)
    if listed:
        for mistake, why in exercise.wrong.items():
            theirs = [_values(mistake(**exercise.inputs(draw))) for draw in draws]
            if all(_close(g, t, exercise.tolerance) for g, t in zip(given, theirs, strict=True)):
                return why
    if given[0][0] != right[0][0]:
        return f"expected {_shape(right[0][0])}, got {_shape(given[0][0])}."
    hint = f" {exercise.hint}" if exercise.hint else ""
    tolerance = exercise.tolerance
    draw = next(i for i in draws if not _close(given[i], right[i], tolerance))
    asked = ", ".join(
        f"{name} = {value:g}"
        for name, value in exercise.inputs(draw).items()
        if isinstance(value, int | float)
    )
    where = f"drawn input {draw + 1}" + (f" ({asked})" if asked else "")
    digits = next((d for d in (4, 6, 9) if _brief(given[draw], d) != _brief(right[draw], d)), 17)
    got, wanted = _brief(given[draw], digits), _brief(right[draw], digits)
    return f"{where} gives {got}, expected {wanted}.{hint}"


def _complaint(prop: Property, answer: Callable[..., Any]) -> str | None:
    try:
        return prop(answer)
    except Exception as error:  # a student's function may raise anything, also for other logits
        return (
            f"right for the drawn inputs, but it raised {type(error).__name__} for others, or when "
            f"a gradient was asked for: {error}"
        )


def _values(answer: Any) -> tuple[tuple[int, ...], list[float]]:
    """Shape and flat list of an answer: what numbers, lists, arrays and tensors have in common."""
    import torch

    if isinstance(answer, str | bytes) or answer is None:
        raise TypeError(f"{type(answer).__name__} is not a number.")
    if not isinstance(answer, torch.Tensor):
        answer = torch.as_tensor(answer, dtype=torch.float64)
    answer = answer.detach().to("cpu", torch.float64)
    return tuple(answer.shape), answer.flatten().tolist()


def _close(
    a: tuple[tuple[int, ...], list[float]], b: tuple[tuple[int, ...], list[float]], tol: float
) -> bool:
    if a[0] != b[0]:
        return False
    size = max((abs(v) for v in b[1] if math.isfinite(v)), default=0.0)
    allowed = tol * max(1.0, size)
    return all(x == y or abs(x - y) <= allowed for x, y in zip(a[1], b[1], strict=True))


def _near(a: tuple[tuple[int, ...], list[float]], b: tuple[tuple[int, ...], list[float]]) -> bool:
    """Rounded, not wrong: each number within two percent, or within half of its third decimal."""
    return all(
        (abs(x - y) <= max(NEARLY * abs(y), 5e-4) and (x > 0) == (y > 0)) or x == y
        for x, y in zip(a[1], b[1], strict=True)
    )


def _shape(shape: tuple[int, ...]) -> str:
    return f"a value of shape {list(shape)}" if shape else "one number"


def _brief(values: tuple[tuple[int, ...], list[float]], digits: int = 4) -> str:
    """The numbers, of four the first."""
    numbers = ", ".join(f"{v:.{digits}g}" for v in values[1][:4])
    return numbers if not values[0] else f"[{numbers}{', …' if len(values[1]) > 4 else ''}]"
