"""A loss of labels that a user brings: what it leaves out is not counted, what it cannot take said.

Members of the laws that were found by attacks.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import Label, losses
from distill_lib.objective import Step

BROUGHT: dict[str, Any] = {
    "option": lambda left: Label(F.cross_entropy, ignore_index=left),
    "module": lambda left: Label(nn.CrossEntropyLoss(ignore_index=left, reduction="none")),
    "partial": lambda left: Label(partial(F.cross_entropy, ignore_index=left)),
    "both": lambda left: Label(
        nn.CrossEntropyLoss(ignore_index=left, reduction="none"), ignore_index=left
    ),
}


@given(
    how=st.sampled_from([*BROUGHT]),
    left=st.sampled_from([-100, -1, 0, 3, 255]),
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=9),
    out=st.sets(st.integers(0, 8)),
    cut=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_what_a_loss_leaves_out_is_not_counted(
    how: str, left: int, labels: list[int], out: set[int], cut: int
) -> None:
    z = torch.randn(len(labels), 5)
    y = torch.tensor([left if i in out else label for i, label in enumerate(labels)])
    want = F.cross_entropy(z, y, ignore_index=left).nan_to_num()  # torch has nan for nothing
    term = BROUGHT[how](left)
    assert term(z, batch={"labels": y})[0].item() == pytest.approx(want.item(), abs=1e-6)
    cut = min(cut, len(y) - 1)
    parts = [(z[:cut], {"labels": y[:cut]}), (z[cut:], {"labels": y[cut:]})]
    step = Step([batch for _, batch in parts])
    found = sum(term(part, batch=batch, denom=step)[0].item() for part, batch in parts)
    assert found == pytest.approx(want.item(), abs=1e-6)


def test_real_labels_of_minus_100_are_numbers() -> None:
    z, y = torch.zeros(2), torch.tensor([-100.0, 1.0])
    assert Label(F.l1_loss)(z, batch={"labels": y})[0].item() == 50.5


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (F.multilabel_margin_loss, torch.zeros(4, 3, dtype=torch.long)),
        (F.nll_loss, torch.rand(4, 3)),
        (F.soft_margin_loss, torch.zeros(4, dtype=torch.long)),
        (lambda z, y: z * y, torch.zeros(4, dtype=torch.long)),
    ],
)
def test_what_a_loss_cannot_take_is_said(loss: Any, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"cannot take answers \[4, 3\].*is wrapped: lambda"):
        Label(loss)(torch.randn(4, 3), batch={"labels": labels})


def test_the_way_out_works() -> None:
    z, y = torch.randn(4, 3), torch.tensor([[0, 2, -1], [1, -1, -1], [0, 1, 2], [-1, -1, -1]])

    def wrapped(answer: Tensor, labels: Tensor) -> Tensor:
        return F.multilabel_margin_loss(answer, labels.long(), reduction="none")

    want = F.multilabel_margin_loss(z, y)
    assert Label(wrapped)(z, batch={"labels": y})[0].item() == pytest.approx(want.item())


def test_a_loss_that_wants_more_is_refused_when_it_is_brought() -> None:
    with pytest.raises(TypeError, match=r"calls ctc_loss\(answer, labels\), and missing"):
        Label(F.ctc_loss)
    with pytest.raises(TypeError, match="missing a required argument: 'var'"):
        Label(F.gaussian_nll_loss)
    var = torch.ones(())
    assert Label(F.gaussian_nll_loss, var=1.0).options["var"] == 1.0
    found = Label(F.gaussian_nll_loss, var=1.0)(torch.zeros(2), batch={"labels": torch.ones(2)})
    want = F.gaussian_nll_loss(torch.zeros(2), torch.ones(2), var.expand(2))
    assert found[0].item() == pytest.approx(want.item())
    with pytest.raises(TypeError, match="compares a student with a teacher"):
        Label(losses.kl)
