"""evaluation: what a model is worth, and whether a teacher can teach."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill_lib import Cache, Stacked, Teacher, agreement, evaluate, sanity
from distill_lib.evaluation import calibration_error, linear_cka


def batches(logits: Tensor, labels: Tensor, size: int = 7) -> list[tuple[Tensor, Tensor]]:
    return list(zip(logits.split(size), labels.split(size), strict=True))


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(50, 4)


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, 4, (50,))


# ---- evaluate ----


def test_accuracy_and_nll_are_those_of_scikit_learn(logits: Tensor, labels: Tensor) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found = evaluate(nn.Identity(), batches(logits, labels))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, logits.argmax(-1)))
    assert found["nll"] == pytest.approx(
        metrics.log_loss(labels, logits.double().softmax(-1)), rel=1e-5
    )
    assert found["n"] == 50


def test_calibration_by_hand(logits: Tensor, labels: Tensor) -> None:
    probs, answers = logits.softmax(-1).max(-1)
    expected = 0.0
    for b in range(15):
        inside = (probs >= b / 15) & (probs < (b + 1) / 15)
        if inside.any():
            accuracy = (answers == labels)[inside].float().mean()
            expected += (inside.float().mean() * (accuracy - probs[inside].mean()).abs()).item()
    assert calibration_error(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    assert evaluate(nn.Identity(), batches(logits, labels))["ece"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logit", "right", "expected"), [(50.0, 1.0, 0.0), (50.0, 0.0, 1.0), (0.0, 0.5, 0.0)]
)
def test_calibration_at_its_ends(logit: float, right: float, expected: float) -> None:
    logits = torch.tensor([[logit, 0.0]] * 4)
    labels = torch.tensor([0] * round(4 * right) + [1] * round(4 * (1 - right)))
    assert calibration_error(logits, labels).item() == pytest.approx(expected, abs=1e-6)


@given(n=st.integers(1, 30), size=st.integers(1, 40))
def test_the_size_of_batches_does_not_matter(n: int, size: int) -> None:
    z, y = torch.randn(n, 3), torch.randint(0, 3, (n,))
    one, two = evaluate(nn.Identity(), [(z, y)]), evaluate(nn.Identity(), batches(z, y, size))
    assert one == pytest.approx(two)


def test_items_without_a_label_are_left_out(logits: Tensor, labels: Tensor) -> None:
    kept = torch.arange(50) % 3 > 0
    some = evaluate(nn.Identity(), batches(logits, torch.where(kept, labels, -100)))
    assert some == pytest.approx(evaluate(nn.Identity(), batches(logits[kept], labels[kept])))


def test_several_networks_get_a_list_each(labels: Tensor) -> None:
    nets, x = [nn.Linear(5, 4) for _ in range(3)], torch.randn(50, 5)
    found = evaluate(Stacked(nets, ndim=2), batches(x, labels))
    for i, net in enumerate(nets):
        alone = evaluate(net, batches(x, labels))
        for key in ("accuracy", "nll", "ece"):
            assert found[key][i] == pytest.approx(alone[key], rel=1e-5)
    assert found["n"] == 50


def test_half_precision_is_evaluated_in_full(logits: Tensor, labels: Tensor) -> None:
    half = evaluate(nn.Identity(), batches(logits.bfloat16(), labels))
    assert half == evaluate(nn.Identity(), batches(logits.bfloat16().float(), labels))


def test_teachers_and_forward(logits: Tensor, labels: Tensor, tmp_path: Any) -> None:
    expected = evaluate(nn.Identity(), batches(logits, labels))
    assert evaluate(Teacher(nn.Identity()), batches(logits, labels)) == expected
    named = [{"x": z, "labels": y} for z, y in batches(logits, labels)]
    assert evaluate(nn.Identity(), named, forward=lambda m, b: m(b["x"])) == expected
    items = [{"inputs": z, "index": i} for i, z in enumerate(logits)]
    cache = Cache.build(tmp_path / "c", nn.Identity(), items)
    index = torch.arange(50)
    assert evaluate(cache, [{"index": index, "labels": labels}]) == pytest.approx(expected)


@pytest.mark.parametrize("fails", [False, True])
def test_every_part_is_left_in_its_mode(logits: Tensor, labels: Tensor, fails: bool) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    model[0].eval()
    once, twice = (evaluate(model, batches(logits, labels)) for _ in range(2))
    assert once == twice
    if fails:
        with pytest.raises(TypeError):
            evaluate(model, [(None, labels)])
    assert [part.training for part in model.modules()] == [True, False, True]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "batches is empty: there is nothing to evaluate on"),
        ([{"inputs": torch.ones(2, 3)}], "evaluate needs labels"),
        ([(torch.ones(2, 3), torch.tensor([-100, -100]))], "every label is -100"),
        ([(torch.ones(2, 3), torch.tensor([0, 3]))], "from 0 to 3, the model has classes 0 to 2"),
        ([(torch.ones(2, 3), torch.tensor([-1, 1]))], "from -1 to 1"),
        ([(torch.ones(2, 5, 3), torch.zeros(2, 5))], r"one label an item, got .*\(2, 5\)"),
    ],
)
def test_what_cannot_be_evaluated(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(nn.Identity(), given)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, "list", "array"])
def test_integers_of_any_kind_are_labels(logits: Tensor, labels: Tensor, kind: Any) -> None:
    how = {"list": Tensor.tolist, "array": Tensor.numpy}
    given = [(z, how[kind](y) if kind in how else y.to(kind)) for z, y in batches(logits, labels)]
    assert evaluate(nn.Identity(), given) == evaluate(nn.Identity(), batches(logits, labels))


def test_soft_labels_are_judged_by_their_likeliest_class(logits: Tensor, labels: Tensor) -> None:
    hard = evaluate(nn.Identity(), batches(logits, labels))
    one_hot = nn.functional.one_hot(labels, 4).float()
    assert evaluate(nn.Identity(), batches(logits, one_hot)) == pytest.approx(hard)
    soft = torch.randn(50, 4).softmax(-1)
    found = evaluate(nn.Identity(), batches(logits, soft))
    assert found["nll"] == pytest.approx(nn.functional.cross_entropy(logits, soft).item())


def test_another_head_has_its_own_signal_and_labels(logits: Tensor, labels: Tensor) -> None:
    heads = [{"inputs": z, "start_positions": y} for z, y in batches(logits, labels)]
    found = evaluate(
        nn.Identity(),
        heads,
        lambda model, batch: {"start_logits": model(batch["inputs"])},
        on="start_logits",
        labels="start_positions",
    )
    assert found == evaluate(nn.Identity(), batches(logits, labels))


@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from([-100, 255]))
def test_images_are_judged_pixel_by_pixel(classes: int, h: int, w: int, ignore: int) -> None:
    """Accuracy, nll and intersection over union, by hand; batches of any size."""
    z, y = torch.randn(6, classes, h, w), torch.randint(0, classes, (6, h, w))
    y[0] = ignore
    kept, said = y != ignore, z.argmax(1)
    iou = []
    for c in range(classes):
        both, either = (said == c) & (y == c) & kept, ((said == c) | (y == c)) & kept
        iou.append((both.sum() / either.sum()).item())
    for size in (1, 4, 6):
        asked = {"axis": 1, "ignore_index": ignore}
        found = evaluate(nn.Identity(), batches(z, y, size), **asked)
        assert found["iou"] == pytest.approx(iou, nan_ok=True)
        assert found["miou"] == pytest.approx(torch.tensor(iou).nanmean().item())
        assert found["accuracy"] == pytest.approx((said == y)[kept].float().mean().item())
        nll = nn.functional.cross_entropy(z, y, ignore_index=ignore).item()
        assert found["nll"] == pytest.approx(nll, rel=1e-5) and found["n"] == kept.sum()
    last = evaluate(nn.Identity(), [(z.movedim(1, -1), y)], axis=-1, ignore_index=ignore)
    assert last["miou"] == pytest.approx(found["miou"])


def test_independent_labels_are_judged_one_by_one() -> None:
    z, y = torch.randn(20, 3), torch.randint(0, 2, (20, 3)).float()
    y[4, 1] = -100
    known = y != -100
    right = ((z > 0) == (y > 0.5)) & known
    found = evaluate(nn.Identity(), batches(z, y), task="labels")
    assert found["label_accuracy"] == pytest.approx((right.sum(0) / known.sum(0)).tolist())
    assert found["accuracy"] == pytest.approx((right.sum() / known.sum()).item())
    nll = nn.functional.binary_cross_entropy_with_logits(z[known], y[known]).item()
    assert found["nll"] == pytest.approx(nll) and found["n"] == 59


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 1, 2, 2)])
def test_a_yes_or_no_is_one_label(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape)
    y = (z > 0).int().squeeze(1) if len(shape) > 1 else (z > 0).int()
    found = evaluate(nn.Identity(), batches(z, y, 3), task="labels")
    assert (
        found["accuracy"] == 1.0
        and found["label_accuracy"] == [1.0]
        and found["n"] == len(y.flatten())
    )


@pytest.mark.parametrize("shape", [(10,), (10, 1), (10, 3)])
def test_regression_is_judged_by_its_errors(shape: tuple[int, ...]) -> None:
    """-100 is a number like any other, unless it was said to be none."""
    z, y = torch.randn(shape), 5 * torch.randn(shape)
    y[0] = -100
    found = evaluate(nn.Identity(), batches(z, y.squeeze(-1), 3), task="regression")
    assert found["mae"] == pytest.approx((z - y).abs().mean().item())
    assert found["mse"] == pytest.approx((z - y).square().mean().item())
    assert found["n"] == y.numel()
    found = evaluate(nn.Identity(), [(z, y)], task="regression", ignore_index=-100)
    assert found["mae"] == pytest.approx((z - y)[1:].abs().mean().item())


FOUR = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("given", "asked", "words"),
    [
        ((torch.ones(2, 1), torch.tensor([0, 1])), {}, "one number an item"),
        ((torch.ones(2), torch.tensor([0, 1])), {}, "one number an item"),
        ((FOUR, torch.zeros(2, 4, 5).long()), {}, "which axis .* is the classes"),
        ((FOUR, torch.zeros(2, 3, 4, 5)), {"task": "labels"}, "which axis .* is the labels"),
        ((torch.ones(3, 5), torch.ones(3, 5)), {}, "do not sum to 1"),
        ((torch.ones(3, 5), torch.full((3, 5), 2)), {"task": "labels"}, r"lie in \[0, 1\], got 2"),
        ((torch.ones(3, 5), torch.ones(3)), {"task": "labels"}, "labels of the same shape"),
        ((torch.ones(3, 5), torch.ones(3)), {"task": "regression"}, "labels of the same shape"),
        ((torch.ones(3, 5), torch.zeros(4).long()), {}, r"expect labels \(3,\), got \(4,\)"),
        ((torch.ones(3, 5), torch.ones(3)), {"task": "mae"}, "task is one of 'classes', 'labels'"),
        ((torch.ones(3, 5), torch.full((3,), 255)), {}, "255, the model has .*ignore_index="),
        ((FOUR, torch.full((2, 4, 5), -100)), {"axis": 1}, "every label is -100"),
    ],
)
def test_what_cannot_be_judged_names_the_way_out(given: Any, asked: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(nn.Identity(), [given], **asked)


# ---- agreement ----


def test_agreement_is_the_share_of_equal_answers(logits: Tensor, labels: Tensor) -> None:
    flipped = Teacher(nn.Identity(), preprocess=lambda b: {"inputs": -b["inputs"]})
    given = batches(logits, labels)
    assert agreement(nn.Identity(), nn.Identity(), given) == 1.0
    expected = (logits.argmax(-1) == (-logits).argmax(-1)).float().mean()
    assert agreement(nn.Identity(), flipped, given) == expected == 0


def test_agreement_is_not_accuracy() -> None:
    x = torch.eye(4)
    swap = Teacher(nn.Identity(), preprocess=lambda b: {"inputs": b["inputs"][:, [1, 0, 2, 3]]})
    right = [(x, torch.tensor([0, 0, 2, 2]))]
    assert evaluate(nn.Identity(), right)["accuracy"] == evaluate(swap, right)["accuracy"] == 0.5
    assert agreement(nn.Identity(), swap, right) == 0.5


def test_agreement_on_shuffled_batches_compares_the_same_items(logits: Tensor) -> None:
    loader = DataLoader(TensorDataset(logits, torch.zeros(50)), batch_size=8, shuffle=True)
    assert agreement(nn.Identity(), Teacher(nn.Identity()), loader) == 1.0


def test_agreement_of_several_networks_is_a_list() -> None:
    nets, x = [nn.Linear(5, 4) for _ in range(3)], torch.randn(50, 5)
    found = agreement(Stacked(nets, ndim=2), nets[1], [(x, None)])
    assert len(found) == 3 and found[1] == 1.0 and found[0] < 1.0


def test_agreement_needs_the_same_classes() -> None:
    with pytest.raises(ValueError, match=r"\(6, 3\) and \(6, 2\).*same classes in the same order"):
        agreement(nn.Linear(4, 3), nn.Linear(4, 2), [(torch.ones(6, 4), None)])


@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3))
def test_agreement_of_images_is_one_number(items: int, classes: int, size: int) -> None:
    z = torch.randn(items, classes, size, size)
    flipped = Teacher(nn.Identity(), preprocess=lambda b: {"inputs": b["inputs"].flip(-1)})
    want = (z.argmax(1) == z.flip(-1).argmax(1)).float().mean().item()
    assert agreement(nn.Identity(), flipped, [(z, None)], axis=1) == pytest.approx(want)
    with pytest.raises(ValueError, match="agreement: which axis of the logits"):
        agreement(nn.Identity(), flipped, [(z, None)])


def test_agreement_of_independent_labels_is_that_of_their_signs() -> None:
    z = torch.randn(20, 3)
    signs = torch.tensor([1.0, -1.0, 1.0])
    turned = Teacher(nn.Identity(), preprocess=lambda b: {"inputs": signs * b["inputs"]})
    found = agreement(nn.Identity(), turned, [(z, None)], task="labels")
    assert found == pytest.approx(2 / 3)
    assert agreement(nn.Identity(), nn.Identity(), [(z[:, 0], None)], task="labels") == 1.0
    with pytest.raises(ValueError, match="one number an item"):
        agreement(nn.Identity(), nn.Identity(), [(z[:, :1], None)])


def test_agreement_and_sanity_call_a_model_as_they_are_told() -> None:
    net, x = nn.Identity(), torch.eye(3)
    asked = [{"x": x, "labels": torch.arange(3)}]
    call = {"forward": lambda model, batch: {"logits": model(batch["x"])}}
    assert agreement(net, net, asked, **call) == 1.0
    assert sanity(net, asked, **call)["accuracy"] == 1.0


# ---- sanity ----


class Says(nn.Module):
    """A teacher that says what it is told, whatever it is asked."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x) if callable(self.rows) else self.rows[: len(x)]


