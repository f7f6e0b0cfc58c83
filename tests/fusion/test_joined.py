"""Features side by side: what each head reads, once, and one vector an item."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.fusion import Concatenate


class Reads(nn.Module):
    def __init__(self, function: Callable[[nn.Linear, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.function, self.head = function, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.head, x)


@given(st.integers(0, 3), st.booleans(), st.lists(st.integers(1, 6), max_size=4))
def test_a_head_reads_one_vector_an_item_or_is_refused(
    calls: int, named: bool, shape: list[int]
) -> None:
    def ask(head: nn.Linear, x: Tensor) -> Tensor:
        for _ in range(calls):
            head(input=x) if named else head(x)
        return x

    joined, x = Concatenate([Reads(ask)], "head", 3).eval(), torch.randn(*shape, 6)
    if calls == 1 and len(shape) == 1:
        assert torch.equal(joined.features(x), x) and joined(x).shape == (shape[0], 3)
        return
    words = f"called {calls} times" if calls != 1 else r"expected features \[B, D\]"
    with pytest.raises(ValueError, match=rf"the head 'head' of model 0 .*{words}"):
        joined(x)
    assert not joined.models[0].head._forward_pre_hooks


def test_the_steps_of_a_text_are_no_items() -> None:
    for steps in (6, 7):  # as many as features, which a normalization would take for them
        with pytest.raises(ValueError, match=rf"reads a tensor \[5, {steps}, 6\].*after pooling"):
            Concatenate([Reads(lambda head, x: head(x))], "head", 3)(torch.randn(5, steps, 6))


def test_a_weight_that_is_read_without_its_layer_is_no_head() -> None:
    with pytest.raises(ValueError, match="was called 0 times"):
        Concatenate([Reads(lambda head, x: F.linear(x, head.weight))], "head", 3)(torch.ones(5, 6))


def test_all_models_read_the_same_items_and_their_precision_is_their_own() -> None:
    plain, twice = Reads(lambda head, x: head(x)), Reads(lambda head, x: head(torch.cat([x, x])))
    with pytest.raises(ValueError, match=r"model 1 reads .*as many as a tensor \[5, 6\]"):
        Concatenate([plain, twice], "head", 3)(torch.randn(5, 6))
    double = Reads(lambda head, x: head(x.double())).double()
    assert Concatenate([plain, double], "head", 3)(torch.randn(5, 6)).dtype == torch.float32
