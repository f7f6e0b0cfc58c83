"""Whatever is passed by mistake to data, models, checkpoints and compression is named."""

from __future__ import annotations

import copy
import itertools
import linecache
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_wrong_arguments import OURS, WRONG, words
from torch import nn

from distill_lib import checkpoints, compress, data, models, zoo
from distill_lib.checkpoints import CheckpointError
from distill_lib.compress import ExportError
from distill_lib.data import DataError

ERRORS = (TypeError, ValueError, KeyError, OSError, CheckpointError, ExportError, DataError)
WINGS = (data, zoo, models, checkpoints, compress)
MORE: dict[str, Any] = {
    "an empty text": "",
    "a null byte": "a\0b",
    "an empty list": [],
    "an empty mapping": {},
    "numbers": [3, -1],
    "zero": 0,
    "a fraction": 0.5,
    "infinity": float("inf"),
    "bytes": b"bytes",
    "an empty network": nn.Sequential(),
    "broken numbers": torch.full((6, 5), float("nan")),
}
ALL = {**WRONG, **MORE}


class Tokenizer:
    """As little of a tokenizer as texts and their copies need."""

    model_max_length, pad_token_id = 64, 0

    def get_vocab(self) -> dict[str, int]:
        return {f"word{chr(97 + i)}": i for i in range(8)}

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, 3, 4, 5, 2] for _ in texts]}

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [f"word{chr(97 + i)}" for i in ids]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def images() -> data.Dataset:
    return data.Dataset(torch.rand(6, 1, 8, 8), torch.arange(6) % 2, ("no", "yes"))


def texts() -> data.TextDataset:
    return data.TextDataset(("good film", "bad film"), torch.tensor([1, 0]), ("no", "yes"))


def batches() -> list[dict[str, Any]]:
    return [{"inputs": torch.randn(6, 8)}]


def picture() -> models.Policy:
    return models.Policy(8, 4)


ids = torch.arange(1, 8)
Call = tuple[Callable[..., Any], dict[str, Any]]


