"""Files made to run code, or to take memory: a few bytes each, and where each is read."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import random
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import seeds
import torch
from formats import archived, members
from torch import nn

MARK = "EXECUTED"  # made by a payload that runs, in the folder where it runs
SIZE = 2**31  # bytes that a bomb says


class Call:
    """Unpickled, it calls."""

    def __init__(self, what: Any, *given: Any) -> None:
        self.what, self.given = what, given

    def __reduce__(self) -> Any:
        return self.what, self.given


CODE = f"open({MARK!r}, 'w').close()"
PAYLOADS: dict[str, Any] = {
    "system": Call(os.system, f"touch {MARK}"), "exec": Call(exec, CODE), "eval": Call(eval, CODE),
    "mkdir": Call(os.mkdir, MARK), "Popen": Call(subprocess.Popen, ["touch", MARK]),
    "open": Call(open, MARK, "w"), "torch.save": Call(torch.save, [1], MARK),
    "np.save": Call(np.save, MARK, np.arange(3)), "partial": functools.partial(os.mkdir, MARK),
    "module": nn.Linear(2, 2), "getattr": Call(getattr, "x", "upper"),
}  # fmt: skip


def evil() -> Iterator[tuple[str, str, bytes]]:
    """What it is, which loader reads it, and its bytes."""
    whole = seeds.program()
    for name, payload in PAYLOADS.items():
        state = {"a": torch.zeros(2), "b": [[{"x": (payload,)}]]}
        data = seeds.saved(state)
        yield f"{name}, zip", "state dict", data
        yield f"{name}, pickle", "state dict", pickle.dumps(payload, 2)
        old = seeds.saved(state, _use_new_zipfile_serialization=False)
        yield f"{name}, legacy", "state dict, before 1.6", old
        yield f"{name}, in a folder", "folder, pickle", data
        yield f"{name}, RSL-RL", "RSL-RL 5", seeds.saved({"actor_state_dict": payload, "iter": 1})
        yield f"{name}, training", "training", seeds.saved({"format": 1, "identity": payload})
        parts = [("policy.pth", data), ("data", b"{}"), ("pytorch_variables.pth", data)]
        yield f"{name}, archive", "Stable-Baselines3", archived(parts)
        if not isinstance(payload, nn.Module):
            content = io.BytesIO()
            np.savez(content, ids=np.array([payload], dtype=object), starts=np.array([0]))
            yield f"{name}, arrays", "tokens", content.getvalue()
        yield f"{name}, weights", "program", _in_program(whole, "weights/weight_", data)
        yield f"{name}, samples", "program", _in_program(whole, "sample_inputs/", data)
    code = f"__import__('os').mkdir({MARK!r})"
    model = members(whole)
    place = next(one for one in model if one.endswith("models/model.json"))
    for what, old, new in (
        ("guard", '"guards_code": [', f'"guards_code": [{json.dumps(code + " is None")}, '),
        ("target", "torch.ops.aten.linear.default", "torch.os.mkdir"),
    ):
        text = json.dumps(json.loads(model[place])).replace(old, new)
        yield f"code in a {what}", "program", archived([*{**model, place: text.encode()}.items()])


def _in_program(whole: bytes, where: str, data: bytes) -> bytes:
    parts = members(whole)
    for name, part in parts.items():
        if f"/data/{where}" in name:
            parts[name] = data
        elif name.endswith("_config.json"):
            config = json.loads(part)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            parts[name] = json.dumps(config).encode() if "weights" in where else part
    return archived([*parts.items()])


# ---- bombs ----


def _zeros(packed: Any, end: Any, size: int = SIZE) -> bytes:
    return b"".join(packed(bytes(2**24)) for _ in range(size // 2**24)) + end()


def _deflated(name: str, others: dict[str, bytes], size: int = SIZE) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for other, part in others.items():
            archive.writestr(other, part)
        with archive.open(name, "w", force_zip64=True) as file:
            for _ in range(size // 2**24):
                file.write(bytes(2**24))
    return content.getvalue()


def _packed(head: Any, table: bytes) -> bytes:
    said = zlib.compress(json.dumps(head).encode())
    found = b"DLPACK1\n" + struct.pack("<II", len(said), len(table)) + said + table
    return found + struct.pack("<I", zlib.crc32(found))


def _sparse(size: int) -> bytes:
    """A tar file of one member, which says that it holds holes."""
    member = tarfile.TarInfo("inside/words")
    member.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:398], head[398:410] = b"%011o\0" % 0, b"%011o\0" % 0
    head[483:495] = b"%011o\0" % size
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return gzip.compress(bytes(head) + bytes(1024))


def _pickle(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def bombs(large: bool = True) -> Iterator[tuple[str, str, bytes]]:
    """As :func:`evil`; the large ones have megabytes."""
    number = b"\x8a\x08" + SIZE.to_bytes(8, "little")
    for kind in ("builtins\nbytearray", "torch\nTensor", "torch.storage\nUntypedStorage"):
        body = b"c" + kind.encode() + b"\n" + number + b"\x85R"
        yield f"pickle, {kind.split()[1]}", "state dict", _pickle(body)
        yield f"archive, {kind.split()[1]}", "state dict", archived(
            [("a/data.pkl", _pickle(body)), ("a/version", b"3")]
        )  # fmt: skip
    yield "memo", "state dict", _pickle(b"Nr" + (2**31 - 1).to_bytes(4, "little"))
    store = torch.ones(4)._typed_storage()
    for name, view in {"size": (0, (SIZE,), (1,)), "stride": (0, (2,), (SIZE,)),
                       "offset": (SIZE, (1,), (1,))}.items():  # fmt: skip
        tensor = Call(torch._utils._rebuild_tensor_v2, store, *view, False, OrderedDict())
        yield f"{name} beyond a storage", "state dict", seeds.saved({"a": tensor})
        old = seeds.saved({"a": tensor}, _use_new_zipfile_serialization=False)
        yield f"{name} beyond a storage", "state dict, before 1.6", old
    many = [f"0.{n}" for n in range(4)]
    shapes = {"shapes": {"0.weight": [SIZE // 4, 4]}, "sizes": {}}
    yield "a plan that widens", "packed", _packed({"tensors": [], "plan": shapes}, b"")
    entry = {"k": "0.weight", "t": "float32", "s": [SIZE // 4, 1], "b": [1, 0]}
    one = zlib.compress(b"\0" + struct.pack("<I", 5))
    yield "many numbers of one value", "packed", _packed({"tensors": [entry]}, one)
    entries = [{**entry, "k": k} for k in many]
    yield "many tensors", "packed", _packed({"tensors": entries}, one)
    head = json.dumps({"__metadata__": {"plan": json.dumps(shapes)}}).encode()
    yield "a plan that widens", "pruned", struct.pack("<Q", len(head)) + head
    yield "holes", "sdist", _sparse(SIZE)
    head = b"\x93NUMPY\x01\x00v\x00" + (
        b"{'descr': '<i4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"
    )
    yield "a shape of terabytes", "tokens", archived([("ids.npy", head), ("starts.npy", head)])
    if not large:
        return
    for sets in (b"\x8f", b"}", b"(l", b"ca\nb\n", b"cm\naStorage\n"):
        body = b"(" + sets * (2**21 // len(sets)) + b"t"
        yield f"pickle of {sets!r}", "state dict", _pickle(body)
        parts = [("a/data.pkl", _pickle(body)), ("a/version", b"3")]
        yield f"archive of {sets!r}", "state dict", archived(parts)
    texts = [b"[" + b"[]," * 2**22 + b"0]", b"[" + b'{"":0},' * 2**21 + b"0]"]
    texts += [json.dumps({"a": "\U0001f40d" + "a" * 2**23}, ensure_ascii=False).encode()]
    for number_, text in enumerate(texts):
        text = b'{"a":' + text + b"}"
        yield f"settings {number_}", "folder, settings", text
        yield f"settings {number_}", "Trainer, note", text
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("policy.pth", seeds.state_dict())
            file.writestr("data", text)
            file.writestr("pad", random.Random(0).randbytes(2**20), zipfile.ZIP_STORED)
        yield f"settings {number_}", "Stable-Baselines3", content.getvalue()
    state = members(seeds.saved({"a": torch.zeros(1234567)}))
    name = next(one for one in state if one.endswith("data/0"))
    del state[name]
    yield "a deflated record", "state dict", _deflated(name, state)
    yield "settings that unpack", "Stable-Baselines3", _deflated("data", {"policy.pth": b""})
    yield "a member that unpacks", "wheel", _deflated("inside/words", {})
    yield "arrays that unpack", "tokens", _deflated("ids.npy", {})
    pack = zlib.compressobj(9, wbits=31)
    data = _zeros(pack.compress, pack.flush)
    yield "a file that unpacks", "gz", data
    yield "an archive that unpacks", "sdist", data
    pack = zlib.compressobj(9)
    yield (
        "tables that unpack",
        "packed",
        _packed({"tensors": []}, _zeros(pack.compress, pack.flush)),
    )
    table = seeds.table(sentence=["a" * 1000] * 10**6, label=[0] * 10**6, idx=[0] * 10**6)
    yield "a table of many rows", "parquet, images", table
    picture = {"bytes": b"a" * 2**20, "path": "x"}
    yield "a table of large pictures", "parquet, images", seeds.table(
        image=[picture] * 600, label=[0] * 600
    )  # fmt: skip
