r"""What the losses on the inside of a transformer cannot see: the rest of T18."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig, BertModel

from distill_lib import losses

SEEDS = st.integers(0, 1000)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(size, size, seed=seed))[0]


@given(seed=SEEDS, heads=st.sampled_from([1, 2, 3]))
def test_t18_minilm_relations_do_not_see_a_rotation_in_each_head(seed: int, heads: int) -> None:
    """So that two spaces of different bases, or widths, can be compared without a projector."""
    s, t = draw(2, 4, 6), draw(2, 4, 12, seed=1)
    turns = [rotation(6 // heads, seed + r) for r in range(heads)]
    turned = s @ torch.block_diag(*turns)
    torch.testing.assert_close(
        losses.minilm_relation(student=turned, teacher=t, heads=heads),
        losses.minilm_relation(student=s, teacher=t, heads=heads),
        rtol=1e-9,
        atol=1e-12,
    )


def test_t18_they_do_see_a_rotation_across_heads_and_a_scale() -> None:
    s, t = draw(2, 4, 6), draw(2, 4, 6, seed=1)
    plain = losses.minilm_relation(student=s, teacher=t, heads=3)
    for changed in (s @ rotation(6, 0), 2 * s):
        moved = losses.minilm_relation(student=changed, teacher=t, heads=3)
        assert (moved - plain).abs().max() > 1e-3


@given(seed=SEEDS, size=st.floats(-50, 50))
def test_t18_scores_do_not_see_a_shift_of_a_row(seed: int, size: float) -> None:
    """Nor does the softmax: a bias of the keys' projection changes no map, and none is copied."""
    z, v = draw(2, 3, 4, 4, seed=seed), draw(2, 3, 4, 4, seed=seed + 1)
    shift = size * draw(2, 3, 4, 1, seed=seed + 2)
    for loss in (losses.attention, losses.attention_scores, losses.attention_kl):
        moved = loss(student=(z + shift).softmax(-1), teacher=v.softmax(-1))
        plain = loss(student=z.softmax(-1), teacher=v.softmax(-1))
        torch.testing.assert_close(moved, plain, rtol=1e-7, atol=1e-9)
    # on the scores as they are, the same shift is most of the loss
    raw = (z + shift - v).square().mean((1, 3)) - (z - v).square().mean((1, 3))
    assert abs(size) < 5 or raw.abs().max() > 1


@given(seed=SEEDS)
def test_t18_maps_do_not_see_a_common_rotation_of_queries_and_keys(seed: int) -> None:
    """More than rotations: any A on the queries and its inverse transpose on the keys."""
    q, k = draw(2, 5, 4, seed=seed), draw(2, 5, 4, seed=seed + 1)
    change = rotation(4, seed) @ torch.diag(torch.tensor([0.5, 1.0, 2.0, 3.0]).double())
    plain = (q @ k.mT / 2).softmax(-1)
    moved = ((q @ change) @ (k @ torch.linalg.inv(change).T).mT / 2).softmax(-1)
    torch.testing.assert_close(moved, plain)


def test_t18_maps_are_bound_to_the_order_of_heads() -> None:
    """The same heads in another order are the same layer and another target."""
    student, teacher = draw(1, 3, 4, 4).softmax(-1), draw(1, 3, 4, 4).softmax(-1)
    assert losses.attention(student=student, teacher=teacher).max() == 0
    assert losses.attention(student=student[:, [1, 2, 0]], teacher=teacher).min() > 1e-3


@pytest.mark.parametrize("heads", [1, 2, 4, 12])
def test_t18_heads_cost_no_parameters(heads: int) -> None:
    """At equal width: they cut it into other slices. 12 or 4 of them: 2,362,368 in BERT-base."""
    sizes: dict[str, Any] = dict(vocab_size=10, num_hidden_layers=1, intermediate_size=8)
    model = BertModel(BertConfig(hidden_size=24, num_attention_heads=heads, **sizes))
    counted = sum(p.numel() for p in model.encoder.layer[0].attention.parameters())
    assert counted == 4 * 24 * 25 + 2 * 24  # four projections with biases, and a norm


def test_t18_a_layer_of_bert_base_has_as_many_with_4_heads_as_with_12() -> None:
    counts = []
    for heads in (12, 4):
        with torch.device("meta"):
            model = BertModel(BertConfig(num_hidden_layers=1, num_attention_heads=heads))
        attention = model.encoder.layer[0].attention.self
        output = model.encoder.layer[0].attention.output.dense
        counts.append(sum(p.numel() for m in (attention, output) for p in m.parameters()))
    assert counts == [2_362_368, 2_362_368]


@given(seed=SEEDS)
def test_t18_a_projector_is_determined_up_to_what_the_student_undoes(seed: int) -> None:
    """Turn the student's space and the projector against it: the loss on hidden states is equal."""
    s, w, t = draw(2, 5, 4), draw(4, 6, seed=1), draw(2, 5, 6, seed=2)
    turn = rotation(4, seed)
    plain = losses.hint(student=s @ w, teacher=t)
    torch.testing.assert_close(losses.hint(student=(s @ turn) @ (turn.T @ w), teacher=t), plain)
