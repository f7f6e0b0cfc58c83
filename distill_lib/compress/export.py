"""Models that leave Python: ONNX and torch.export, written, read back and compared."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import as_path, checked, told
from distill_lib.checkpoints.files import written_whole
from distill_lib.signals import DESCRIPTIVE, as_batch, call, eval_mode

from ._faithful import check_answers, check_sizes
from ._graphs import check_names, opened, strip
from ._inputs import answer
from ._needs import need
from ._programs import UnsafeProgram, rebuilt
from .runtime import ExportError, OnnxModel

__all__ = ["ExportError", "OnnxModel", "load_exported", "to_exported", "to_onnx"]

BATCH, TEXT = {0: "batch"}, {0: "batch", 1: "length"}


class _Answers(nn.Module):
    """A model whose inputs and outputs have names and an order."""

    def __init__(
        self, model: nn.Module, example: Mapping[str, Any], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(example), tuple(outputs)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        said = call(self.model, dict(zip(self.inputs, values, strict=True)))
        named = {"logits": said} if isinstance(said, Tensor) else said
        return tuple(named[name] for name in self.outputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters report on themselves; what matters comes as an exception."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logging.disable(level)


def _example(example: Any, dynamic: Mapping[int, str]) -> dict[str, Tensor]:
    """The inputs by name; where an axis is to vary, one is doubled, or it would be fixed at one."""
    named = {"inputs": example} if isinstance(example, Tensor) else as_batch(example)
    found = {k: v for k, v in named.items() if k not in DESCRIPTIVE and isinstance(v, Tensor)}
    if not found:
        raise ValueError(f"the example holds no inputs, only {', '.join(named) or 'nothing'}")
    if empty := [name for name, v in found.items() if not v.numel()]:
        raise ValueError(
            f"the example's {empty[0]} is {told(found[empty[0]])}: nothing can be traced with no "
            "items; give one at least"
        )
    for axis in dynamic:
        if axis < 0 or all(v.ndim <= axis for v in found.values()):
            shapes = ", ".join(f"{name} {list(v.shape)}" for name, v in found.items())
            raise ValueError(
                f"dynamic names the axis {axis}, and no input has it: {shapes}; axes count from 0"
            )
        found = {
            k: torch.cat([v, v], axis) if v.ndim > axis and v.shape[axis] == 1 else v
            for k, v in found.items()
        }
    return found


def _free(example: Any, dynamic: Mapping[int, str] | None) -> Mapping[int, str]:
    """The axes that vary: as asked, else the batch, and the length of texts."""
    if dynamic is not None:
        return dynamic
    of_text = not isinstance(example, Tensor) and "input_ids" in as_batch(example)
    return TEXT if of_text else BATCH


def _varying(inputs: Mapping[str, Tensor], axes: Mapping[int, Any]) -> tuple[dict[int, Any], ...]:
    return tuple({a: one for a, one in axes.items() if a < v.ndim} for v in inputs.values())


def _outputs(model: nn.Module, example: Mapping[str, Tensor]) -> tuple[str, ...]:
    said = answer(model, example)
    if isinstance(said, Tensor):
        return ("logits",)
    if not isinstance(said, Mapping):
        raise ExportError(
            f"the model answers with a {type(said).__name__}, whose parts have no names: write it "
            "inside a module whose forward returns a tensor, or tensors by name, {'states': …}"
        )
    found = tuple(name for name, value in said.items() if isinstance(value, Tensor))
    if not found:
        raise ExportError(f"the model says no tensors, only {', '.join(said) or 'nothing'}")
    return found


def _why(error: BaseException) -> str:
    """The operator and the line that an exporter stumbled over, from its chain of errors."""
    chain, one = [], error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__  # type: ignore[assignment]
    text = "\n".join(str(e) for e in chain)
    if found := re.search(r"OpOverload\(op='([\w.:]+)'", text):
        return f"the operator {found[1]} has no counterpart"
    if "Constraints violated" in text:
        return "an axis that is to vary cannot: leave it out of dynamic="
    if found := re.search(r"(?:data-dependent|symbolic)[^\n]*\n?", text, re.IGNORECASE):
        lines = re.findall(r"File \"([^\"]+)\", line (\d+), in (\w+)\n\s*([^\n]+)", text)
        place = f", at {lines[-1][2]}: {lines[-1][3].strip()!r}" if lines else ""
        return f"the model decides by the values of a tensor{place}"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


@checked
def to_onnx(
    model: nn.Module,
    example: Any,
    path: str | Path,
    dynamic: Mapping[int, str] | None = None,
    tolerance: float = 1e-4,
) -> OnnxModel:
    r"""Write a model as ONNX, and check that ONNX Runtime says what the model says.

    .. math:: \max_i |a_i - b_i| \le \varepsilon \cdot \max(1, \max_i |a_i|)

    for the example, for one item more, and for one alone, where the model itself has an answer.
    Infinities, such as those of masked actions, are to be in the same places; whole numbers equal.

    Args:
        model: The model; it is asked in eval mode and not changed. Shared or rounded weights are
            written as floats: :func:`bake` them first.
        example: A tensor, or a batch; labels are left out.
        path: The file.
        dynamic: The axes that may vary, with their names. By default ``{0: "batch"}``, and
            ``{0: "batch", 1: "length"}`` for a batch with ``input_ids``.
        tolerance: :math:`\varepsilon`.

    Returns:
        The file, ready to be asked for ``logits`` where the model answers with a tensor, else for
        the tensors that it gives by name, without what it says besides, such as tuples.

    Raises:
        ExportError: an operator that ONNX lacks, by its name; a model that decides by values, or
            by a size that may vary; answers that differ, or are a tuple; or what ONNX, or ONNX
            Runtime, cannot hold: complex numbers, bfloat16, one name for an input and an output.
        ValueError: an example without items, or no input has an axis of ``dynamic``.
        OSError: the file cannot be written; an older one is whole.
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "compress.to_onnx")
    free = _free(example, dynamic)
    inputs = _example(example, free)
    with eval_mode([model]), torch.no_grad():
        view = _Answers(model, inputs, _outputs(model, inputs))
        view.train(False)
        check_names(inputs, dict(zip(view.outputs, view(*inputs.values()), strict=True)))
        program = _traced(view, inputs, free, "cannot write this model as ONNX")
        with written_whole(path) as made:
            try:
                with _quiet():
                    torch.onnx.export(
                        program,
                        (),
                        str(made),
                        input_names=list(inputs),
                        output_names=list(view.outputs),
                        dynamic_shapes=(_varying(inputs, free),),
                        dynamo=True,
                        external_data=False,
                        verbose=False,
                    )
            except Exception as error:  # of many classes, each its own
                raise ExportError(f"cannot write this model as ONNX: {_why(error)}") from error
            strip(made)
            file = opened(made)

            def said(*values: Tensor) -> tuple[Tensor, ...]:
                return tuple(file(dict(zip(inputs, values, strict=True))).values())

            check_answers(view, said, inputs, free, tolerance, "ONNX Runtime's")
    return OnnxModel(path)


