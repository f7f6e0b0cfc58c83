"""What TensorRT would not read is refused here; its calls are checked against a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from distill_lib.compress import ExportError, quantize_onnx, to_onnx, to_tensorrt
from distill_lib.zoo import Policy

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy in floats, and in the three kinds of int8."""
    folder = tmp_path_factory.mktemp("tensorrt")
    torch.manual_seed(0)
    policy = Policy(4, 2, (8,))
    for p in policy.parameters():  # its biases are zero, which an exporter leaves out
        nn.init.normal_(p)
    to_onnx(policy, torch.zeros(1, 4), folder / "float.onnx")
    seen = [{"inputs": torch.randn(64, 4)}]
    for name, batches, symmetric in (
        ("dynamic", None, False),
        ("static", seen, False),
        ("symmetric", seen, True),
    ):
        quantize_onnx(
            folder / "float.onnx",
            folder / f"{name}.onnx",
            batches,
            kinds=["Gemm"],
            symmetric=symmetric,
        )
    return folder


def stand_in(seen: dict[str, Any], reads: bool = True, shape: tuple[int, ...] = (-1, 4)) -> Any:
    """Answers as the documentation of TensorRT says, and notes what it was asked."""

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse(self, content: bytes) -> bool:
            seen["parsed"] = content
            return reads

        def get_error(self, i: int) -> str:
            return "no such operator"

    def builder(logger: Any) -> Any:
        network = SimpleNamespace(
            num_inputs=1, get_input=lambda i: SimpleNamespace(name="inputs", shape=shape)
        )
        return SimpleNamespace(
            create_network=lambda flags: network,
            create_builder_config=lambda: SimpleNamespace(
                add_optimization_profile=lambda profile: seen.setdefault("profiles", 1)
            ),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, *shapes: seen.update({name: shapes})
            ),
            build_serialized_network=lambda network, config: seen.get("engine", b"engine"),
        )

    logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
    flags = SimpleNamespace(STRONGLY_TYPED=1)
    return SimpleNamespace(
        Logger=logger, Builder=builder, OnnxParser=Parser, NetworkDefinitionCreationFlag=flags
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(found))
    return found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dynamic", "DynamicQuantizeLinear, MatMulInteger: ranges are to be fixed beforehand"),
        ("static", r"biases in integers of 32 bits: quantize_onnx\(symmetric=True\)"),
    ],
)
def test_what_tensorrt_does_not_read_is_refused_before(folder: Path, name: str, words: str):
    with pytest.raises(ExportError, match=words):
        to_tensorrt(folder / f"{name}.onnx", folder / "engine")


def test_a_grid_that_is_not_around_zero_is_refused(folder: Path, tmp_path: Path):
    model = onnx.load(folder / "symmetric.onnx")
    zero = next(n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear")
    for one in model.graph.initializer:
        if one.name == zero:
            one.CopyFrom(onnx.numpy_helper.from_array(
                onnx.numpy_helper.to_array(one) + 3, one.name))  # fmt: skip
    onnx.save(model, tmp_path / "skewed.onnx")
    with pytest.raises(ExportError, match="not around zero"):
        to_tensorrt(tmp_path / "skewed.onnx", tmp_path / "engine")


@pytest.mark.parametrize("kind", ["INT4", "FLOAT8E4M3FN"])
def test_few_bits_with_a_sign_and_floats_of_eight_bits_are_read(
    tmp_path: Path, seen: dict[str, Any], kind: str
) -> None:
    """Their zero point is of a type of its own, and is zero."""
    of = getattr(onnx.TensorProto, kind)
    scale = onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [0.5])
    zero = onnx.helper.make_tensor("zero", of, [], [0])
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 4]) for n in "xy"
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [scale, zero])
    opset = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), tmp_path / "few.onnx")
    to_tensorrt(tmp_path / "few.onnx", tmp_path / "engine")
    assert (tmp_path / "engine").exists()


@pytest.mark.parametrize("name", ["float", "symmetric"])
def test_an_engine_is_written(folder: Path, tmp_path: Path, seen: dict[str, Any], name: str):
    made = to_tensorrt(folder / f"{name}.onnx", tmp_path / "engine", batch=(1, 8, 64))
    assert made.read_bytes() == b"engine" and seen["profiles"] == 1
    assert seen["inputs"] == ((1, 4), (8, 4), (64, 4))
    assert onnx.load_from_string(seen["parsed"]).graph.input[0].name == "inputs"


def test_without_tensorrt_it_says_what_is_missing(folder: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ModuleNotFoundError, match="tensorrt"):
        to_tensorrt(folder / "float.onnx", folder / "engine")


def test_what_tensorrt_says_is_told(folder: Path, monkeypatch, seen: dict[str, Any]):
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(seen, reads=False))
    with pytest.raises(ExportError, match="no such operator"):
        to_tensorrt(folder / "float.onnx", folder / "engine")
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(seen, shape=(-1, -1)))
    with pytest.raises(ValueError, match="only the first axis"):
        to_tensorrt(folder / "float.onnx", folder / "engine")
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in({"engine": None}))
    with pytest.raises(ExportError, match="builds no engine"):
        to_tensorrt(folder / "float.onnx", folder / "engine")


def test_wrong_arguments(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="three numbers that do not fall"):
        to_tensorrt(folder / "float.onnx", tmp_path / "engine", batch=(4, 2, 8))
    with pytest.raises(FileNotFoundError):
        to_tensorrt(tmp_path / "none.onnx", tmp_path / "engine")
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    with pytest.raises(ExportError, match="torn"):
        to_tensorrt(tmp_path / "torn.onnx", tmp_path / "engine")
    with pytest.raises(ValueError, match="give batches="):
        quantize_onnx(folder / "float.onnx", tmp_path / "q.onnx", symmetric=True)


def test_symmetric_grids_say_what_the_floats_say(folder: Path):
    import onnxruntime as ort

    # as the file says it: fused, the sums of eight-bit numbers saturate on processors without VNNI
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(3))
    said = []
    for name in ("float", "symmetric"):
        file = str(folder / f"{name}.onnx")
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        told = {session.get_inputs()[0].name: x.numpy()}
        said.append(torch.from_numpy(session.run(["logits"], told)[0]))
    whole, small = said
    assert (whole - small).abs().max() < 0.05 * whole.abs().max() + 1e-3


def test_rounded_inputs_of_stacked_models_are_those_of_each_alone():
    from distill_lib import Stacked, compress

    torch.manual_seed(0)
    nets = [compress.qat(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), 4, 4)
            for _ in range(3)]  # fmt: skip
    for net in nets:
        compress.calibrate(net, [{"inputs": torch.randn(20, 3)}])
    stacked, x = Stacked(nets, ndim=2), torch.randn(7, 3)
    stacked.eval()
    alone = torch.stack([net.eval()(x) for net in nets])
    assert torch.allclose(stacked(x), alone, atol=1e-6)
    stacked.train()
    wide = 10 * torch.randn(5, 3)
    stacked(wide)
    for net, mine in zip(nets, stacked.unstack(), strict=True):
        net.train()(wide)
        assert torch.allclose(net[0].input_rounding.high, mine[0].input_rounding.high)
