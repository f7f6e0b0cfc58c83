"""What a model costs, torchao's types, and packages that are missing."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distill_lib import compress
from distill_lib.compress import (
    compare,
    file_bytes,
    macs,
    magnitude,
    qat,
    report,
    save_packed,
    share,
)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 4))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# ---- counting ----


def test_multiplications_of_convolutions_and_linear_layers() -> None:
    assert macs(net(), IMAGES) == 2 * (8 * 9 * 3 * 9 + 8 * 9 * 4)


def test_attention_counts_its_products() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    length, width = 5, 16
    linear = length * (4 * width * width + 2 * width * 32)
    attention = 2 * length * length * width
    assert macs(layer, torch.randn(3, length, width)) == 3 * (linear + attention)
    assert torch.backends.mha.get_fastpath_enabled()


def test_parameters_zeros_and_bytes(tmp_path: Path) -> None:
    model = net()
    total = sum(p.numel() for p in model.parameters())
    masks = magnitude(model, 0.5)
    masks.apply(model)
    found = report(model, IMAGES, "pruned", runs=3)
    assert found.parameters == total and found.nonzero == total - round(0.5 * (8 * 27 + 8 * 36))
    assert found.bytes == file_bytes(model, tmp_path / "m") == (tmp_path / "m").stat().st_size
    assert 4 * total < found.bytes < 4 * total + 500
    packed = tmp_path / "m.packed"
    size = save_packed(model, packed)
    assert report(model, IMAGES, path=packed, runs=3).bytes == size
    text = str(found)
    assert "pruned" in text and f"{found.nonzero:,}" in text and "ms" in text


@pytest.mark.parametrize("change", [lambda m: share(m, 2), lambda m: qat(m, activation_bits=None)])
def test_shared_and_rounded_weights_count_as_weights(change) -> None:
    model = net()
    total, products = sum(p.numel() for p in model.parameters()), macs(model, IMAGES)
    change(model)
    found = report(model, IMAGES, runs=3)
    assert found.parameters == total and found.macs == products
    assert nn.utils.parametrize.is_parametrized(model[0])  # it was only looked at


def test_tied_weights_are_written_once() -> None:
    tied = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))
    free = file_bytes(tied)
    tied[1].weight = tied[0].weight
    assert file_bytes(tied) < 0.6 * free


def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = []

    class Noted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turns.append(self.name)
            return x

    found = compare({"a": Noted("a"), "b": Noted("b")}, IMAGES, runs=4)
    assert turns == ["a", "b"] * 7
    assert all(one.lower <= one.median <= one.upper for one in found.values())
    with pytest.raises(ValueError, match="two runs at least"):
        compare({"a": Noted("a")}, IMAGES, runs=1)


def test_onnx_files_are_reported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = compress.to_onnx(nn.Linear(3, 2), torch.zeros(2, 3), tmp_path / "l.onnx")
    found = report(file, torch.zeros(2, 3), runs=3)
    assert found.name == "l.onnx" and found.bytes == (tmp_path / "l.onnx").stat().st_size
    assert found.parameters is None and "–" in str(found)


# ---- torchao ----


@pytest.mark.parametrize("kind", ["int8_weight_only", "int8_dynamic"])
def test_torchao_makes_a_smaller_copy(kind: str) -> None:
    pytest.importorskip("torchao")
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)).train()
    small = getattr(compress, kind)(model)
    x = torch.randn(16, 128)
    with torch.no_grad():
        error = (small(x) - model(x)).abs().max()
    assert 0 < error < 0.05 and model.training
    found = report(small, x, runs=3)
    assert found.bytes < 0.4 * file_bytes(model)
    assert found.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what it needs where there is none")
def test_int4_needs_a_gpu() -> None:
    with pytest.raises(RuntimeError, match=r"int4 weights need a GPU.*compress\.share"):
        compress.int4_weight_only(nn.Linear(4, 4))


# ---- what has to be installed ----


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("torchao", lambda: compress.int8_dynamic(nn.Linear(2, 2))),
        ("torch_pruning", lambda: compress.prune_channels(net(), IMAGES, 0.5)),
        ("onnx", lambda: compress.to_onnx(net(), IMAGES, "x.onnx")),
        ("onnxruntime", lambda: compress.OnnxModel("x.onnx")),
    ],
)
def test_what_is_missing_is_named(package: str, call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    class Finder:
        @staticmethod
        def find_spec(name: str, *_):
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    name = package.replace("_", "-")
    words = rf"needs {name}: pip install '{name}>="
    with pytest.raises(ModuleNotFoundError, match=words):
        call()


def test_the_package_itself_needs_none_of_them() -> None:
    code = "import sys, distill_lib.compress, distill_lib.fusion; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"onnx", "onnxruntime", "onnxscript", "torch_pruning", "torchao", "scipy", "sklearn"}
    assert "torch" in found and not heavy & found
