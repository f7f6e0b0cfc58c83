"""Graphs of ONNX: what they can hold, and files of them with nothing that is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ._needs import need
from .runtime import ExportError, OnnxModel

__all__ = ["check_names", "opened", "strip"]


def check_names(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Refuse what ONNX has no words for, before anything is written.

    Raises:
        ExportError: complex numbers, or one name for an input and an output.
    """
    if both := [name for name in outputs if name in inputs]:
        raise ExportError(
            f"the model has an output {both[0]!r} and an input of this name, and in ONNX a name is "
            "of one value: let the model answer under another name"
        )
    if odd := [k for k, v in (*inputs.items(), *outputs.items()) if v.is_complex()]:
        raise ExportError(
            f"{odd[0]!r} is of complex numbers, which ONNX does not have: let the model take and "
            "give their real and imaginary parts, torch.view_as_real(x)"
        )


def opened(made: Path) -> OnnxModel:
    """What was written, in ONNX Runtime; its errors without the name of a passing file.

    Raises:
        ExportError: ONNX Runtime cannot run it, as most operators in bfloat16.
    """
    try:
        return OnnxModel(made)
    except ExportError as error:
        reason = str(error.__cause__).replace(str(made), "the file").strip()
        raise ExportError(
            f"ONNX Runtime cannot run this model: {reason}. What it lacks in bfloat16 or float16 "
            "it mostly has in float32: model.float()"
        ) from error


def strip(path: Path) -> None:
    """Take out what the exporter notes for debugging, most of a small file, and weights twice."""
    onnx = need("onnx", "compress.to_onnx")
    model = onnx.load(path)
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for one in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del one.metadata_props[:]
        one.doc_string = ""
    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for one in list(graph.initializer):  # parameters that share their numbers come one by one
        if len(one.dims) < 2:
            continue  # each layer rounds its bias on a grid of its own
        values, name = onnx.numpy_helper.to_array(one), one.name
        kind = (one.data_type, str(values.dtype))
        same[name] = first.setdefault((*kind, values.shape, values.tobytes()), name)
        flipped = (*kind, values.T.shape, values.T.tobytes())
        turned = first.get(flipped) if values.ndim == 2 else None
        if same[name] != name:
            graph.initializer.remove(one)
        elif turned not in (None, name):
            graph.initializer.remove(one)
            graph.node.insert(0, onnx.helper.make_node("Transpose", [turned], [name], perm=[1, 0]))
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    onnx.save(model, path)
