"""Programs of ``torch.export``, taken apart and put together again from the plain data in them.

``torch.export.load`` unpickles weights, constants and sample inputs, loads compiled libraries,
looks operators up by name, and makes Python code of texts in the file: sizes are evaluated by
SymPy, and guards and the names of values are executed. So it is given no file as it came, but one
of numbers, of sizes and guards that are arithmetic, of names that are names, and of operators on
tensors.
"""

from __future__ import annotations

import ast
import io
import json
import math
import operator
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from distill_lib.checkpoints.files import checked_zip, torch_load

__all__ = ["UnsafeProgram", "rebuilt"]

CONFIGS = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
MODEL, SAMPLES, NAMES = "models/model.json", "data/sample_inputs/model.pt", "extra/names.txt"


class UnsafeProgram(Exception):
    """A part of a program that is not plain data; the message names it."""


def rebuilt(path: Path) -> tuple[io.BytesIO, list[str], list[str]]:
    """A file like this one that holds nothing that could run, and the names in and out.

    No more memory is taken than some times the bytes of the file: nothing in it is compressed.

    Raises:
        UnsafeProgram: it holds more than plain data; says what.
        Exception: of any class, as the bytes may be anything.
    """
    from torch.export.pt2_archive import PT2ArchiveWriter

    parts = _parts(path)
    program = _plain(json.loads(parts[MODEL]))
    inputs, _, outputs = parts[NAMES].decode().partition("\n\n")
    names = inputs.split("\n"), outputs.split("\n")
    if not all(name.isprintable() for name in (*names[0], *names[1])):
        raise ValueError("the names of its inputs and outputs are torn")
    _check_signature(program["graph_module"], *map(len, names))
    samples = io.BytesIO()
    torch.save(torch_load(io.BytesIO(parts[SAMPLES])), samples)
    found = {MODEL: json.dumps(program).encode(), SAMPLES: samples.getvalue()}
    for folder, config in CONFIGS.items():
        payloads = _plain(json.loads(parts[config]))
        found[config] = json.dumps(payloads).encode()
        for name, payload in payloads["config"].items():
            found[folder + payload["path_name"]] = _numbers(name, payload, folder, parts)
    archive = io.BytesIO()
    with PT2ArchiveWriter(archive) as writer:
        for name, data in found.items():
            writer.write_bytes(name, data)
    archive.seek(0)
    return archive, *names


def _parts(path: Path) -> dict[str, bytes]:
    """The members of an archive that are needed, without the folder that they lie in."""
    with path.open("rb") as file:
        members = checked_zip(file, path.stat().st_size)
        root = next(iter(members), "").partition("/")[0] + "/"
        wanted = (MODEL, SAMPLES, NAMES, *CONFIGS)
        with zipfile.ZipFile(file) as archive:
            return {
                name.removeprefix(root): archive.read(name)
                for name in members
                if name.startswith(tuple(root + one for one in wanted))
            }


def _numbers(name: str, payload: dict[str, Any], folder: str, parts: dict[str, bytes]) -> bytes:
    """The bytes of a weight or constant, which have to be numbers and as many as it says."""
    place, meta = payload["path_name"], payload["tensor_meta"]
    if payload["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", place):
        raise UnsafeProgram(f"{name} is pickled, and reading it could run code")
    sizes = [size["as_int"] for size in meta["sizes"]]
    data = parts[folder + place]
    if any(type(n) is not int or n < 0 for n in sizes) or (not data and math.prod(sizes)):
        raise ValueError(f"{name} says to have the shape {sizes}, and holds {len(data)} bytes")
    return data


def _check_signature(module: dict[str, Any], inputs: int, outputs: int) -> None:
    """Tensors in and out, as many as there are names for."""
    signature, kinds = module["signature"], {"user_input", "parameter", "buffer", "tensor_constant"}
    into = [kind for spec in signature["input_specs"] for kind in spec]
    out = [kind for spec in signature["output_specs"] for kind in spec]
    if not set(into) <= kinds or any("as_tensor" not in one for one in module["graph"]["inputs"]):
        raise UnsafeProgram("an input is no tensor")
    if (into.count("user_input"), out.count("user_output")) != (inputs, outputs):
        raise ValueError("it has other inputs and outputs than names for them")


# ---- what a program may say ----

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PATH = re.compile(r"(\w+(\.\w+)*)?", re.ASCII)
SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}", re.ASCII)  # torch counts up to the number of an unbacked
DROPPED: dict[str, Any] = {
    "metadata": {},
    "treespec_namedtuple_fields": {},
}  # remarks; parts of them are looked up
UNUSED = ("torch_version",)


def _plain(value: Any, key: str = "") -> Any:
    """The same JSON, every text in it checked by what torch does with it."""
    if isinstance(value, dict):
        named = SYMBOL if key == "range_constraints" else PATH
        if odd := [name for name in value if not named.fullmatch(name)]:
            raise UnsafeProgram(f"{odd[0]!r:.80} is no name")
        kept = {k: v for k, v in value.items() if k not in UNUSED}
        return {k: DROPPED[k] if k in DROPPED else _plain(v, k) for k, v in kept.items()}
    if isinstance(value, list):
        return [_plain(one, key) for one in value]
    return RULES.get(key, _dotted)(value) if isinstance(value, str) else value


def _named(text: str) -> str:
    if text and not NAME.fullmatch(text):
        raise UnsafeProgram(f"{text!r:.80} is no name of a value")
    return text


def _dotted(text: str) -> str:
    if not PATH.fullmatch(text):
        raise UnsafeProgram(f"{text!r:.80} is no name")
    return text


