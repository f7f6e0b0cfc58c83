"""The kept corpus is read as its index says, and every function that opens a file is known."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attempts import attempt
from crafted import PAYLOADS
from keep import CORPUS, EACH, FILES, TOTAL, content_of, read_index
from loaders import LOADERS, Loader
from mutants import mutants

import distill_lib
from distill_lib.checkpoints import CheckpointError

INDEX = read_index()
NEEDS = {
    "ONNX": "onnxruntime",
    "ONNX, to be rounded": "onnxruntime",
    "parquet, texts": "pyarrow",
    "parquet, images": "pyarrow",
    "Trainer, note": "transformers",
    "Trainer, tensors": "transformers",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loader", LOADERS)
def test_a_file_ends_as_the_index_says(loader: str, tmp_path: Path) -> None:
    if loader in NEEDS:
        pytest.importorskip(NEEDS[loader])
    entries = [entry for entry in INDEX if entry["loader"] == loader]
    assert {entry["end"] for entry in entries} - {"read"} or loader == "tokens"
    attempt(LOADERS[loader], content_of(entries[0]), tmp_path / "x")  # what is imported late
    for entry in entries:
        found = attempt(LOADERS[loader], content_of(entry), tmp_path / "x")
        assert not found.fault(), f"{entry}: {found.fault()}"
        assert found.end == entry["end"], f"{entry}: {found}"


def test_the_corpus_is_small_and_ours() -> None:
    sizes = {path.name: path.stat().st_size for path in CORPUS.iterdir()}
    index = sizes.pop("index.json")
    assert set(sizes) == {entry["file"] for entry in INDEX} and len(INDEX) == len(sizes) <= FILES
    assert max(sizes.values()) <= EACH and sum(sizes.values()) + index <= TOTAL
    assert {entry["loader"] for entry in INDEX} == set(LOADERS)


def test_a_mutant_is_the_same_whenever_it_is_made() -> None:
    loader = LOADERS["safetensors"]
    made = [loader.mutant(f"0/safetensors/{n}") for n in range(20)]
    assert made == [loader.mutant(f"0/safetensors/{n}") for n in range(20)]
    assert len(set(made)) > 15 and len(set(mutants(loader.whole, 20))) > 15


# ---- what the fuzzer sees ----


def fake(read: Callable[[Path, bytes], Any], room: int = 1 << 20) -> Loader:
    return Loader(lambda: b"x", read, CheckpointError, room=room)


RUNS = [name for name in PAYLOADS if name not in ("module", "getattr", "open", "Popen")]


@pytest.mark.parametrize("payload", RUNS)
def test_a_payload_that_runs_is_seen(payload: str, tmp_path: Path) -> None:
    def unsafe(folder: Path, content: bytes) -> None:
        found = pickle.loads(content)
        if payload == "partial":
            found()

    found = attempt(fake(unsafe), pickle.dumps(PAYLOADS[payload], 2), tmp_path / "x")
    assert "a payload" in found.ran and found.fault()


def test_foreign_errors_and_memory_are_seen(tmp_path: Path) -> None:
    def foreign(*_: Any) -> None:
        raise KeyError("x")

    def asks(*_: Any) -> None:
        raise CheckpointError("torn") from MemoryError()

    assert "foreign" in attempt(fake(foreign), b"x", tmp_path / "x").fault()
    assert "asked for memory" in attempt(fake(asks), b"x", tmp_path / "x").fault()
    big = attempt(fake(lambda *_: bytearray(b"x" * (64 << 20))), b"x", tmp_path / "x")
    assert "MB where 1 are stated" in big.fault() or not big.memory  # not every system counts
    assert not attempt(fake(lambda *_: None), b"x", tmp_path / "x").fault()


# ---- what opens files ----

OPENS = {
    "open", "read_bytes", "read_text", "load", "load_file", "safe_open", "ZipFile", "GzipFile",
    "ParquetFile", "read_table", "InferenceSession", "memmap", "fromfile", "from_pretrained",
    "loadtxt", "read_csv", "imread", "mmap", "hf_hub_download", "torch_load", "checked_zip",
}  # fmt: skip
# By file and function: which loaders of the fuzzer go through it, or why none has to.
OURS, SUM, WRITES = "not a user's file", "a sum is compared first", "only written to"
CHECKPOINTS = "state dict; state dict, before 1.6; RSL-RL 2; RSL-RL 5; folder, pickle; training"
KNOWN = {
    "booktools/checks.py check": OURS,
    "booktools/claims.py machine": OURS,
    "booktools/processes/train_digits.py main": OURS,
    "booktools/ratings.py __init__": OURS,
    "booktools/sliders.py _fragment": OURS,
    "booktools/students/_page.py page": OURS,
    "booktools/students/budget.py readings": OURS,
    "booktools/students/garments.py figure": OURS,
    "booktools/students/mixture.py _images": OURS,
    "booktools/students/policies.py _stored": SUM,
    "booktools/students/reviews.py figure": OURS,
    "booktools/students/step.py _lesson": OURS,
    "checkpoints/__init__.py _read": CHECKPOINTS,
    "checkpoints/__init__.py _safetensors": "safetensors; pruned; folder, safetensors",
    "checkpoints/__init__.py _sb3": "Stable-Baselines3",
    "checkpoints/__init__.py _settings": "folder, settings; folder, index",
    "checkpoints/__init__.py _torch_load": CHECKPOINTS,
    "checkpoints/files.py _check_records": CHECKPOINTS,
    "checkpoints/files.py checked_zip": f"{CHECKPOINTS}; Stable-Baselines3; program",
    "checkpoints/files.py sha256": "manifest; wheel; sdist; ONNX",
    "checkpoints/files.py torch_load": CHECKPOINTS,
    "checkpoints/files.py written_whole": OURS,
    "checkpoints/manifests.py verify": "manifest",
    "checkpoints/parts.py _locked": WRITES,
    "checkpoints/parts.py _sweep": WRITES,
    "checkpoints/shards.py other_program": CHECKPOINTS,
    "compress/_programs.py _parts": "program",
    "compress/_programs.py rebuilt": "program",
    "compress/backends.py quantize_onnx": "ONNX, to be rounded",
    "compress/runtime.py __init__": "ONNX",
    "compress/tensorrt.py to_tensorrt": "ONNX",
    "compress/_graphs.py strip": OURS,
    "compress/export.py load_exported": "program",
    "compress/packing.py load_packed": "packed",
    "data/__init__.py load": OURS,
    "data/cifar.py _members": SUM,
    "data/fashion.py _read": "gz",
    "data/hub.py sst2": "parquet, texts",
    "data/packages.py _content": "wheel; sdist",
    "data/packages.py _download": SUM,
    "data/packages.py _member": "wheel; sdist",
    "data/places.py gunzip": "sdist",
    "data/snippets.py _read": SUM,
    "data/sources.py _images": "parquet, images",
    "data/sources.py from_debian": SUM,
    "data/sources.py from_hub": "parquet, images",
    "data/text.py _array": "tokens",
    "data/text.py _kept": "tokens",
    "integrations/rsl_rl/algorithm.py load": OURS,
    "integrations/rsl_rl/kickstart.py load": OURS,
    "integrations/settings.py read_settings": "RSL-RL, settings; Isaac Lab, environment",
    "integrations/transformers/beside.py _note": "Trainer, note",
    "integrations/transformers/beside.py read": "Trainer, tensors",
    "rl/videos.py video": OURS,
    "teachers/cachefile.py __init__": "cache, gone on with",
    "teachers/cachefile.py map_rows": "cache; cache, gone on with",
    "training/loop.py distill": "training",
    "training/processes.py _unpack": OURS,
    "training/resume.py _load": "training",
    "training/resume.py check": OURS,
    "zoo/__init__.py card": OURS,
    "zoo/__init__.py load_teacher": SUM,
    "zoo/minilm.py minilm": SUM,
    "zoo/minilm.py minilm_tokenizer": SUM,
}


def openers() -> dict[str, set[str]]:
    root = Path(distill_lib.__file__).parent
    found: dict[str, set[str]] = {}

    class Walk(ast.NodeVisitor):
        def __init__(self, file: str) -> None:
            self.file, self.inside = file, "-"

        def visit_FunctionDef(self, node: Any) -> None:
            outer, self.inside = self.inside, node.name
            self.generic_visit(node)
            self.inside = outer

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_Call(self, node: ast.Call) -> None:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in OPENS:
                found.setdefault(f"{self.file} {self.inside}", set()).add(name)
            self.generic_visit(node)

    for path in sorted(root.rglob("*.py")):
        Walk(path.relative_to(root).as_posix()).visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_every_function_that_opens_a_file_is_known() -> None:
    found = openers()
    assert not {k: v for k, v in found.items() if k not in KNOWN}, "name its loader, or why none"
    assert not set(KNOWN) - set(found)
    for loaders in KNOWN.values():
        if loaders not in (OURS, SUM, WRITES):
            assert set(loaders.split("; ")) <= set(LOADERS)
