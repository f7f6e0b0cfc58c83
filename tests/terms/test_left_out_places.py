"""What is left out may be anything: no number, no id, no label; and parts of a span are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import losses
from distill_lib.terms import LogRatio, SpanKD, SparseKD

B, L, C, K = 3, 5, 9, 3
DRAW = torch.Generator().manual_seed(0)
Z, V = (torch.randn(B, L, C, generator=DRAW) for _ in range(2))
WORDS = torch.randint(C, (B, L), generator=DRAW)
KEPT = torch.rand(B, L, generator=DRAW) < 0.6
BATCHES: dict[str, dict[str, Any]] = {
    "mask": {"mask": KEPT},
    "list": {"mask": KEPT.tolist()},
    "padding": {"attention_mask": KEPT.long()},
    "labels": {"labels": WORDS.masked_fill(~KEPT, -100)},
}


def learned(term: Any, said: dict[str, Tensor], batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    z = Z.clone().requires_grad_()
    loss, _ = term(z, said, batch)
    return loss.detach(), torch.autograd.grad(loss, z)[0]


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize("loss", [losses.kl, losses.reverse_kl, losses.tvd])
def test_of_a_part_of_an_answer(name: str, rest: bool, loss: Callable[..., Tensor]) -> None:
    ids, log_p, left = losses.top_k(V, K)
    said = {"top_ids": ids, "top_log_probs": log_p} | ({"rest": left} if rest else {})
    term, batch = SparseKD(loss, rest=rest), BATCHES[name]
    want, slope = learned(term, said, batch)
    each = losses.sparse_divergence(
        student=Z, teacher=log_p, ids=ids, rest=left if rest else None, loss=loss
    )
    torch.testing.assert_close(want, each[KEPT].mean())
    for odd, number in ((math.nan, -1), (0.0, 0), (math.inf, 10**6)):
        spoiled = {
            "top_ids": ids.masked_fill(~KEPT[..., None], number),
            "top_log_probs": log_p.masked_fill(~KEPT[..., None], odd),
            "rest": left.masked_fill(~KEPT, odd),
        }
        got, grad = learned(term, {k: spoiled[k] for k in said}, batch)
        assert got.equal(want) and grad.equal(slope)


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_of_a_teacher_who_tells_words_alone(discount: float) -> None:
    batch = {"labels": WORDS.masked_fill(~KEPT, -100)}
    log_p = V.log_softmax(-1).gather(-1, WORDS[..., None])[..., 0]
    term = LogRatio(on=("logits", "log_prob"), discount=discount)
    want, slope = learned(term, {"log_prob": log_p}, batch)
    torch.testing.assert_close(want, learned(LogRatio(discount=discount), {"logits": V}, batch)[0])
    for odd in (math.nan, 1.0, -math.inf):
        got, grad = learned(term, {"log_prob": log_p.masked_fill(~KEPT, odd)}, batch)
        assert got.equal(want) and grad.equal(slope)
        with pytest.raises(ValueError, match="nor log-probabilities"):
            spoiled = log_p.masked_fill(KEPT, 1.0)
            learned(term, {"log_prob": spoiled}, batch)


# ---- spans ----

SPANS = {
    "spans": torch.tensor([[0, 0, 1, 2, -100]]),
    "labels": torch.tensor([[3, 1, 4, 1, -100]]),
    "teacher_spans": torch.tensor([[0, 1, 1, 2, -100]]),
    "teacher_labels": torch.tensor([[5, 2, 6, 5, -100]]),
}
ENDS = {0: 1, 1: 2, 2: 3}  # the last place of each span


def spans(batch: dict[str, Tensor]) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    z, v = torch.randn(1, 5, 7, generator=draw), torch.randn(1, 5, 8, generator=draw)
    found: Tensor = SpanKD().values({"logits": z}, {"logits": v}, batch, 0.0)
    return found[0]


@pytest.mark.parametrize("key", ["labels", "teacher_labels"])
@pytest.mark.parametrize("place", range(4))
def test_a_span_counts_as_a_whole(key: str, place: int) -> None:
    """A part of its logarithms is the probability of other characters."""
    batch = {k: v.clone() for k, v in SPANS.items()}
    batch[key][0, place] = -100
    side = SPANS["spans" if key == "labels" else "teacher_spans"]
    want = spans(SPANS)
    assert (want[:4][[1, 2, 3]] > 0).all()
    want[ENDS[int(side[0, place])]] = 0.0
    torch.testing.assert_close(spans(batch), want)


@pytest.mark.parametrize("key", ["labels", "teacher_labels"])
@pytest.mark.parametrize("wrong", [-1, -99, 8])
def test_a_label_is_a_token_or_none(key: str, wrong: int) -> None:
    batch = {**SPANS, key: SPANS[key].clone()}
    batch[key][0, 1] = wrong
    with pytest.raises(ValueError, match=f"a label {wrong} in a vocabulary of"):
        spans(batch)


@pytest.mark.parametrize("form", [torch.int32, torch.int16])
def test_whole_numbers_of_any_size_will_do(form: torch.dtype) -> None:
    assert spans({k: v.to(form) for k, v in SPANS.items()}).equal(spans(SPANS))
    for key in SPANS:
        with pytest.raises(TypeError, match="as whole numbers"):
            spans({**SPANS, key: SPANS[key].float()})


def test_an_option_that_nobody_takes_is_refused() -> None:
    with pytest.raises(TypeError, match="SpanKD gives span_kl"):
        SpanKD(temperature=2.0)
    SpanKD(losses.uld, temperature=2.0)


# ---- what is no divergence of coarse distributions ----


def test_losses_of_other_things_are_refused() -> None:
    for loss in (losses.mse_logits, losses.bernoulli_kl, losses.dist):
        with pytest.raises(ValueError, match="SparseKD compares two distributions"):
            SparseKD(loss)
    with pytest.raises(TypeError, match="SparseKD takes no temperature"):
        SparseKD(temperature=2.0)
    ids, log_p, rest = losses.top_k(V, K)
    with pytest.raises(TypeError, match="takes no temperature"):
        losses.sparse_divergence(student=Z, teacher=log_p, ids=ids, rest=rest, temperature=2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_all_classes_hold_all_of_the_mass(dtype: torch.dtype) -> None:
    ids = torch.arange(C).expand(B, L, C)
    log_p = V.log_softmax(-1).to(dtype)
    got = losses.sparse_divergence(student=Z, teacher=log_p, ids=ids)
    torch.testing.assert_close(got.float(), losses.kl(student=Z, teacher=V), rtol=1e-2, atol=1e-2)
    less = torch.cat([V, V[..., :1]], -1).log_softmax(-1)[..., :C].to(dtype)
    with pytest.raises(ValueError, match="classes that the student does not know"):
        losses.sparse_divergence(student=Z, teacher=less, ids=ids)