def _spec(text: str) -> str:
    """How arguments are nested: tuples, lists, and dictionaries whose keys are names."""

    def check(node: Any) -> None:
        kind, context = node["type"], json.loads(node["context"] or "null")
        keys = context if kind == "builtins.dict" else [] if context is None else None
        if kind not in (None, "builtins.tuple", "builtins.list", "builtins.dict") or not (
            isinstance(keys, list) and all(isinstance(k, str) and NAME.fullmatch(k) for k in keys)
        ):
            raise UnsafeProgram(f"arguments of the type {kind!r:.80}")
        for child in node["children_spec"]:
            check(child)

    version, tree = json.loads(text)
    check(tree)
    return json.dumps([version, tree])


HIGHER = {"wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop", "scan"}

BITWISE = {f"torch.ops.aten.__{name}__" for name in ("and", "or", "xor")}  # masks of texts


def _operator(text: str) -> str:
    """An operator on tensors, or arithmetic on sizes; nothing else that a name can lead to."""
    from torch._export.serde.serialize import _SYM_OPS

    steps = text.split(".")
    plain = steps[4:] if text.rpartition(".")[0] in BITWISE else steps
    if not all(NAME.fullmatch(step) and not step.startswith("__") for step in plain):
        raise UnsafeProgram(f"{text!r:.80} is no operator")
    if text.startswith("torch.ops.higher_order.") and text.rpartition(".")[2] in HIGHER:
        return text
    found: Any = {"_operator": operator, "math": math, "torch": torch}.get(steps[0])
    for step in steps[1:]:
        found = getattr(found, step, None)
    if len(steps) == 2 and any(found is one for one in _SYM_OPS):
        return text
    if not isinstance(found, torch._ops.OpOverload):
        raise UnsafeProgram(f"{text!r:.80} is no operator on tensors")
    texts = any("str" in str(one.type) for one in found._schema.arguments)
    if "from_file" in text or (texts and not text.startswith("torch.ops.aten.")):
        raise UnsafeProgram(f"the operator {text!r:.80}, which could be given the name of a file")
    return text


FUNCTIONS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "max", "min",
    "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "ModularIndexing", "Where", "CeilToInt",
    "FloorToInt", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt",
    "ToFloat", "Identity", "Equality", "Unequality", "StrictLessThan", "LessThan",
    "StrictGreaterThan", "GreaterThan", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not",
}  # fmt: skip
KNOWN = {*FUNCTIONS, "L", "true", "false"}
METHODS = {"size", "stride", "storage_offset"}
NODES = (
    ast.Expression, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Call, ast.Subscript,
    ast.Attribute, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.boolop, ast.unaryop,
    ast.operator, ast.cmpop,
)  # fmt: skip


def _formula(text: str) -> str:
    """Arithmetic on sizes: ``Mul(Integer(2), Symbol('s0'))``, ``L['x'].size()[0] % 2 == 0``."""
    if len(text) > 50_000 or not text.isascii():
        raise UnsafeProgram(f"a formula of {len(text)} letters")
    tree = ast.parse(text.strip(), mode="eval")
    texts = set(_texts(tree))
    for node in ast.walk(tree):
        good: bool = isinstance(node, NODES)
        if isinstance(node, ast.Name):
            good = node.id in KNOWN or bool(SYMBOL.fullmatch(node.id))
        elif isinstance(node, ast.Attribute):
            good = node.attr in METHODS
        elif isinstance(node, ast.Call):
            good = isinstance(node.func, ast.Attribute) or (
                isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
            )
        elif isinstance(node, ast.Constant):
            good = isinstance(node.value, int | float) or node in texts
        elif isinstance(node, ast.LShift):
            good = False  # a number as long as the shift says
        if not good or (_is_power(node) and not _is_small(node)):
            raise UnsafeProgram(f"{text!r:.80} is no arithmetic on sizes")
    return ast.unparse(tree)


def _texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """The texts that may be there: names of symbols and inputs, and the digits of a float."""
    rules = {"Symbol": SYMBOL, "Float": re.compile(r"-?[\d.]{1,40}(e[+-]?\d{1,3})?")}
    for node in ast.walk(tree):
        one: ast.AST | None = None
        rule = NAME
        if isinstance(node, ast.Subscript):
            one = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            one, rule = node.args[0], rules.get(node.func.id, re.compile("(?!)"))
        if (
            isinstance(one, ast.Constant)
            and isinstance(one.value, str)
            and rule.fullmatch(one.value)
        ):
            yield one


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Pow)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Pow"


def _is_small(node: ast.AST) -> bool:
    """A power of something that is no power, by a number that is written out: not endless."""
    base, exponent = (
        (node.left, node.right) if isinstance(node, ast.BinOp) else node.args  # type: ignore[attr-defined]
    )
    numbers = [one.value for one in ast.walk(exponent) if isinstance(one, ast.Constant)]
    return (
        not any(map(_is_power, ast.walk(base)))
        and all(isinstance(n, int) and n <= 16 for n in numbers)
        and not any(isinstance(one, ast.BinOp | ast.Subscript) for one in ast.walk(exponent))
        and {one.id for one in ast.walk(exponent) if isinstance(one, ast.Name)}
        <= {"Integer", "Rational"}
    )


def _infinite(text: str) -> str:
    if text not in ("Infinity", "-Infinity", "NaN"):
        raise UnsafeProgram(f"{text!r:.80} is no number")
    return text


RULES: dict[str, Callable[[str], str]] = {
    "name": _named,
    "as_name": _named,
    "forward_arg_names": _named,
    "target": _operator,
    "as_operator": _operator,
    "expr_str": _formula,
    "guards_code": _formula,
    "in_spec": _spec,
    "out_spec": _spec,
    "as_float": _infinite,
    "as_floats": _infinite,
    "as_string": str,  # torch writes it into its code as Python's repr
    "as_strings": str,
}
