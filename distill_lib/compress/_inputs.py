"""What a hooked layer was asked: its input, however it was called, with a batch axis, finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from distill_lib.arguments import told
from distill_lib.signals import call

from ._layers import TABLES

__all__ = ["answer", "called", "input_of", "read_by", "watched", "with_input"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class _Any(nn.Module):
    """A model whose answers may be of any type."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model  # the name by which arguments are looked up in a wrapped model

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"said": self._orig_mod(*args, **kwargs)}


def answer(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    """What a model says to a batch, whatever it is, such as an LSTM's tuple of states."""
    said: Mapping[str, Any] = call(_Any(model), batch)  # type: ignore[assignment]
    return said["said"]


def called(name: str) -> str:
    """A layer in a message; the model itself has no name."""
    return f"layer {name!r}" if name else "the model"


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The input of a call: the first argument, or the keyword ``input``, or the first keyword."""
    return args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))


def with_input(args: tuple[Any, ...], kwargs: dict[str, Any], x: Any) -> Arguments:
    """The arguments of the same call about another input."""
    if args:
        return (x, *args[1:]), kwargs
    return args, {**kwargs, ("input" if "input" in kwargs else next(iter(kwargs))): x}


def read_by(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a layer reads: ids for a table; else [B, ..., D], or of a convolution [B, C, ...].

    Raises:
        TypeError: no tensor, or complex numbers.
        ValueError: numbers that are not finite.
    """
    x = input_of(args, kwargs)
    if not isinstance(x, Tensor):
        raise TypeError(f"{called(name)} expected to be asked about a tensor, got {told(x)}")
    if isinstance(module, TABLES):
        return x
    if x.is_complex():
        raise TypeError(f"{called(name)} reads complex numbers: only real ones are known here")
    if not bool(x.isfinite().all()):
        raise ValueError(f"what {called(name)} reads is not finite: broken weights or batches")
    convolved = isinstance(module, nn.modules.conv._ConvNd)
    alone = x.ndim == 1 + (len(module.kernel_size) if convolved else 0)  # type: ignore[arg-type]
    return x[None] if alone else x


@contextmanager
def watched(
    users: Iterable[tuple[str, str, nn.Module]],
    see: Callable[[str, str, nn.Module, Tensor], None],
) -> Iterator[None]:
    """Let ``see(weight, name, module, x)`` have what the layers that use a weight read."""

    def hook(weight: str, name: str) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(weight, name, module, read_by(name, module, args, kwargs))

        return read

    handles = [
        module.register_forward_pre_hook(hook(weight, name), with_kwargs=True)
        for weight, name, module in users
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
