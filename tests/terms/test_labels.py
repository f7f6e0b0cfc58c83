"""Terms on labels: every kind of label counts as in torch, or is refused with the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import BCE, CE, DKD, KD, Label, distill, losses
from distill_lib.objective import Step


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z, retain_graph=True)[0]


# ---- one class of many ----


@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_the_class_axis_may_be_any(b: int, c: int, h: int, w: int, front: bool) -> None:
    """[B, C, H, W] with axis=1 and -3 is [B, H, W, C]; the other axes are items in any order."""
    z, y = logits(b, c, h, w), torch.randint(0, c, (b, h, w))
    y[0, 0, 0] = 0
    y[-1, -1, -1] = -100 if b * h * w > 1 else 0
    want = F.cross_entropy(z, y)
    torch.testing.assert_close(CE(axis=1 if front else -3)(z, batch={"labels": y})[0], want)
    last = z.movedim(1, -1)
    torch.testing.assert_close(CE(axis=-1)(last, batch={"labels": y})[0], want)
    turned = CE(axis=1)(z.transpose(2, 3), batch={"labels": y.transpose(1, 2)})[0]
    torch.testing.assert_close(turned, want)


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (2, 5, 4), (2, 4, 4, 4), (2, 3, 4, 5, 6)])
def test_shapes_that_leave_a_doubt_ask_for_the_axis(shape: tuple[int, ...]) -> None:
    z, y = logits(*shape), torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    for term in (CE(), DKD(), KD()):
        with pytest.raises(ValueError, match=r"which axis of the logits .* Say axis=1 for images"):
            term(z, z.detach(), {"labels": y})
    with pytest.raises(ValueError, match="have no axis 7"):
        CE(axis=7)(z, batch={"labels": y})


@pytest.mark.parametrize("ignore", [255, -1, -100])
def test_an_ignored_label_counts_nowhere(ignore: int) -> None:
    z, y = logits(2, 5, 3, 3), torch.randint(0, 5, (2, 3, 3))
    y[0, :2] = ignore
    want = F.cross_entropy(z, y, ignore_index=ignore)
    for kind in (y, y.byte() if ignore == 255 else y.int(), y.tolist()):
        loss, _ = CE(axis=1, ignore_index=ignore)(z, batch={"labels": kind})
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(gradient(loss, z), gradient(want, z))


def test_a_byte_of_156_is_a_class_although_it_equals_minus_100_in_a_byte() -> None:
    z, y = logits(2, 200), torch.tensor([156, 3], dtype=torch.uint8)
    torch.testing.assert_close(CE()(z, batch={"labels": y})[0], F.cross_entropy(z, y.long()))


KINDS: dict[str, Any] = {
    **{str(t): lambda y, t=t: y.to(t) for t in (torch.int8, torch.int16, torch.int32, torch.uint8)},
    "list": lambda y: y.tolist(),
    "array": lambda y: y.numpy(),
    "int32 array": lambda y: y.numpy().astype(np.int32),
    "list of tensors": list,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("term", [CE(), DKD(), CE(weight=torch.ones(3))], ids=str)
def test_integers_of_any_kind_are_labels(term: Any, kind: str) -> None:
    z, v, y = logits(4, 3), logits(4, 3).detach(), torch.tensor([0, 1, 2, 1])
    want = term(z, v, {"labels": y})[0]
    torch.testing.assert_close(term(z, v, {"labels": KINDS[kind](y)})[0], want)


@pytest.mark.parametrize("term", [CE(), DKD()], ids=str)
@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (torch.tensor([0.0, 1, 2, 1]), TypeError, r"int64, got torch\.float32: try labels\.long"),
        (["cat", "dog", "cat", "dog"], TypeError, "tensor of int64 .* got list"),
        (torch.tensor([0, 1, 255, 1]), ValueError, "255 to 255 are none of the classes 0 to 2"),
        (torch.tensor([1, 2, 3, 3]), ValueError, "number the classes from 0.*ignore_index=3"),
        (None, ValueError, r"needs batch\['labels'\]"),
    ],
)
def test_what_is_no_class_is_refused(term: Any, labels: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        term(logits(4, 3), logits(4, 3).detach(), {"labels": labels})


def test_several_heads_have_labels_by_name() -> None:
    begin, end, y = logits(4, 7), logits(4, 7), torch.tensor([0, 3, -100, 6])
    objective = CE(on="start_logits", labels="start_positions")
    objective = objective + CE(on="end_logits", labels="end_positions", ignore_index=7)
    batch = {"start_positions": y, "end_positions": torch.tensor([7, 3, 2, 7])}
    loss, parts = objective({"start_logits": begin, "end_logits": end}, None, batch)
    want = F.cross_entropy(begin, y)
    want = want + F.cross_entropy(end, batch["end_positions"], ignore_index=7)
    torch.testing.assert_close(loss, want)
    assert set(parts) == {"ce", "ce_2"}
    assert str(objective) == "CE(start_positions) + CE(end_positions)"


@pytest.mark.parametrize("term", [CE(), KD(), DKD()], ids=str)
@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_one_number_an_item_is_no_choice_of_classes(term: Any, shape: tuple[int, ...]) -> None:
    z, y = logits(*shape), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"one number an item.*BCE\(\).*Label\(F\.mse_loss\)"):
        term(z, z.detach(), {"labels": y})


# ---- soft labels and class weights ----


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_labels_are_those_of_torch(smoothing: float) -> None:
    z, y = logits(4, 10), torch.randn(4, 10).double().softmax(-1)
    loss, _ = CE(smoothing)(z, batch={"labels": y})
    torch.testing.assert_close(loss, F.cross_entropy(z, y, label_smoothing=smoothing))
    dense = logits(2, 3, 4, 5)
    y = torch.randn(2, 3, 4, 5).double().softmax(1)
    torch.testing.assert_close(CE(axis=1)(dense, batch={"labels": y})[0], F.cross_entropy(dense, y))


def test_hard_labels_as_soft_ones_are_hard_labels() -> None:
    z, y = logits(4, 3), torch.tensor([0, 1, 2, 1])
    want = CE()(z, batch={"labels": y})[0]
    for one_hot in (F.one_hot(y), F.one_hot(y).float(), F.one_hot(y).bfloat16()):
        torch.testing.assert_close(CE()(z, batch={"labels": one_hot})[0], want)


def test_soft_labels_leave_a_teachers_term_alone() -> None:
    z, v, y = logits(4, 3), logits(4, 3).detach(), torch.rand(4, 3).softmax(-1)
    assert torch.equal(KD()(z, v, {"labels": y})[0], KD()(z, v)[0])


@pytest.mark.parametrize("y", [torch.ones(3, 5), torch.zeros(3, 5), torch.eye(5)[:3] * 2 - 0.5])
@pytest.mark.parametrize("term", [CE(), KD(), KD(losses.jsd)], ids=str)
def test_labels_that_do_not_exclude_each_other_are_refused(term: Any, y: Tensor) -> None:
    z = logits(3, 5)
    with pytest.raises(ValueError, match=r"do not sum to 1.*BCE\(\) and KD\(losses\.bernoulli"):
        term(z, z.detach(), {"labels": y})


@given(st.lists(st.floats(0.125, 9, width=32), min_size=3, max_size=3), st.floats(0, 0.5))
def test_class_weights_give_the_weighted_mean_of_torch(each: list[float], smooth: float) -> None:
    z, y, w = logits(6, 3), torch.tensor([0, 1, -100, 2, 0, 1]), torch.tensor(each).double()
    term = CE(smooth, weight=w)
    want = F.cross_entropy(z, y, weight=w, label_smoothing=smooth)
    torch.testing.assert_close(term(z, batch={"labels": y})[0], want)


def test_class_weights_do_not_depend_on_how_a_batch_was_cut() -> None:
    z, w = logits(7, 3), torch.tensor([1.0, 5, 9]).double()
    y = torch.tensor([0, 0, 0, -100, 1, 2, 2])
    cuts = [slice(0, 3), slice(3, 4), slice(4, 7)]
    parts = [{"labels": y[cut]} for cut in cuts]
    step, term = Step(parts), CE(weight=w)
    loss = sum(term(z[c], batch=p, denom=step)[0] for c, p in zip(cuts, parts, strict=True))
    torch.testing.assert_close(loss, F.cross_entropy(z, y, weight=w))
    students = torch.stack([z, 2 * z])
    each = [F.cross_entropy(x, y, weight=w) for x in students]
    torch.testing.assert_close(term(students, batch={"labels": y})[0], sum(each) / 2)


def test_class_weights_respect_a_mask_and_soft_labels() -> None:
    z, y, w = logits(4, 3), torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, 5, 9]).double()
    mask = torch.tensor([1, 0, 1, 1])
    loss, _ = CE(weight=w)(z, batch={"labels": y, "mask": mask})
    kept = mask.bool()
    torch.testing.assert_close(loss, F.cross_entropy(z[kept], y[kept], weight=w))
    soft = torch.rand(4, 3).double().softmax(-1)
    loss, _ = CE(weight=w)(z, batch={"labels": soft})
    torch.testing.assert_close(loss, F.cross_entropy(z, soft, weight=w))


@pytest.mark.parametrize("bad", [torch.tensor([-1.0, 1, 1]), torch.ones(3, 3), [1.0, float("nan")]])
def test_weights_are_one_number_a_class(bad: Any) -> None:
    with pytest.raises(ValueError, match="one number a class"):
        CE(weight=bad)


def test_as_many_weights_as_classes() -> None:
    with pytest.raises(ValueError, match="CE has 2 weights for 3 classes"):
        CE(weight=torch.ones(2))(logits(1, 3), batch={"labels": torch.tensor([0])})


# ---- independent labels ----


def test_bce_is_that_of_torch() -> None:
    z, y, w = logits(4, 3), torch.randint(0, 2, (4, 3)), torch.tensor([1.0, 5, 9]).double()
    for labels in (y, y.bool(), y.double(), y.float(), y.tolist()):
        loss, _ = BCE()(z, batch={"labels": labels})
        want = F.binary_cross_entropy_with_logits(z, y.double())
        torch.testing.assert_close(loss, want)
    loss, _ = BCE(pos_weight=w)(z, batch={"labels": y})
    want = F.binary_cross_entropy_with_logits(z, y.double(), pos_weight=w)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(gradient(loss, z), gradient(want, z))


@pytest.mark.parametrize(
    ("answer", "labels"),
    [((4,), (4,)), ((4, 1), (4,)), ((4,), (4, 1)), ((4, 1), (4, 1)), ((4, 1, 2, 3), (4, 2, 3))],
)
@pytest.mark.parametrize("term", [BCE(), Label(F.mse_loss)], ids=str)
def test_a_lone_axis_may_be_missing_on_one_side(term: Any, answer: Any, labels: Any) -> None:
    """Broadcast, [B, 1] against [B] would be [B, B]."""
    z, y = logits(*answer), torch.randint(0, 2, labels)
    loss, _ = term(z, batch={"labels": y})
    flat = term(z.flatten(), batch={"labels": y.flatten()})[0]
    torch.testing.assert_close(loss, flat)


def test_a_label_that_is_not_known_leaves_out_itself_alone() -> None:
    z, y = logits(3, 4), torch.randint(0, 2, (3, 4)).double()
    y[0, 1] = y[2, 3] = -100
    known = y != -100
    loss, _ = BCE()(z, batch={"labels": y})
    want = F.binary_cross_entropy_with_logits(z[known], y[known])
    torch.testing.assert_close(loss, want)
    assert gradient(loss, z)[0, 1] == 0
    unknown = y.masked_fill(~known, -1)
    torch.testing.assert_close(BCE(ignore_index=-1)(z, batch={"labels": unknown})[0], want)
    nan = y.masked_fill(~known, float("nan"))
    loss, _ = BCE(ignore_index=float("nan"))(z, batch={"labels": nan})
    torch.testing.assert_close(loss, want)
    assert gradient(loss, z).isfinite().all()


def test_one_set_of_labels_serves_several_students() -> None:
    z, y = logits(5, 4, 3), torch.randint(0, 2, (4, 3))
    each = [BCE()(one, batch={"labels": y})[0] for one in z]
    torch.testing.assert_close(BCE()(z, batch={"labels": y})[0], sum(each) / 5)


@pytest.mark.parametrize(
    ("shape", "y", "words"),
    [
        ((4, 3), torch.tensor([0, 1, 2, 1]), "expect a label for each.*use CE"),
        ((3, 3), torch.tensor([0, 1, 1]), "expect a label for each.*use CE"),
        ((4, 3), torch.full((4, 3), 255), r"lie in \[0, 1\], got 255 to 255.*ignore_index="),
        ((4, 3), torch.full((4, 3), -1.0), r"lie in \[0, 1\], got -1 to -1"),
        ((4, 3), None, r"BCE needs batch\['labels'\]"),
    ],
)
def test_what_bce_refuses(shape: Any, y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BCE()(logits(*shape), batch={"labels": y})


def test_labels_and_a_teacher_of_independent_labels_pull_at_one_scale() -> None:
    """A teacher that is as sure as the labels has the gradient of the labels."""
    z, y = logits(4, 3), torch.randint(0, 2, (4, 3)).double()
    hard = BCE()(z, batch={"labels": y})[0]
    soft = KD(losses.bernoulli_kl)(z, 80 * y - 40, {"labels": y})[0]
    torch.testing.assert_close(gradient(soft, z), gradient(hard, z))


# ---- any loss ----


def test_regression_takes_labels_of_every_type() -> None:
    z, y = torch.randn(4, 1, requires_grad=True), torch.tensor([1, 2, 3, 5])
    want = F.mse_loss(z[:, 0], y.float())
    for labels in (y, y.double(), y.float().unsqueeze(1), y.half(), y.tolist(), y.double().numpy()):
        loss, parts = Label(F.mse_loss)(z, batch={"labels": labels})
        torch.testing.assert_close(loss, want)
        loss.backward()
        assert loss.dtype == torch.float32 and set(parts) == {"label"}


def test_minus_100_is_a_number_where_labels_are_numbers() -> None:
    z, y = logits(3), torch.tensor([-100.0, 0, float("inf")]).double()
    y[2] = 1
    torch.testing.assert_close(Label(F.l1_loss)(z, batch={"labels": y})[0], F.l1_loss(z, y))
    y[1] = float("nan")
    loss, _ = Label(F.l1_loss, ignore_index=float("nan"))(z, batch={"labels": y})
    torch.testing.assert_close(loss, F.l1_loss(z[[0, 2]], y[[0, 2]]))
    assert gradient(loss, z).isfinite().all()


def test_any_loss_of_ones_own() -> None:
    z, y = logits(4, 3), torch.tensor([0, 2, -100, 1])
    kept = y != -100

    def margin(answer: Tensor, labels: Tensor, *, wide: float = 1.0) -> Tensor:
        return F.multi_margin_loss(answer, labels, margin=wide, reduction="none")

    loss, _ = Label(margin, wide=2.0)(z, batch={"labels": y})
    torch.testing.assert_close(loss, F.multi_margin_loss(z[kept], y[kept], margin=2.0))
    assert str(Label(margin, wide=2.0)) == "margin(wide=2.0)"
    module = nn.CrossEntropyLoss(reduction="none")
    torch.testing.assert_close(
        Label(module)(z, batch={"labels": y})[0], CE()(z, batch={"labels": y})[0]
    )
    assert Label(F.huber_loss, labels="score", delta=0.5).text() == "huber_loss(score, delta=0.5)"
    assert Label(F.mse_loss)._repr_latex_() == r"$\mathrm{mse\_loss}(y, z)$"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Label(nn.MSELoss()), ValueError, 'averages by itself.*reduction="none"'),
        (lambda: Label(F.mse_loss, reduction="mean"), ValueError, "averages by itself"),
        (lambda: Label(losses.mse_logits), TypeError, r"use KD\(losses\.mse_logits\)"),
        (lambda: Label(F.mse_loss, wide=2), TypeError, "mse_loss takes no argument 'wide'"),
        (lambda: Label("mse"), TypeError, "expected a loss of .answer, labels., got 'mse'"),
        (lambda: Label(F.mse_loss, on=3), TypeError, "on is a name, got 3"),
        (lambda: CE("aux"), ValueError, r"label_smoothing lies in \[0, 1\), got 'aux'"),
        (lambda: CE(labels=""), TypeError, "labels is a name, got ''"),
    ],
)
def test_what_is_no_loss_is_refused_at_once(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("y", [torch.zeros(4), torch.zeros(4, dtype=torch.long)])
def test_nothing_is_broadcast(y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[4, 4\] expect labels of the same shape, got \[4\]"):
        Label(F.mse_loss)(logits(4, 4), batch={"labels": y})
    with pytest.raises(ValueError, match=r"\[4, 4\] and labels \[4\] were broadcast"):
        Label(lambda z, y: (z - y).square())(logits(4, 4), batch={"labels": y})


def test_a_loss_that_averages_is_found_out() -> None:
    with pytest.raises(ValueError, match="<lambda> averages by itself"):
        Label(lambda z, y: (z - y).mean())(logits(4), batch={"labels": torch.zeros(4)})


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("term", [BCE(), Label(F.mse_loss), CE()], ids=str)
def test_half_precision_is_computed_in_full(term: Any, half: torch.dtype) -> None:
    z = torch.randn(4, 3).to(half)
    y = torch.tensor([0, 1, 2, 1]) if isinstance(term, CE) else torch.randint(0, 2, (4, 3))
    loss, _ = term(z, batch={"labels": y})
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, term(z.float(), batch={"labels": y})[0])


@pytest.mark.parametrize("task", ["binary", "labels", "regression"])
def test_the_one_loop_trains_them(task: str) -> None:
    wide = 3 if task == "labels" else 1
    x, teacher = torch.randn(64, 5), nn.Linear(5, wide)
    said = teacher(x).detach()
    y = said[:, 0] if task == "regression" else (said > 0).float().squeeze(-1)
    data = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]
    hard, soft = BCE(), KD(losses.bernoulli_kl, temperature=2)
    if task == "regression":
        hard, soft = Label(F.mse_loss), KD(losses.mse_logits)
    student = nn.Linear(5, wide)
    history = distill(student, teacher, data, hard + soft, epochs=40, lr=0.05)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
