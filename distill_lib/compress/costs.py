"""What a model costs: parameters, bytes of a file really written, multiplications, milliseconds."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from distill_lib.arguments import as_path, checked
from distill_lib.signals import as_batch, eval_mode, place
from distill_lib.ties import copied, memory

from ._inputs import answer
from .export import OnnxModel

__all__ = ["Latency", "Report", "compare", "file_bytes", "macs", "report"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one answer: the median of several runs, and their quartiles."""

    median: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.lower:.3g}–{self.upper:.3g})"


@dataclass(frozen=True)
class Report:
    """What a model costs.

    Attributes:
        name: Of the class, or of the file.
        parameters: Numbers that are learned; None for an ONNX file, and for a model of
            ``torch.ao.quantization``, which packs its weights.
        nonzero: Those that are not zero, or None as there.
        bytes: Of the file, as it was really written.
        macs: Multiplications with additions for one example, zeros included; None where they
            cannot be counted: of an ONNX file, or where :func:`macs` is an error.
        latency: Milliseconds for the example on this machine.
    """

    name: str
    parameters: int | None
    nonzero: int | None
    bytes: int
    macs: int | None
    latency: Latency

    def __str__(self) -> str:
        rows = [
            ("parameters", _count(self.parameters)),
            ("non-zero", _count(self.nonzero)),
            ("bytes on disk", _count(self.bytes)),
            ("MACs", _count(self.macs)),
            ("latency (ms)", str(self.latency)),
        ]
        return "\n".join([self.name, *(f"  {name:<14}{value:>22}" for name, value in rows)])


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


@checked
def file_bytes(model: nn.Module, path: str | Path | None = None) -> int:
    """The bytes of the model's state in a file that is really written.

    Args:
        model: Any module; weights of other libraries' types, and complex ones, are written by
            ``torch.save``, all others as safetensors.
        path: Where to; into a folder that is removed again by default.

    Example:
        >>> 4 * 8 * 4 < file_bytes(nn.Linear(8, 4, bias=False)) < 4 * 8 * 4 + 100
        True
    """
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model" if path is None else as_path(path)
        state = {}
        once = set()
        for name, tensor in model.state_dict(keep_vars=True).items():
            place = memory(tensor) if isinstance(tensor, Tensor) else name
            if place not in once:  # a tied one is written once
                once.add(place)
                state[name] = tensor
        if all(is_plain(tensor) for tensor in state.values()):
            save_file({k: v.detach().contiguous().clone() for k, v in state.items()}, file)
        else:
            torch.save(state, file)
        return file.stat().st_size


def is_plain(value: Any) -> bool:
    """Whether it is a tensor that safetensors can hold as it is."""
    kind = type(value) in (Tensor, nn.Parameter)
    if not kind or value.layout != torch.strided or value.is_quantized:
        return False
    return value.dtype not in (torch.complex32, torch.complex128)  # safetensors has none


@checked
def macs(model: nn.Module, example: Any) -> int:
    """Multiplications, each with an addition, of convolutions and products of matrices.

    Those of recurrent layers, attention and ``nn.Bilinear`` included.

    Args:
        model: Any module; it is asked in eval mode.
        example: A tensor, or a batch.

    Raises:
        ValueError: an operator multiplies a weight with something, and how often is not known.

    Example:
        >>> macs(nn.Linear(8, 4), torch.zeros(1, 8))
        32
    """
    found, unknown = _products(model, example)
    for operator, name in unknown.items():
        raise ValueError(
            f"macs knows no formula for {operator}, which reads the weight {name!r}: the number "
            "would lack its products. Write it as linear layers or products of matrices; report "
            "goes on without the number"
        )
    return found


def _products(model: nn.Module, example: Any) -> tuple[int, dict[str, str]]:
    from ._counting import products_of  # it takes long to import

    model = _plain(model)
    return products_of(model, _ask(model, example))