def _traced(
    view: _Answers, inputs: Mapping[str, Tensor], axes: Mapping[int, str], failed: str
) -> Any:
    """The program of a model, for all the sizes that the model answers.

    Raises:
        ExportError: it cannot be traced, or only for some of them.
    """
    free = _varying(inputs, dict.fromkeys(axes, torch.export.Dim.DYNAMIC))
    try:
        with _quiet():
            program = torch.export.export(
                view, tuple(inputs.values()), dynamic_shapes=(free,), strict=False
            )
    except Exception as error:  # of many classes, each its own
        raise ExportError(f"{failed}: {_why(error)}") from error
    check_sizes(view, program, inputs, axes)
    return program


@checked
def to_exported(
    model: nn.Module, example: Any, path: str | Path, dynamic: Mapping[int, str] | None = None
) -> int:
    """Write a model as a ``torch.export`` program, which runs without its Python code.

    Args:
        model: The model; it is asked in eval mode and not changed.
        example: A tensor, or a batch; labels are left out.
        path: The file, ending in ``.pt2``.
        dynamic: The axes that may vary, by default as for :func:`to_onnx`.

    Returns:
        The bytes of the file.

    Raises:
        ExportError: a model that decides by values, or by a size that may vary; or an operator that
            cannot be traced.
        ValueError: an example without items, or no input has an axis of ``dynamic``.
        OSError: the file cannot be written; an older one is whole.
    """
    axes = _free(example, dynamic)
    inputs = _example(example, axes)
    with eval_mode([model]), torch.no_grad():
        view = _Answers(model, inputs, _outputs(model, inputs))
        view.train(False)
        program = _traced(view, inputs, axes, "cannot export this model")
        check_answers(view, program.module(), inputs, axes, 1e-4, "the program's")
        with written_whole(path) as made:
            try:
                with _quiet():
                    names = "\n".join([*view.inputs, "", *view.outputs])
                    torch.export.save(program, made, extra_files={"names.txt": names})
            except Exception as error:  # of many classes, each its own
                raise ExportError(f"cannot export this model: {_why(error)}") from error
    return Path(path).stat().st_size