LABELS = torch.tensor([0, 0, 0, 1, 2])
ASKED = [(torch.zeros(5, 1), LABELS)]
GOOD = nn.functional.one_hot(LABELS).float()


def test_a_sane_teacher_passes_with_its_score() -> None:
    found = sanity(Says(GOOD), ASKED, at_least=0.9)
    assert found["accuracy"] == 1.0 and found["majority"] == 0.6
    assert found["nll"] == pytest.approx(math.log(math.e + 2) - 1, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(bad: float) -> None:
    rows = GOOD.clone()
    rows[0, 0] = bad
    with pytest.raises(ValueError, match=r"6\.7% of the teacher's logits are not finite: half"):
        sanity(Says(rows), ASKED)


def test_answers_that_change() -> None:
    with pytest.raises(ValueError, match="answers the same batch differently each time: dropout"):
        sanity(Says(lambda x: torch.randn(len(x), 3)), ASKED)


def test_one_answer_to_everything() -> None:
    rows = torch.tensor([[0.0, 1.0, 0.0]] * 5) + torch.rand(5, 1)
    with pytest.raises(ValueError, match="answers class 1 to everything: a head that was never"):
        sanity(Says(rows), ASKED)


def test_no_better_than_the_commonest_class() -> None:
    shuffled = GOOD[:, [1, 2, 0]]
    with pytest.raises(ValueError, match=r"accuracy 0\.000 is not above .*\(0\.600\): labels in"):
        sanity(Says(shuffled), ASKED)


def test_less_than_what_was_asked_for() -> None:
    rows = GOOD.roll(1, 0).roll(-1, 0)
    rows[4] = torch.tensor([5.0, 0, 0])
    with pytest.raises(ValueError, match=r"accuracy 0\.800 on 5 items is below 0\.9; check its"):
        sanity(Says(rows), ASKED, at_least=0.9)


def test_mismatched_classes() -> None:
    with pytest.raises(ValueError, match="labels run from 0 to 2, the model has classes 0 to 1"):
        sanity(Says(torch.tensor([[0.0, 1], [1, 0], [0, 1], [1, 0], [0, 1]])), ASKED)


def test_no_labels() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        sanity(Says(GOOD), [{"inputs": torch.zeros(5, 1)}])


def test_only_the_first_batches_are_looked_at() -> None:
    asked = iter(ASKED * 30)
    assert sanity(Says(GOOD), asked, limit=3)["n"] == 15
    assert len(list(asked)) == 27


def test_a_teacher_in_train_mode_is_asked_in_eval_mode() -> None:
    model = nn.Sequential(Says(GOOD), nn.Dropout(0.5)).train()
    assert sanity(model, ASKED)["accuracy"] == 1.0
    assert model.training


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """By Hilbert-Schmidt independence criteria of centered tables of items."""
    n = len(x)
    center = torch.eye(n, dtype=x.dtype) - 1 / n
    k, j = center @ x @ x.T @ center, center @ y @ y.T @ center
    return float((k * j).sum() / (k.norm() * j.norm()))


@pytest.mark.parametrize("items", [5, 40])
def test_cka_equals_its_other_form_and_sees_neither_rotation_nor_scale(items: int) -> None:
    x, y = features(items, 6), features(items, 9, seed=1)
    y[:, :6] += x
    want = naive_cka(x, y)
    assert linear_cka(x, y) == pytest.approx(want)
    assert linear_cka(y, x) == pytest.approx(want)
    turn = torch.linalg.qr(features(6, 6, seed=2))[0]
    order = torch.randperm(items, generator=torch.Generator().manual_seed(0))
    assert linear_cka((3 * x @ turn + 2)[order], y[order].view(items, 3, 3)) == pytest.approx(want)
    assert linear_cka(x, x.float()) == pytest.approx(1)
    assert 0 <= want < 0.95


def test_cka_of_strangers_falls_with_the_items() -> None:
    few, many = (linear_cka(features(n, 8), features(n, 8, seed=1)) for n in (6, 4000))
    assert few > 0.2
    assert many < 0.01
    assert linear_cka(features(6, 8), torch.ones(6, 3)) == 0


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (torch.zeros(4, 2), torch.zeros(5, 2), "same items"),
        (torch.zeros(4), torch.zeros(4), "same items"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "at least 2"),
        (torch.full((4, 2), torch.nan), torch.zeros(4, 2), "not finite"),
    ],
)
def test_cka_refuses_what_it_cannot_compare(
    one: torch.Tensor, other: torch.Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        linear_cka(one, other)


def test_a_teacher_is_not_asked_otherwise_than_it_knows(logits: Tensor, labels: Tensor) -> None:
    model, data = nn.Identity(), batches(logits, labels)

    def turned(model: Any, batch: Any) -> Any:
        return -model(batch["inputs"])

    for score in (evaluate, sanity):
        with pytest.raises(TypeError, match=r"forward= says how a module .*forward=…\)"):
            score(Teacher(model), data, forward=turned)
    with pytest.raises(TypeError, match="forward= says how a module"):
        agreement(Teacher(model), Teacher(model), data, turned)
    assert agreement(model, Teacher(model, forward=turned), data, turned) == 1.0
    want = evaluate(model, data, forward=turned)
    assert evaluate(Teacher(model, forward=turned), data) == want != evaluate(model, data)
