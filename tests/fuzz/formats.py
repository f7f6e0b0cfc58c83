"""Files changed in what their format says, with checksums and sizes made right again."""

from __future__ import annotations

import gzip
import io
import json
import math
import random
import struct
import tarfile
import zipfile
import zlib
from typing import Any

import seeds
from mutants import NUMBERS, ODD, mutants, odd_json

HUGE = (2**31, 2**32, 2**40, 2**62, 2**63 - 1)


class Unchanged(Exception):
    """This file has nothing of the kind."""


def bent(data: bytes, rnd: random.Random) -> bytes:
    """Some bytes are others."""
    return next(mutants(data, 1, rnd.random()))  # type: ignore[arg-type]


def said(value: Any) -> bytes:
    """As JSON, which has no way to say some of the numbers: Python's is used."""
    return json.dumps(value).encode()


# ---- texts ----

TEXTS = (
    b"", b"null", b"5", b"[1]", b'"x"', b"\xff", b"{", b"[[1,2]]", b"1e999", b"NaN", b"-0",
    b"9" * 5000, b"[" * 200_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900, b'[["a", 1]]',
    b"[" + b"[]," * 100_000 + b"0]", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"\\ud800": 1}',
    b'{"a\\u0000b": 1}', '{"\u202e\U0001f40d\u0301": "\u2028"}'.encode(), b'{"": {"": {"": ""}}}',
)  # fmt: skip


def text(data: bytes, rnd: random.Random) -> bytes:
    """Of settings in JSON: other values, keys twice, odd letters, deep nesting."""
    how = rnd.randrange(4)
    if how == 0:
        return rnd.choice(TEXTS)
    if how == 1:  # keys twice: the last one counts
        key = rnd.choice(list(json.loads(data)))
        more = f"{json.dumps(key)}: {json.dumps(rnd.choice(ODD))}".encode()
        return data.rstrip()[:-1] + b", " + more + b"}"
    if how == 2:
        return data.decode().encode(rnd.choice(["utf-16", "utf-32", "utf-8-sig", "cp037"]))
    return said(odd_json(json.loads(data), rnd))


YAML = (
    b"!!python/object/apply:os.mkdir [ran]", b"!!python/name:os.system", b"!!python/tuple [a]",
    b"!!python/object/new:os.system [ls]", b"&a [*a]", b"*b", b"{<<: *b}", b"{<<: [{a: 1}, 3]}",
    b"!!set {a}", b"!!timestamp 2026-13-45", b"!!binary 7", b"!!int x", b"1:99:99", b".inf", b"~",
    b"? [a]", b"|\n  a", b"'", b"@", b"%YAML 9.9", b"---", b"[" * 3000, b"{a: " * 3000, b"9" * 9000,
    b"&x {<<: [&y {a: 1}, *y, *y]}", b"!<tag:a> 1",
    b"\xf0\x9f\x90\x8d", b"\x85", b"\t", b"- " * 3000,
)  # fmt: skip


def yaml(data: bytes, rnd: random.Random) -> bytes:
    """A word of it is another, or a line is there twice, or not."""
    how = rnd.randrange(4)
    if how == 0:
        return rnd.choice((*TEXTS, *YAML))
    if how == 1:
        lines = data.splitlines(keepends=True)
        at = rnd.randrange(len(lines))
        return b"".join([*lines[:at], *lines[at : at + 1] * rnd.choice([0, 2]), *lines[at + 1 :]])
    words = data.split(b" ")
    words[rnd.randrange(len(words))] = rnd.choice(YAML)
    return b" ".join(words)


