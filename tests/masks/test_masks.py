"""masks: what a batch leaves out, and what a sum is divided by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import CE, DKD, KD, Match, Objective, Relation, Term, losses
from distill_lib.masks import masks_of
from distill_lib.objective import Step


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def hand_kl(z: Tensor, v: Tensor, T: float) -> Tensor:
    p = (v / T).softmax(-1)
    return T * T * (p * (p.log() - (z / T).log_softmax(-1))).sum(-1)


# ---- what is left out ----


def test_labels_of_minus_100_are_left_out_of_ce_and_not_of_kd() -> None:
    z, v = logits(4, 3), logits(4, 3).detach()
    y = torch.tensor([0, -100, 2, -100])
    _, parts = (CE() + KD())(z, v, {"labels": y})
    assert torch.allclose(parts["ce"], F.cross_entropy(z[[0, 2]], y[[0, 2]]))
    assert torch.allclose(parts["kd"], hand_kl(z, v, 1).mean())


def test_dkd_needs_labels_and_leaves_out_the_same() -> None:
    z, v = logits(4, 3), logits(4, 3).detach()
    y = torch.tensor([0, -100, 2, 1])
    kept = [0, 2, 3]
    loss, _ = DKD(temperature=2)(z, v, {"labels": y})
    some, _ = DKD(temperature=2)(z[kept], v[kept], {"labels": y[kept]})
    assert torch.allclose(loss, some)
    by_hand = 4 * losses.dkd(student=z[kept], teacher=v[kept], labels=y[kept], temperature=2.0)
    assert torch.allclose(some, by_hand.mean())


@pytest.mark.parametrize("term", [CE(), KD(), DKD()], ids=str)
@pytest.mark.parametrize("stacked", [False, True])
def test_a_mask_of_items(term: Term, stacked: bool) -> None:
    shape = (2, 5, 3) if stacked else (5, 3)
    z, v, y = logits(*shape), logits(*shape).detach(), torch.tensor([0, 1, 2, 0, 1])
    mask = torch.tensor([1, 0, 1, 1, 0])
    kept = mask.bool()
    loss, _ = term(z, v, {"labels": y, "mask": mask})
    some, _ = term(z[..., kept, :], v[..., kept, :], {"labels": y[kept]})
    assert torch.allclose(loss, some)


@pytest.mark.parametrize("key", ["mask", "labels", "attention_mask"])
def test_tokens_are_left_out(key: str) -> None:
    z, v = logits(2, 4, 3), logits(2, 4, 3).detach()
    kept = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    batch = {key: torch.where(kept, 0, -100) if key == "labels" else kept.long()}
    loss, _ = KD()(z, v, batch)
    assert torch.allclose(loss, hand_kl(z, v, 1)[kept].mean())


def test_padding_and_prompts_are_left_out_together() -> None:
    z, v = logits(1, 4, 3), logits(1, 4, 3).detach()
    batch = {
        "labels": torch.tensor([[-100, 1, 2, 2]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0]]),
    }
    _, parts = (CE() + KD())(z, v, batch)
    assert torch.allclose(parts["kd"], hand_kl(z, v, 1)[0, 1:3].mean())
    assert torch.allclose(parts["ce"], F.cross_entropy(z[0, 1:3], batch["labels"][0, 1:3]))


def test_an_end_of_text_that_is_also_padding_is_kept_by_its_mask() -> None:
    z, v = logits(1, 3, 3), logits(1, 3, 3).detach()
    loss, _ = KD()(
        z, v, {"input_ids": torch.tensor([[5, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    )
    assert torch.allclose(loss, hand_kl(z, v, 1)[0, :2].mean())


def test_an_items_mask_covers_its_tokens() -> None:
    h, g = logits(3, 4, 5), logits(3, 4, 5).detach()
    loss, _ = Match("h")({"h": h}, {"h": g}, {"mask": torch.tensor([1, 0, 1])})
    assert torch.allclose(loss, (h - g).square().mean(-1)[[0, 2]].mean())


def test_a_mask_of_tokens_leaves_values_of_items_alone() -> None:
    z, v = logits(3, 4), logits(3, 4).detach()
    loss, _ = KD()(z, v, {"mask": torch.zeros(3, 7)})
    assert torch.allclose(loss, hand_kl(z, v, 1).mean())


def test_a_mask_has_the_last_word() -> None:
    z, v = logits(2, 3, 4), logits(2, 3, 4).detach()
    labels = torch.tensor([[0, -100, 1], [-100, 2, 3]])  # two students, each with its own items
    loss, _ = KD()(z, v, {"labels": labels, "mask": torch.ones(2, 3)})
    assert torch.allclose(loss, hand_kl(z, v, 1).mean())


def test_a_mask_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"KL: a mask \[4\] says nothing of values \[3\]"):
        KD()(logits(3, 4), logits(3, 4), {"mask": torch.ones(4)})


@pytest.mark.parametrize("term", [CE(), KD(), DKD()], ids=str)
def test_an_empty_mask_is_zero_with_a_path_for_the_gradient(term: Term) -> None:
    z, v = logits(3, 4), logits(3, 4).detach()
    batch = {"labels": torch.tensor([0, 1, 2]), "mask": torch.zeros(3)}
    for denom in (None, 0, torch.tensor(0), Step([batch, batch])):
        z.grad = None
        loss, parts = term(z, v, batch, denom=denom)
        loss.backward()
        assert loss.item() == 0 and z.grad.abs().sum() == 0
        assert all(part == 0 for part in parts.values())


def test_no_label_at_all_is_zero() -> None:
    z = logits(2, 3)
    loss, _ = CE()(z, None, {"labels": torch.tensor([-100, -100])})
    loss.backward()
    assert loss.item() == 0 and z.grad.abs().sum() == 0


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_nan_under_a_mask_does_not_leak(side: str) -> None:
    z, v = torch.randn(3, 4), torch.randn(3, 4)
    (z if side == "student" else v)[1] = float("nan")
    z.requires_grad_(True)
    loss, _ = (KD(temperature=2) + Match("logits"))(z, v, {"mask": torch.tensor([1, 0, 1])})
    loss.backward()
    assert loss.isfinite()
    assert z.grad[[0, 2]].isfinite().all()
    if side == "teacher":
        assert z.grad[1].abs().sum() == 0


def test_relations_are_those_of_the_kept_items() -> None:
    s, t = logits(4, 2), logits(4, 5).detach()
    mask = torch.tensor([1, 1, 0, 1])
    loss, _ = Relation("h")({"h": s}, {"h": t}, {"mask": mask})
    kept = mask.bool()
    assert torch.allclose(loss, losses.rkd_distance(student=s[kept], teacher=t[kept]).mean())
    s = torch.where(kept.unsqueeze(-1), s.detach(), torch.nan).requires_grad_()
    again, _ = Relation("h")({"h": s}, {"h": t}, {"mask": mask})
    again.backward()
    assert torch.equal(again, loss) and s.grad.isfinite().all()


def test_masks_by_key() -> None:
    shape = torch.Size([2, 3])
    batch = {
        "mask": None,
        "labels": torch.tensor([[0, -100, 1], [1, 1, 1]]),
        "attention_mask": torch.ones(2, 3),
    }
    assert set(masks_of(shape, False, batch)) == {"labels", "attention_mask"}
    assert masks_of(shape, False, {"labels": torch.tensor([0, 1, 2])}) == {}
    assert (
        masks_of(shape, True, {"labels": torch.tensor([0, -100, 2])})["labels"].tolist()
        == [[True, False, True]] * 2
    )


# ---- denominators ----


def cut(batch: dict[str, Tensor], sizes: list[int]) -> list[dict[str, Tensor]]:
    split = {k: v.split(sizes) for k, v in batch.items()}
    return [{k: v[i] for k, v in split.items()} for i in range(len(sizes))]


OBJECTIVES = [
    CE(),
    KD(temperature=3),
    DKD(),
    0.5 * CE() + 2 * KD() + 0.1 * Match("logits"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("how", ["number", "tensor", "Step"])
@settings(max_examples=15)
@given(data=st.data())
def test_the_gradient_does_not_depend_on_how_a_batch_was_cut(
    objective: Objective, tokens: bool, how: str, data: st.DataObject
) -> None:
    n = data.draw(st.integers(2, 8))
    first = data.draw(st.integers(1, n - 1))
    shape = (n, 3) if tokens else (n,)
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=3 * n, max_size=3 * n)))
    kept = kept.view(n, 3) if tokens else kept[:n]
    z = torch.randn(*shape, 4, requires_grad=True)
    v, y = torch.randn(*shape, 4), torch.randint(0, 4, shape)
    batch = {"labels": y, "mask": kept}
    whole = torch.autograd.grad(objective(z, v, batch)[0], z)[0]

    parts = cut(batch, [first, n - first])
    denom = {"number": int(kept.sum()), "tensor": kept.sum(), "Step": Step(parts)}[how]
    loss = sum(
        objective(zi, vi, part, denom=denom)[0]
        for zi, vi, part in zip(
            z.split([first, n - first]), v.split([first, n - first]), parts, strict=True
        )
    )
    assert torch.allclose(torch.autograd.grad(loss, z)[0], whole, atol=1e-6)


@pytest.mark.parametrize("objective", [CE(), KD(), CE() + KD()], ids=str)
def test_the_step_of_several_students_counts_all_of_them(objective: Objective) -> None:
    z, v, y = logits(5, 6, 3), logits(6, 3).detach(), torch.tensor([0, 1, -100, 2, 1, 0])
    whole, _ = objective(z, v, {"labels": y})
    parts = cut({"labels": y}, [2, 4])
    pieces = zip(z.split([2, 4], 1), v.split([2, 4]), parts, strict=True)
    loss = sum(objective(zi, vi, part, denom=Step(parts))[0] for zi, vi, part in pieces)
    assert torch.allclose(loss, whole)


def test_ragged_lengths_are_counted_by_their_own_padding() -> None:
    lengths, parts, values = [3, 5], [], []
    for length in lengths:
        kept = torch.arange(length) < length - 1
        parts.append({"attention_mask": kept.expand(2, length)})
        values.append((logits(2, length, 3), logits(2, length, 3).detach()))
    loss = sum(
        KD()(z, v, part, denom=Step(parts))[0] for (z, v), part in zip(values, parts, strict=True)
    )
    alive = [hand_kl(z, v, 1)[:, :-1].flatten() for z, v in values]
    assert torch.allclose(loss, torch.cat(alive).mean())


def test_without_labels_or_masks_inputs_are_counted() -> None:
    z, v = logits(6, 3), logits(6, 3).detach()
    parts = [{"inputs": torch.zeros(2)}, {"inputs": torch.zeros(4)}]
    loss = sum(
        KD()(zi, vi, part, denom=Step(parts))[0]
        for zi, vi, part in zip(z.split([2, 4]), v.split([2, 4]), parts, strict=True)
    )
    assert torch.allclose(loss, KD()(z, v)[0])
    odd = [{"pixels": torch.zeros(2)}, {"pixels": torch.zeros(4)}]
    assert torch.allclose(KD()(z[:2], v[:2], odd[0], denom=Step(odd))[0] * 3, KD()(z[:2], v[:2])[0])


def test_a_step_sums_over_processes() -> None:
    batch = {"labels": torch.tensor([0, 1])}
    one, _ = CE()(logits(2, 3), None, batch, denom=Step([batch], lambda count: count / 4))
    torch.manual_seed(0)
    two, _ = CE()(logits(2, 3), None, batch, denom=0.5)
    assert one.isfinite() and two.isfinite()
    z = logits(2, 3)
    half, _ = CE()(z, None, batch, denom=Step([batch], lambda count: count / 4))
    assert torch.allclose(half, 4 * CE()(z, None, batch)[0])


def test_num_items_in_batch_of_transformers() -> None:
    z, v = logits(2, 4, 3), logits(2, 4, 3).detach()
    labels = torch.tensor([[0, 1, -100, -100], [1, 2, 0, -100]])
    items = (labels != -100).sum()
    loss, _ = (CE() + KD())(z, v, {"labels": labels}, denom=items)
    flat = F.cross_entropy(z.flatten(0, 1), labels.flatten(), reduction="sum") / items
    kl = hand_kl(z, v, 1)[labels != -100].sum() / items
    assert torch.allclose(loss, flat + kl)