class _Exported(nn.Module):
    """A program, asked by name."""

    def __init__(self, program: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.program, self.inputs, self.outputs = program, inputs, outputs

    def train(self, mode: bool = True) -> _Exported:
        return self  # a program is what it was when it was exported

    def forward(self, inputs: Tensor | None = None, **named: Tensor) -> dict[str, Tensor]:
        given = {"inputs": inputs, **named} if inputs is not None else named
        if missing := [name for name in self.inputs if name not in given]:
            raise KeyError(f"the program asks for {missing}; the batch has {', '.join(given)}")
        try:
            said = self.program(*[given[name] for name in self.inputs])
        except AssertionError as error:  # a guard of torch.export
            names = {f"values_{i}": name for i, name in enumerate(self.inputs)}
            why = re.sub(r"values_\d+", lambda found: names.get(found[0], found[0]), str(error))
            shapes = ", ".join(f"{name} {told(given[name])}" for name in self.inputs)
            raise ExportError(
                f"the program was not made for this batch, {shapes} ({why}): give one of its size, "
                "or export the model again, with an example like it and what varies in dynamic="
            ) from error
        return dict(zip(self.outputs, said, strict=True))


@checked
def load_exported(path: str | Path) -> nn.Module:
    """Read a program of :func:`to_exported`: a model for :func:`distill_lib.evaluate`.

    Nothing in the file is run or unpickled but numbers: torch gets a copy of it that holds nothing
    else, and is 100 times as large in memory at most. What the program computes when it is asked is
    made of torch's operators on tensors, and may take any time and memory.

    Args:
        path: The file.

    Raises:
        ExportError: no such file, a torn one, or one that holds more than plain data, such as
            pickled weights or compiled code.
    """
    try:
        archive, inputs, outputs = rebuilt(as_path(path))
        with _quiet():
            program = torch.export.load(archive).module()
    except UnsafeProgram as error:
        raise ExportError(
            f"{path} holds more than numbers and operators on them, so it was not read: {error}. "
            "Export a model of plain tensors again, with to_exported; or, if you trust whoever "
            "made the file, read it with torch.export.load"
        ) from error
    except Exception as error:  # bytes that are no program can end in any error
        raise ExportError(
            f"{path} is not there, torn, or no program of to_exported: "
            f"{type(error).__name__} {str(error)[:300]}"
        ) from error
    return _Exported(program, inputs, outputs)
