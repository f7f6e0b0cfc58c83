"""Whatever loss, number or module a user brings: answered rightly, or refused with the way out."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import BCE, CE, DKD, KD, Label, Match, Schedule, linear, losses, steps
from distill_lib.losses import policy
from distill_lib.objective import Step
from distill_lib.signals import accepts, signature_of
from distill_lib.teachers import TopK
from distill_lib.terms import SparseKD


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape), torch.randn(*shape)


def own(*, student: Tensor, teacher: Tensor) -> Tensor:
    """A user's own loss, with a softmax."""
    return (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1)


# ---- one-hot labels, whatever their type ----


@given(
    images=st.booleans(),
    kinds=st.lists(st.sampled_from(["float", "int", "bool", "hard"]), min_size=1, max_size=3),
    items=st.integers(2, 5),
)
def test_weights_count_labels_of_every_kind_as_torch_does(
    images: bool, kinds: list[str], items: int
) -> None:
    """Also over a step whose parts have labels of several kinds."""
    weight, axis = torch.tensor([1.0, 0.0, 2.0, 0.5]), 1 if images else -1
    term, batches, sums, counts = CE(weight=weight, axis=axis if images else None), [], [], []
    for kind in kinds:
        z = torch.randn(items, 4, *[3, 2] * images, requires_grad=True)
        y = torch.randint(0, 4, (items, *[3, 2] * images))
        hot = F.one_hot(y, 4).movedim(-1, axis)
        made = {"float": hot.float(), "int": hot, "bool": hot.bool(), "hard": y}[kind]
        batches.append({"z": z, "labels": made})
        target = y if kind == "hard" else hot.float()
        want = F.cross_entropy(z, target, weight)
        found = term(z, batch={"labels": made})[0]
        torch.testing.assert_close(found, want)
        torch.testing.assert_close(
            torch.autograd.grad(found, z)[0], torch.autograd.grad(want, z)[0]
        )
        sums.append(F.cross_entropy(z, target, weight, reduction="sum"))
        counts.append(weight[y].sum() if kind == "hard" else torch.tensor(1.0 * y.numel()))
    step = Step(batches)
    parts = [term(b["z"], batch={"labels": b["labels"]}, denom=step)[0] for b in batches]
    torch.testing.assert_close(sum(parts), sum(sums) / sum(counts))


# ---- a value an item ----


