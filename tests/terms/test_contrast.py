"""CRD: the authors' formulas, the bank, what may enter it, and training with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib import CE, data, distill
from distill_lib.terms import CRD

N, K, D = 12, 5, 4
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 1, -100])


def term(**changed: Any) -> CRD:
    torch.manual_seed(0)
    options = {"index": torch.arange(N), "width": D, "negatives": K, **changed}
    return CRD("mine", "theirs", **options)


def said(batch: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(1)
    return {"mine": torch.randn(batch, 3, 2, 2, requires_grad=True)}, {
        "theirs": torch.randn(batch, 7, requires_grad=True)
    }


def ids(*numbers: int) -> dict[str, Tensor]:
    return {"index": torch.tensor(numbers)}


def test_it_is_the_authors_loss_and_their_update() -> None:
    """Their formulas, derived anew: exponentials over constants Z, K of N strangers."""
    crd, (s, t), batch = term(), said(), ids(4, 0, 7)
    with torch.no_grad():  # builds the projections, and leaves the banks alone
        crd.values(s, t, batch, 0.0)
    crd.offsets.fill_(math.nan)
    banks = [crd.bank_student.clone(), crd.bank_teacher.clone()]
    torch.manual_seed(5)
    others = crd._drawn(batch["index"])
    torch.manual_seed(5)
    got = crd.values(s, t, batch, 0.0)

    v1 = F.normalize(crd.project(s["mine"].flatten(1)), dim=1)
    v2 = F.normalize(crd.project_teacher(t["theirs"]), dim=1)
    rows = torch.cat([batch["index"][:, None], others], 1)
    total = torch.zeros(3)
    for vectors, bank in ((v1, banks[1]), (v2, banks[0])):
        out = torch.exp((bank[rows] * vectors[:, None]).sum(-1) / 0.07)
        out = out / (out.mean() * N)
        noise = K / N
        total = total - torch.log(out[:, 0] / (out[:, 0] + noise))
        total = total - torch.log(noise / (out[:, 1:] + noise)).sum(1)
    torch.testing.assert_close(got, total, rtol=1e-4, atol=1e-4)
    for bank, before, vectors in zip(
        (crd.bank_student, crd.bank_teacher), banks, (v1, v2), strict=True
    ):
        want = before.clone()
        want[batch["index"]] = F.normalize(0.5 * before[batch["index"]] + 0.5 * vectors, dim=1)
        torch.testing.assert_close(bank, want)


def test_strangers_are_of_other_classes_and_all_of_them_come() -> None:
    crd = term(labels=LABELS, negatives=2000)
    drawn = crd._drawn(torch.arange(N))
    for i in range(N):
        own = LABELS.eq(LABELS[i])
        assert set(drawn[i].tolist()) == set((~own).nonzero()[:, 0].tolist())
    alone = term(negatives=2000)._drawn(torch.tensor([3]))
    assert set(alone[0].tolist()) == set(range(N)) - {3}


def test_ids_may_have_gaps_and_any_order() -> None:
    index = torch.tensor([70, 3, 900, 12])
    crd = term(index=index, labels=torch.tensor([0, 0, 1, 1]), negatives=50)
    at = crd._places(torch.tensor([900, 3]), 2, 2)
    assert crd.ids[at].tolist() == [900, 3]
    assert set(crd.ids[crd._drawn(at)][0].tolist()) == {3, 70}
    assert set(crd.ids[crd._drawn(at)][1].tolist()) == {12, 900}


def test_no_gradient_reaches_the_teacher_and_both_projections_learn() -> None:
    crd, (s, t) = term(), said()
    loss, _ = crd(s, t, ids(4, 0, 7))
    loss.backward()
    assert t["theirs"].grad is None
    assert s["mine"].grad is not None and s["mine"].grad.abs().sum() > 0
    for part in (crd.project, crd.project_teacher):
        assert part.weight.grad.abs().sum() > 0


def test_what_a_mask_leaves_out_touches_nothing() -> None:
    """Neither the banks, nor the constant, nor the loss of the others."""
    found = []
    for junk in (0.0, 1e4):
        crd, (s, t) = term(), said()
        hidden = torch.tensor([True, False, True])
        mine = torch.where(hidden.view(3, 1, 1, 1), s["mine"], junk)
        theirs = torch.where(hidden.view(3, 1), t["theirs"], junk)
        torch.manual_seed(3)
        batch = {**ids(4, 0, 7), "mask": hidden}
        loss, _ = crd({"mine": mine}, {"theirs": theirs}, batch)
        found.append((loss.detach(), crd.bank_student.clone(), crd.bank_teacher.clone()))
        fresh = term().bank_student
        assert torch.equal(crd.bank_student[0], fresh[0])
        assert not torch.equal(crd.bank_student[4], fresh[4])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_that_is_masked_whole_costs_nothing_and_sets_nothing() -> None:
    crd, (s, t) = term(), said()
    loss, _ = crd(s, t, {**ids(4, 0, 7), "mask": torch.zeros(3, dtype=torch.bool)})
    assert loss.item() == 0
    assert crd.offsets.isnan().all()


def test_banks_rest_in_eval_mode_and_without_gradient() -> None:
    crd, (s, t) = term(), said()
    before = crd.bank_student.clone()
    with torch.no_grad():
        crd(s, t, ids(4, 0, 7))
    crd.eval()
    crd(s, t, ids(4, 0, 7))
    assert torch.equal(crd.bank_student, before)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_stay_finite(half: torch.dtype) -> None:
    crd, (s, t) = term(), said()
    with torch.autocast("cpu", half):
        loss, _ = crd(s, t, ids(4, 0, 7))
    loss.backward()
    assert loss.isfinite() and s["mine"].grad is not None and s["mine"].grad.isfinite().all()
    assert crd.bank_student.dtype == torch.float32


def test_the_gradient_equals_finite_differences() -> None:
    crd, (s, t) = term(), said()
    crd(s, t, ids(4, 0, 7))
    crd.double().eval()
    theirs = {"theirs": t["theirs"].double()}

    def value(mine: Tensor) -> Tensor:
        torch.manual_seed(2)
        return crd.values({"mine": mine}, theirs, ids(4, 0, 7), 0.0)

    assert torch.autograd.gradcheck(value, (s["mine"].detach().double().requires_grad_(),))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"index": torch.tensor([1, 1, 2])}, "different whole numbers"),
        ({"index": torch.tensor([3])}, "N at least 2"),
        ({"index": torch.tensor([1.0, 2.0])}, "whole numbers"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one an id"),
        ({"labels": torch.zeros(N)}, "of int64"),
        ({"labels": torch.zeros(N, dtype=torch.int64)}, "needs strangers"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"negatives": 0}, "negatives"),
    ],
)
def test_what_cannot_be_is_refused_at_once(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        term(**changed)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({}, r'batch\["index"\].*Dataset have it'),
        (ids(4, 0), r"index \[2\] for 3 and 3 items"),
        ({"index": torch.zeros(2, 3, dtype=torch.int64)}, "a CRD each"),
        (ids(4, 0, 12), r"no items \[12\]; name all ids"),
    ],
)
def test_a_batch_that_does_not_say_its_items_is_refused(batch: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        term()(*said(), batch)


def dataset() -> data.Dataset:
    torch.manual_seed(0)
    inputs, labels = torch.randn(32, 6), torch.arange(32) % 4
    return data.Dataset(inputs, labels, ("a", "b", "c", "d")).subset(range(4, 32))


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(6, w), nn.ReLU(), nn.Linear(w, 4)) for w in (5, 9)]
    return made[0], made[1].eval()


def lesson() -> Any:
    seen = dataset()
    crd = CRD("1", index=seen.index, labels=seen.labels, width=4, negatives=8)
    return CE() + 0.1 * crd


def test_a_student_learns_whose_item_it_is() -> None:
    student, teacher = networks()
    history = distill(student, teacher, dataset().batches(14), lesson(), epochs=40, lr=0.01)
    falls = history["crd"]
    assert sum(falls[-10:]) < 0.8 * sum(falls[:10])


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Any) -> None:
    """Projections that found their width, banks and constants are what they were."""

    def run(epochs: list[int]) -> list[Tensor]:
        for epoch in epochs:
            student, teacher = networks()
            objective = lesson()
            distill(
                student, teacher, dataset().batches(14), objective, epochs=epoch,
                checkpoint=tmp_path / f"{len(epochs)}.pt", resume=epoch > epochs[0], seed=0,
            )  # fmt: skip
        state = {**student.state_dict(), **objective.state_dict()}
        return [value for _, value in sorted(state.items())]

    for one, other in zip(run([4]), run([2, 4]), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
