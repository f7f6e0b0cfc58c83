"""Programs of torch.export: what a stranger put into one is not run; our own are read as before."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mutants import mutants, odd_json
from torch import nn

from distill_lib.compress import ExportError, load_exported, to_exported
from distill_lib.compress._programs import UnsafeProgram, _formula, _operator, _spec


class Net(nn.Module):
    """Weights, a buffer, a constant, a size that varies."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = nn.functional.gelu(self.body(x), approximate="tanh") * self.scale
        return y.reshape(x.shape[0] * 2, 4)[: x.shape[0]] + torch.tensor([1.0])


X = torch.linspace(-1, 1, 18).reshape(3, 6)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("p") / "net.pt2"
    torch.manual_seed(0)
    to_exported(Net(), X, path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(parts: dict[str, bytes], path: Path, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in parts.items():
            archive.writestr(f"net/{name}", data)
    return path


MODEL = "models/model.json"
CONFIG = "data/{}/model_{}_config.json"


def changed(parts: dict[str, bytes], name: str, change: Callable[[Any], None]) -> dict[str, bytes]:
    value = json.loads(parts[name])
    change(value)
    return {**parts, name: json.dumps(value).encode()}


# ---- what would run ----


class Evil:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = str(sentinel)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.sentinel,)


def pickled(sentinel: Path) -> bytes:
    content = io.BytesIO()
    torch.save((Evil(sentinel),), content)
    return content.getvalue()


def in_payload(kind: str) -> Callable[..., dict[str, bytes]]:
    def make(parts: dict[str, bytes], sentinel: Path) -> dict[str, bytes]:
        name = CONFIG.format(kind, kind)

        def change(value: Any) -> None:
            first = next(iter(value["config"].values()))
            first["use_pickle"] = True

        found = changed(parts, name, change)
        place = next(iter(json.loads(parts[name])["config"].values()))["path_name"]
        return {**found, f"data/{kind}/{place}": pickled(sentinel)}

    return make


def opaque(parts: dict[str, bytes], sentinel: Path) -> dict[str, bytes]:
    def change(value: Any) -> None:
        entry = next(iter(value["config"].values()))
        entry |= {"path_name": "opaque_obj_0", "use_pickle": True, "tensor_meta": None}

    found = changed(parts, CONFIG.format("constants", "constants"), change)
    return {**found, "data/constants/opaque_obj_0": pickle.dumps(Evil(sentinel), 2)}


def legacy(kind: str) -> Callable[..., dict[str, bytes]]:
    return lambda parts, sentinel: {**parts, f"data/{kind}/model.pt": pickled(sentinel)}


def in_model(change: Callable[[Any, str], None]) -> Callable[..., dict[str, bytes]]:
    return lambda parts, sentinel: changed(
        parts, MODEL, lambda value: change(value, f"__import__('os').mkdir({str(sentinel)!r})")
    )


def size(value: Any, code: str) -> None:
    metas = value["graph_module"]["graph"]["tensor_values"].values()
    sizes = [one for meta in metas for one in meta["sizes"] if "as_expr" in one]
    sizes[0]["as_expr"]["expr_str"] = code


def guard(value: Any, code: str) -> None:
    value["guards_code"].append(f"{code} is None")


def argument(value: Any, code: str) -> None:
    graph = value["graph_module"]
    old = graph["graph"]["inputs"][-1]["as_tensor"]["name"]
    new = f"{old}=({code})"
    text = json.dumps(graph).replace(f'"name": "{old}"', f'"name": {json.dumps(new)}')
    text = text.replace(f'"{old}": {{"dtype"', f'{json.dumps(new)}: {{"dtype"')
    value["graph_module"] = json.loads(text)


def from_file(value: Any, code: str) -> None:
    path = code.partition("mkdir('")[2].removesuffix("')")
    graph = value["graph_module"]["graph"]
    graph["tensor_values"]["made"] = graph["tensor_values"]["linear"]
    named = {"filename": {"as_string": path}, "shared": {"as_bool": True}, "size": {"as_int": 9}}
    graph["nodes"].insert(0, {
        "target": "torch.ops.aten.from_file.default", "metadata": {}, "name": "made",
        "outputs": [{"as_tensor": {"name": "made"}}],
        "inputs": [{"name": k, "arg": v, "kind": 1} for k, v in named.items()],
    })  # fmt: skip


PAYLOADS: dict[str, Callable[[dict[str, bytes], Path], dict[str, bytes]]] = {
    "a weight": in_payload("weights"),
    "a constant": in_payload("constants"),
    "the sample inputs": lambda p, s: {**p, "data/sample_inputs/model.pt": pickled(s)},
    "an opaque constant": opaque,
    "the weights of an old release": legacy("weights"),
    "the constants of an old release": legacy("constants"),
    "a size": in_model(size),
    "a guard": in_model(guard),
    "the name of an argument": in_model(argument),
    "an operator on files": in_model(from_file),
}


@pytest.mark.parametrize("where", PAYLOADS)
def test_what_a_file_brings_along_is_not_run(parts, tmp_path: Path, where: str) -> None:
    sentinel = tmp_path / "ran"
    path = packed(PAYLOADS[where](parts, sentinel), tmp_path / "evil.pt2")
    try:
        load_exported(path)(X)
    except ExportError as error:
        assert str(path) in str(error)
    assert not sentinel.exists()
    try:
        torch.export.load(path).module()(X)
    except Exception as error:
        print(error)
    assert sentinel.exists(), "the payload is harmless: the test shows nothing"


def test_the_refusal_says_what_and_the_way_out(parts, tmp_path: Path) -> None:
    path = packed(PAYLOADS["a weight"](parts, tmp_path / "ran"), tmp_path / "evil.pt2")
    with pytest.raises(ExportError, match=r"body\.weight is pickled.*again, with to_exported; or"):
        load_exported(path)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (_formula, "().__class__"),
        (_formula, "eval('1')"),
        (_formula, "Symbol('s0)+exit(')"),
        (_formula, "Max('exit')"),
        (_formula, "Pow(Pow(Integer(9), Integer(16)), Integer(16))"),
        (_formula, "Pow(Integer(9), Integer(999999999))"),
        (_formula, "9**9**9"),
        (_formula, "1 << 99999999999"),
        (_formula, "(lambda: 1)()"),
        (_formula, "[x for x in L]"),
        (_formula, "L['a'].size().__init__"),
        (_operator, "torch.os.system"),
        (_operator, "torch.load"),
        (_operator, "_operator.attrgetter"),
        (_operator, "_operator.methodcaller"),
        (_operator, "math.factorial"),
        (_operator, "torch.ops.load_library"),
        (_operator, "torch.ops.aten.from_file.default"),
        (_operator, "torch.ops.aten.add"),
        (_operator, "torch.ops.aten.__init__.Tensor"),
        (_operator, "torch.ops.aten.__and__.__class__"),
        (_operator, "torch.ops.aten.__and__.Tensor.__call__"),
        (_operator, "torch.ops.higher_order.triton_kernel_wrapper_functional"),
        (_operator, "#vmap:x"),
        (_spec, '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'),
        (_spec, '[1, {"type": "builtins.dict", "context": "[\\"a=b\\"]", "children_spec": []}]'),
    ],
)
def test_only_arithmetic_operators_and_plain_nesting_are_let_through(check, text: str) -> None:
    with pytest.raises(UnsafeProgram):
        check(text)