def averages(*, student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(student, teacher)


@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (averages, ValueError, r'averages by itself.*reduction="none" and a mean over the last'),
        (lambda *, student, teacher: None, TypeError, "the loss gave NoneType None"),
        (lambda *, student, teacher: 1.0, TypeError, "the loss gave float 1.0"),
    ],
)
def test_what_is_no_value_an_item_is_refused_of_every_term(
    result: Any, error: Any, words: str, items: int
) -> None:
    z, v = pair(items, 4, 5)
    said = {"logits": z, "h": z}, {"logits": v, "h": v}
    for term in (KD(result), Match("h", loss=result)):
        with pytest.raises(error, match=words):
            term(*said)
    with pytest.raises(error, match=words):
        Label(lambda z, y: result(student=z, teacher=y))(z, batch={"labels": v})


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss", "MSELoss", "L1Loss"])
def test_the_wrap_that_is_advised_for_a_loss_of_torch_keeps_masks(name: str) -> None:
    loss = getattr(F, name, None) or getattr(nn, name)()
    with pytest.raises(TypeError, match="wrap it: lambda") as told:
        KD(loss)
    advice = str(told.value).split("wrap it: ")[1].split("; or")[0]
    names = {name: getattr(nn, name) if hasattr(nn, name) else loss}
    z, v = pair(2, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    found, _ = KD(eval(advice, names))(z, v, {"attention_mask": mask})
    want = loss(z[mask.bool()], v[mask.bool()])
    torch.testing.assert_close(found, want)


# ---- on which axis the classes are ----

ASKED = {
    "own": lambda **k: KD(own, **k),
    "uld": lambda **k: KD(losses.uld, **k),
    "mse": lambda **k: KD(losses.mse_logits, **k),
    "centered": lambda **k: KD(losses.mse_logits, center=True, **k),
    "standardized": lambda **k: KD(losses.mse_logits, transform=losses.standardize, **k),
    "module": lambda **k: KD(Tempered(), temperature=2, **k),
    "partial": lambda **k: KD(partial(losses.kl), **k),
}


@pytest.mark.parametrize("name", ASKED)
@given(sizes=st.lists(st.integers(2, 4), min_size=4, max_size=5), labels=st.booleans())
def test_every_loss_asks_where_the_classes_of_images_are(
    name: str, sizes: list[int], labels: bool
) -> None:
    z, v = pair(*sizes)
    batch = {"labels": torch.zeros(sizes[0], *sizes[2:]).long()} if labels else {}
    with pytest.raises(ValueError, match=r"which axis .* Say axis=1 for images"):
        ASKED[name]()(z, v, batch)
    last = z.movedim(1, -1), v.movedim(1, -1)
    want = ASKED[name](axis=-1)(*last)[0]
    torch.testing.assert_close(ASKED[name](axis=1)(z, v, batch)[0], want)


def test_maps_and_three_axes_and_students_are_not_asked() -> None:
    z, v = pair(2, 3, 4, 5)
    KD(losses.channel_kl)(z, v)
    KD(own)(z[0], v[0])  # heads [B, A, n], texts [B, L, C]
    KD(own)(z, v[0])  # several students of texts, one teacher
    KD(own, axis=-1)(z, v)  # several students, a teacher each


def test_a_part_of_the_answers_of_images_has_its_classes_where_it_is_told() -> None:
    z, v = pair(2, 5, 3, 4)
    with pytest.raises(ValueError, match="TopK: which axis"):
        TopK(nn.Identity(), 2)(v)
    said = TopK(nn.Identity(), 2, axis=1)(v)
    assert said["top_ids"].shape == (2, 3, 4, 2)
    with pytest.raises(ValueError, match="sparse kl: which axis"):
        SparseKD()(z, said)
    last = z.movedim(1, -1)
    want = SparseKD(axis=-1)(last, said)[0]
    torch.testing.assert_close(SparseKD(axis=1)(z, said)[0], want)
    flat = {k: x.flatten(0, 2) for k, x in said.items()}
    torch.testing.assert_close(SparseKD()(last.flatten(0, 2), flat)[0], want)
    several = SparseKD()(torch.randn(7, 6, 5), TopK(nn.Identity(), 2)(torch.randn(6, 5)))
    assert several[0].isfinite()
    plain = TopK(nn.Linear(3, 5), 2)
    assert TopK(plain.teacher, 2, axis=1).fingerprint() != plain.fingerprint()


@given(axis=st.integers(-3, 3), wide=st.integers(2, 4))
def test_the_weights_of_labels_lie_along_their_axis(axis: int, wide: int) -> None:
    z = torch.randn(2, 3, 4, wide).movedim(1, axis)
    y, weight = (torch.randn(z.shape) > 0).float(), torch.tensor([1.0, 5.0, 9.0])
    with pytest.raises(ValueError, match="which axis"):
        BCE(pos_weight=weight)(z, batch={"labels": y})
    last = z.movedim(axis, -1), y.movedim(axis, -1)
    want = F.binary_cross_entropy_with_logits(*last, pos_weight=weight)
    found = BCE(pos_weight=weight, axis=axis)(z, batch={"labels": y})[0]
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("shape", [(6, 4), (3,), (3, 1)])
def test_weights_of_other_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="pos_weight has 3 numbers for"):
        BCE(pos_weight=[1, 5, 9])(torch.zeros(shape), batch={"labels": torch.ones(shape)})
    one = BCE(pos_weight=[3.0])(torch.zeros(6, 1), batch={"labels": torch.ones(6)})[0]
    assert one.item() == pytest.approx(3 * math.log(2))


# ---- modules as losses, and what a signature says ----


