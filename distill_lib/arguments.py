"""Arguments that are not what a signature says, refused before anything is done with them."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "as_path",
    "as_stops",
    "check_between",
    "check_counts",
    "check_ids",
    "check_numbers",
    "check_temperature",
    "checked",
    "told",
]

F = TypeVar("F", bound=Callable[..., Any])

PLAIN: dict[Any, tuple[type, ...]] = {Path: (os.PathLike,), bool: (bool, np.bool_)}
NAMES: dict[Any, str] = {
    Path: "a path",
    Tensor: "a tensor",
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    nn.Module: "a torch.nn.Module",
    str: "a string",
    type(None): "None",
}
MANY = (
    (Mapping, "a mapping"),
    (tuple, "a tuple"),
    (Collection, "a sequence"),
    (Iterable, "an iterable that can be walked in a for loop"),
)


def checked(function: F) -> F:
    """Refuse arguments of other types than a function says, or the ``__init__`` of a class.

    A sequence may be any collection but a string, and a tuple a list. What an iterable yields is
    not looked at, nor what a callable takes.

    Raises:
        TypeError: from the function, for such an argument; the message says what was expected and
            what came.
        ValueError: a number that is not whole, where one was expected.

    Example:
        >>> @checked
        ... def double(x: float) -> float:
        ...     return 2 * x
        >>> double(x="two")
        Traceback (most recent call last):
        TypeError: double expected x to be a number, got str 'two'
    """
    if isinstance(function, type):
        made: Any = function
        made.__init__ = _checked(made.__init__, made.__name__)
        return typing.cast(F, made)
    return typing.cast(F, _checked(function, function.__name__))


def _checked(function: Callable[..., Any], title: str) -> Callable[..., Any]:
    signature = inspect.signature(function)
    inner = inspect.unwrap(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        # when it is first called, for annotations may name what a file defines below; and without
        # the result, which may be of a package that is not installed
        plain = {
            name: one.annotation
            for name, one in signature.parameters.items()
            if one.annotation is not one.empty
            and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        }
        holder = types.SimpleNamespace(__annotations__=plain)
        return typing.get_type_hints(holder, globalns=inner.__globals__)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{title}{signature} was called otherwise: {error}") from None
        for name, hint in hints().items():
            if name in given and not _fits(given[name], hint):
                raise _error(given[name], hint)(
                    f"{title} expected {name} to be {_described(hint)}, got {told(given[name])}"
                    + _way_out(given[name], hint)
                )
        return function(*args, **kwargs)

    return call


def _error(value: Any, hint: Any) -> type[Exception]:
    """A number that is not whole is a wrong number, and not something else than a number."""
    whole = int in (hint, *typing.get_args(hint))
    number = isinstance(value, Real) and not isinstance(value, (bool, Integral))
    return ValueError if whole and number else TypeError


def _way_out(value: Any, hint: Any) -> str:
    if isinstance(value, str) and "a sequence" in _described(hint):
        return f"; one alone is ({value!r},)"
    if isinstance(value, type) and "torch.nn.Module" in _described(hint):
        return f"; make one first: {value.__name__}(…)"
    return ""


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if hint in (int, float):
        if isinstance(value, Tensor) and value.ndim == 0 and hint is float:
            return not value.is_complex()
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if origin is None:
        return hint is Any or isinstance(value, PLAIN.get(hint, hint))
    if origin is collections.abc.Callable:
        return callable(value)
    if not isinstance(origin, type):  # such as Literal: by value, by the function itself
        return True
    if issubclass(origin, Mapping):
        return isinstance(value, origin) and all(
            _fits(k, inside[0]) and _fits(v, inside[1]) for k, v in value.items()
        )
    if origin is tuple:
        alike = len(inside) == 2 and inside[1] is Ellipsis
        return isinstance(value, (tuple, list)) and (
            not alike or all(_fits(v, inside[0]) for v in value)
        )
    if issubclass(origin, Iterable) and origin.__module__ == "collections.abc":
        if origin is Iterable:
            one = isinstance(value, (str, bytes, Tensor, np.ndarray, Mapping, nn.Module))
            return isinstance(value, Iterable) and not one
        many = isinstance(value, Collection) and not isinstance(
            value, (str, bytes, Tensor, Mapping)
        )
        many = many and not (isinstance(value, np.ndarray) and value.ndim != 1)
        return many and all(_fits(v, inside[0]) for v in value)
    return origin.__module__ == "builtins" or isinstance(value, origin)


def _described(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(one) for one in inside)
    if origin is None:
        return NAMES.get(hint, getattr(hint, "__name__", str(hint)))
    if origin is collections.abc.Callable:
        return "a function"
    name = next((name for kind, name in MANY if issubclass(origin, kind)), str(hint))
    parts = [_described(one) for one in inside if one not in (Any, Ellipsis)]
    return name + (f" of {' to '.join(parts)}" if parts else "")


def told(value: Any) -> str:
    """A value for a message: its type, and its shape or the beginning of how it prints."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)} of {value.dtype}"
    if isinstance(value, nn.Module):
        return f"the module {type(value).__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__} (not an instance of it)"
    return f"{type(value).__name__} {value!r}"[:80]


