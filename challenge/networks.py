"""Which network a packed file holds: read from the names and shapes of its tensors.

The list is closed and every size has a bound, so that nothing large is built whatever a file says.
Where a file leaves something out or says something else, the network built here does not fit it,
and :func:`distill_lib.compress.load_packed` refuses it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib import zoo
from distill_lib.checkpoints import CheckpointError
from distill_lib.compress.packing import MAGIC
from distill_lib.compress.plans import shapes_of_all
from distill_lib.fusion.batchnorm import fold_batchnorm
from distill_lib.models.control import CLIP
from distill_lib.models.vision import DepthwiseNet

HEADER = 1 << 20  # bytes that the header may unpack to
PIECES = 30_522  # of MiniLM's tokenizer, by which every entry reads
# What a plan may change in a BERT: how many heads, units and words are left.
SIZES = {"out_features", "in_features", "num_attention_heads", "all_head_size", "num_embeddings"}

# The largest of each size.
WIDTH = 256
DIM, PAIRS, UNITS = 384, 20_000, 256
BLOCKS, LAYERS = 3, 6
CHANNELS = {"ResNet": 16, "DepthwiseNet": 32, "SmallConvNet": 64}
NETWORKS = {
    "lander": f"Policy: up to 4 hidden layers of {WIDTH}, tanh",
    "garments": f"ResNet: up to {BLOCKS} blocks a stage, width {CHANNELS['ResNet']}; "
    f"DepthwiseNet: width {CHANNELS['DepthwiseNet']}; "
    f"SmallConvNet: width {CHANNELS['SmallConvNet']}; MLP: up to 3 hidden layers of {WIDTH}",
    "reviews": f"BagOfEmbeddings: dim {DIM}, {PAIRS:,} bigrams; BiLSTM: dim {DIM}, {UNITS} units; "
    f"small_bert: {LAYERS} layers of {DIM}, heads of 32",
}

Shapes = Mapping[str, Sequence[int]]


class Refused(ValueError):
    """A file that is no entry; the message says why."""


@dataclass
class Header:
    """What a file says of itself: shapes by name, and the shapes that its plan changes."""

    shapes: Shapes
    narrowed: Shapes


def read_header(data: bytes) -> Header:
    """The names and shapes in a packed file; nothing else of it is unpacked.

    Raises:
        Refused: it is no packed file, or its header is not one of plain names and sizes.
    """
    start = len(MAGIC) + 8
    if data[: len(MAGIC)] != MAGIC or len(data) < start + 4:
        raise Refused("it is not a packed file of distill_lib")
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise Refused("it is torn: its checksum does not fit")
    (length,) = struct.unpack("<I", data[len(MAGIC) : len(MAGIC) + 4])
    try:
        unpack = zlib.decompressobj()
        text = unpack.decompress(data[start : start + length], HEADER)
        if not unpack.eof:
            raise Refused(f"its header is torn, or unpacks to more than {HEADER:,} bytes")
        said = json.loads(text)
        shapes = {entry["k"]: entry["s"] for entry in said["tensors"]}
        _check_shapes(shapes)
        plan = said.get("plan", {"shapes": {}, "sizes": {}})
        odd = {key for sizes in plan["sizes"].values() for key in sizes} - SIZES
        if odd:
            raise Refused("its plan changes more than heads, units and words")
        _check_shapes(plan["shapes"])
        return Header(shapes_of_all(shapes, said.get("ties", {})), plan["shapes"])
    except (Refused, CheckpointError) as error:
        raise Refused(str(error)) from error
    except Exception as error:  # the checksum is right, and behind it may be anything
        raise Refused(f"its header cannot be read: {type(error).__name__}") from error


def _check_shapes(shapes: Any) -> None:
    for name, shape in shapes.items():
        plain = isinstance(name, str) and isinstance(shape, list) and len(shape) <= 4
        if not plain or not all(type(n) is int and n >= 1 for n in shape):
            raise Refused("a tensor of it has no plain name, or no shape of positive numbers")


def _size(shapes: Shapes, name: str, axis: int, most: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise Refused(f"it has no tensor {name} with a size at axis {axis}")
    if not 1 <= shape[axis] <= most:
        raise Refused(f"{name} has {shape[axis]:,} at axis {axis}, at most {most:,} are allowed")
    return shape[axis]


def _count(shapes: Shapes, name: str, most: int) -> int:
    """How many tensors there are of a name with a place for a number, counted from 0."""
    found = 0
    while name.format(found) in shapes:
        found += 1
    if not 1 <= found <= most:
        raise Refused(f"it has {found} layers {name.format('N')}, 1 to {most} are allowed")
    return found


def policy(header: Header) -> nn.Module:
    """``zoo.Policy(8, 4, hidden)`` with tanh."""
    shapes = header.shapes
    layers = sum(f"net.{2 * i}.weight" in shapes for i in range(6))
    if not 1 <= layers <= 5:
        raise Refused("a pilot has at most four hidden layers, net.0 to net.8")
    hidden = [_size(shapes, f"net.{2 * i}.weight", 0, WIDTH) for i in range(layers - 1)]
    # the bound of the observations is saved where it is not the usual one
    return zoo.Policy(8, 4, hidden, clip=None if "obs_clip" in shapes else CLIP)


def image_net(header: Header) -> nn.Module:
    """One of the four image networks; with folded batch normalization where there are biases."""
    shapes = header.shapes
    if "layer1.0.conv1.weight" in shapes:
        blocks = _count(shapes, "layer1.{}.conv1.weight", BLOCKS)
        net: nn.Module = zoo.ResNet(blocks, _size(shapes, "conv.weight", 0, CHANNELS["ResNet"]))
        return fold_batchnorm(net) if "conv.bias" in shapes else net
    if "conv.0.weight" in shapes:
        net = DepthwiseNet(_size(shapes, "conv.0.weight", 0, CHANNELS["DepthwiseNet"]))
        return fold_batchnorm(net) if "conv.0.bias" in shapes else net
    if "layer1.0.weight" in shapes:
        return zoo.SmallConvNet(_size(shapes, "layer1.0.weight", 0, CHANNELS["SmallConvNet"]))
    layers = sum(f"layers.{2 * i + 1}.weight" in shapes for i in range(6))
    if not 1 <= layers <= 4:
        raise Refused("it is none of ResNet, DepthwiseNet, SmallConvNet, MLP with 1 to 4 layers")
    hidden = [_size(shapes, f"layers.{2 * i + 1}.weight", 0, WIDTH) for i in range(layers - 1)]
    return zoo.MLP([784, *hidden, 10])


def reader(header: Header) -> nn.Module:
    """A mean of word vectors, two LSTMs, or a BERT with heads of 32 numbers."""
    shapes = header.shapes
    if "bert.embeddings.LayerNorm.weight" in shapes:
        return _bert(header)
    table = "words.embedding.weight"
    dim = _size(shapes, table, 1, DIM)
    pieces = _pieces(shapes, "words.lookup", table)
    if "ahead.weight_hh_l0" in shapes:
        return zoo.BiLSTM(pieces, dim, _size(shapes, "ahead.weight_hh_l0", 1, UNITS))
    pairs = "pairs.weight"
    return zoo.BagOfEmbeddings(
        pieces, dim, bigrams=_size(shapes, pairs, 0, PAIRS) if pairs in shapes else 0
    )


def _pieces(shapes: Shapes, lookup: str, table: str) -> Tensor:
    """Some pieces that make a table of these sizes; which they are is in the file."""
    ids, rows = _size(shapes, lookup, 0, PIECES), _size(shapes, table, 0, PIECES + 1)
    if not 3 <= rows <= ids + 1:
        raise Refused(f"{table} has {rows:,} rows, for {ids:,} pieces it has 3 to {ids + 1:,}")
    return torch.cat([torch.arange(1, rows - 2), torch.tensor([ids - 1])])


def _bert(header: Header) -> nn.Module:
    shapes, words = header.shapes, "bert.embeddings.word_embeddings"
    # what a plan narrows is built as it was before: all words, and four times as many units
    whole = f"{words}.embedding.weight" in header.narrowed
    pieces = (
        torch.arange(PIECES)
        if whole
        else _pieces(shapes, f"{words}.lookup", f"{words}.embedding.weight")
    )
    hidden = _size(shapes, "bert.embeddings.LayerNorm.weight", 0, DIM)
    if hidden % 32:
        raise Refused(f"a BERT here has heads of 32 numbers; {hidden} is no multiple of it")
    units = [name for name in header.narrowed if name.endswith("intermediate.dense.weight")]
    first = "bert.encoder.layer.0.intermediate.dense.weight"
    return zoo.small_bert(
        pieces,
        layers=_count(shapes, "bert.encoder.layer.{}.intermediate.dense.weight", LAYERS),
        hidden=hidden,
        heads=hidden // 32,
        intermediate=4 * hidden if units else _size(shapes, first, 0, 4 * DIM),
        max_length=_size(shapes, "bert.embeddings.position_embeddings.weight", 0, 64),
        dropout=0.0,
    )


Build = Callable[[Header], nn.Module]
