"""teachers: several as one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill_lib import Ensemble, Teacher, capture


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
