"""From an ONNX file to an engine of TensorRT, and what TensorRT would not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_lib.arguments import as_path, check_counts, checked
from distill_lib.checkpoints.files import written_whole

from ._needs import need
from .export import ExportError

__all__ = ["to_tensorrt"]

# operators of ONNX Runtime's dynamic int8 that TensorRT's parser lacks
DYNAMIC = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}


def _unread(model: Any, onnx: Any) -> Iterator[str]:
    """What of a file TensorRT would not read, and what to do."""
    held = {one.name: one for one in model.graph.initializer}
    kinds = {node.op_type for node in model.graph.node}
    if found := sorted(DYNAMIC & kinds):
        yield f"{', '.join(found)}: ranges are to be fixed beforehand; give quantize_onnx batches"
    wide = skewed = False
    unsigned = {onnx.TensorProto.UINT4, onnx.TensorProto.UINT8, onnx.TensorProto.UINT16}
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        first, zero = (held.get(name) for name in (node.input[0], node.input[-1]))
        if first is not None and first.data_type == onnx.TensorProto.INT32:
            wide = True
        elif len(node.input) == 3 and zero is not None:
            # eight or four bits with a sign, or the floats of eight bits, which have no offset
            skewed |= zero.data_type in unsigned or bool(onnx.numpy_helper.to_array(zero).any())
    if wide:
        yield "biases in integers of 32 bits: quantize_onnx(symmetric=True) leaves them floats"
    if skewed:
        yield "grids that are not around zero: write them by quantize_onnx(symmetric=True)"


def _engine(trt: Any, file: bytes, batch: tuple[int, int, int]) -> bytes:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    # types are those of the file; since release 11 there is no other way, and the flag says nothing
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network, config = builder.create_network(typed), builder.create_builder_config()
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(file):
        said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise ExportError(f"TensorRT does not read the file: {said}")
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        name, shape = network.get_input(i).name, tuple(network.get_input(i).shape)
        if -1 in shape[1:]:
            raise ValueError(f"only the first axis may vary, and {name} is {list(shape)}")
        if -1 in shape:
            profile.set_shape(name, *((n, *shape[1:]) for n in batch))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError("TensorRT builds no engine of the file; its log says why")
    return bytes(engine)


@checked
def to_tensorrt(path: str | Path, out: str | Path, batch: tuple[int, int, int] = (1, 1, 1)) -> Path:
    """Build TensorRT's engine from an ONNX file, for the GPU of this machine.

    TensorRT computes in the types that the file says: floats of :func:`to_onnx`, or int8 of
    :func:`quantize_onnx` with ``symmetric=True``. What its parser lacks is refused before, also
    where TensorRT is not installed. :class:`OnnxModel` with ``device="tensorrt"`` needs no engine:
    there ONNX Runtime builds it.

    The refusals are tested with the project. The calls of TensorRT are tested against a stand-in
    only, since its machines have no such GPU.

    Args:
        path: The file; its first axis may vary, the others are fixed.
        out: The engine to write. It is of this version and this kind of GPU.
        batch: Smallest, usual and largest number of examples, where the first axis varies.

    Returns:
        The engine's file.

    Raises:
        ExportError: a file that is not ONNX, or with what TensorRT's parser would refuse, in words
            of what to do; or an engine that TensorRT could not build.
        ValueError: numbers of examples that do not rise; another axis that varies.
        ModuleNotFoundError: onnx or TensorRT is not installed.
        OSError: the file cannot be written; an older one is whole.
    """
    onnx = need("onnx", "compress.to_tensorrt")
    least, usual, most = batch
    check_counts(smallest=least, usual=usual, largest=most)
    if not least <= usual <= most:
        raise ValueError(
            "batch expected three numbers that do not fall, the fewest examples, the usual and the "
            f"most; got {batch}"
        )
    try:
        model = onnx.load(as_path(path))
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise
    except Exception as error:  # of many classes, of onnx and protobuf
        raise ExportError(f"{path} is torn, or no ONNX file: {str(error)[:300]}") from error
    if found := list(_unread(model, onnx)):
        raise ExportError(f"TensorRT would not read {path}: {'; '.join(found)}")
    trt = need("tensorrt", "compress.to_tensorrt")
    engine = _engine(trt, model.SerializeToString(), batch)
    with written_whole(out) as made:
        made.write_bytes(engine)
    return as_path(out)
