"""A trained network made small: pruned, shared, quantized, exported, and measured.

Pruning, sharing and the model of rounding need torch alone; the rest says which package it needs.

>>> import distill_lib as dl
>>> net = dl.zoo.MLP((64, 32, 10))
>>> dl.compress.magnitude(net, 0.9).apply(net).layers[1].weight.count_nonzero().item() < 2048
True
"""

from __future__ import annotations

from .backends import int4_weight_only, int8_dynamic, int8_weight_only, quantize_onnx
from .clusters import kmeans
from .costs import Latency, Report, compare, file_bytes, macs, report
from .criteria import Masks, magnitude, mask_lowest, random, two_four, wanda
from .export import ExportError, OnnxModel, load_exported, to_exported, to_onnx
from .greedy import gptq
from .heads import prune_transformer, unit_scores
from .huffman import huffman_bits
from .packing import load_packed, packed_sizes, save_packed
from .plans import load_pruned, plan_of, save_pruned, shrink
from .pruning import Pruned, gradual, rewind
from .quantization import bake, calibrate, convert, qat
from .rounding import FakeQuant, grid, quantize
from .scan import sensitivity
from .sharing import Codebook, codebook_bits, share
from .structured import prune_channels
from .surgeon import refit
from .tensorrt import to_tensorrt

__all__ = [
    "Codebook",
    "ExportError",
    "FakeQuant",
    "Latency",
    "Masks",
    "OnnxModel",
    "Pruned",
    "Report",
    "bake",
    "calibrate",
    "codebook_bits",
    "compare",
    "convert",
    "file_bytes",
    "gptq",
    "gradual",
    "grid",
    "huffman_bits",
    "int4_weight_only",
    "int8_dynamic",
    "int8_weight_only",
    "kmeans",
    "load_exported",
    "load_packed",
    "load_pruned",
    "macs",
    "magnitude",
    "mask_lowest",
    "packed_sizes",
    "plan_of",
    "prune_channels",
    "prune_transformer",
    "qat",
    "quantize",
    "quantize_onnx",
    "random",
    "refit",
    "report",
    "rewind",
    "save_packed",
    "save_pruned",
    "sensitivity",
    "share",
    "shrink",
    "to_exported",
    "to_onnx",
    "to_tensorrt",
    "two_four",
    "unit_scores",
    "wanda",
]


def __dir__() -> list[str]:
    return __all__
