"""Whose words: who wrote what, each word counted once, and training that can go on."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import CE, KD, Teacher, distill, linear, losses
from distill_lib.masks import IGNORE
from distill_lib.models import SmallGPT, small_llama
from distill_lib.sequences import Completions, Walks, sample, speculate

WALKS = Walks(4)


def words(student: Any = None, **more: Any) -> Completions:
    given_ = {"new": WALKS.new, "stop": WALKS.stop, "batch_size": 6, "updates": 4, **more}
    return Completions(given_.pop("prompts", WALKS.prompts), student, **given_)


def test_the_corpus_words_are_those_of_the_corpus() -> None:
    for batch in words(own=0.0, texts=WALKS.answers):
        ids = batch["input_ids"]
        assert WALKS.score(ids).min() == 1
        names = ("shift_labels", "attention_mask")
        for row, labels, mask in zip(ids, *(batch[k] for k in names), strict=True):
            said = row[WALKS.prompt :].tolist()
            upto = said.index(WALKS.stop) + 1
            want = [IGNORE] * 4 + said[:upto] + [IGNORE] * (len(said) - upto + 1)
            assert labels.tolist() == want
            assert mask.sum() == WALKS.prompt + upto


@given(st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_the_students_share_is_own(own: float, seed: int) -> None:
    class Silent(SmallGPT):
        """Stops at once."""

        def forward(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
            at_once = torch.full((*input_ids.shape, 16), -50.0)
            at_once[..., WALKS.stop] = 0
            return at_once

    found = words(Silent(16), own=own, texts=torch.full((1, 3), 11), seed=seed,
                  prompts=torch.tensor([[0, 0, 1, 1, 10]]), batch_size=400, updates=1)  # fmt: skip
    (batch,) = found
    mine = (batch["shift_labels"] != IGNORE).sum(-1) == 1
    assert abs(mine.float().mean().item() - own) < 0.13  # five standard deviations
    theirs = (batch["shift_labels"] != IGNORE).sum(-1) == 3
    assert (mine | theirs).all()


def test_a_schedule_runs_over_all_batches_of_all_rounds() -> None:
    seen: list[float] = []

    class Noted(Completions):
        def draw(self, own: float) -> dict[str, Tensor]:
            seen.append(round(own, 6))
            return super().draw(own)

    found = Noted(WALKS.prompts, SmallGPT(16), texts=WALKS.answers, own=linear(0, 1), new=WALKS.new,
                  stop=WALKS.stop, updates=3, rounds=2, batch_size=2)  # fmt: skip
    for _ in range(2):
        list(found)
    assert seen == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_teachers_words_are_greedy_where_it_is_sure() -> None:
    teacher = SmallGPT(16, seed=7)
    with torch.no_grad():
        teacher.head.mul_(200)
    one, other = (
        list(words(None, own=0.0, teacher=who, prompts=WALKS.prompts(2, torch.Generator())))
        for who in (teacher, Teacher(teacher))
    )
    assert all(a["input_ids"].equal(b["input_ids"]) for a, b in zip(one, other, strict=True))


def test_each_of_several_students_has_prompts_and_words_of_its_own() -> None:
    student = SmallGPT(16, seeds=3)
    (batch, *_) = words(student)
    assert batch["input_ids"].shape == (3, 6, 5 + WALKS.new)
    assert not batch["input_ids"][0].equal(batch["input_ids"][1])
    (batch, *_) = words(own=0.0, texts=WALKS.answers, seeds=2)
    assert batch["shift_labels"].shape == (2, 6, 5 + WALKS.new)


def test_the_loss_is_the_mean_over_words_each_counted_once() -> None:
    student, teacher = SmallGPT(16).double(), SmallGPT(16, seed=1).double()
    (batch, *_) = words(student)
    live = batch["shift_labels"] != IGNORE
    said, taught = (m(batch["input_ids"], batch["attention_mask"]) for m in (student, teacher))
    want = losses.reverse_kl(student=said, teacher=taught)[live].mean()
    seen: list[float] = []
    history = distill(student, teacher, [batch], KD(losses.reverse_kl), epochs=1, lr=0.0)
    seen += history["kd"]
    assert seen[0] == pytest.approx(want.item(), rel=1e-9)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_cutting_a_batch_changes_nothing(cut: int) -> None:
    from accelerate import Accelerator

    teacher = SmallGPT(16, seed=1).double()
    (batch, *_) = words(SmallGPT(16).double())
    ends = {1: [0, 6], 2: [0, 1, 6], 3: [0, 1, 3, 6]}[cut]
    parts = [{k: v[a:b] for k, v in batch.items()} for a, b in itertools.pairwise(ends)]
    student = SmallGPT(16).double()
    distill(student, teacher, parts, KD(losses.reverse_kl) + CE(), epochs=1,
            optimizer=lambda p: torch.optim.SGD(p, 0.1),
            accelerator=Accelerator(gradient_accumulation_steps=cut, cpu=True))  # fmt: skip
    whole = SmallGPT(16).double()
    distill(whole, teacher, [batch], KD(losses.reverse_kl) + CE(), epochs=1,
            optimizer=lambda p: torch.optim.SGD(p, 0.1))  # fmt: skip
    for one, other in zip(student.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_training_goes_on_in_mid_epoch_exactly(tmp_path: Path) -> None:
    def run(steps: int | None, path: Path | None) -> SmallGPT:
        student = SmallGPT(16, seeds=2, seed=4)
        found = words(student, own=0.5, texts=WALKS.answers, rounds=2)
        more: dict[str, Any] = {"checkpoint": path, "save_every": 1} if path else {}

        class Stop(Exception):
            pass

        if steps is not None:
            draw, count = found.draw, [0]

            def limited(own: float) -> dict[str, Tensor]:
                if count[0] == steps:
                    raise Stop
                count[0] += 1
                return draw(own)

            found.draw = limited  # type: ignore[method-assign]
        teacher = SmallGPT(16, seed=1)
        with contextlib.suppress(Stop):
            distill(student, teacher, found, KD(losses.reverse_kl), epochs=2, **more)
        return student

    whole = run(None, None)
    run(5, tmp_path / "c.pt")
    again = run(None, tmp_path / "c.pt")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_a_model_of_transformers_learns_from_its_own_words() -> None:
    pytest.importorskip("transformers", reason="needs 🤗 Transformers: python make.py setup")
    student = small_llama(16, hidden=16, heads=2, seed=0)
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    found = Completions(prompts, student, new=5, stop=1, batch_size=8, updates=30)
    history = distill(student, SmallGPT(16), found, KD(losses.reverse_kl), epochs=1, lr=1e-2)
    assert sum(history["kd"][-5:]) < sum(history["kd"][:5])


def test_an_empty_answer_is_its_stop() -> None:
    found = words(own=0.0, prompts=torch.tensor([[0, 0, 0, 0, 10]]), texts=[torch.tensor([15])])
    (batch, *_) = found
    assert (batch["shift_labels"] != IGNORE).sum(-1).tolist() == [1] * 6


def test_objectives_of_ones_own_loop_see_the_same() -> None:
    student, teacher = SmallGPT(16), Teacher(SmallGPT(16, seed=1))
    (batch, *_) = words(student)
    from distill_lib import aligned

    said = student(batch["input_ids"], batch["attention_mask"])
    found, _ = (1.0 * KD())(said, teacher(batch), aligned(batch, student))
    each = losses.kl(student=said, teacher=teacher(batch))
    want = each[batch["shift_labels"] != IGNORE].mean()
    assert found.item() == pytest.approx(want.item(), rel=1e-5)


def test_wrong_arguments_are_refused() -> None:
    student = SmallGPT(16)
    with pytest.raises(ValueError, match=r"share of texts, in \[0, 1\]"):
        words(student, own=1.5)
    with pytest.raises(ValueError, match="pass the student"):
        words(None, own=1.0)
    with pytest.raises(ValueError, match="pass texts="):
        words(student, own=0.5)
    with pytest.raises(ValueError, match="one for each of 2 prompts"):
        words(own=0.0, prompts=torch.zeros(2, 5).long(), texts=torch.zeros(3, 4).long())
    with pytest.raises(ValueError, match="text 1 is empty"):
        words(own=0.0, prompts=torch.zeros(2, 5).long(),
              texts=[torch.tensor([3]), torch.tensor([], dtype=torch.int64)])  # fmt: skip
    with pytest.raises(ValueError, match="a function too"):
        words(own=0.0, texts=torch.zeros(3, 4).long())
    with pytest.raises(TypeError, match="texts to be a tensor or a sequence of a tensor"):
        words(own=0.0, prompts=torch.zeros(1, 5).long(), texts=[[1, 2]])
    with pytest.raises(ValueError, match="new expected a whole number of 1"):
        words(student, new=0)
    with pytest.raises(ValueError, match="expected ids"):
        next(iter(words(student, prompts=lambda n, generator: torch.zeros(n + 1, 5).long())))
    with pytest.raises(ValueError, match="texts expected ids"):
        next(iter(words(own=0.0, texts=lambda prompts, generator: torch.zeros(2, 3).long())))


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize("who", ["sample", "speculate", "Completions"])
def test_a_temperature_is_told_at_once(who: str, temperature: Any) -> None:
    student, prompts = SmallGPT(16), torch.tensor([[1, 2]])
    calls: dict[str, Any] = {
        "sample": lambda: sample(student, prompts, 3, temperature=temperature),
        "speculate": lambda: speculate(
            student, SmallGPT(16, seed=1), prompts, 3, temperature=temperature
        ),
        "Completions": lambda: Completions(prompts, student, new=3, temperature=temperature),
    }
    with pytest.raises((TypeError, ValueError), match=r"temperature.* to be a number|from 0 on"):
        calls[who]()


@pytest.mark.parametrize("more", [{"stop": -1}, {"stop": [3, 1.5]}, {"stop": True}, {"pad": -100}])
@pytest.mark.parametrize("who", ["sample", "speculate", "Completions"])
def test_stops_and_padding_are_ids(who: str, more: dict[str, Any]) -> None:
    student, prompts = SmallGPT(16), torch.tensor([[1, 2]])
    calls: dict[str, Any] = {
        "sample": lambda: sample(student, prompts, 3, **more),
        "speculate": lambda: speculate(student, SmallGPT(16, seed=1), prompts, 3, **more),
        "Completions": lambda: Completions(prompts, student, new=3, **more),
    }
    with pytest.raises((TypeError, ValueError), match=r"stop|pad"):
        calls[who]()


@pytest.mark.parametrize("new", [3.5, "3", 0, None])
def test_a_number_of_words_is_a_whole_one(new: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="new"):
        Completions(torch.tensor([[1, 2]]), SmallGPT(16), new=new)


EMPTY: dict[str, tuple[Any, str]] = {
    "padding alone": (torch.zeros(1, 3, dtype=torch.int64), "text 0 is empty, or padding alone"),
    "no column": (torch.zeros(1, 0, dtype=torch.int64), "text 0 is empty"),
    "left out": (torch.full((1, 3), -100), "ids from 0 on, got -100"),
    "a list, left out": ([torch.tensor([3, -100])], "ids from 0 on, got -100"),
    "reals": (torch.ones(1, 3), "texts expected one for each of 1 prompts"),
}


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("case", EMPTY)
def test_texts_without_a_word_are_refused_whoever_gives_them(case: str, called: bool) -> None:
    texts, says = EMPTY[case]
    if called and isinstance(texts, list):
        return
    if called:
        given_, says = texts, says.replace("one for each of 1 prompts", "ids")
        texts = lambda prompts, generator: given_.expand(len(prompts), -1)  # noqa: E731
    with pytest.raises(ValueError, match=says):
        next(iter(Completions(torch.tensor([[1, 2]]), own=0.0, texts=texts, new=3)))


def test_a_text_of_the_token_that_pads_is_one_where_its_length_is_told() -> None:
    """Token 0 may be a word: a list of texts says how long they are, and so does a stop."""
    cases: Any = (([torch.tensor([0, 0])], {}), (torch.zeros(1, 2).long(), {"stop": 0}))
    for texts, more in cases:
        made = Completions(torch.tensor([[1, 2]]), own=0.0, texts=texts, new=3, **more)
        assert (next(iter(made))["shift_labels"] == 0).any()


def test_words_that_the_model_does_not_know_are_told() -> None:
    texts = torch.full((1, 3), 77)
    found = Completions(torch.tensor([[1, 2]]), own=0.0, texts=texts, new=3, updates=1)
    with pytest.raises(ValueError, match=r"77 in 16 tokens, 0 to 15: is it the same tokenizer"):
        distill(SmallGPT(16), None, found, CE(), epochs=1)
