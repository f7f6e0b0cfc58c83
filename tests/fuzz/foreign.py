"""The same, of formats that others made: programs, arrays, tables."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import seeds
from formats import HUGE, TEXTS, archived, members, said
from mutants import ODD, odd_json


def npz(data: bytes, rnd: random.Random) -> bytes:
    """Of arrays: headers that say other shapes and types, with the checksum that belongs to it."""
    shape = rnd.choice(["(10,)", "()", "(-1,)", f"({rnd.choice(HUGE)},)", "(2**40,)", "(" * 300])
    kind = rnd.choice(["'<i4'", "'<i8'", "'O'", "'V2147483647'", "[('a', '<i4')]", "'>i4'", "1"])
    head = f"{{'descr': {kind}, 'fortran_order': {rnd.choice([0, 'True'])}, 'shape': {shape}, }}"
    version = rnd.choice([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\xff"])
    content = head.encode().ljust(117) + b"\n"
    size = len(content).to_bytes(2 if version[0] == 1 else 4, "little")
    size = rnd.choice([size, size, b"\xff" * len(size)])
    parts = members(data)
    name = rnd.choice(list(parts))
    return archived([*{**parts, name: b"\x93NUMPY" + version + size + content + bytes(40)}.items()])


def program(data: bytes, rnd: random.Random) -> bytes:
    """Of a program of torch.export: its JSON says something else."""
    parts = members(data)
    name = rnd.choice([one for one in parts if one.endswith(".json")] + list(parts))
    how = rnd.randrange(4)
    if not name.endswith(".json"):
        parts[name] = rnd.choice([b"", b"3", parts[name][:-1], parts[name] * 2, bytes(1000)])
    elif how == 0:
        parts[name] = rnd.choice(TEXTS)
    elif how == 1:
        old = json.dumps(json.loads(parts[name]))
        number = rnd.choice(['"as_int": 4', '"as_int": 3', '"as_int": 2', '"as_bool": false'])
        odd = rnd.choice([*map(str, HUGE), "-1", "0", "null", '"x"', "1e400"])
        parts[name] = old.replace(number, number.partition(":")[0] + ": " + odd).encode()
    else:
        value = json.loads(parts[name])
        for _ in range(rnd.choice([1, 1, 2, 5])):
            value = odd_json(value, rnd)
        parts[name] = said(value)
    return archived([*parts.items()])


OPERATORS = ("Loop", "If", "Scan", "ConstantOfShape", "Expand", "Tile", "Range", "Pad", "", "Print",
             "Resize", "OneHot", "Gather", "MatMul", "\U0001f40d", "Identity")  # fmt: skip


def onnx(data: bytes, rnd: random.Random) -> bytes:
    """Of ONNX: other operators, shapes, types, places of weights; constants of any size."""
    import onnx as format_
    from onnx import TensorProto, helper

    model = format_.load_from_string(data)
    graph, how = model.graph, rnd.randrange(9)
    node, weight = rnd.choice(graph.node), rnd.choice(graph.initializer)
    if how == 0:
        node.op_type = rnd.choice(OPERATORS)
    elif how == 1:
        weight.dims[rnd.randrange(len(weight.dims))] = rnd.choice([*HUGE, 0, -1, 1, 5])
    elif how == 2:
        weight.data_type = rnd.randrange(30)
    elif how == 3:
        node.input[rnd.randrange(len(node.input))] = rnd.choice(["", "x", node.output[0], "inputs"])
    elif how == 4:
        node.domain = rnd.choice(["x", "com.microsoft", "ai.onnx.ml", "pkg"])
    elif how == 5:
        weight.data_location = TensorProto.EXTERNAL
        weight.ClearField("raw_data")
        for key, value in {
            "location": rnd.choice(["/etc/passwd", "../x", "m.onnx", "", "/dev/zero", "\0"]),
            "offset": str(rnd.choice([0, -1, *HUGE])), "length": str(rnd.choice([8, *HUGE])),
        }.items():  # fmt: skip
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
    elif how == 6:
        model.opset_import[0].version = rnd.choice([0, -1, 1, 5, 30, 2**40])
    elif how == 7:
        shape = [rnd.choice([2**28, 2**31, 2**40, -1, 0])]
        graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [1], shape))
        fill = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
        graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["c"], value=fill))
        graph.node.insert(1, helper.make_node("ReduceSum", ["c"], ["r"]))
        graph.node.insert(2, helper.make_node("Add", ["r", graph.input[0].name], ["i"]))
        graph.node[3].input[0] = "i"
    else:
        kind = graph.input[0].type.tensor_type
        kind.shape.dim[-1].dim_value = rnd.choice([*HUGE, 0, -1])
        kind.elem_type = rnd.choice([1, 1, 8, 0, 99])
    return bytes(model.SerializeToString())


COLUMNS: list[Any] = [
    None, 1, -1, 256, 2**40, 1.5, float("nan"), "a", "", b"\xff", True, [1], {"a": 1}, [],
    {"bytes": b"x", "path": "x"}, {"bytes": None}, {"path": "x"}, {"bytes": b"", "path": None},
]  # fmt: skip


def parquet(data: bytes, rnd: random.Random) -> bytes:
    """Of a table: other columns, other types, rows by the thousand."""
    import pyarrow

    names = rnd.choice([["sentence", "label", "idx"], ["image", "label"]])
    one = {name: rnd.choice([*COLUMNS, rnd.choice(ODD)]) for name in names}
    if "image" in one and rnd.random() < 0.5:
        one["image"] = {"bytes": rnd.choice([seeds.png(), _png(rnd)]), "path": "x"}
    if rnd.random() < 0.3:
        del one[rnd.choice(names)]
    rows = rnd.choice([1, 1, 2, 1000])
    try:
        return seeds.table(**{name: [value] * rows for name, value in one.items()})
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
        return data[: rnd.randrange(len(data))]


def _png(rnd: random.Random) -> bytes:
    """A picture of other sizes and colors; one of gigabytes says so in its head alone."""
    import struct
    import zlib

    from PIL import Image

    content = io.BytesIO()
    if rnd.random() < 0.5:
        size = rnd.choice([(1, 1), (29, 28), (28, 28)])
        Image.new(rnd.choice(["L", "RGB", "1", "I;16"]), size).save(content, "PNG")
        return content.getvalue()
    sides = rnd.choice([(2**31 - 1, 2**31 - 1), (0, 0), (28, 2**31 - 1), (28, 28)])
    head = b"IHDR" + struct.pack(">IIBBBBB", *sides, 8, 0, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head
    found += struct.pack(">I", zlib.crc32(head))
    body = zlib.compress(bytes(10 << 20))
    found += struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT"))
    return found