class Tempered(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return losses.kl(student=student, teacher=teacher, temperature=temperature)


class Labeled(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return losses.kl(student=student, teacher=teacher) * (labels > 0)


@pytest.mark.parametrize(
    "wrap", [lambda f: f, partial, torch.jit.ignore], ids=["itself", "partial", "ignored"]
)
def test_a_module_is_the_loss_that_its_forward_is(wrap: Any) -> None:
    z, v = pair(6, 5)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    got = KD(wrap(Tempered()), temperature=4)(z, v)[0]
    torch.testing.assert_close(got, KD(temperature=4)(z, v)[0])
    want = (losses.kl(student=z, teacher=v) * (y > 0)).mean()
    torch.testing.assert_close(KD(wrap(Labeled()))(z, v, {"labels": y})[0], want)
    Match("h", loss=wrap(Tempered()))({"h": z}, {"h": v})


def test_what_a_signature_says() -> None:
    assert list(signature_of(nn.MSELoss()).parameters) == ["input", "target"]
    assert list(signature_of(partial(nn.MSELoss(), target=1)).parameters) == ["input", "target"]
    assert not signature_of(torch.dist).parameters  # one in C that tells nothing
    assert not accepts(lambda student, /: 0, "student")
    assert not accepts(lambda *student: 0, "student")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KD(nn.MSELoss()), r'MSELoss\(reduction="none"\)\(student, teacher\).mean'),
        (lambda: KD(torch.dist), "dist takes no student="),
        (lambda: KD(Tempered), r"got the class; make one: Tempered\(…\)"),
        (lambda: KD(losses.sparse_divergence), "missing a required .*'ids'"),
        (lambda: KD(losses.minilm_relation), "missing a required .*'heads'"),
        (lambda: Label(nn.MSELoss), "expected a loss of .answer, labels."),
    ],
)
def test_a_loss_that_cannot_be_called_is_refused_when_it_is_given(make: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


# ---- numbers of numpy ----

NUMBERS = [np.float64, np.float32, np.float16, np.int64, np.int32, int, Fraction]


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_a_number_is_a_number(kind: Any) -> None:
    z, v = pair(6, 5)
    y = {"labels": torch.tensor([0, 1, 2, 3, 4, 0])}
    two, half = kind(2), kind(0) if issubclass(kind, (int, np.integer)) else kind(1) / 2
    same = [
        (KD(temperature=two), KD(temperature=2.0)),
        (KD(temperature=linear(two, two)), KD(temperature=linear(2.0, 2.0))),
        (KD(temperature=(two, two)), KD(temperature=2.0)),
        (two * KD(), 2.0 * KD()),
        (KD() * two, 2.0 * KD()),
        (KD() / two, KD() / 2.0),
        (DKD(two, two, two), DKD(2.0, 2.0, 2.0)),
        (KD(losses.policy_kl, tau=two), KD(losses.policy_kl, tau=2.0)),
        (CE(half), CE(float(half))),
    ]
    for mine, want in same:
        assert str(mine) == str(want)
        torch.testing.assert_close(mine(z, v, y)[0], want(z, v, y)[0])
    rise = linear(1, 2)
    assert [s(0.0) for s in (rise + two, two * rise, two - rise, two / rise)] == [3, 2, 1, 2]
    torch.testing.assert_close(KD()(z, v, denom=two)[0], KD()(z, v, denom=2.0)[0])


def test_whole_numbers_of_numpy() -> None:
    z, v = pair(2, 5, 3)
    y = torch.tensor([[0, 1, 255], [2, 255, 3]])
    axis, ignore = np.int64(1), np.int64(255)
    for term in (CE, KD, DKD):
        want = term(axis=1, ignore_index=255)(z, v, {"labels": y})[0]
        torch.testing.assert_close(
            term(axis=axis, ignore_index=ignore)(z, v, {"labels": y})[0], want
        )
    assert losses.top_k(z, np.int64(2))[0].shape == (2, 5, 2)
    assert TopK(nn.Identity(), np.int64(2))(z)["top_ids"].shape == (2, 5, 2)


# ---- settings of another kind ----

NO_NUMBERS: Any = st.sampled_from([True, "1", [1], 1.5, math.nan, 2j, {}])


@given(bad=NO_NUMBERS)
@pytest.mark.parametrize("term", [CE, KD, BCE, DKD, SparseKD])
def test_an_axis_and_a_label_are_whole_numbers(term: Any, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"axis (expected|to be) a whole number"):
        term(axis=bad)
    if term not in (SparseKD, BCE):
        with pytest.raises(TypeError, match="ignore_index expected a whole number"):
            term(ignore_index=bad)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda z, v: KD(axis=-9)(z, v), ValueError, "has no axis -9"),
        (lambda z, v: KD(transform=3), TypeError, r"such as losses\.standardize, got 3"),
        (lambda z, v: KD(labels=3), TypeError, "labels is a name, got 3"),
        (lambda z, v: CE(weight="x"), TypeError, "weight is one number a class"),
        (lambda z, v: BCE(pos_weight=[1j]), ValueError, "pos_weight is one number a class"),
        (lambda z, v: BCE(ignore_index="x"), TypeError, "ignore_index expected a number"),
        (lambda z, v: DKD(alpha=linear(0, 1)), TypeError, r"alpha .* a schedule weighs the whole"),
        (lambda z, v: KD()(z, v, denom=[6]), TypeError, "denom expected"),
        (lambda z, v: KD()(z, v, denom=torch.ones(6)), TypeError, "denom expected"),
        (lambda z, v: KD()(z, v, denom="6"), TypeError, "denom expected"),
        (lambda z, v: KD() / 0, ValueError, "division by zero"),
        (lambda z, v: linear(0, 1) / 0, ValueError, "division by zero"),
        (lambda z, v: (KD() / linear(0, 1))(z, v), ValueError, "no number at progress 0"),
        (
            lambda z, v: (Schedule(lambda s: None, "x") * KD())(z, v),
            ValueError,
            "x.* is no number at progress 0.*'NoneType'",
        ),
        (
            lambda z, v: Label(F.cross_entropy)(z, batch={"labels": torch.arange(6)}),
            ValueError,
            "labels 0 to 5 are none of the classes .*ignore_index=",
        ),
        (lambda z, v: losses.gaussian_kl(student=z[0, 0], teacher=v[0, 0]), ValueError, "no axis"),
        (lambda z, v: losses.kl(student=z[0, 0], teacher=v[0, 0]), ValueError, "no axis"),
    ],
)
def test_the_refusal_is_ours(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make(*pair(6, 5))


def test_one_number_of_a_process_is_a_denominator() -> None:
    z, v = pair(6, 5)
    found = KD()(z, v, denom=torch.tensor([3]))[0]
    assert found.shape == () and torch.equal(found, KD()(z, v, denom=3)[0])


@pytest.mark.parametrize("said", [(), {}, 0], ids=["tuple", "mapping", "number"])
def test_nothing_but_weights_of_zero_is_a_loss_of_zero(said: Any) -> None:
    h = torch.ones(2, requires_grad=True)
    student: Any = {"h": (h,)} if said == () else {"h": {"a": h}} if said == {} else h
    loss, parts = (0 * KD(on="h"))(student)
    loss.backward()
    assert loss.item() == 0 and not parts and h.grad is not None


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_temperature_is_looked_at_whenever_it_is_used(low: float) -> None:
    z, v = pair(6, 5)
    term = KD(temperature=steps({0: 4, 0.2: 4 + low - 4, 0.3: 4}))
    assert term(z, v, progress=0.1)[0].isfinite()
    with pytest.raises(ValueError, match=r"KL.*temperature expected a number > 0.* progress 0\.25"):
        term(z, v, progress=0.25)


# ---- numbers that are none, and classes that are excluded ----


def maps(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


NAN: dict[str, Any] = {
    **dict.fromkeys(
        [
            *("kl", "reverse_kl", "jsd", "soft_cross_entropy", "tvd", "mse_logits", "dist", "nll"),
            *("bernoulli_kl", "policy_kl", "gaussian_kl", "uld", "hint", "cosine", "similarity"),
            *("pkt", "rkd_distance", "rkd_angle"),
        ],
        lambda g: maps(g, 4, 6),
    ),
    "dkd": lambda g: maps(g, 4, 6),
    "channel_kl": lambda g: maps(g, 4, 3, 2, 2),
    "attention_transfer": lambda g: maps(g, 4, 3, 2, 2),
    **dict.fromkeys(
        ["attention", "attention_kl", "attention_scores"],
        lambda g: maps(g, 4, 3, 2, 2).softmax(-1),
    ),
    "minilm_relation": lambda g: maps(g, 4, 3, 6),
    "span_kl": lambda g: -maps(g, 4).exp(),
}
MORE: dict[str, Any] = {"dkd": {"labels": torch.arange(4)}, "minilm_relation": {"heads": 2}}
ELSEWHERE = {"align", "span_sums", "standardize", "top_k", "full_precision"}  # no pair of answers
ELSEWHERE |= {"fused_divergence", "sparse_divergence"}  # below


def test_every_public_loss_is_shown_nan() -> None:
    assert {*NAN} | ELSEWHERE == {n for n in losses.__all__ if callable(getattr(losses, n))}


@pytest.mark.parametrize("name", NAN)
@given(seed=st.integers(0, 99), of_teacher=st.booleans(), at=st.integers(0, 10_000))
def test_nan_in_is_nan_out(name: str, seed: int, of_teacher: bool, at: int) -> None:
    """The value of the item that has it: no clamp, comparison or argmax hides it."""
    generator = torch.Generator().manual_seed(seed)
    z, v = NAN[name](generator), NAN[name](generator)
    bad = v if of_teacher else z
    at %= bad.numel()
    bad.view(-1)[at] = torch.nan
    values = getattr(losses, name)(student=z, teacher=v, **MORE.get(name, {}))
    assert values[at // (bad.numel() // len(bad))].isnan().any()


def test_nan_is_not_hidden_by_what_takes_more() -> None:
    z, v = pair(4, 6)
    z[1, 2] = torch.nan
    ids, log_p, rest = losses.top_k(v, 2)
    assert losses.sparse_divergence(student=z, teacher=log_p, ids=ids, rest=rest)[1].isnan()
    with pytest.raises(ValueError, match="expected log-probabilities"):
        losses.sparse_divergence(student=v, teacher=log_p * torch.nan, ids=ids)
    heads = {"student_head": torch.randn(9, 6), "teacher_head": torch.randn(9, 6)}
    assert losses.fused_divergence(student=z, teacher=v, **heads)[1].isnan()
    assert losses.fused_divergence(student=v, teacher=z, **heads)[1].isnan()
    assert losses.standardize(z)[1].isnan().all() and losses.top_k(z, 2)[2][1].isnan()
    one = torch.ones(1)
    for name in ("log_prob", "old", "advantages"):
        given = {"log_prob": one, "old": one, "advantages": one, name: one * torch.nan}
        assert policy.surrogate(**given).isnan().all()


ANSWERS = [
    *(losses.kl, losses.reverse_kl, losses.jsd, losses.soft_cross_entropy, losses.tvd),
    *(losses.mse_logits, partial(losses.mse_logits, center=True), losses.dkd, losses.uld),
    *(losses.nll, losses.policy_kl),
]


def transformed(*, student: Tensor, teacher: Tensor) -> Tensor:
    z, v = losses.standardize(student), losses.standardize(teacher)
    return losses.mse_logits(student=z, teacher=v)


@pytest.mark.parametrize("loss", [*ANSWERS, transformed])
@given(seed=st.integers(0, 99), classes=st.integers(4, 6), gone=st.integers(0, 2))
def test_a_class_that_both_exclude_is_as_if_it_were_not_there(
    loss: Any, seed: int, classes: int, gone: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, v = (torch.randn(3, classes, generator=generator).double() for _ in "zv")
    z.requires_grad_()
    more = {"labels": torch.tensor([0, 1, 0])} if loss is losses.dkd else {}
    room = torch.full((3, gone), -torch.inf, dtype=torch.float64)
    found = loss(student=torch.cat([z, room], -1), teacher=torch.cat([v, room], -1), **more)
    want = loss(student=z, teacher=v, **more)
    torch.testing.assert_close(found, want)
    slopes = [torch.autograd.grad(x.sum(), z)[0] for x in (found, want)]
    torch.testing.assert_close(*slopes)


@given(seed=st.integers(0, 99), kind=st.sampled_from(["int", "float", "bool"]))
def test_one_hot_labels_are_those_numbers_where_a_class_is_excluded(seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, y = torch.randn(6, 5, generator=generator), torch.randint(4, (6,), generator=generator)
    z[:, 4] = -torch.inf
    z.requires_grad_()
    hot = {"int": F.one_hot(y, 5), "float": F.one_hot(y, 5).float(), "bool": F.one_hot(y, 5) > 0}
    for weight in (None, torch.ones(5)):
        want = CE(weight=weight)(z, batch={"labels": y})[0]
        found = CE(weight=weight)(z, batch={"labels": hot[kind]})[0]
        torch.testing.assert_close(found, want)
        slopes = [torch.autograd.grad(x, z)[0] for x in (found, want)]
        torch.testing.assert_close(*slopes)


def test_a_sure_answer_costs_a_yes_or_no_nothing() -> None:
    z = torch.tensor([[torch.inf, -torch.inf]], requires_grad=True)
    loss, _ = BCE()(z, batch={"labels": torch.tensor([[1.0, 0.0]])})
    loss.backward()
    assert loss.item() == 0 and z.grad is not None and z.grad.isfinite().all()


# ---- one number an item ----


@pytest.mark.parametrize("loss", [losses.hint, losses.cosine])
def test_a_batch_of_numbers_is_no_vector(loss: Any) -> None:
    h, t = pair(6)
    mask = torch.tensor([1, 0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match=r"would be one vector.*KD\(losses\.mse_logits.*unsqueeze"):
        Match("h", loss=loss)({"h": h}, {"h": t}, {"mask": mask})
    want = (h - t)[mask.bool()].square().mean()
    way_out = KD(losses.mse_logits, on="h")({"h": h}, {"h": t}, {"mask": mask})[0]
    torch.testing.assert_close(way_out, want)
    column = Match("h")({"h": h.unsqueeze(-1)}, {"h": t.unsqueeze(-1)}, {"mask": mask})[0]
    torch.testing.assert_close(column, want)