def _ask(model: nn.Module | OnnxModel, example: Any) -> Callable[[], Any]:
    """The model's answer to the example, with nothing else to do when it is asked."""
    named = {"inputs": example} if isinstance(example, Tensor) else as_batch(example)
    if isinstance(model, OnnxModel):
        feed = model.feed(named)
        return lambda: model.session.run(None, feed)
    inputs = place(named, model)
    return lambda: answer(model, inputs)


@checked
def compare(
    models: Mapping[str, nn.Module | OnnxModel], example: Any, runs: int = 30
) -> dict[str, Latency]:
    """Latencies that can be compared: the models take turns, so that all see the same machine.

    Args:
        models: Modules and ONNX files, by name.
        example: What each is asked: a tensor, or a batch.
        runs: How often each is asked, after three that are not counted.

    Returns:
        By name. Compare medians of one call by their ratio; those of two calls say little.

    Example:
        >>> found = compare({"one": nn.Linear(8, 4), "two": nn.Linear(8, 4)}, torch.zeros(1, 8), 5)
        >>> found["one"].lower <= found["one"].median <= found["one"].upper
        True
    """
    if not models or runs < 2:
        raise ValueError(f"expected a model and two runs at least, got {len(models)} and {runs}")
    asks = {name: _ask(model, example) for name, model in models.items()}
    seen: dict[str, list[float]] = {name: [] for name in models}
    with eval_mode(models.values()), torch.inference_mode():
        for run in range(-3, runs):
            for name, ask in asks.items():
                begun = time.perf_counter()
                ask()
                _settle(models[name])
                if run >= 0:
                    seen[name].append(1e3 * (time.perf_counter() - begun))
    found = {}
    for name, times in seen.items():
        lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
        found[name] = Latency(median, lower, upper)
    return found


def _settle(model: nn.Module | OnnxModel) -> None:
    if isinstance(model, nn.Module) and any(p.is_cuda for p in model.parameters()):
        torch.cuda.synchronize()


@checked
def report(
    model: nn.Module | OnnxModel,
    example: Any,
    name: str | None = None,
    path: str | Path | None = None,
    runs: int = 30,
) -> Report:
    """Count, write and time a model.

    Args:
        model: A module, or an ONNX file.
        example: What it is asked when it is timed: a tensor, or a batch.
        name: For the table; the class or the file by default.
        path: A file that holds the model already, such as one of :func:`save_packed`; by default
            its state is written for the purpose.
        runs: How often it is timed.

    Raises:
        FileNotFoundError: there is no file at ``path``.

    Example:
        >>> found = report(nn.Linear(8, 4), torch.zeros(1, 8), runs=5)
        >>> found.parameters, found.nonzero, found.macs
        (36, 36, 32)
    """
    latency = compare({"": model}, example, runs)[""]
    if isinstance(model, OnnxModel):
        file = model.path if path is None else as_path(path)
        return Report(name or file.name, None, None, file.stat().st_size, None, latency)
    size = file_bytes(model) if path is None else as_path(path).stat().st_size
    plain = (Tensor, nn.Parameter)  # torchao's weights are of types of their own
    # one weight is one weight, also where two parameters merely share its numbers
    once = {memory(p): p for p in reversed([*_plain(model).parameters()])}
    found = [p.detach() for p in reversed(once.values())]
    weights = [w if type(w) in plain else w.dequantize() for w in found]
    products, unknown = _products(model, example)
    packed = any(map(_is_packed, tree_leaves([*model.state_dict().values()])))
    return Report(
        name or type(model).__name__,
        None if packed else sum(weight.numel() for weight in weights),
        None if packed else sum(int(weight.count_nonzero()) for weight in weights),
        size,
        None if unknown else products,
        latency,
    )


def _is_packed(value: Any) -> bool:
    held = isinstance(value, Tensor) and value.is_quantized
    return held or isinstance(value, torch.ScriptObject)


def _plain(model: nn.Module) -> nn.Module:
    """The model; or a copy with plain weights where they are shared or rounded."""
    from torch.nn.utils import parametrize

    from .quantization import bake

    if any(parametrize.is_parametrized(module) for module in model.modules()):
        return bake(copied(model))
    return model
