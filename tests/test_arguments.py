"""Types at the border: what fits an annotation, and paths that are no open files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import checkpoints, compress, data, zoo
from distill_lib.arguments import as_path, as_stops, checked
from distill_lib.checkpoints.files import whole_file, written_whole
from distill_lib.data import places

net = nn.Linear(4, 4)


@checked
def taken(
    model: nn.Module | None = None,
    share: float = 0.5,
    count: int = 1,
    flag: bool = False,
    name: str = "a",
    path: str | Path = "here",
    names: Sequence[str] = (),
    sizes: tuple[int, ...] = (),
    tensors: Mapping[str, Tensor] | None = None,
    batches: Iterable[Any] = (),
    how: Callable[..., Any] = len,
    mode: Literal["a", "b"] = "a",
    anything: Any = None,
    **more: int,
) -> Missing:  # type: ignore[name-defined] # noqa: F821
    """A result of a type that is not there is not looked up."""


GOOD: dict[str, list[Any]] = {
    "model": [None, net, nn.Sequential()],
    "share": [0, 1, 0.5, np.float32(0.5), torch.tensor(0.5), float("nan")],
    "count": [1, -1, np.int64(3), 10**30],
    "flag": [True, np.True_],
    "name": ["", "text"],
    "path": ["here", Path("here")],
    "names": [[], ("a",), {"a"}, {"a": 1}.keys(), np.array(["a", "b"])],
    "sizes": [(), (1, 2), [1, 2]],
    "tensors": [None, {}, {"a": torch.zeros(1)}, net.state_dict()],
    "batches": [[], iter([1]), (1 for _ in range(2)), {1: 2}.values()],
    "how": [len, nn.Linear, net],
    "mode": ["a", "c", 3],  # what is one of a few is checked by value, by the function itself
    "anything": [None, 3, nn],
}
PIECES: list[Any] = [
    None,
    3,
    0.5,
    True,
    "text",
    b"x",
    1j,
    [],
    [1],
    ["a", 1],
    ("a", "b"),
    {},
    {1: 2},
]
PIECES += [{"a": 1}, net, nn.Linear, len, torch.ones(2), torch.tensor(True), np.ones(2), Path("a")]
BAD: dict[str, list[Any]] = {
    "model": [3, "text", nn.Linear, len, torch.ones(1), [net], {"a": net}],
    "share": [None, "0.5", True, 1j, torch.ones(2), torch.tensor(1j), [0.5], np.ones(2)],
    "count": [None, "1", True, 0.5, 1.0, torch.tensor(1), [1], float("nan")],
    "flag": [None, 0, 1, "yes", torch.tensor(True), np.ones(2)],
    "name": [None, 3, b"text", ["a"], Path("a")],
    "path": [None, 3, True, b"here", ["here"], torch.ones(1), len],
    "names": [None, 3, "text", b"text", [1], ["a", 1], {"a": 1}, torch.ones(2), nn.Linear],
    "sizes": [None, 3, [1, "a"], {1, 2}, (1, 0.5), ("a",), (True,)],
    "tensors": [3, [], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(1), net],
    "batches": [None, 3, "text", {"inputs": 1}, torch.ones(2), np.ones(2), nn.Sequential(), list],
    "how": [None, 3, "len", torch.ones(2), [len]],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_is_taken(name: str) -> None:
    for value in GOOD[name]:
        assert taken(**{name: value}) is None


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_is_told(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises((TypeError, ValueError), match=rf"taken expected {name} to be .*, got "):
            taken(**{name: value})


@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), st.sampled_from(PIECES), max_size=4))
def test_any_call_is_answered_or_refused_by_name(arguments: dict[str, Any]) -> None:
    try:
        taken(**arguments)
    except (TypeError, ValueError) as error:
        assert any(f"taken expected {name} to be" in str(error) for name in arguments)


def test_a_wrong_call_shows_the_signature() -> None:
    with pytest.raises(TypeError, match=r"taken\(model.*too many positional"):
        taken(*range(40))
    assert list(inspect.signature(taken).parameters)[:2] == ["model", "share"]


def test_the_way_out_is_named() -> None:
    with pytest.raises(TypeError, match=r"one alone is \('fc',\)"):
        taken(names="fc")
    with pytest.raises(TypeError, match=r"make one first: Linear"):
        taken(model=nn.Linear)


# ---- paths ----

OPENERS: dict[str, Callable[[Any], Any]] = {
    "as_path": as_path,
    "places.home": places.home,
    "whole_file": lambda path: whole_file(path).__enter__(),
    "written_whole": lambda path: written_whole(path).__enter__(),
    "load_checkpoint": checkpoints.load_checkpoint,
    "verify": checkpoints.verify,
    "write_manifest": checkpoints.write_manifest,
    "OnnxModel": compress.OnnxModel,
    "file_bytes": lambda path: compress.file_bytes(net, path),
    "load_exported": compress.load_exported,
    "load_packed": lambda path: compress.load_packed(net, path),
    "load_pruned": lambda path: compress.load_pruned(lambda: net, path),
    "quantize_onnx": lambda path: compress.quantize_onnx(path, "out.onnx"),
    "quantize_onnx to": lambda path: compress.quantize_onnx("in.onnx", path),
    "report": lambda path: compress.report(net, torch.zeros(1, 4), path=path),
    "save_packed": lambda path: compress.save_packed(net, path),
    "save_pruned": lambda path: compress.save_pruned(net, path, {"shapes": {}, "sizes": {}}),
    "to_exported": lambda path: compress.to_exported(net, torch.zeros(1, 4), path),
    "to_onnx": lambda path: compress.to_onnx(net, torch.zeros(1, 4), path),
    "data.load": lambda path: data.load("movie_reviews", root=path),
    "minilm_tokenizer": zoo.minilm_tokenizer,
}


@pytest.mark.parametrize("name", OPENERS)
def test_no_opener_takes_the_number_of_an_open_file(name: str, tmp_path: Path) -> None:
    with (tmp_path / "open").open("wb") as file:
        for number in (file.fileno(), True, 10**6, -1, b"bytes", 0.5):
            with pytest.raises(TypeError, match=r"path|root|folder|out"):
                OPENERS[name](number)
        assert not file.closed
        file.write(b"still open")


@pytest.mark.parametrize("stop", [2, [2], (2,), torch.tensor(2), torch.tensor([2]), np.int64(2)])
def test_a_stop_is_one_number_however_it_comes(stop: Any) -> None:
    assert as_stops(stop) == [2]
    assert as_stops(None) == []


@pytest.mark.parametrize("stop", [2.0, torch.tensor(2.0), True, -1, "2", torch.tensor([-1])])
def test_a_stop_that_is_no_token_is_refused(stop: Any) -> None:
    with pytest.raises(ValueError, match="whole number from 0 on"):
        as_stops(stop)
