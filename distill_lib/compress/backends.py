"""Integers that compute: ONNX Runtime's quantization of a file, and torchao's of a module."""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import as_path, checked
from distill_lib.checkpoints.files import written_whole
from distill_lib.ties import copied, readers

from ._layers import FUSED, check_finite, name_the_rest
from ._needs import need
from .export import ExportError, OnnxModel

__all__ = ["int4_weight_only", "int8_dynamic", "int8_weight_only", "quantize_onnx"]


# ONNX Runtime multiplies integers of 8 bits without overflow on Arm and, with VNNI, on x86; older
# x86 adds two products in 16 bits, which saturate unless the weights have 7
SEVEN_BITS = {"arm64": False, "avx2": True, "avx512": True, "avx512_vnni": False}


class _OfBatches(Exception):
    """What is wrong with the batches, and no fault of the file."""


class _Reader:
    """Batches as ONNX Runtime's calibration asks for them."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        first = next(feeds, None)
        if first is None:
            raise ValueError("batches is empty: there is nothing to calibrate on")
        self.feeds = itertools.chain([first], feeds)

    def get_next(self) -> dict[str, Any] | None:
        try:
            return next(self.feeds, None)
        except Exception as error:
            raise _OfBatches from error


@checked
def quantize_onnx(
    path: str | Path,
    out: str | Path,
    batches: Iterable[Any] | None = None,
    per_channel: bool = True,
    kinds: Sequence[str] | None = None,
    symmetric: bool = False,
    target: str | None = None,
) -> OnnxModel:
    """Round the weights of an ONNX file to int8, and let it compute in integers.

    Without batches the ranges of activations are found anew for each input (dynamic), which suits
    linear layers and leaves convolutions as they are; with batches they are fixed beforehand
    (static), for convolutions too.

    Args:
        path: The file of :func:`to_onnx`.
        out: The file to write.
        batches: For a static range: inputs like those that the model will see.
        per_channel: A step for each output of a layer, or one for the whole weight.
        kinds: Operators to round, by their names in ONNX, such as ``Conv``; by default products of
            matrices and tables when dynamic, and all that ONNX Runtime can round when static.
        symmetric: Static grids around zero and biases in floats, as TensorRT wants them
            (:func:`to_tensorrt`).
        target: The CPU that will run the file: ``arm64``, ``avx512_vnni``, or ``avx2`` and
            ``avx512``. The last two add two products in 16 bits, which can overflow with weights of
            8 bits: the file is then right, and its answers there are not. So they get weights of 7
            (ONNX Runtime's ``reduce_range``), which are right on every CPU, and the default; with
            ``symmetric``, which is for TensorRT, weights have 8. ``lscpu | grep vnni`` tells
            whether yours takes 8.

    Returns:
        The new file, ready to be asked.

    Raises:
        ValueError: batches that are empty, or kinds of which the file holds none; symmetric without
            batches; another target.
        ExportError: a torn file, one that is not ONNX, or with operators that cannot be rounded.
        OSError: the file cannot be written; an older one is whole.
        ModuleNotFoundError: onnx or onnxruntime is not installed.

    Reference:
        Jacob et al., *Quantization and training of neural networks*, 2018.
    """
    onnx = need("onnx", "compress.quantize_onnx")
    tools = need("onnxruntime.quantization", "compress.quantize_onnx")
    source = as_path(path)
    if symmetric and batches is None:
        raise ValueError(
            "symmetric grids are fixed beforehand: give batches= to find their ranges on"
        )
    if target is not None and target not in SEVEN_BITS:
        raise ValueError(
            f"target is one of {', '.join(SEVEN_BITS)}, got {target!r}; for TensorRT give batches= "
            "and symmetric=True"
        )
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a pass that changes nothing here
    try:
        with tempfile.TemporaryDirectory() as folder, written_whole(out) as made:
            plain = Path(folder) / "plain.onnx"
            with _understood(path):
                model = onnx.load(source)
                held = {node.op_type for node in model.graph.node}
                del model.graph.value_info[:]  # shapes that quantize_dynamic finds contradictory
                onnx.save(model, plain)
            if kinds is not None and held.isdisjoint(kinds):
                raise ValueError(f"none of kinds={list(kinds)} occurs: {', '.join(sorted(held))}")
            common: dict[str, Any] = {"per_channel": per_channel}
            common["reduce_range"] = SEVEN_BITS[target] if target else not symmetric
            common["weight_type"] = tools.QuantType.QInt8
            if batches is None:
                # without examples the ranges are found anew in each run, for which ONNX Runtime has
                # no fast convolution: convolutions stay floats unless kinds= asks for them
                found = list(kinds or ["MatMul", "Gemm", "Gather"])
                # a Gemm is first written as a product and a sum
                common["op_types_to_quantize"] = found + ["MatMul"] * ("Gemm" in found)
                with _understood(path):
                    tools.quantize_dynamic(plain, made, **common)
            else:
                asked = OnnxModel(plain)
                reader = _Reader(asked.feed(batch) for batch in batches)
                common["op_types_to_quantize"] = kinds
                common["activation_type"] = tools.QuantType.QUInt8
                if symmetric:
                    common["activation_type"] = tools.QuantType.QInt8
                    common["extra_options"] = {"ActivationSymmetric": True, "QuantizeBias": False}
                with _understood(path):
                    tools.quantize_static(plain, made, reader, **common)
            OnnxModel(made)
    finally:
        logging.disable(level)
    return OnnxModel(out)


@contextlib.contextmanager
def _understood(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except _OfBatches as error:
        raise error.__cause__ or error from None
    except Exception as error:  # of many classes, of onnx and ONNX Runtime
        raise ExportError(
            f"{path} is torn, no ONNX file, or holds what ONNX Runtime cannot round: "
            f"{type(error).__name__} {str(error)[:300]}"
        ) from error


def _torchao(model: nn.Module, config: str, what: str) -> nn.Module:
    tools = need("torchao.quantization", f"compress.{what}")
    found = copied(model).eval()
    fit = _linear(found, what)
    tools.quantize_(found, getattr(tools, config)(), lambda module, _: module in fit)
    for first, *others in fit.values():
        for other in others:
            other.weight = first.weight
    return found


def _linear(model: nn.Module, what: str) -> dict[nn.Module, list[nn.Module]]:
    """The linear layers that torchao can round, each with those of the same weight."""
    found: dict[nn.Module, list[nn.Module]] = {}
    done: list[Tensor] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or isinstance(module, FUSED):
            continue
        if not isinstance(module._parameters.get("weight"), nn.Parameter):
            raise ValueError(f"{what}: a weight is shared or rounded already: compress.bake first")
        check_finite({f"{name}.weight".strip("."): module.weight})
        users = [user for _, user, _ in readers(model, module.weight)]
        if all(type(user) is type(module) for user in users) and module is users[0]:
            found[module] = users
            done.append(module.weight)
    if not found:
        raise ValueError(f"{what}: the model has no linear layer with a weight of its own")
    name_the_rest(model, done, what, known="linear layers with a weight of their own")
    return found


@checked
def int8_weight_only(model: nn.Module) -> nn.Module:
    """A copy whose linear layers keep int8 weights, and compute in floats; by torchao.

    A weight that is also an embedding's stays as it is, and a warning names what else does.
    A byte a weight instead of four. Whether it is also faster depends on the processor and on
    the kernels that torchao has for it: measure with :func:`compare`.
    """
    return _torchao(model, "Int8WeightOnlyConfig", "int8_weight_only")


@checked
def int8_dynamic(model: nn.Module) -> nn.Module:
    """A copy whose linear layers keep int8 weights and round their inputs as they come; by torchao.

    A byte a weight instead of four. Whether it is also faster depends on the processor and on
    the kernels that torchao has for it: measure with :func:`compare`.
    """
    return _torchao(model, "Int8DynamicActivationInt8WeightConfig", "int8_dynamic")


@checked
def int4_weight_only(model: nn.Module) -> nn.Module:
    """A copy on the GPU whose linear layers keep int4 weights, in bfloat16; by torchao.

    Raises:
        RuntimeError: there is no CUDA GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            "int4 weights need a GPU: torchao has kernels for CUDA only. For few bits on any "
            "machine use compress.share(model, bits=4) or compress.qat(model, weight_bits=4)"
        )
    return _torchao(
        copied(model).to("cuda", torch.bfloat16), "Int4WeightOnlyConfig", "int4_weight_only"
    )