def calls(folder: Path) -> dict[str, Call]:
    """A good call of everything; each in the words of its signature."""
    masks = compress.magnitude(net(), 0.5)
    plan = {"shapes": {}, "sizes": {}}
    early = net().state_dict()
    cut = {"model": net(), "layers": ["0"]}
    kept = compress.save_packed(net(), folder / "kept.packed")
    pruned = compress.save_pruned(net(), folder / "kept.safetensors", plan)
    assert kept
    assert pruned
    whole = folder / "whole"
    whole.mkdir(exist_ok=True)
    (whole / "weights").write_bytes(b"weights")
    digest = checkpoints.write_manifest(whole)
    example = torch.randn(2, 8)
    state = checkpoints.Checkpoint("state_dict", early)
    return {
        "data.Dataset": (
            data.Dataset,
            {"inputs": torch.rand(2, 3), "labels": torch.zeros(2).long(), "classes": ("a",)}
            | {"index": torch.arange(2), "name": "n", "origin": "o", "license": "l"},
        ),
        "data.Scenes": (
            data.Scenes,
            {"inputs": torch.rand(2, 1, 3, 3), "labels": torch.zeros(2, 3, 3).long()}
            | {"classes": ("a",), "index": torch.arange(2), "name": "n", "origin": "o"}
            | {"license": "l", "boxes": torch.zeros(2, 1, 4).long()}
            | {"kinds": torch.zeros(2, 1).long()},
        ),
        "data.scenes": (
            data.scenes,
            {"garments": images(), "count": 2, "size": 9, "each": 1, "seed": 0},
        ),
        "data.Scenes.subset": (data.scenes(images(), 3, size=9).subset, {"indices": [1, 0]}),
        "data.TextDataset": (
            data.TextDataset,
            {"texts": ("a", "b"), "labels": torch.zeros(2).long(), "classes": ("a",)}
            | {"index": torch.arange(2), "ratings": torch.ones(2, 9), "tokens": None, "name": "n"},
        ),
        "data.Dataset.subset": (images().subset, {"indices": [1, 0]}),
        "data.TextDataset.subset": (texts().subset, {"indices": [1, 0]}),
        "data.Dataset.per_class": (images().per_class, {"k": 1}),
        "data.Dataset.without_labels": (
            images().without_labels,
            {"mask": torch.zeros(6, dtype=torch.bool)},
        ),
        "data.Dataset.to": (images().to, {"device": "cpu"}),
        "data.Batches": (
            images().batches,
            {"batch_size": 2, "shuffle": True, "seed": 0, "seeds": [1], "augment": None}
            | {"drop_last": False},
        ),
        "data.Batches.load_state_dict": (
            images().batches(2).load_state_dict,
            {"state": images().batches(2).state_dict()},
        ),
        "data.TextDataset.tokenize": (
            texts().tokenize,
            {"tokenizer": Tokenizer(), "max_length": 8},
        ),
        "data.TextBatches": (
            texts().tokenize(Tokenizer(), 8).batches,
            {"batch_size": 2, "shuffle": True, "seed": 0, "seeds": [1], "drop_last": False},
        ),
        "data.flip_and_shift": (
            data.flip_and_shift,
            {"inputs": torch.rand(2, 1, 4, 4), "generator": torch.Generator(), "reach": 1},
        ),
        "data.load": (data.load, {"name": "digits", "split": "test", "root": None}),
        "data.neighbors": (
            data.neighbors,
            {"table": torch.rand(9, 3), "pieces": torch.arange(1, 6), "near": 2},
        ),
        "data.rewrite": (
            data.rewrite,
            {"dataset": texts().tokenize(Tokenizer(), 8), "tokenizer": Tokenizer()}
            | {"table": torch.rand(8, 3), "copies": 2, "swap": 0.5, "whole": 0.5, "near": 1}
            | {"first": 100, "seed": 0},
        ),
        "zoo.card": (zoo.card, {"name": zoo.names()[0]}),
        "zoo.load_teacher": (zoo.load_teacher, {"name": "fashion_resnet20"}),
        "models.MLP": (models.MLP, {"sizes": (64, 32, 10)}),
        "models.ResNet": (
            models.ResNet,
            {"blocks": 1, "width": 4, "num_classes": 10, "in_channels": 1},
        ),
        "models.SmallConvNet": (
            models.SmallConvNet,
            {"width": 4, "num_classes": 10, "in_channels": 1},
        ),
        "models.DepthwiseNet": (
            models.DepthwiseNet,
            {"width": 4, "num_classes": 10, "in_channels": 1},
        ),
        "models.Policy": (
            models.Policy,
            {"observations": 8, "actions": 4, "hidden": (6,), "activation": "elu"}
            | {"continuous": True, "critic": True, "std": 1.0},
        ),
        "models.PixelPolicy": (
            models.PixelPolicy,
            {"shape": (2, 20, 20), "actions": 3, "features": 4, "width": 2, "hidden": (6,)}
            | {"continuous": True, "critic": True, "std": 1.0},
        ),
        "models.PixelPolicy.normalize_to": (
            models.PixelPolicy((2, 20, 20), 3).normalize_to,
            {"pictures": torch.rand(4, 2, 20, 20)},
        ),
        "models.Policy.normalize_as": (picture().normalize_as, {"other": picture()}),
        "models.Policy.normalize_to": (
            models.Policy(3, 2).normalize_to,
            {"observations": torch.rand(4, 3), "plus": 1e-4},
        ),
        "models.Words": (models.Words, {"pieces": ids, "dim": 4, "pad": 0}),
        "models.Words.start_from": (
            models.Words(ids, 2).start_from,
            {"table": torch.rand(8, 6)},
        ),
        "models.BagOfEmbeddings": (
            models.BagOfEmbeddings,
            {"pieces": ids, "dim": 4, "classes": 2, "bigrams": 8, "dropout": 0.1},
        ),
        "models.BiLSTM": (
            models.BiLSTM,
            {"pieces": ids, "dim": 4, "hidden": 3, "classes": 2, "dropout": 0.1},
        ),
        "models.small_bert": (
            models.small_bert,
            {"pieces": ids, "layers": 1, "hidden": 4, "heads": 2, "intermediate": 8}
            | {"labels": 2, "max_length": 8, "dropout": 0.1},
        ),
        "models.SmallGPT": (
            models.SmallGPT,
            {"vocabulary": 9, "width": 4, "layers": 1, "heads": 2, "length": 8}
            | {"seeds": 2, "seed": 0},
        ),
        "models.small_llama": (
            models.small_llama,
            {"vocabulary": 9, "hidden": 8, "layers": 1, "heads": 2, "intermediate": 8}
            | {"max_length": 8, "pad": 0, "stop": 1, "seed": 0},
        ),
        "checkpoints.Checkpoint": (
            checkpoints.Checkpoint,
            {"kind": "state_dict", "tensors": early, "meta": {}},
        ),
        "checkpoints.Checkpoint.part": (state.part, {"prefix": "0"}),
        "checkpoints.Checkpoint.load_into": (state.load_into, {"module": net(), "prefix": ""}),
        "checkpoints.from_state": (checkpoints.from_state, {"state": early, "path": "here"}),
        "checkpoints.load_checkpoint": (
            checkpoints.load_checkpoint,
            {"path": folder / "kept.safetensors"},
        ),
        "checkpoints.write_manifest": (checkpoints.write_manifest, {"folder": whole}),
        "checkpoints.verify": (checkpoints.verify, {"folder": whole, "digest": digest}),
        "compress.Pruned": (
            compress.Pruned,
            {"model": net(), "masks": compress.gradual(0.0, 0.5), "steps": 9, "every": 3}
            | {"choose": compress.magnitude},
        ),
        "compress.Codebook": (
            compress.Codebook,
            {"centroids": nn.Parameter(torch.rand(2)), "codes": torch.ones(4).int()},
        ),
        "compress.FakeQuant": (compress.FakeQuant, {"bits": 4, "momentum": 0.1}),
        "compress.FakeQuant.forward": (compress.FakeQuant(4), {"x": torch.rand(6)}),
        "compress.Masks.apply": (masks.apply, {"model": net()}),
        "compress.bake": (compress.bake, {"model": net(), "inputs": True}),
        "compress.calibrate": (
            compress.calibrate,
            {"model": compress.qat(net()), "batches": batches(), "forward": None},
        ),
        "compress.codebook_bits": (compress.codebook_bits, {"n": 9, "k": 2, "value_bits": 32}),
        "compress.compare": (
            compress.compare,
            {"models": {"a": net()}, "example": example, "runs": 2},
        ),
        "compress.convert": (compress.convert, {"model": compress.qat(net())}),
        "compress.file_bytes": (compress.file_bytes, {"model": net(), "path": folder / "bytes"}),
        "compress.gptq": (
            compress.gptq,
            {"model": net(), "bits": 4, "batches": batches(), "per_channel": True}
            | {"layers": None, "damping": 0.1, "forward": None},
        ),
        "compress.gradual": (compress.gradual, {"start": 0.0, "end": 0.5, "until": 1.0}),
        "compress.grid": (
            compress.grid,
            {"x": torch.rand(6, 5), "bits": 8, "axis": 0, "symmetric": True},
        ),
        "compress.huffman_bits": (compress.huffman_bits, {"codes": np.array([0, 0, 1])}),
        "compress.int8_weight_only": (compress.int8_weight_only, {"model": net()}),
        "compress.int8_dynamic": (compress.int8_dynamic, {"model": net()}),
        "compress.kmeans": (
            compress.kmeans,
            {"values": torch.rand(9), "k": 2},
        ),
        "compress.load_packed": (
            compress.load_packed,
            {"model": net(), "path": folder / "kept.packed"},
        ),
        "compress.load_pruned": (
            compress.load_pruned,
            {"build": net, "path": folder / "kept.safetensors"},
        ),
        "compress.load_exported": (compress.load_exported, {"path": folder / "net.pt2"}),
        "compress.macs": (compress.macs, {"model": net(), "example": example}),
        "compress.magnitude": (compress.magnitude, {**cut, "sparsity": 0.5, "scope": "layer"}),
        "compress.mask_lowest": (
            compress.mask_lowest,
            {"scores": {"a": torch.rand(2, 4)}, "sparsity": 0.5, "scope": "row"},
        ),
        "compress.packed_sizes": (compress.packed_sizes, {"tensors": early}),
        "compress.plan_of": (compress.plan_of, {"dense": net(), "pruned": net()}),
        "compress.prune_channels": (
            compress.prune_channels,
            {"model": net(), "example": example, "ratio": 0.5, "importance": "magnitude"}
            | {"keep": ("2",), "round_to": 1, "scope": "layer"},
        ),
        "compress.prune_transformer": (
            compress.prune_transformer,
            {"model": models.small_bert(ids, hidden=8), "heads": 0.5, "ffn": 0.5, "scores": None},
        ),
        "compress.qat": (
            compress.qat,
            {**cut, "weight_bits": 8, "activation_bits": 8, "per_channel": True},
        ),
        "compress.quantize": (
            compress.quantize,
            {"x": torch.rand(6, 5), "bits": 8, "scale": torch.tensor(0.1)}
            | {"zero_point": torch.tensor(3.0), "axis": None},
        ),
        "compress.quantize_onnx": (
            compress.quantize_onnx,
            {"path": folder / "net.onnx", "out": folder / "net8.onnx", "batches": None}
            | {"per_channel": True, "kinds": None, "symmetric": False, "target": "arm64"},
        ),
        "compress.OnnxModel": (
            compress.OnnxModel,
            {"path": folder / "net.onnx", "device": "cpu", "threads": 1},
        ),
        "compress.random": (
            compress.random,
            {**cut, "sparsity": 0.5, "scope": "global", "generator": torch.Generator()},
        ),
        "compress.refit": (
            compress.refit,
            {"model": net(), "masks": masks, "batches": batches(), "damping": 0.1}
            | {"forward": None},
        ),
        "compress.report": (
            compress.report,
            {"model": net(), "example": example, "name": "n", "path": folder / "kept.packed"}
            | {"runs": 2},
        ),
        "compress.rewind": (
            compress.rewind,
            {"model": net(), "early": early, "masks": masks},
        ),
        "compress.save_packed": (
            compress.save_packed,
            {"model": net(), "path": folder / "a.packed", "plan": plan},
        ),
        "compress.save_pruned": (
            compress.save_pruned,
            {"model": net(), "path": folder / "a.safetensors", "plan": plan},
        ),
        "compress.sensitivity": (
            compress.sensitivity,
            {"model": net(), "measure": lambda model: 0.0, "sparsities": (0.5,)}
            | {"choose": lambda model, share: compress.magnitude(model, share, "layer")},
        ),
        "compress.share": (compress.share, {**cut, "bits": 2}),
        "compress.shrink": (compress.shrink, {"model": net(), "plan": plan}),
        "compress.to_exported": (
            compress.to_exported,
            {"model": net(), "example": example, "path": folder / "net.pt2"}
            | {"dynamic": {0: "batch"}},
        ),
        "compress.to_onnx": (
            compress.to_onnx,
            {"model": net(), "example": example, "path": folder / "net.onnx"}
            | {"dynamic": {0: "batch"}, "tolerance": 1e-3},
        ),
        "compress.two_four": (compress.two_four, cut),
        "compress.unit_scores": (
            compress.unit_scores,
            {
                "model": models.small_bert(ids, hidden=8),
                "batches": [{"input_ids": torch.ones(2, 4).long()}],
                "loss": lambda model, batch: model(**batch).logits.sum(),
            },
        ),
        "compress.wanda": (
            compress.wanda,
            {**cut, "batches": batches(), "sparsity": 0.5, "scope": "row", "forward": None},
        ),
    }


