"""Which names of a model stand for the same numbers."""

from __future__ import annotations

import warnings

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_lib.ties import copied, memory, readers, ties


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_views_of_all_numbers_are_one_weight_and_views_of_some_are_not(shape, draw) -> None:
    w = torch.zeros(shape)
    order = list(range(len(shape)))
    draw.shuffle(order)
    other = w.permute(order)
    assert memory(w) == memory(other) == memory(w.reshape(-1)) == memory(nn.Parameter(w[None]))
    assert memory(w) != memory(w.clone())
    for axis, size in enumerate(shape):
        if size > 1:
            parts = w.split([1, size - 1], axis)
            assert len({memory(w), *map(memory, parts)}) == 3


def test_tensors_that_do_not_tell_where_they_are_are_only_themselves() -> None:
    sparse, none = torch.eye(2).to_sparse(), torch.zeros(0)
    meta = torch.zeros(2, device="meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will not have them for ever
        quantized = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    lazy = nn.LazyLinear(2).weight
    for one in (sparse, none, meta, quantized, lazy):
        assert memory(one) == memory(one) != memory(torch.zeros(2))
    assert memory(none) != memory(torch.zeros(0)) and memory(meta) != memory(meta.clone())


def test_ties_readers_and_copies() -> None:
    net = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Linear(3, 3)})
    net["d"] = net["a"]
    net["b"].weight = nn.Parameter(net["a"].weight)
    net["c"].weight = nn.Parameter(net["a"].weight.mT)
    assert ties(net) == {"b.weight": "a.weight", "d.weight": "a.weight", "d.bias": "a.bias"}
    assert [(n, leaf) for n, _, leaf in readers(net, net["b"].weight)] == [
        ("a", "weight"), ("b", "weight"), ("c", "weight"),
    ]  # fmt: skip
    twin = copied(net)
    with torch.no_grad():
        twin["a"].weight.normal_()
    assert torch.equal(twin["b"].weight, twin["a"].weight) and twin["d"] is twin["a"]
    assert torch.equal(twin["c"].weight, twin["a"].weight.mT)
    assert not torch.equal(twin["a"].weight, net["a"].weight)
