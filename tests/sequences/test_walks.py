"""Walks: right answers are right, wrong ones are not, and noise is repaired."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib.sequences import Walks


@given(st.integers(2, 10), st.sampled_from(["x", "y", "mixed"]), st.floats(0, 1), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_every_answer_stops_on_its_goal(size: int, style: str, noise: float, seed: int) -> None:
    walks, draw = Walks(size), torch.Generator().manual_seed(seed)
    prompts = walks.prompts(20, draw)
    moves, chance = walks.noisy_answers(prompts, style, noise, draw)
    assert moves.shape == chance.shape == (20, walks.new)
    assert walks.score(torch.cat([prompts, moves], -1)).min() == 1


def test_styles_differ_in_their_first_moves() -> None:
    walks = Walks(5)
    prompts = torch.tensor([[0, 0, 4, 4, 10]])
    assert (
        walks.text(torch.cat([prompts, walks.answers(prompts, "x")], -1)[0]) == "00→44: →→→→↑↑↑↑."
    )
    assert (
        walks.text(torch.cat([prompts, walks.answers(prompts, "y")], -1)[0]) == "00→44: ↑↑↑↑→→→→."
    )


@pytest.mark.parametrize(
    "moves",
    [
        [12, 12, 15],  # too far
        [15, 12, 12],  # stops at once
        [12, 14, 13],  # never stops
        [12, 3, 15],  # a digit is no move
    ],
)
def test_wrong_answers_score_nothing(moves: list[int]) -> None:
    walks = Walks(3)
    assert walks.score(torch.tensor([[0, 0, 1, 0, 10, *moves]])).item() == 0


def test_what_follows_the_stop_does_not_count() -> None:
    ids = torch.tensor([[0, 0, 1, 0, 10, 12, 15, 11, 0]])
    assert Walks(3).score(ids).item() == 1


def test_prompts_of_several_students() -> None:
    assert Walks(5).prompts(4, seeds=3).shape == (3, 4, 5)


def test_wrong_arguments_are_refused() -> None:
    walks = Walks(5)
    with pytest.raises(ValueError, match="from 2 to 10"):
        Walks(11)
    with pytest.raises(ValueError, match="style is one of"):
        walks.answers(walks.prompts(2), "z")
    with pytest.raises(ValueError, match="ids"):
        walks.score(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="one text"):
        walks.text(walks.prompts(2))
    with pytest.raises(ValueError, match="noise"):
        walks.answers(walks.prompts(2), noise=2.0)
