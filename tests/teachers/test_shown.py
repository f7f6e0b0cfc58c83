"""What several models are shown is the same for all, or the one that changes it is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import EMA, Ensemble, Peers, Stacked, Teacher, capture
from distill_lib.teachers.shown import Shown

SEEN = "changes batch|replaces entries"


def net(inplace: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(4, 3))


EDITS = {
    "in place": lambda x: x.relu_(),
    "a view": lambda x: x.view(-1).mul_(2),
    "a row": lambda x: x[0].zero_(),
    "an index": lambda x: x.__setitem__((0, 0), 7.0),
    "detached": lambda x: x.detach().add_(1),
    "out=": lambda x: torch.mul(x, 2, out=x),
    "to nan": lambda x: x.fill_(torch.nan),
    "an axis": lambda x: x.unsqueeze_(0),
}
READS = {
    "a sum": lambda x: x.sum(),
    "a copy": lambda x: x.clone().relu_(),
    "another": lambda x: x.relu().mul_(2),
    "a view": lambda x: x.view(-1),
}


def nest(x: Tensor, how: str) -> Any:
    y = torch.zeros(len(x))
    return {
        "tensor": x,
        "pair": (x, y),
        "mapping": {"inputs": x, "labels": y},
        "keywords": {"ids": ["a"], "pixels": x, "n": 3, "none": None},
        "a list inside": {"inputs": [y, x]},
        "a mapping inside": {"inputs": {"left": x, "right": (y,)}},
    }[how]


NESTS = ("tensor", "pair", "mapping", "keywords", "a list inside", "a mapping inside")


@given(st.sampled_from(NESTS), st.sampled_from(sorted(EDITS)), st.booleans())
def test_every_change_is_seen(how: str, edit: str, inference: bool) -> None:
    with torch.inference_mode(inference):
        x = torch.randn(2, 4)
        batch = nest(x, how)
        shown = Shown(batch)
        shown.check("student", nn.Linear(1, 1))
        EDITS[edit](x)
        with pytest.raises(ValueError, match="the student, a Linear, changes batch"):
            shown.check("student", nn.Linear(1, 1))


@given(st.sampled_from(NESTS), st.sampled_from(sorted(READS)), st.booleans())
def test_reading_is_no_change(how: str, read: str, inference: bool) -> None:
    with torch.inference_mode(inference):
        x = torch.randn(2, 4)
        x[0, 0] = torch.nan
        shown = Shown(nest(x, how))
        READS[read](x)
        shown.check("student")


def test_tensors_of_before_are_watched_in_inference_mode_too() -> None:
    x = torch.randn(2, 4)
    with torch.inference_mode(), pytest.raises(ValueError, match=SEEN):
        Teacher(net())(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.update(inputs=b["inputs"] * 2),
        lambda b: b.pop("labels"),
        lambda b: b.update(n=4),
        lambda b: b.clear(),
    ],
)
def test_entries_that_are_replaced_are_seen(change: Any) -> None:
    batch = {"inputs": torch.zeros(2, 4), "n": 3, "labels": torch.zeros(2)}
    shown = Shown(batch)
    change(batch)
    with pytest.raises(ValueError, match=r"the student replaces.*\{\*\*batch, 'inputs': …\}"):
        shown.check("student")


def test_an_entry_more_is_the_users_own() -> None:
    batch = {"inputs": torch.zeros(2, 4)}
    shown = Shown(batch)
    batch["noise"] = torch.zeros(2)
    shown.check("student")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m,
        nn.DataParallel,
        lambda m: torch.compile(m, backend="aot_eager"),
        lambda m: capture(m, "1"),
    ],
)
def test_a_teacher_in_any_wrapper_is_named(wrap: Any) -> None:
    with pytest.raises(ValueError, match=r"the teacher, a Sequential, changes batch\['inputs'\]"):
        Teacher(wrap(net()))(torch.randn(5, 4))


@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4)])
def test_several_networks_in_one_are_seen(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a Stacked, changes batch"):
        Teacher(Stacked([net(), net()], ndim=2))(torch.randn(shape))


def test_the_ways_out_of_a_teacher_lead_out() -> None:
    model, x = net(), torch.randn(5, 4)
    right = copy.deepcopy(model)(x.clone())
    ways = [
        Teacher(model, forward=lambda m, b: m(b["inputs"].clone())),
        Teacher(model, preprocess=lambda b: {**b, "inputs": b["inputs"].clone()}),
        EMA(model, 0.9, forward=lambda m, b: m(b["inputs"].clone())),
    ]
    for teacher in ways:
        before = x.clone()
        assert torch.equal(teacher(x), right) and torch.equal(x, before)


def test_a_preprocess_that_works_in_place_is_told_of_itself() -> None:
    def halve(batch: Any) -> Any:
        batch["inputs"].div_(2)
        return batch

    with pytest.raises(ValueError, match="have preprocess= return a new batch"):
        Teacher(nn.Linear(4, 3), preprocess=halve)({"inputs": torch.ones(2, 4)})


def test_peers_are_shown_the_same() -> None:
    with pytest.raises(ValueError, match=r"the peer, a Sequential.*x = x\.clone\(\)"):
        Peers([net(), nn.Linear(4, 3)])(torch.randn(5, 4))
    Peers([net(inplace=False), nn.Linear(4, 3)])(torch.randn(5, 4))


class Source:
    """A teacher of the user's own, around any function of inputs."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, batch: Any) -> Any:
        return self.function(batch["inputs"])

    def fingerprint(self) -> str:
        return "source"


@given(
    st.lists(st.booleans(), min_size=2, max_size=4),
    st.booleans(),
    st.sampled_from(["prob", "logit", "labels"]),
)
def test_the_order_of_an_ensemble_does_not_matter(
    inplace: list[bool], wrapped: bool, space: str
) -> None:
    torch.manual_seed(0)
    models = [net(one) for one in inplace]
    members = [m if wrapped else Source(m) for m in models]
    x = torch.randn(6, 4)
    found = []
    for order in (members, members[::-1]):
        try:
            found.append(Ensemble(order, space=space)({"inputs": x.clone()})["logits"])
        except ValueError as error:
            assert "changes batch['inputs'] in place" in str(error) and any(inplace)
    assert len(found) == 2 * (not any(inplace))
    if found:
        torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "made", [None, torch.zeros(2, 4), (torch.zeros(2, 4), torch.zeros(2)), [1], "inputs"]
)
def test_what_preprocess_makes_is_a_batch(made: Any) -> None:
    teacher = Teacher(nn.Linear(4, 3), preprocess=lambda batch: made)
    with pytest.raises(TypeError, match="preprocess= returns a batch by name"):
        teacher({"inputs": torch.zeros(2, 4)})
