"""Exported models say what the model says at every size, or are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.compress import ExportError, load_exported, to_exported, to_onnx
from distill_lib.compress._faithful import difference, sized

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


class Odd(nn.Module):
    """A model of a function of its two layers and its input."""

    def __init__(self, function: Callable[[Odd, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.a, self.b = function, nn.Linear(4, 3), nn.Linear(4, 3)
        self.table = nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def cut(net: Odd, x: Tensor) -> Tensor:
    return net.a(x[:, -6:]).mean(1) if x.shape[1] > 6 else net.a(x).mean(1)


# ---- sizes ----

DECISIONS: dict[str, Callable[[int, int], bool]] = {
    "below": lambda n, k: n < k,
    "is": lambda n, k: n == k,
    "divides": lambda n, k: n % k == 0,
    "half": lambda n, k: 2 * n < k,
    "block": lambda n, k: n // 3 == k,
    "none": lambda n, k: False,
}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(DECISIONS)), st.integers(1, 9), st.integers(0, 1), st.integers(1, 6))
def test_a_program_answers_as_the_model_at_each_size_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, decision: str, k: int, axis: int, size: int
) -> None:
    path = tmp_path_factory.mktemp("p") / "p.pt2"
    decides = DECISIONS[decision]
    net = Odd(lambda s, x: (s.a if decides(x.shape[axis], k) else s.b)(x).mean(1)).eval()
    shape = [2, 3, 4]
    shape[axis] = size
    alike = len({decides(n, k) for n in range(1, 65)}) == 1
    try:
        to_exported(net, torch.randn(shape), path, dynamic={0: "batch", 1: "length"})
    except ExportError as error:
        assert not alike and "dynamic=" in str(error)
        return
    assert alike
    again = load_exported(path)
    for n in (1, 2, 5, 9, 40):
        shape[axis] = n
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(again(x)["logits"], net(x))


@pytest.mark.parametrize("write", [to_onnx, to_exported])
@pytest.mark.parametrize(
    ("function", "example", "where"),
    [
        (lambda s, x: (s.a if x.shape[0] == 1 else s.b)(x), (3, 4), "batch is 1: the model"),
        (lambda s, x: (s.a if x.shape[0] < 8 else s.b)(x), (3, 4), "batch is 8, and the model"),
        (cut, (2, 5, 4), "length is 7, and the model answers there"),
    ],
)
def test_a_model_that_decides_by_a_size_is_refused_with_the_way_out(
    tmp_path: Path, write: Any, function: Any, example: tuple[int, ...], where: str
) -> None:
    axes = {0: "batch", 1: "length"} if len(example) == 3 else None
    with pytest.raises(ExportError, match=rf"{where}.*out of dynamic="):
        write(Odd(function), torch.randn(example), tmp_path / "m", dynamic=axes)
    assert not (tmp_path / "m").exists()
    write(Odd(function), torch.randn(example), tmp_path / "m", dynamic={})


def test_what_the_model_itself_refuses_is_no_reason(tmp_path: Path) -> None:
    """A table of 8 positions: its length is its own, and longer texts are an error of both."""
    net, path = Odd(lambda s, x: s.a(x + s.table[: x.shape[1]]).mean(1)), tmp_path / "t.pt2"
    to_exported(net, torch.randn(2, 5, 4), path, dynamic={0: "batch", 1: "length"})
    program = load_exported(path)
    x = torch.randn(3, 8, 4)
    torch.testing.assert_close(program(x)["logits"], net(x))
    with pytest.raises(ExportError, match=r"not made for this batch, inputs a tensor \[2, 9, 4\]"):
        program(torch.randn(2, 9, 4))
    assert to_onnx(net, torch.randn(2, 5, 4), tmp_path / "t.onnx", {1: "length"})


def test_random_numbers_of_a_model_are_no_difference(tmp_path: Path) -> None:
    assert to_exported(Odd(lambda s, x: s.a(x + torch.randn_like(x))), torch.zeros(2, 4),
                       tmp_path / "r.pt2")  # fmt: skip


@pytest.mark.parametrize("axis", [-1, 5])
def test_an_axis_is_one_of_an_input(tmp_path: Path, axis: int) -> None:
    with pytest.raises(ValueError, match=rf"the axis {axis}, and no input has it: inputs \[3, 4\]"):
        to_exported(nn.Linear(4, 3), torch.randn(3, 4), tmp_path / "m", dynamic={axis: "what"})
    with pytest.raises(ValueError, match="nothing can be traced with no items"):
        to_exported(nn.Linear(4, 3), torch.randn(0, 4), tmp_path / "m")


def test_one_token_alone_is_none_of_the_padding() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [0, 0, 0, 7]])  # padded on the left
    one = sized({"input_ids": ids, "attention_mask": (ids > 0).long()}, {1: 1})
    assert one["input_ids"].tolist() == [[6], [7]] and one["attention_mask"].all()
    more = sized({"input_ids": ids, "rows": torch.ones(2)}, {0: 3, 1: 6})
    assert more["input_ids"][2].tolist() == [0, 0, 5, 6, 0, 0] and more["rows"].shape == (3,)


# ---- answers ----


@given(st.lists(NUMBERS, max_size=6), st.data())
def test_the_same_numbers_are_the_same_and_another_one_is_found(
    numbers: list[float], data: st.DataObject
) -> None:
    x = torch.tensor(numbers, dtype=torch.float32)
    assert not difference(x, x.clone(), 0.0)
    if not numbers:
        return
    place = data.draw(st.integers(0, len(numbers) - 1))
    other = x.clone()
    other[place] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf, 3e38, 2.0]))
    plain = [abs(n) for n in numbers if math.isfinite(n) and abs(n) < 1e38]
    near = abs(float(other[place]) - numbers[place]) <= 1e-4 * max([1.0, *plain])
    same = near or float(other[place]) == numbers[place] or other[place].isnan() & x[place].isnan()
    assert bool(difference(x, other, 1e-4)) != bool(same)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 5))
def test_whole_numbers_are_compared_exactly(flags: list[bool], place: int) -> None:
    for x in (torch.tensor(flags), torch.tensor(flags).long() * 10**6):
        other = x.clone()
        other[place % len(x)] = ~other[place % len(x)]
        assert not difference(x, x.clone(), 1.0)
        assert difference(x, other, 1.0) == f"is another one in 1 of {len(x)} places"
    assert "has the shape [1]" in difference(torch.ones(2), torch.ones(1), 1.0)
    assert "is of torch.int64" in difference(torch.ones(1), torch.ones(1).long(), 1.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: s.a(x).masked_fill(torch.tensor([False, True, False]), -math.inf),
        lambda s, x: {"logits": s.a(x), "sure": s.a(x) > 0, "first": s.a(x).argmax(-1)},
        lambda s, x: {"a": x, "b": x},
    ],
)
def test_masks_yes_or_no_and_class_numbers_go_to_onnx(tmp_path: Path, function: Any) -> None:
    net, x = Odd(function).eval(), torch.randn(3, 4)
    said = to_onnx(net, x, tmp_path / "m.onnx")(x)
    expected = net(x)
    expected = {"logits": expected} if isinstance(expected, Tensor) else expected
    for name, value in expected.items():
        torch.testing.assert_close(said[name], value.detach())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda s, x: {"c": torch.fft.fft(x)}, "'c' is of complex numbers.*view_as_real"),
        (lambda s, x: {"inputs": s.a(x)}, "an output 'inputs' and an input of this name"),
        (
            lambda s, x: x.bfloat16() @ s.a.weight.mT.bfloat16(),
            r"it lacks in bfloat16.*\.float\(\)",
        ),
    ],
)
def test_what_onnx_cannot_hold_is_refused_in_words(
    tmp_path: Path, function: Any, words: str
) -> None:
    with pytest.raises(ExportError, match=words) as caught:
        to_onnx(Odd(function), torch.randn(3, 4), tmp_path / "m.onnx")
    assert "/tmp" not in str(caught.value) and "torn" not in str(caught.value)
