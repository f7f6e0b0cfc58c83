"""Quizzes: each choice opens what is to be said of it, and of it alone."""

from __future__ import annotations

import re

import pytest
from browsing import CHAPTERS
from making import ROOT

LETTERS = re.compile(r"[(（]([a-e])[)）]")
QUESTION = re.compile(r"^\*\*\d+\. .*(?:\n.+)*?(?=\n\n:::\{dropdown\} Answer$)", re.MULTILINE)
CHOICE = re.compile(
    r'<details class="[^"]*\bdl-choice\b[^"]*">\s*<summary[^>]*>\s*<span class="sd-summary-text">'
    r"(.*?)<span class=\"sd-summary-state-marker.*?</summary>.*?<p[^>]*>(.*?)</p>",
    re.DOTALL,
)


def quiz(name: str) -> str:
    text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
    return text.partition("\n## Quiz\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_asks_three_questions_of_three_choices_in_order(name):
    questions = QUESTION.findall(quiz(name))
    assert len(questions) == quiz(name).count(":::{dropdown}") >= 3
    for question in questions:
        letters = LETTERS.findall(question)
        assert letters == list("abcde")[: len(letters)] and len(letters) >= 3, question


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_each_choice_opens_what_is_said_of_it_and_one_a_question_is_right(site, name):
    page = (site / f"{name}.html").read_text(encoding="utf-8")
    found = [(LETTERS.match(title), said) for title, said in CHOICE.findall(page)]
    asked = [LETTERS.findall(question) for question in QUESTION.findall(quiz(name))]
    assert [letter[1] for letter, _ in found if letter] == [k for one in asked for k in one]
    for letters in asked:
        here, found = found[: len(letters)], found[len(letters) :]
        verdicts = [said.partition("</strong>")[0].rpartition(">")[2] for _, said in here]
        assert sorted(verdicts) == ["No."] * (len(here) - 1) + ["Right"], verdicts
        for (letter, said), verdict in zip(here, verdicts, strict=True):
            told = said.partition("</strong>")[2]
            if verdict == "Right":
                assert told.startswith((":", ",", ";", ".")), told
            else:
                assert letter[1] in LETTERS.findall(told), told
