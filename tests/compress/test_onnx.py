"""Models that leave Python: what is written says what the model says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from distill_lib import KD, agreement, compress, distill, evaluate
from distill_lib.compress import (
    ExportError,
    OnnxModel,
    load_exported,
    quantize_onnx,
    to_exported,
    to_onnx,
)
from distill_lib.zoo import Policy, small_bert

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(8 * 36, 64), nn.ReLU(), nn.Linear(64, 5),
    )  # fmt: skip


def batches(n: int = 3) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [
        {"inputs": torch.randn(6, 1, 8, 8, generator=g), "labels": torch.arange(6) % 5}
        for _ in range(n)
    ]


class Wrong(nn.Module):
    """Decides by values, or uses what ONNX lacks."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "decides":
            return x if x.sum() > 0 else -x
        return torch.linalg.eigvals(x).real


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, OnnxModel]:
    model = net().train()
    found = to_onnx(model, batches(1)[0]["inputs"][:1], tmp_path_factory.mktemp("o") / "net.onnx")
    return model, found


def test_the_file_says_what_the_model_says_for_any_number_of_items(written) -> None:
    model, found = written
    assert model.training  # as it was
    assert found.inputs == ["inputs"] and found.outputs == ["logits"]
    model.eval()
    for n in (1, 2, 5):
        x = batches()[0]["inputs"][:n]
        with torch.no_grad():
            torch.testing.assert_close(found(x)["logits"], model(x), atol=1e-5, rtol=1e-4)


def test_the_file_holds_little_but_the_weights(written) -> None:
    model, found = written
    weights = sum(4 * p.numel() for p in model.parameters())
    assert found.path.stat().st_size < weights + 6_000
    graph = onnx.load(found.path).graph
    assert not graph.value_info and not any(node.metadata_props for node in graph.node)


def test_a_file_is_a_teacher_like_any_other(written) -> None:
    model, found = written
    assert evaluate(found, batches()) == pytest.approx(evaluate(model, batches()), rel=1e-4)
    assert agreement(found, model, batches()) == 1.0
    student = net()
    history = distill(student, found, batches(), KD(), epochs=2)
    assert len(history) == 6 and len(found.fingerprint()) == 64
    with pytest.raises(KeyError, match=r"asks for \['inputs'\]; the batch has pixels"):
        found({"pixels": torch.zeros(1)})


@pytest.mark.parametrize("per_channel", [True, False])
def test_int8_files_are_smaller_and_nearly_agree(written, tmp_path: Path, per_channel) -> None:
    _, found = written
    for static in (None, batches()):
        small = quantize_onnx(found.path, tmp_path / "q.onnx", static, per_channel=per_channel)
        assert small.path.stat().st_size < 0.5 * found.path.stat().st_size
        x = batches()[0]["inputs"]
        error = (small(x)["logits"] - found(x)["logits"]).abs().max()
        assert 0 < error < 0.1
    kinds = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert "QuantizeLinear" in kinds or "QLinearConv" in kinds


@pytest.mark.parametrize("lessons", [None, batches()], ids=["dynamic", "static"])
def test_only_the_kinds_that_are_named_are_rounded(written, tmp_path: Path, lessons) -> None:
    size = {}
    for kind in ("Conv", "Gemm"):
        quantize_onnx(written[1].path, tmp_path / kind, lessons, kinds=[kind])
        size[kind] = (tmp_path / kind).stat().st_size
    assert size["Gemm"] < 0.5 * size["Conv"]  # nearly all weights are in the linear layers
    if lessons is None:
        assert "ConvInteger" in {node.op_type for node in onnx.load(tmp_path / "Conv").graph.node}
    with pytest.raises(ValueError, match=r"none of kinds=\['Convolution'\] occurs: .*Gemm"):
        quantize_onnx(written[1].path, tmp_path / "q.onnx", kinds=["Convolution"])


