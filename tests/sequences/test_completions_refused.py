"""Settings of Completions, Walks and tokenizers that contradict each other are not overridden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_lib import Teacher
from distill_lib.models import SmallGPT
from distill_lib.sequences import Completions, Walks, train_tokenizer

PROMPTS = torch.tensor([[1, 2], [3, 4]])


@pytest.mark.parametrize("seeds", [None, 1, 2, 3])
@pytest.mark.parametrize("own", [None, 2, 3])
def test_seeds_are_those_of_the_student(own: int | None, seeds: int | None) -> None:
    student = SmallGPT(16, seeds=own)
    if seeds in (None, own):
        assert Completions(PROMPTS, student, new=2, seeds=seeds).seeds == own
    else:
        with pytest.raises(ValueError, match=f"seeds={seeds} of a student that is"):
            Completions(PROMPTS, student, new=2, seeds=seeds)


@pytest.mark.parametrize("own", [None, 2, 3])
@pytest.mark.parametrize("theirs", [None, 2])
def test_a_teacher_of_other_students_does_not_write(own: int | None, theirs: int | None) -> None:
    student, teacher = SmallGPT(16, seeds=own), SmallGPT(16, seeds=theirs, seed=1)
    if theirs in (None, own):
        words = Completions(PROMPTS, student, teacher, own=0.5, new=3)
        assert next(iter(words))["input_ids"].shape[-1] == 5
    else:
        with pytest.raises(ValueError, match=r"a teacher of 2 stacked networks.*one\(0\)"):
            Completions(PROMPTS, student, teacher, own=0.5, new=3)


def test_a_teacher_with_tokens_of_its_own_does_not_write() -> None:
    teacher = Teacher(SmallGPT(16), preprocess=lambda batch: batch)
    with pytest.raises(ValueError, match=r"preprocess= sees other tokens.*texts="):
        Completions(PROMPTS, None, teacher, own=0.0, new=3)
    Completions(PROMPTS, None, Teacher(SmallGPT(16)), own=0.0, new=3)


@pytest.mark.parametrize("drawn", [False, True])
def test_prompts_are_ids(drawn: bool) -> None:
    def ask(n: int, generator: Any) -> Tensor:
        return torch.tensor([[1, -100]]).expand(n, 2)

    def say(prompts: Tensor, generator: Any) -> Tensor:
        return torch.ones(len(prompts), 2, dtype=torch.int64)

    with pytest.raises(ValueError, match="expected ids from 0 on, got -100"):
        next(iter(Completions(ask if drawn else ask(2, None), own=0.0, texts=say, new=2)))


# ---- walks ----


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_an_answer_is_right_or_refused(size: int) -> None:
    walks, draw = Walks(size), torch.Generator().manual_seed(0)
    prompts = walks.prompts(50, draw)
    for style in ("x", "y", "mixed"):
        answers = walks.answers(prompts, style, 0.3, draw)
        assert (walks.score(torch.cat([prompts, answers], -1)) == 1).all()
    for place in range(4):
        for wrong in (size, -1):
            bad = prompts.clone()
            bad[7, place] = wrong
            with pytest.raises(ValueError, match=f"numbers from 0 to {size - 1}"):
                walks.answers(bad)


def test_a_word_that_is_no_move_is_wrong() -> None:
    """A model may have more tokens than the task, to fill a matrix."""
    walks = Walks(3)
    right = torch.tensor([0, 0, 1, 0, walks.equals, walks.right, walks.stop])
    assert walks.score(right) == 1
    for wrong in (0, 10, 16, 20, -100):
        text = torch.cat([right[:5], torch.tensor([wrong]), right[5:]])
        assert walks.score(text) == 0
        after = torch.cat([right, torch.tensor([wrong])])
        assert walks.score(after) == 1


@pytest.mark.parametrize("form", [Tensor.tolist, Tensor.numpy, Tensor.float, Tensor.bool])
def test_texts_that_are_no_ids_are_refused(form: Callable[[Tensor], Any]) -> None:
    walks = Walks(3)
    text = form(torch.tensor([0, 0, 1, 0, 10, 12, 15]))
    for ask in (walks.score, walks.answers):
        with pytest.raises(ValueError, match="Walks expected ids"):
            ask(text)


# ---- tokenizers ----


@pytest.mark.parametrize("wrong", [b"abc", 1, None, np.zeros(2)])
def test_a_tokenizer_is_trained_on_texts(wrong: object) -> None:
    with pytest.raises(TypeError, match="train_tokenizer expected texts, got"):
        train_tokenizer(["abc", wrong])  # type: ignore[list-item]