def test_what_torch_writes_is_let_through() -> None:
    for text in (
        "Mul(Integer(2), Min(Integer(4), Mul(Integer(8), Symbol('s48', positive=True))))",
        "Pow(Add(Symbol('s0'), Integer(-1)), Integer(2))",
        "((6*L['values'][0].size()[0]) % (L['values'][0].size()[0] // 2)) == 0",
        "Float('0.25', precision=53)",
    ):
        assert ast.dump(ast.parse(_formula(text))) == ast.dump(ast.parse(text))


# ---- our own ----


def test_the_names_of_the_archive_do_not_matter_but_its_bounds_do(parts, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = Net()(X)
    again = load_exported(packed(parts, tmp_path / "a.pt2"))
    torch.testing.assert_close(again(X)["logits"], expected)
    with pytest.raises(ExportError, match="more than 1 times its own"):
        load_exported(packed(parts, tmp_path / "b.pt2", zipfile.ZIP_DEFLATED))
    with pytest.raises(ExportError, match="is not there, torn, or no program"):
        load_exported(tmp_path / "none.pt2")


def wide(value: Any) -> None:
    next(iter(value["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 2**40}]


def test_a_shape_beyond_the_numbers_is_refused(parts, tmp_path: Path) -> None:
    name = CONFIG.format("weights", "weights")
    place = next(iter(json.loads(parts[name])["config"].values()))["path_name"]
    for data in (b"", parts[f"data/weights/{place}"]):
        evil = {**changed(parts, name, wide), f"data/weights/{place}": data}
        with pytest.raises(ExportError, match=r"torn, or no program"):
            load_exported(packed(evil, tmp_path / "w.pt2"))


def test_mutants_are_read_or_refused(parts, tmp_path: Path) -> None:
    whole = packed(parts, tmp_path / "m.pt2").read_bytes()
    rnd, path = random.Random(0), tmp_path / "m.pt2"
    files = list(mutants(whole, 120))
    for name in (
        MODEL,
        CONFIG.format("weights", "weights"),
        CONFIG.format("constants", "constants"),
    ):
        for _ in range(25):
            odd = {**parts, name: json.dumps(odd_json(json.loads(parts[name]), rnd)).encode()}
            files.append(packed(odd, path).read_bytes())
    refused = 0
    for data in files:
        path.write_bytes(data)
        try:
            load_exported(path)
        except ExportError:
            refused += 1
    assert refused > 100