# Results that only the library makes, errors, and what needs a GPU or a network.
ELSEWHERE = {
    *("data.DataError", "data.names", "zoo.names", "zoo.minilm_tokenizer"),
    "zoo.reference_tokenizer",
    *("checkpoints.CheckpointError", "compress.ExportError", "compress.int4_weight_only"),
    *("compress.Latency", "compress.Report", "compress.Masks", "compress.to_tensorrt"),
}
# What a model is asked: what the model itself cannot take is its own error.
ASKED = {"example", "batches", "forward", "loss", "model", "models", "choose", "build", "dense"}
# Functions of the user's: what they cannot be called with is their own error.
FUNCTIONS = {"forward", "loss", "choose", "build", "importance", "augment"}
SLOW = {"compress.to_onnx", "compress.to_exported"}
METHODS = {
    *("data.Dataset.subset", "data.TextDataset.subset", "data.Dataset.per_class"),
    *("data.Dataset.without_labels", "data.Dataset.to", "data.Batches.load_state_dict"),
    *("data.TextDataset.tokenize", "models.Policy.normalize_as", "models.Words.start_from"),
    *("models.PixelPolicy.normalize_to", "models.Policy.normalize_to"),
    *("checkpoints.Checkpoint.part", "checkpoints.Checkpoint.load_into"),
    *("compress.FakeQuant.forward", "compress.Masks.apply"),
}
NAMES = [f"{wing.__name__.split('.')[1]}.{name}" for wing in WINGS for name in wing.__all__]


