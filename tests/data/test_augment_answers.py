"""What an augmentation returns is as many inputs as it got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib.data import Dataset

WRONG: list[Callable[[Tensor, torch.Generator], Any]] = [
    lambda x, g: None,  # in place, and without a return
    lambda x, g: x[:1],
    lambda x, g: torch.cat([x, x]),
    lambda x, g: x.numpy(),
    lambda x, g: x.sum(),
]


@given(st.sampled_from(WRONG), st.sampled_from([None, (0, 1)]))
def test_other_answers_are_refused(wrong: Any, seeds: tuple[int, ...] | None) -> None:
    data = Dataset(torch.randn(6, 2), torch.zeros(6).long(), ("one",))
    with pytest.raises(TypeError, match="augment expected to return 3 changed inputs"):
        next(iter(data.batches(3, seeds=seeds, augment=wrong)))
    kept = next(iter(data.batches(3, seeds=seeds, augment=lambda x, g: 2 * x, shuffle=False)))
    expected = 2 * data.inputs[:3]
    assert torch.equal(kept["inputs"], expected if seeds is None else torch.stack([expected] * 2))