# ---- archives ----


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archived(parts: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as archive:
        for name, part in parts:
            archive.writestr(zipfile.ZipInfo(name), part, how)
    return content.getvalue()


NAMES = ("../{}", "/etc/{}", "{}\u202e", "{}/", "\U0001f40d/{}", "{}x", "", "a\\{}", "{}" * 50)
WAYS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zipped(data: bytes, rnd: random.Random) -> bytes:
    """Of a zip archive: members lacking, twice, swapped, cut, bent, renamed, packed otherwise."""
    import warnings

    parts = list(members(data).items())
    at, other = rnd.randrange(len(parts)), rnd.randrange(len(parts))
    name, part = parts[at]
    how, way = rnd.randrange(9), WAYS[0] if rnd.random() < 0.7 else rnd.choice(WAYS)
    if how == 0:
        del parts[at]
    elif how == 1:
        parts.insert(rnd.randrange(len(parts)), (name, parts[other][1]))
    elif how == 2:
        parts[at], parts[other] = (name, parts[other][1]), (parts[other][0], part)
    elif how == 3:
        parts[at] = (name, part[: rnd.randrange(len(part) + 1)])
    elif how in (4, 5):
        parts[at] = (name, bent(part, rnd))
    elif how == 6:
        parts[at] = (rnd.choice(NAMES).replace("{}", name), part)
    elif how == 7:
        parts[at] = (name, rnd.choice([b"", part * 3, bytes(100_000), rnd.randbytes(50)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = archived(parts, way)
    return _field(found, rnd) if how == 8 else found


def _field(data: bytes, rnd: random.Random) -> bytes:
    """A number in the directory of an archive is another: sizes, places, counts, flags, dates."""
    head = rnd.choice([b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"])
    places = [at for at in range(len(data)) if data.startswith(head, at)]
    at, size = rnd.choice(places) + rnd.randrange(4, 22), rnd.choice([2, 4])
    number = rnd.choice(NUMBERS) % 2 ** (8 * size)
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


ATOMS = (
    b"K\x00", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"N",
    b"G\x7f\xf8" + bytes(6), b"]", b"}", b"\x8f", b")", b"\x88", b"X\x01\x00\x00\x00x", b"C\x01x",
    *(code + (2**40).to_bytes(8, "little") for code in (b"\x8e", b"\x96", b"\x95", b"\x8d")),
    b"r" + b"\xff" * 4, b"j\x00\x00\x00\x00", b"0", b"2",
    b"(", b"l", b"I999999999999\n", b"ctorch\nDoubleStorage\n", b"ctorch\nload\n", b"Q", b"R", b"b",
)  # fmt: skip


def odd_pickle(data: bytes, rnd: random.Random) -> bytes:
    """An operation of a pickle is another one."""
    import pickletools

    found = []
    try:
        found.extend((op.name, at) for op, _, at in pickletools.genops(data))
    except Exception as error:
        if not found:
            raise Unchanged from error
    places = [at for _, at in found if at is not None] + [len(data)]
    at = rnd.randrange(len(places) - 1)
    start, end = places[at], places[at + 1]
    return data[:start] + rnd.choice(ATOMS) + data[end if rnd.random() < 0.7 else start :]


def pickled(data: bytes, rnd: random.Random) -> bytes:
    """Of a state dict: its pickle says something else, with the checksum that belongs to it."""
    parts = [
        (name, odd_pickle(part, rnd) if name.endswith("data.pkl") else part)
        for name, part in members(data).items()
    ]
    return archived(parts)


def legacy(data: bytes, rnd: random.Random) -> bytes:
    """Five pickles, one after the other, and the numbers."""
    start = rnd.choice([at for at in range(len(data) - 1) if data.startswith(b"\x80\x02", at)])
    return data[:start] + odd_pickle(data[start:], rnd)


def tar(data: bytes, rnd: random.Random) -> bytes:
    """Of a source distribution: other kinds of members, links, holes, ways to pack."""
    content = io.BytesIO()
    mode: Any = rnd.choice(["w:gz", "w:gz", "w:gz", "w:bz2", "w:xz", "w"])
    form = rnd.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    with tarfile.open(fileobj=content, mode=mode, format=form) as file:
        name = rnd.choice(["inside/words", "inside/words", "../words", "/etc/words", "\u202ew"])
        member = tarfile.TarInfo(name)
        member.type = rnd.choice([b"0", b"0", b"1", b"2", b"3", b"5", b"6", b"S", b"x", b"K"])
        member.linkname = rnd.choice(["inside/words", "/etc/passwd", "nothing", ""])
        member.size = len(seeds.WORDS) if member.type == b"0" else 0
        if form == tarfile.PAX_FORMAT and rnd.random() < 0.6:
            size = str(rnd.choice([*HUGE, -1, "x"]))
            member.pax_headers = rnd.choice([
                {"size": size}, {"GNU.sparse.size": size, "GNU.sparse.map": "0,1"},
                {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": size},
                {"path": "../" * 200}, {"a": "\U0001f40d"},
            ])  # fmt: skip
        file.addfile(member, io.BytesIO(seeds.WORDS))
    found = content.getvalue()
    if found[:2] == b"\x1f\x8b" and rnd.random() < 0.4:
        found = gzip.compress(bent(gzip.decompress(found), rnd))
    return found


def gz(data: bytes, rnd: random.Random) -> bytes:
    """Of a packed file: other content with the right checksum, several streams, a tail."""
    inside = gzip.decompress(data)
    return rnd.choice([
        gzip.compress(bent(inside, rnd)), data + data, data + bytes(9), gzip.compress(data),
        gzip.compress(inside * 1000), data + gzip.compress(bytes(10_000)), b"",
    ])  # fmt: skip


# ---- headers in front of numbers ----

SHAPES: list[Any] = [
    [2**40, 2**40], [-1], [], [0], [2**62, 4], [1] * 4000, [3, 8, 1], [2**31, 2**31], [-3, -4],
    [0, 2**62], [1.5], ["3"], [None], 3, None, "x", [True, 4], [2**64],
]  # fmt: skip
OFFSETS = [[0, 2**62], [4, 0], [-1, 4], [0, 4], [0, 10**6], [2**64, 2**64], [0], [], "x", None]
KINDS = ["F64", "I8", "BOOL", "F8_E4M3", "X", "BF16", "U64", "F4", "C64", "", 3, None]


def _tensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _headed(head: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(head)) + head + body


def safetensors(data: bytes, rnd: random.Random) -> bytes:
    """Of a header: sizes, shapes, types, places, metadata, keys twice, nesting."""
    head, body = _tensors(data)
    one = rnd.choice([key for key in head if key != "__metadata__"])
    how = rnd.randrange(9)
    if how == 0:
        size = rnd.choice([2**63, 2**64 - 1, 10**9, len(data), 7, 0, 2**27])
        return struct.pack("<Q", size) + data[8:]
    if how == 1:
        head[one]["data_offsets"] = rnd.choice(OFFSETS)
    elif how == 2:
        head[one]["shape"] = rnd.choice(SHAPES)
    elif how == 3:
        head[one]["dtype"] = rnd.choice(KINDS)
    elif how == 4:
        head["__metadata__"] = rnd.choice(ODD)
    elif how == 5:
        head[rnd.choice(["", "../x", "\u202e", "a" * 3000, "0"])] = head.pop(one)
    elif how == 6:  # of no numbers, at the end: it fits the file
        shape = rnd.choice([[0], [0, 2**40], [2**62, 0], [0] * 100])
        head["x"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body)] * 2}
    elif how == 7:
        return _headed(rnd.choice(TEXTS), body)
    else:
        head = odd_json(head, rnd)
    return _headed(said(head), body)


def _odd_plan(rnd: random.Random) -> Any:
    shapes = [{"0.weight": shape} for shape in SHAPES] + [{"0": [1]}, {"": [1]}, {"5.weight": [1]}]
    sizes: list[Any] = [
        {"0": {name: v}}
        for name in (
            "forward",
            "__class__",
            "in_features",
            "training",
            "__dict__",
            "weight",
            "_modules",
            "",
        )
        for v in (0, -1, 2**62, [1], None)
    ]
    sizes += [{"": {"_modules": 5}}, {"9": {}}, {"0": 3}, 5, None]
    plan = {"shapes": {}, "sizes": {}, rnd.choice(["shapes", "sizes"]): rnd.choice(shapes + sizes)}
    return rnd.choice([plan, plan, plan, odd_json(seeds.PLAN, rnd), [], 3, {}])


def plan(data: bytes, rnd: random.Random) -> bytes:
    """Of a pruned network: another plan, or a torn one."""
    head, body = _tensors(data)
    odd = rnd.choice(["x", "[", "[" * 50_000, "9" * 5000, ""])
    head["__metadata__"] = {"plan": odd if rnd.random() < 0.2 else json.dumps(_odd_plan(rnd))}
    return _headed(said(head), body)


def cache(data: bytes, rnd: random.Random) -> bytes:
    """Of a cache: its header, with its checksum, and mostly a file of the size that it says."""
    head = json.loads(data[8:4096].rstrip(b"\0"))
    head.pop("checksum")
    how = rnd.randrange(6)
    if how == 0:
        head = odd_json(head, rnd)
    elif how == 1:
        head["dtype"] = rnd.choice(["object", "V16", "i4", "float32,float32", ">f4", "", 3, None])
    elif how == 2:
        head[rnd.choice(["rows", "block"])] = rnd.choice([0, -1, 2**62, 1e300, "48", 1.5, True, 41])
    elif how == 3:
        head["shape"] = rnd.choice(SHAPES)
    elif how == 4:
        return data[:8] + rnd.choice(TEXTS).ljust(4088, b"\0")[:4088] + data[4096:]
    else:
        head[rnd.choice(list(head))] = rnd.choice(ODD)
    if isinstance(head, dict):
        head["checksum"] = zlib.crc32(json.dumps(head).encode())
    body = data[4096:] if rnd.random() < 0.8 else bent(data[4096:], rnd)
    try:
        rows, row = head["rows"], {"float16": 2, "float64": 8}.get(head["dtype"], 4)
        size = 8 * rows + 16 * -(-rows // head["block"]) + row * rows * math.prod(head["shape"])
        if 0 <= size < 10**6:
            body = body[:size].ljust(size, b"\1")
    except (TypeError, ValueError, KeyError, ZeroDivisionError):
        pass
    return (data[:8] + said(head))[:4096].ljust(4096, b"\0") + body


ENTRIES: list[dict[str, Any]] = [
    *({"t": t} for t in ("load", "float64", "complex64", "nn", "bool", "int4", "quint8", "", 3)),
    *({"s": shape} for shape in SHAPES), *({"n": n} for n in (10**9, -1, 0, 1.5, "x", None)),
    {"g": [10**9, 5]}, {"g": [-1, -1]}, {"g": []}, {"g": [1, 10**12]}, {"b": [0, 0]}, {"b": 3},
    {"b": [10**9, 3]}, {"b": [2, 0], "s": [3 * 10**8]}, {"b": [4096, 1]}, {"k": 5}, {"k": "0.bias"},
    {"k": [1]}, {"s": [10**12], "b": [1, 0]},
]  # fmt: skip


def packed(data: bytes, rnd: random.Random) -> bytes:
    """Of a packed network: header, tables or data, with the right checksum."""
    head, table = struct.unpack("<II", data[8:16])
    said_, tables = json.loads(zlib.decompress(data[16 : 16 + head])), data[16 + head :][:table]
    body = data[16 + head + table : -4]
    how = rnd.randrange(7)
    if how == 0:
        said_ = odd_json(said_, rnd)
    elif how == 1:
        rnd.choice(said_["tensors"]).update(rnd.choice(ENTRIES))
    elif how == 2:
        tables = zlib.compress(bent(zlib.decompress(tables), rnd))
    elif how == 3:
        said_["plan"] = _odd_plan(rnd)
    elif how == 4:
        body = bent(body, rnd)
    elif how == 5:
        tables = rnd.choice([b"", zlib.compress(b""), zlib.compress(bytes(50 << 20)), tables[:-3]])
    packed_ = zlib.compress(rnd.choice(TEXTS) if how == 6 else said(said_))
    found = data[:8] + struct.pack("<II", len(packed_), len(tables)) + packed_ + tables + body
    return found + struct.pack("<I", zlib.crc32(found))