def fault_of(call: Callable[[], Any], value: Any, argument: str) -> str | None:
    """What is wrong with how a call ended: None for an answer, or an error that says what came."""
    try:
        call()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = f"{type(error).__name__} of {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        if argument in ASKED and any("torch/nn/modules" in one.filename for one in frames):
            return None
        if not isinstance(error, ERRORS):
            return f"{at}: {error}"
        if not isinstance(error, OSError) and not frames[-1].filename.startswith(OURS):
            return f"{at}: {error}"
        line = linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
        if not isinstance(error, OSError) and not line.startswith("raise"):
            return f"{at}: {error}"
        named = any(word in str(error) for word in (*words(value), argument, "a batch"))
        if len(str(error)) < 20 or (type(error) is TypeError and not named):
            return f"{at} says neither {argument} nor {words(value)[0]}: {error}"
    return None


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    folder = tmp_path_factory.mktemp("calls")
    found = calls(folder)
    for name in ("compress.to_onnx", "compress.to_exported"):
        call, good = found[name]
        call(**good)
    return found


def walked() -> list[str]:
    handed = {f"zoo.{name}" for name in models.__all__}  # the zoo hands models on
    kept = sorted({*NAMES, *METHODS} - ELSEWHERE - handed)
    return [*kept]


@pytest.mark.parametrize("name", walked())
def test_each_argument_of_each_call(
    name: str, table: dict[str, Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a string is a good path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name not in SLOW:
            call, good = copy.deepcopy(table[name])
            call(**good)
        faults = []
        for argument, (wrong, value) in itertools.product(table[name][1], ALL.items()):
            if isinstance(value, str) and argument in ("path", "out"):
                continue
            if callable(value) and argument in FUNCTIONS:
                continue
            call, good = copy.deepcopy(table[name])
            some = {**good, argument: copy.deepcopy(value)}
            fault = fault_of(lambda: call(**some), value, argument)  # noqa: B023
            faults += [] if fault is None else [f"{argument} = {wrong}: {fault}"]
    assert not faults, "\n".join(faults)
