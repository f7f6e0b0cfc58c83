"""Modules of terms that are of another number type than the signal: ours to say, not torch's."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from distill_lib import Match
from distill_lib.objective import Term
from distill_lib.terms import CRD, Adversarial

INDEX = torch.arange(6)
TYPES = [torch.float64, torch.bfloat16, torch.float16]
TERMS: list[Callable[[], Term]] = [
    lambda: Match("layer", project=nn.Linear(5, 5)),
    lambda: Match("layer", project=nn.LazyLinear(5)),
    lambda: Match("layer", project_teacher=nn.Linear(5, 5).requires_grad_(False)),
    lambda: Adversarial(nn.Linear(5, 1), on="layer", project=nn.Linear(5, 5)),
    lambda: Adversarial(nn.Linear(5, 1), on="layer"),
    lambda: CRD("layer", index=INDEX, width=4, negatives=3),
]


@pytest.mark.parametrize("make", TERMS)
@pytest.mark.parametrize("dtype", TYPES)
def test_the_loss_is_that_of_the_signal_or_the_way_out_is_named(
    make: Callable[[], Term], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    term, signals = make(), [{"layer": torch.randn(6, 5).to(dtype)} for _ in range(2)]
    for _ in range(3):  # modules of a term
        try:
            assert term(*signals, {"index": INDEX})[0].isfinite()
            return
        except ValueError as error:
            told = re.search(r"call \.to\(torch\.(\w+)\) on the (\w+)", str(error))
            assert told, error
            term.get_submodule(told[2]).to(getattr(torch, told[1]))
    pytest.fail("the way out leads nowhere")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_contrast_in_half_precision_is_that_of_the_same_numbers(dtype: torch.dtype) -> None:
    signals = [{"layer": torch.randn(6, 5).to(dtype)} for _ in range(2)]
    found = []
    for cast in (dtype, torch.float32):
        torch.manual_seed(0)
        term = CRD("layer", index=INDEX, width=4, negatives=3)
        said = [{k: v.to(cast) for k, v in one.items()} for one in signals]
        found.append(term(*said, {"index": INDEX})[0])
    assert found[0] == found[1]


def test_a_signal_of_another_width_is_told_of_widths() -> None:
    term = Match("layer", project=nn.Linear(4, 5))
    with pytest.raises(ValueError, match="LazyLinear"):
        term({"layer": torch.randn(6, 5)}, {"layer": torch.randn(6, 5)})


@pytest.mark.parametrize(
    "index",
    [
        INDEX.int(),
        INDEX.to(torch.uint8),
        INDEX.tolist(),
        INDEX.numpy(),
        INDEX.repeat_interleave(2)[::2],
    ],
)
def test_ids_of_any_whole_type_are_the_same_ids(index: object) -> None:
    order = torch.as_tensor(index).long()
    signals = [{"layer": torch.randn(6, 5)} for _ in range(2)]
    found = []
    for brought in (index, order):
        torch.manual_seed(0)
        term = CRD("layer", index=INDEX, width=4, negatives=3)
        found.append(term(*signals, {"index": brought})[0])
    assert found[0] == found[1]


@pytest.mark.parametrize("index", [INDEX.float(), INDEX.bool(), INDEX[:5], None, ["a"] * 6])
def test_what_are_no_ids_are_refused(index: object) -> None:
    signals = [{"layer": torch.randn(6, 5)} for _ in range(2)]
    term = CRD("layer", index=INDEX, width=4, negatives=3)
    with pytest.raises(ValueError, match="finds items in its banks by batch"):
        term(*signals, {"index": index})
