"""The task of the chapter on hints: prompts say what they mean, and hints belong to them."""

from __future__ import annotations

import pytest
import torch

from distill_lib import zoo
from distill_lib.booktools.hints import KINDS, SIGNS, HintedWalks

TASK = HintedWalks()
WALK = TASK.draw(200, torch.Generator().manual_seed(0))


def test_every_token_has_a_sign():
    assert len(SIGNS) == TASK.vocabulary == len({*SIGNS})


@pytest.mark.parametrize("letters", [False, True])
@pytest.mark.parametrize("order", ["x", "y", "mixed"])
def test_a_prompt_tells_start_and_goal(letters: bool, order: str) -> None:
    prompts = TASK.prompts(WALK, order, letters=letters)
    assert prompts.shape == (200, TASK.prompt)
    assert prompts.max() < TASK.vocabulary
    assert torch.equal(TASK.walk(prompts), WALK)
    assert (prompts[:, 11] >= 23).all() == letters


@pytest.mark.parametrize("order", ["x", "y", "mixed"])
def test_right_answers_score(order: str) -> None:
    answers = TASK.answers(WALK, order)
    assert TASK.score(WALK, answers).all()
    assert not TASK.score(WALK.flip(0)[:, [2, 3, 0, 1]], answers).all()


@pytest.mark.parametrize("kind", [*KINDS, "first"])
def test_a_hint_changes_nothing_but_its_places(kind: str) -> None:
    texts = torch.cat([TASK.prompts(WALK, letters=True), TASK.answers(WALK)], -1)
    made = TASK.hinted(texts, kind)
    assert torch.equal(made[:, 9:], texts[:, 9:]) and made is not texts
    told = made[:, 1:9]
    if kind in ("copy", "own"):
        assert torch.equal(told, TASK.answers(WALK, "y"))
    elif kind == "first":
        assert torch.equal(told[:, :2], TASK.answers(WALK, "y")[:, :2])
        assert (told[:, 2:] == KINDS["none"]).all()
    elif kind == "fact":
        assert torch.equal(told[:, 0], WALK[:, 2])
    else:
        assert torch.equal(made, texts)


def test_a_hint_may_be_that_of_another_problem() -> None:
    other = WALK.flip(0)
    made = TASK.hinted(TASK.prompts(WALK, letters=True), "own", other=other)
    assert torch.equal(made[:, 1:9], TASK.answers(other, "y"))
    assert torch.equal(TASK.walk(made), WALK)


def test_the_shipped_models_use_their_hints_and_do_not_know_the_letters() -> None:
    model, g = zoo.load_teacher("hinted_gpt"), torch.Generator().manual_seed(1)
    walk = WALK.expand(5, -1, -1)
    score = {}
    for kind in KINDS:
        prompts = TASK.hinted(TASK.prompts(walk, letters=True), kind)
        score[kind] = TASK.score(walk, TASK.write(model, prompts, g)).mean().item()
    assert score["none"] < 0.4
    assert min(score[kind] for kind in ("copy", "own", "fact")) > 0.85
    plain = TASK.write(model, TASK.prompts(walk), g)
    assert TASK.score(walk, plain).mean() > 0.85
