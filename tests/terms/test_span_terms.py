"""A term for two tokenizers: spans of the same characters, and masks as elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import CE, losses
from distill_lib.terms import SpanKD

# Two texts. Student: 5 positions that answer, teacher: 4; spans as align numbers them.
SPANS = torch.tensor([[0, 0, 1, 2, -100], [0, 1, 1, -100, -100]])
THEIRS = torch.tensor([[0, 1, 1, 2], [0, 0, 1, -100]])


def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels, theirs = (
        torch.randint(n, s.shape, generator=draw) for n, s in ((7, SPANS), (9, THEIRS))
    )
    return {
        "labels": labels.masked_fill(SPANS < 0, -100),
        "teacher_labels": theirs.masked_fill(THEIRS < 0, -100),
        "spans": SPANS,
        "teacher_spans": THEIRS,
    }


def logits() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, 7, generator=draw), torch.randn(2, 4, 9, generator=draw)


def by_hand() -> list[tuple[int, int, float]]:
    """Each span with loops: text, the position of its last token, its divergence."""
    (z, v), b, found = logits(), batch(), []
    for text in range(2):
        for span in range(3):
            sums = []
            for said, spans, key in ((z, SPANS, "labels"), (v, THEIRS, "teacher_labels")):
                at = [t for t, s in enumerate(spans[text].tolist()) if s == span]
                log_p = said[text].log_softmax(-1)
                sums.append(sum(log_p[t, b[key][text, t]].item() for t in at))
                if key == "labels" and at:
                    last = at[-1]
            if span < 3 - text:
                q, p = (math.exp(x) for x in sums)
                value = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
                found.append((text, last, value))
    return found


def test_each_span_by_hand() -> None:
    z, v = logits()
    values = SpanKD().values(z, {"logits": v}, batch(), 0.0)
    want = torch.zeros(2, 5)
    for text, last, value in by_hand():
        want[text, last] = value
    torch.testing.assert_close(values, want)


def test_the_mean_is_over_the_students_tokens() -> None:
    z, v = logits()
    loss, parts = (CE() + SpanKD())(z, v, batch())
    want = sum(value for *_, value in by_hand()) / 7
    assert parts["span_kd"].item() == pytest.approx(want, rel=1e-5)
    assert loss == parts["ce"] + parts["span_kd"]


def test_one_tokenizer_twice_has_nothing_to_learn_from_itself() -> None:
    z, _ = logits()
    b = batch()
    same = {**b, "teacher_labels": b["labels"], "teacher_spans": b["spans"]}
    z.requires_grad_()
    value, _ = SpanKD()(z, z.detach(), same)
    (grad,) = torch.autograd.grad(value, z)
    assert value.item() == pytest.approx(0, abs=1e-6) and grad.abs().max() < 1e-6


def test_uld_compares_where_spans_begin() -> None:
    z, v = logits()
    values = SpanKD(losses.uld, temperature=2.0).values(z, {"logits": v}, batch(), 0.0)
    pairs = {(0, 1): (0, 0), (0, 2): (2, 1), (0, 3): (3, 3), (1, 0): (0, 0), (1, 2): (1, 2)}
    want = torch.zeros(2, 5)
    for (text, _), (mine, theirs) in pairs.items():
        want[text, mine] = losses.uld(
            student=z[text, mine], teacher=v[text, theirs], temperature=2.0
        )
    torch.testing.assert_close(values, want)


def test_no_gradient_reaches_the_teacher_and_all_of_a_span_the_student() -> None:
    z, v = (x.requires_grad_() for x in logits())
    SpanKD()(z, v, batch())[0].backward()
    assert v.grad is None and z.grad is not None
    assert torch.equal(z.grad.abs().sum(-1) > 0, SPANS >= 0)


def test_a_batch_without_spans_costs_nothing() -> None:
    z, v = logits()
    b = {k: torch.full_like(x, -100) for k, x in batch().items()}
    loss, _ = SpanKD()(z.requires_grad_(), v, b)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("loss", [losses.span_kl, losses.uld])
def test_a_teacher_serves_several_students(loss: Any) -> None:
    z, v = logits()
    several = torch.stack([z, 2 * z, -z])
    got, _ = (CE() + SpanKD(loss))(several, v, batch())
    each = [(CE() + SpanKD(loss))(one, v, batch())[0] for one in several]
    torch.testing.assert_close(got, torch.stack(each).mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spans": None}, r"batch\['spans'\] \[2, 5\]"),
        ({"teacher_spans": SPANS}, r"batch\['teacher_spans'\] \[2, 4\]"),
        ({"teacher_spans": THEIRS.clamp_max(1)}, "other spans.*align"),
        ({"labels": torch.full((2, 5), 8)}, "a label 8 in a vocabulary of 7"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpanKD()(*logits(), {**batch(), **change})


def test_another_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"span_kl or losses\.uld.*got kl and pieces=None"):
        SpanKD(losses.kl)
    with pytest.raises(ValueError, match="pieces"):
        SpanKD(losses.uld, torch.zeros(9, dtype=torch.long))
    with pytest.raises(ValueError, match="whole numbers"):
        SpanKD(losses.kl, torch.zeros(9))
    for pieces in (torch.zeros(8, dtype=torch.long), torch.full((9,), 7)):
        with pytest.raises(ValueError, match="for a teacher of 9 tokens and a student of 7"):
            SpanKD(losses.kl, pieces)(*logits(), batch())


def test_tokens_that_begin_alike_are_added_up() -> None:
    z, v = logits()
    pieces = torch.tensor([0, 1, 1, 2, 3, 4, 4, 5, -1])
    values = SpanKD(losses.kl, pieces).values(z, {"logits": v}, batch(), 0.0)
    for text, mine, theirs in ((0, 0, 0), (0, 2, 1), (0, 3, 3), (1, 0, 0), (1, 1, 2)):
        p = v[text, theirs].softmax(-1)
        p = torch.stack([p[0], p[1] + p[2], p[3], p[4], p[5] + p[6], p[7], p[0] * 0])
        want = losses.kl(student=z[text, mine], teacher=(p / p.sum()).log())
        torch.testing.assert_close(values[text, mine], want)
    assert (values != 0).sum() == 5


def test_how_it_is_written() -> None:
    assert str(CE() + 2 * SpanKD(losses.uld)) == "CE + 2·spans(uld)"