def as_path(path: Any, name: str = "path") -> Path:
    """A path, of a string or something like a path; ``open`` would take a number as an open file.

    Raises:
        TypeError: anything else.
        ValueError: an empty string, or one with a null byte.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} expected a string or a path, got {told(path)}")
    if not (text := os.fspath(path)) or not isinstance(text, str) or "\0" in text:
        raise ValueError(f"{name} expected a path that can name a file, got {text!r}")
    return Path(text)


def check_between(low: float, high: float, **numbers: float) -> None:
    """Numbers from ``low`` to ``high``, by name.

    Raises:
        ValueError: for another one.
    """
    for name, value in numbers.items():
        if not low <= value <= high:
            raise ValueError(f"{name} expected a number from {low:g} to {high:g}, got {value:g}")


def check_numbers(name: str, x: Any) -> None:
    """A tensor of real numbers, at least one.

    Raises:
        TypeError: anything else.
        ValueError: an empty tensor.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} expected a tensor of real numbers (.float()), got {told(x)}")
    if not x.numel():
        raise ValueError(f"{name} expected one number at least, got {told(x)}")


def check_ids(name: str, ids: Tensor, most: float = float("inf")) -> None:
    """A tensor of ids, at least one: whole numbers from 0, and below ``most``.

    Raises:
        TypeError: other numbers.
        ValueError: an empty tensor, or an id out of that range.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} expected ids, which are whole numbers (.long()), got {told(ids)}")
    if not ids.numel() or int(ids.min()) < 0 or int(ids.max()) >= most:
        held = f" from {int(ids.min())} to {int(ids.max())}" if ids.numel() else ""
        raise ValueError(f"{name} expected ids from 0, below {most}; got {told(ids)}{held}")


def check_counts(least: int = 1, **counts: int) -> None:
    """Whole numbers that are no less than ``least``, by name.

    Raises:
        ValueError: for a smaller one.
    """
    for name, value in counts.items():
        if value < least:
            raise ValueError(f"{name} expected a whole number of {least} or more, got {value}")


def check_temperature(temperature: Any) -> None:
    """A temperature to write with: a number from 0, the most probable token, on.

    Raises:
        ValueError: anything else.
    """
    number = isinstance(temperature, Real) and not isinstance(temperature, bool)
    if not (number and 0 <= temperature < float("inf")):
        raise ValueError(
            f"temperature expected a number from 0 on, got {told(temperature)}; 1 draws as the "
            "model says, 0 takes the most probable token"
        )


def as_stops(stop: Any, pad: Any = 0) -> list[int]:
    """The tokens that end a text, of one, of several, or of None.

    Raises:
        ValueError: what is no id, or a ``pad`` that is none.
    """
    stop = stop.tolist() if hasattr(stop, "tolist") else stop  # a tensor or an array, of one too
    ends = [stop] if not isinstance(stop, Iterable) else list(stop)
    for name, one in [*(("stop", end) for end in ends if end is not None), ("pad", pad)]:
        if not isinstance(one, Integral) or isinstance(one, bool) or one < 0:
            raise ValueError(
                f"{name} expected the id of a token, a whole number from 0 on, got {told(one)}; "
                "such as tokenizer.eos_token_id"
            )
    return [int(end) for end in ends if end is not None]