def test_calibration_wants_batches(written, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        quantize_onnx(written[1].path, tmp_path / "q.onnx", [])


@pytest.mark.parametrize("lessons", [None, batches()], ids=["dynamic", "static"])
@pytest.mark.parametrize(
    ("target", "most"),
    [(None, 64), ("avx2", 64), ("avx512", 64), ("avx512_vnni", 127), ("arm64", 127)],
)
def test_weights_have_as_many_bits_as_the_cpu_can_add(
    written, tmp_path: Path, lessons, target: str | None, most: int
) -> None:
    small = quantize_onnx(written[1].path, tmp_path / "q.onnx", lessons, target=target)
    graph = onnx.load(small.path).graph
    weights = [onnx.numpy_helper.to_array(one) for one in graph.initializer if len(one.dims) > 1]
    sizes = [abs(one.astype(int)).max() for one in weights if one.dtype == "int8"]
    assert sizes and all(abs(size - most) <= 1 for size in sizes)


def test_other_targets_are_refused(written, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"arm64, avx2, avx512, avx512_vnni, got .*symm"):
        quantize_onnx(written[1].path, tmp_path / "q.onnx", target="tensorrt")


@pytest.mark.parametrize("one", [1, 3])
def test_texts_of_any_length_are_answered_unless_another_wish_is_said(tmp_path: Path, one) -> None:
    torch.manual_seed(0)
    model = small_bert(torch.arange(9), hidden=8, layers=1).eval()

    def texts(items: int, length: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(1, items * length + 1).view(items, length) % 9
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    file = to_onnx(model, texts(one, 5), tmp_path / "text.onnx")
    program = to_exported(model, texts(one, 5), tmp_path / "text.pt2")
    assert program and load_exported(tmp_path / "text.pt2")(**texts(2, 7))
    for shape in ((1, 3), (4, 9), (2, 5)):
        with torch.no_grad():
            expected = model(**texts(*shape)).logits
        torch.testing.assert_close(file(texts(*shape))["logits"], expected, atol=1e-5, rtol=1e-4)
    fixed = to_onnx(model, texts(one, 5), tmp_path / "fixed.onnx", dynamic={0: "batch"})
    with pytest.raises(ExportError, match="cannot answer this batch"):
        fixed(texts(1, 7))


def test_gpu_providers_say_that_they_need_one(written) -> None:
    path = written[1].path
    for device in ("cuda", "tensorrt"):
        with pytest.raises(RuntimeError, match=f"{device} needs a GPU"):
            OnnxModel(path, device=device)
    with pytest.raises(ValueError, match="cpu, cuda, tensorrt, got 'tpu'"):
        OnnxModel(path, device="tpu")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        OnnxModel(path.parent / "none.onnx")


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the operator aten\.linalg_eig has no counterpart"):
        to_onnx(Wrong("eig"), torch.randn(3, 3), tmp_path / "w.onnx", dynamic={})


def test_a_model_that_decides_by_values_is_told_where(tmp_path: Path) -> None:
    for write in (to_onnx, to_exported):
        with pytest.raises(ExportError, match=r"by the values of a tensor.*if x\.sum\(\) > 0"):
            write(Wrong("decides"), torch.randn(3, 3), tmp_path / "w")


def test_a_file_that_says_something_else_is_refused(tmp_path: Path, monkeypatch) -> None:
    def off(self: OnnxModel, batch) -> dict[str, torch.Tensor]:
        return {"logits": torch.full((2, 2), 7.0)}

    monkeypatch.setattr(OnnxModel, "__call__", off)
    with pytest.raises(ExportError, match=r"logits is off by .*, more than 0\.0001"):
        to_onnx(nn.Linear(3, 2), torch.zeros(2, 3), tmp_path / "o.onnx")


def test_an_example_needs_inputs_and_an_answer_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no inputs, only labels"):
        to_onnx(net(), {"labels": torch.zeros(1)}, tmp_path / "o.onnx")

    class Mute(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, str]:
            return {"word": "no"}

    with pytest.raises(ExportError, match="says no tensors, only word"):
        to_exported(Mute(), torch.zeros(1, 2), tmp_path / "o.pt2")


# ---- torch.export ----


def test_a_program_runs_without_its_class_and_keeps_its_names(tmp_path: Path) -> None:
    model = Policy(8, 2, continuous=True, critic=True)
    size = to_exported(model, torch.randn(1, 8), tmp_path / "p.pt2")
    assert size == (tmp_path / "p.pt2").stat().st_size
    again = load_exported(tmp_path / "p.pt2").train()
    x = torch.randn(7, 8)
    with torch.no_grad():
        said, expected = again(x), model.eval()(x)
    assert list(said) == list(expected) == ["mean", "gaussian", "value"]
    for name in said:
        torch.testing.assert_close(said[name], expected[name])


def test_shared_and_rounded_models_are_exported_when_baked(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    compress.share(model, 2)
    x = torch.randn(4, 6)
    said = model(x)
    to_exported(compress.bake(model), x, tmp_path / "s.pt2")
    torch.testing.assert_close(load_exported(tmp_path / "s.pt2")(x)["logits"], said)
    batch = [{"inputs": x, "labels": torch.zeros(4).long()}]
    assert agreement(load_exported(tmp_path / "s.pt2"), model, batch) == 1.0
    rounded = compress.qat(model, 8, 8).train()
    rounded(x)
    to_exported(compress.bake(rounded), x, tmp_path / "q.pt2")
    again = load_exported(tmp_path / "q.pt2")(x)["logits"]
    torch.testing.assert_close(again, rounded.eval()(x))


# ---- files of others, and disks without room ----


def test_a_constant_of_gigabytes_is_not_made_while_reading(tmp_path: Path) -> None:
    """ONNX Runtime folds constants: 200 bytes took 3 GB."""
    from onnx import TensorProto, helper

    size = helper.make_tensor("size", TensorProto.INT64, [1], [2**60])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
        helper.make_node("Add", ["inputs", "r"], ["logits"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("inputs", "logits")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    found = OnnxModel(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="cannot answer this batch"):
        found(torch.zeros(2))


def test_what_cannot_be_rounded_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"no onnx", b"\x08\x07" * 50):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises((ExportError, ValueError)):
            quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx")
    with pytest.raises(FileNotFoundError):
        quantize_onnx(tmp_path / "none.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_errors_of_the_batches_stay_what_they_are(written, tmp_path: Path) -> None:
    good = {"inputs": torch.zeros(6, 1, 8, 8)}
    with pytest.raises(KeyError, match="asks for"):
        quantize_onnx(written[1].path, tmp_path / "q.onnx", [good, {"x": torch.zeros(1)}])


@pytest.mark.parametrize("write", [to_onnx, to_exported])
def test_a_failed_write_costs_no_older_file(write, tmp_path: Path, monkeypatch) -> None:
    path, example = tmp_path / "m", torch.zeros(2, 3)
    write(nn.Linear(3, 2), example, path)
    older = path.read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"could not be written, and what was there before"):
        write(nn.Linear(3, 5), example, path)
    assert path.read_bytes() == older and [p.name for p in tmp_path.iterdir()] == ["m"]
