"""Products that are counted, by their formulas, and those that nobody can count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.compress import macs, report
from distill_lib.zoo import BiLSTM


class Asked(nn.Module):
    """A model of one part, or one weight, and a function of both."""

    def __init__(self, way: Callable[[nn.Module, Tensor], Tensor], part: nn.Module | None) -> None:
        super().__init__()
        self.way, self.part = way, part
        self.weight = nn.Parameter(torch.ones(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]),
    sizes=st.tuples(*[st.integers(1, 6)] * 4),
    layers=st.integers(1, 2),
    both=st.booleans(),
    bias=st.booleans(),
)
def test_recurrent_layers_by_their_formula(
    kind: type[nn.RNNBase], sizes: tuple[int, ...], layers: int, both: bool, bias: bool
) -> None:
    batch, steps, width, hidden = sizes
    part = kind(width, hidden, layers, bias=bias, batch_first=True, bidirectional=both)
    ways, gates = 1 + both, {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind]
    reads = width + (layers - 1) * ways * hidden + layers * hidden
    model = Asked(lambda m, x: m.part(x)[0], part)
    expected = batch * steps * ways * gates * hidden * reads
    assert macs(model, torch.zeros(batch, steps, width)) == expected


def test_the_bilstm_of_the_zoo_is_counted_and_reported() -> None:
    net = BiLSTM(torch.arange(1, 10), dim=64, hidden=64)
    ones = torch.ones(1, 12, dtype=torch.long)
    batch = {"input_ids": ones, "attention_mask": ones}
    assert macs(net, batch) == 12 * 2 * 4 * 64 * 128 + 256
    assert report(net, batch, runs=2).macs == 786_688
    assert torch.backends.mkldnn.enabled and torch.backends.cudnn.enabled


@settings(max_examples=20, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 5)] * 4))
def test_a_bilinear_layer_uses_each_weight_once_for_each_example(sizes: tuple[int, ...]) -> None:
    batch, one, two, out = sizes
    part = nn.Bilinear(one, two, out)
    model = Asked(lambda m, x: m.part(x[:, :one], x[:, one:]), part)
    assert macs(model, torch.zeros(batch, one + two)) == batch * one * two * out


WAYS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int]] = {
    "matrix times vector": (lambda m, x: m.weight @ x[0], 32),
    "with a sum": (lambda m, x: torch.addmv(x[0, :4], m.weight, x[0]), 32),
    "inner product": (lambda m, x: x[0] @ m.weight[0], 8),
    "sum of products": (lambda m, x: torch.addbmm(x[:, :4], x[None], m.weight.mT[None]), 32),
    "one vector": (lambda m, x: nn.functional.linear(x[0], m.weight), 32),
    "in other words": (lambda m, x: torch.einsum("bi,oi->bo", x, m.weight), 32),
    "by position": (lambda m, x: (x + m.weight).softmax(1), 0),
    "beside": (lambda m, x: torch.cat([x, m.weight]), 0),
    "looked up": (lambda m, x: nn.functional.embedding(x[0].long(), m.weight), 0),
    "normed": (lambda m, x: nn.functional.layer_norm(x.expand(1, 4, 8), [4, 8], m.weight), 0),
}


@pytest.mark.parametrize("name", WAYS)
def test_products_in_many_words(name: str) -> None:
    way, expected = WAYS[name]
    assert macs(Asked(way, None), torch.zeros(1, 8)) == expected


def test_what_has_no_formula_is_an_error_and_no_number_in_a_report() -> None:
    model = Asked(lambda m, x: torch.cdist(x, m.weight), None)
    with pytest.raises(ValueError, match=r"no formula for aten\._cdist_forward.*weight 'weight'"):
        macs(model, torch.zeros(1, 8))
    found = report(model, torch.zeros(1, 8), runs=2)
    assert found.macs is None and "–" in str(found)
