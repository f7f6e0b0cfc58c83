"""Numbers that are none, and members that do not fit: never an answer that looks like one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.fusion import Vote, barrier, greedy_soup, soup

ODD = st.sampled_from([math.nan, math.inf, -math.inf])
NUMBERS = st.floats(-5, 5)


def pair() -> list[nn.Module]:
    return [nn.Linear(2, 1), nn.Linear(2, 1)]


@given(st.lists(st.floats(), min_size=2, max_size=2))
def test_an_average_has_finite_weights_or_is_refused(weights: list[float]) -> None:
    models = pair()
    if all(0 <= w < math.inf for w in weights) and 0 < sum(weights) < math.inf:
        low, high = torch.stack([m.weight for m in models]).aminmax(dim=0)
        found = soup(models, weights).weight
        assert ((low - 1e-6 <= found) & (found <= high + 1e-6)).all()
        return
    for make in (soup, Vote):
        with pytest.raises(ValueError, match=r"expected 2 non-negative weights .* all finite"):
            make(models, weights)


def test_what_has_no_weight_is_not_in_the_average() -> None:
    good, bad = pair()
    nn.init.constant_(bad.weight, math.inf)
    assert torch.equal(soup([good, bad], [1, 0]).weight, good.weight)
    members = [lambda b: torch.tensor([[0.0, 1.0]]), lambda b: torch.full((1, 2), math.nan)]
    assert Vote(members, [1, 0])({})["logits"].argmax() == 1


@given(st.lists(NUMBERS, min_size=3, max_size=6), st.integers(0, 5), st.none() | ODD)
def test_a_barrier_of_what_is_not_finite_has_no_height(
    losses: list[float], place: int, odd: float | None
) -> None:
    if odd is not None:
        losses[place % len(losses)] = odd
    said = iter(losses)
    if odd is not None:
        with pytest.raises(ValueError, match=r"the loss at alpha .* is .*(nan|inf)"):
            barrier(*pair(), lambda model: next(said), points=len(losses))
        return
    found = barrier(*pair(), lambda model: next(said), points=len(losses))
    line = [(1 - a) * losses[0] + a * losses[-1] for a in found.alphas]
    above = [one - on for one, on in zip(losses, line, strict=True)][1:-1]
    assert found.height == pytest.approx(max(0.0, *above), abs=1e-9)


@given(st.lists(NUMBERS | ODD, min_size=1, max_size=4), st.lists(NUMBERS | ODD, max_size=4))
def test_a_greedy_soup_begins_with_the_best_and_keeps_no_nan(
    alone: list[float], later: list[float]
) -> None:
    models = [nn.Linear(1, 1) for _ in alone]
    said = itertools.chain(alone, later, itertools.repeat(math.nan))
    if any(map(math.isnan, alone)):
        with pytest.raises(ValueError, match=r"the score of model \d is nan"):
            greedy_soup(models, lambda model: next(said))
        return
    _, chosen = greedy_soup(models, lambda model: next(said))
    assert alone[chosen[0]] == max(alone)
    tried = later[: len(alone) - 1]
    assert len(chosen) - 1 <= sum(not math.isnan(one) for one in tried)


@pytest.mark.parametrize("said", [None, "good", torch.ones(2)])
def test_a_score_is_a_number(said: Any) -> None:
    with pytest.raises(TypeError, match="the score of model 0 expected a number, got"):
        greedy_soup(pair(), lambda model: said)
    with pytest.raises(TypeError, match="the loss at alpha 0 expected a number, got"):
        barrier(*pair(), lambda model: said)


# ---- votes ----


def say(logits: Tensor) -> Any:
    return lambda batch: logits


@given(st.integers(0, 99), st.sampled_from([(2,), (2, 3), (2, 3, 4)]), st.data())
def test_a_vote_is_the_same_along_any_axis(seed: int, items: tuple[int, ...], data: Any) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = [torch.randn(*items, 5, generator=g) for _ in range(3)]
    axis = data.draw(st.integers(-len(items), len(items)).filter(lambda a: a != 0))
    last = Vote([say(z) for z in logits], axis=-1)({})["logits"]
    moved = Vote([say(z.movedim(-1, axis)) for z in logits], axis=axis)({})["logits"]
    torch.testing.assert_close(moved.movedim(axis, -1), last)


def test_members_of_other_classes_and_axes_in_doubt_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must agree on their classes.*\(1, 3\), \(1, 2\)"):
        Vote([say(torch.ones(1, 3)), say(torch.ones(1, 2))])({})
    images = [nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)]
    batch = {"inputs": torch.randn(1, 3, 2, 2), "labels": torch.zeros(1, 2, 2).long()}
    with pytest.raises(ValueError, match="Say axis=1"):
        Vote(images)(batch)
    assert Vote(images, axis=1)(batch)["logits"].exp().sum(1).allclose(torch.ones(1, 2, 2))
    assert Vote(images, axis=1).fingerprint() != Vote(images).fingerprint()
    assert Vote(images).fingerprint() == Vote(images).fingerprint()
