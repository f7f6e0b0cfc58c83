"""Which states a batch is of, and which weigh more: also later, and where numbers coincide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from worlds import Line

from distill_lib import Stacked, rl
from distill_lib.zoo import Policy


def rollouts(teacher: Any = None, **how: Any) -> rl.Rollouts:
    how = {"episodes": 3, "updates": 2, "batch_size": 4, **how}
    return rl.Rollouts(Line, teacher or Policy(2, 2), **how)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([None, 4]),
    st.booleans(),
    st.integers(0, 5),
)
def test_a_stored_batch_has_its_own_answers_or_none(
    keep: int | None, labels: int | None, resumed: bool, seed: int
) -> None:
    """Batches of earlier rounds, as of a list or a loader that fetches ahead."""
    teacher = Policy(2, 2)
    torch.nn.init.normal_(teacher.net[-1].weight)
    how = {"rounds": 4, "keep": keep, "labels": labels, "seed": seed, "noise": 1.0}
    walks = rollouts(teacher, **how)
    stored: list[tuple[int, dict[str, Tensor]]] = []
    for number in range(4):
        stored += [(number, batch) for batch in walks]
        if resumed:
            again = rollouts(teacher, **how)
            again.load_state_dict(walks.state_dict())
            walks = again
        for _, batch in stored:
            try:
                said = walks.teacher(batch)["logits"]
            except ValueError as error:
                assert keep is not None and "no longer in the buffer" in str(error)
                assert int(batch["index"].min()) < walks.dropped
                continue
            torch.testing.assert_close(said, teacher(batch["inputs"])["logits"])
        assert all(walks.teacher(batch) for at, batch in stored if at == number)


def test_a_batch_without_its_numbers_is_refused() -> None:
    walks = rollouts()
    list(walks)
    for batch in ({"inputs": torch.zeros(2, 2)}, (torch.zeros(2, 2), None)):
        with pytest.raises(ValueError, match=r"knows states by batch\['index'\]"):
            walks.teacher(batch)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.sampled_from([-1, 0, 0, 2]), st.integers(0, 9), st.booleans())
def test_weights_are_of_states_or_episodes_also_where_these_are_as_many(
    episodes: int, more: int, heavy: int, of_states: bool
) -> None:
    """With as many labels as episodes, nobody could tell by their number."""
    labels = episodes + more

    def priority(seen: Any) -> Tensor:
        count = len(seen["inputs"] if of_states else seen["return"])
        return torch.where(torch.arange(count) == heavy % min(episodes, labels), 1e9, 1e-9)

    walks = rollouts(episodes=episodes, labels=labels, updates=1, priority=priority)
    list(walks)
    weights, at = walks.heavy, heavy % min(episodes, labels)
    own = walks.buffer["episode"] == at
    wanted = torch.arange(len(own)) == at if of_states else own
    assert torch.equal(weights > 1, wanted)


@pytest.mark.parametrize("found", [None, "heavy", {}])
def test_what_is_no_weights_is_refused(found: Any) -> None:
    with pytest.raises(TypeError, match="priority gives weights as a tensor, got"):
        list(rollouts(priority=lambda seen: found))


@pytest.mark.parametrize(
    "change", [lambda x, draw: x[:2], lambda x, draw: x.numpy(), lambda x, draw: None]
)
def test_an_augmentation_gives_as_many_states(change: Any) -> None:
    with pytest.raises(ValueError, match=r"augment gives \[4\] states, got"):
        list(rollouts(augment=change))


def test_what_was_set_is_not_overridden() -> None:
    students = Stacked([Policy(2, 2) for _ in range(2)], ndim=2)
    with pytest.raises(ValueError, match="seeds=3 beside 2 stacked students"):
        rollouts(student=students, beta=0.5, seeds=3)
    assert rollouts(student=students, beta=0.5, seeds=2).rows == 2
    with pytest.raises(ValueError, match="noise expected one number or several, got none"):
        rollouts(noise=[])


def test_tasks_know_each_other_apart() -> None:
    one, two = rollouts(), rollouts()
    with pytest.raises(ValueError, match="two of a, b are the same rollouts"):
        rl.Tasks({"a": one, "b": one})
    tasks = rl.Tasks({"a": one, "b": two})
    for batch in ({"inputs": torch.zeros(1, 2)}, {"task": "c"}):
        with pytest.raises(ValueError, match=r"knows them by batch\['task'\], one of a, b"):
            tasks.teacher(batch)
    state = tasks.state_dict()
    for other in ({}, {"a": state["a"]}, {**state, "c": state["a"]}):
        with pytest.raises(ValueError, match=r"a state of the tasks .*; these are a, b"):
            tasks.load_state_dict(other)
    tasks.load_state_dict(state)
