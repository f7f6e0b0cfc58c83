"""teachers: several as one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import KD, Ensemble, Teacher, capture


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def data(n: int = 4, size: int = 8) -> list[dict[str, Tensor]]:
    return [
        {"inputs": torch.randn(size, 4), "labels": torch.randint(0, 3, (size,))} for _ in range(n)
    ]


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


class Fixed:
    """A source that always says the same."""

    def __init__(self, *rows: list[float]) -> None:
        self.said = torch.tensor(rows)

    def __call__(self, batch: object) -> Tensor:
        return self.said

    def fingerprint(self) -> str:
        return repr(self.said.tolist())


# ---- Ensemble ----


@pytest.mark.parametrize(
    ("space", "expected"), [("prob", [0.606, 0.288, 0.106]), ("logit", [0.971, 0.018, 0.011])]
)
def test_the_two_means_differ(space: str, expected: list[float]) -> None:
    both = Ensemble([Fixed([9.0, 0, 0]), Fixed([0.0, 1, 0])], space=space)
    probs = both({})["logits"].softmax(-1)[0]
    assert probs.tolist() == pytest.approx(expected, abs=6e-4)


def test_the_mean_of_probabilities_is_the_default() -> None:
    members = [Fixed([1.0, 2, 3]), Fixed([3.0, 0, 1])]
    mean = sum(m.said.softmax(-1) for m in members) / 2
    assert torch.allclose(Ensemble(members)({})["logits"].exp(), mean)


@pytest.mark.parametrize("space", ["prob", "logit"])
def test_weights_are_normalized_and_zero_leaves_out(space: str) -> None:
    members = [Fixed([1.0, 2, 3]), Fixed([3.0, 0, 1])]
    probs = Ensemble(members, [5, 0], space)({})["logits"].softmax(-1)
    assert torch.allclose(probs, members[0].said.softmax(-1))


def test_half_precision_is_averaged_in_full() -> None:
    member = Fixed([1.0, 2, 3])
    member.said = member.said.half()
    assert Ensemble([member])({})["logits"].dtype == torch.float32


def test_another_signal_can_be_averaged() -> None:
    both = Ensemble([Teacher(capture(net(), "0")) for _ in range(2)], space="logit", on="0")
    assert set(both(data(1)[0])) == {"0"}


@pytest.mark.parametrize(
    ("teachers", "options", "words"),
    [
        ([], {}, "at least one teacher"),
        (
            [Fixed([1.0])],
            {"space": "probability"},
            "'labels', got 'probability'",
        ),
        ([Fixed([1.0])], {"weights": [1, 2]}, "expected 1 non-negative weights"),
        ([Fixed([1.0])], {"weights": [-1]}, "non-negative"),
        ([Fixed([1.0])], {"weights": [0]}, "positive sum"),
    ],
)
def test_an_ensemble_that_cannot_be(teachers, options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ensemble(teachers, **options)


def test_members_agree_on_their_classes() -> None:
    with pytest.raises(ValueError, match=r"must agree on their classes.*\(1, 3\), \(1, 2\)"):
        Ensemble([Fixed([1.0, 2, 3]), Fixed([1.0, 2])])({})


def test_the_fingerprint_of_an_ensemble_is_that_of_all_it_is() -> None:
    a, b = net(), net()
    prints = {
        Ensemble([a, b]).fingerprint(),
        Ensemble([b, a]).fingerprint(),
        Ensemble([a, b], [1, 2]).fingerprint(),
        Ensemble([a, b], space="logit").fingerprint(),
    }
    assert len(prints) == 4
    assert Ensemble([a, b], [2, 2]).fingerprint() in prints


def test_an_ensemble_moves_and_lists_its_models() -> None:
    a = net()
    both = Ensemble([a, Ensemble([net()]), Teacher(net())]).to("cpu")
    models = list(both.models())
    assert len(models) == 3 and models[0] is a


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_the_probabilities_of_the_named_axis_are_averaged(axis) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    flip = nn.Module()
    flip.forward = lambda x: 2 * x.flip(0)
    found = Ensemble([nn.Identity(), flip], [1, 3], axis=axis)({"inputs": x})["logits"]
    right = 0.25 * x.softmax(axis) + 0.75 * (2 * x.flip(0)).softmax(axis)
    torch.testing.assert_close(found.exp(), right)


def test_independent_labels_are_averaged_one_by_one() -> None:
    x = torch.tensor([[-200.0, 0.0, 3.0]], dtype=torch.double)
    flip = nn.Module()
    flip.forward = lambda x: -2 * x
    found = Ensemble([nn.Identity(), flip], space="labels")({"inputs": x})["logits"]
    torch.testing.assert_close(found.sigmoid(), (x.sigmoid() + (-2 * x).sigmoid()) / 2)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 3, 4, 5), "Say axis=1"), ((4, 1), 'space="labels"'), ((4,), 'space="labels"')],
)
def test_what_has_no_classes_is_refused(shape, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ensemble([nn.Identity()])({"inputs": torch.zeros(shape)})


# ---- every weight, axis and shape is answered rightly or refused ----

SPACES = ("prob", "logit", "labels")
weight = st.floats() | st.sampled_from([0.0, 1.0, 5e-324, 1e308, 1e-40, math.inf, math.nan, -0.5])
logit = st.floats(-50, 50) | st.just(-math.inf)


def averaged(rows: Tensor, weights: list[float], space: str) -> Tensor:
    """[C] of the logits [K, C], as probabilities or as the mean itself; 0 · (-inf) is 0."""
    rows = rows.double()
    used = [(w / math.fsum(weights), row) for w, row in zip(weights, rows, strict=True) if w]
    if space == "logit":
        return torch.stack([w * row for w, row in used]).sum(0)
    squash = (lambda x: x.softmax(-1)) if space == "prob" else torch.sigmoid
    return torch.stack([w * squash(row) for w, row in used]).sum(0)


@given(
    st.lists(st.tuples(weight, st.tuples(logit, logit, st.floats(-50, 50))), min_size=1),
    st.sampled_from(SPACES),
)
def test_every_weight_counts_rightly_or_is_refused(pairs, space: str) -> None:
    weights = [w for w, _ in pairs]
    members = [Fixed(list(row)) for _, row in pairs]
    fit = all(0 <= w < math.inf for w in weights) and 0 < sum(weights) < math.inf
    if not fit:
        with pytest.raises(ValueError, match="non-negative weights with a positive sum"):
            Ensemble(members, weights, space)
        return
    said = Ensemble(members, weights, space)({})["logits"][0]
    rows = torch.cat([m.said for m in members])
    want = averaged(rows, weights, space)
    squash = {"prob": torch.exp, "logit": torch.clone, "labels": torch.sigmoid}[space]
    # a share that single precision does not know is none, also where it is one of -inf
    known = torch.cat(
        [r.said for r, w in zip(members, weights, strict=True) if w / sum(weights) > 1e-37]
    )
    lost = known.isinf().any(0) != rows[[w > 0 for w in weights]].isinf().any(0)
    assert not said.isnan().any()
    torch.testing.assert_close(
        squash(said)[~lost], want[~lost].float(), rtol=1e-4, atol=1e-5, check_dtype=False
    )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("bad", [-math.inf, math.nan, math.inf])
def test_who_has_no_weight_is_not_asked(space: str, bad: float) -> None:
    calm, wild = Fixed([1.0, 2, 3]), Fixed([bad, 0, bad])
    alone = Ensemble([calm], space=space)({})["logits"]
    assert torch.equal(Ensemble([wild, calm], [0, 1], space)({})["logits"], alone)


@given(
    st.lists(st.integers(2, 4), min_size=2, max_size=4),
    st.none() | st.integers(-6, 6),
    st.sampled_from(["none", "last", "first", "soft", "items"]),
    st.sampled_from(["mapping", "pair"]),
)
def test_probabilities_are_those_of_the_classes_or_it_is_asked(
    shape: list[int], axis: int | None, kind: str, form: str
) -> None:
    """The ensemble asks which axis is the classes where KD does, and only there."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    items = {"last": shape[:-1], "first": [shape[0], *shape[2:]], "soft": shape}
    labels = torch.zeros(items.get(kind, shape[:1]), dtype=torch.long)
    beside = {"labels": labels} if kind not in ("none", "soft") else {}
    batch = {"inputs": logits, **beside}
    asked = (logits, beside["labels"]) if form == "pair" and beside else batch

    def ask(function):
        try:
            return function()
        except ValueError as error:
            assert "which axis of the logits" in str(error) or "have no axis" in str(error)
            return None

    both = Ensemble([nn.Identity(), nn.Identity()], axis=axis)
    said = ask(lambda: both(asked))
    there = axis is None or -len(shape) <= axis < len(shape)
    asks = not there or ask(lambda: KD(axis=axis)(logits, logits, beside)) is None
    assert (said is None) == asks
    if said is not None:
        total = said["logits"].exp().sum(-1 if axis is None else axis)
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("space", SPACES)
def test_an_axis_that_is_not_there_is_refused(space: str) -> None:
    with pytest.raises(ValueError, match=r"Ensemble: logits \[1, 3\] have no axis 7"):
        Ensemble([Fixed([1.0, 2, 3])], space=space, axis=7)({})


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_answers_that_are_no_real_numbers_are_refused(dtype: torch.dtype) -> None:
    member = Fixed([1.0, 0, 1])
    member.said = member.said.to(dtype)
    with pytest.raises(TypeError, match=r"say real numbers.*class numbers"):
        Ensemble([member, Fixed([1.0, 2, 3])], space="logit")({})


def test_sources_that_cannot_be_moved_stay() -> None:
    member = Fixed([1.0, 2, 3])
    assert Ensemble([member, net()]).to("cpu").teachers[0] is member
