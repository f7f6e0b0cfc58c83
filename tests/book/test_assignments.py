"""The exercises as assignments, and what otter-grader says to answers that we know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import assignments
import grading
import marks
import nbformat
import pytest
from making import ROOT, missing
from plainmyst import Context

import make
from distill_lib.booktools import answers

KNOWN = answers.load()
# a function, a tensor and a word, with the fewest mistakes
SOME = {
    "": "# Some",
    "ex-first_distillation-1": "*One.*",
    "ex-hints_and_attention-4": "*Two.*",
    "ex-what_else_is_passed_on-3": "*Three.*",
}
TEXT = """
:::{exercise}
:label: ex-tiny-1

*Derive.* What is $1 + 1$? See {glue:text}`two`.
:::

:::{exercise-start}
:label: ex-tiny-2
:::
"""

PROGRAM = """
import json, sys
from pathlib import Path
import assignments, grading
some, target = json.loads(sys.argv[1]), Path(sys.argv[2])
"""


def by_otter(program: str, target: Path) -> Any:
    """What otter says, in a process of its own: it leaves open sockets behind."""
    if not assignments.OTTER.exists():
        missing(f"needs otter-grader in {assignments.OTTER}: run `python make.py setup`")
    paths = [str(ROOT / "book/_tools"), str(ROOT)]
    whole = f"{PROGRAM}{program}\nprint(json.dumps(said))"
    done = subprocess.run(
        [sys.executable, "-c", whole, json.dumps(SOME), str(target)],
        env={**os.environ, **make.QUIET, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_exercises_are_read_with_their_numbers():
    context = Context(ROOT, "chapters/tiny", "", {}, {"ex-tiny-1": "Exercise 7.1"}, {"two": "2"})
    assert dict(assignments.exercises(TEXT, context)) == {
        "ex-tiny-1": "**Exercise 7.1.** *Derive.* What is $1 + 1$? See 2.",
        "ex-tiny-2": "**Exercise.** ",
    }


def test_the_first_cell_installs_what_is_missing(tmp_path):
    (tmp_path / "x.whl").write_bytes(b"wheel")
    cell = assignments.setup(ROOT, tmp_path / "x.whl")
    compile(cell, "cell", "exec")
    assert '"otter": "otter-grader"' in cell and 'Path("x.whl")' in cell


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ex-temperature_and_kl-2", "a function with the arguments student, teacher, temperature"),
        ("ex-temperature_and_kl-1", "a tensor, or lists of numbers"),
        ("ex-divergences-3", "a number"),
    ],
)
def test_what_is_asked_for_is_said(name, words):
    assert assignments.wanted(KNOWN[name]) == words


@pytest.mark.site
def test_every_exercise_with_a_checker_is_asked(site):
    asked = assignments.questions(ROOT)
    assert [name for texts in asked.values() for name in texts if name] == list(
        json.loads((ROOT / marks.RECORD).read_text(encoding="utf-8"))["marks"]
    )
    assert {page for page, texts in asked.items() if len(texts) < 2} == set()
    for texts in asked.values():
        assert all(text.startswith("**Exercise ") for name, text in texts.items() if name)


@pytest.mark.site
def test_the_page_for_instructors_has_the_table(site):
    page = (site / "book/instructors.html").read_text(encoding="utf-8")
    plain = (site / "book/instructors.md").read_text(encoding="utf-8")
    for row in marks.rows(ROOT)[1:]:
        cells = "".join(f"<td><p>{cell}</p></td>\n" for cell in row)
        assert cells.replace("'", "’") in page
        assert f"- chapter: {row[0]}; exercises: {row[1]}; " in plain
    assert marks.said(ROOT) in page


def test_the_record_is_of_the_exercises_as_they_are():
    """After a change of an exercise: `python make.py assignments`."""
    record = json.loads((ROOT / marks.RECORD).read_text(encoding="utf-8"))
    assert set(record["marks"]) == set(KNOWN)
    for name, given in record["marks"].items():
        assert given == [1] + [0] * len(KNOWN[name].wrong), name
    assert f"otter-grader=={record['otter']} " in make.PEERS["otter"]


def test_counts_tell_a_lost_mark_from_a_kept_one():
    assert marks.counts([[1, 0, 0], [0, 1, 0]]) == ["2", "1", "4", "3"]


@pytest.mark.peers
@pytest.mark.slow
def test_a_student_gets_questions_and_no_answers(tmp_path):
    unanswered = by_otter(
        "assignments.make(target, some, 'pass')\n"
        "results = grading.submit(target, {})\n"
        "said = [results.get_score(name) for name in some if name]",
        tmp_path / "some",
    )
    assert unanswered == [0, 0, 0]
    text = (tmp_path / "some/student/some.ipynb").read_text(encoding="utf-8")
    sources = [cell.source for cell in nbformat.reads(text, as_version=4).cells]
    assert "pass" in sources and sources[-2].endswith("run_tests=True)")
    for name in filter(None, SOME):
        (answer,) = (one for one in sources if assignments.variable(name) in one)
        assert answer.splitlines()[1:] == [f"{assignments.variable(name)} = ..."]
        assert f'grader.check("{name}")' in sources and SOME[name] in sources
    assert ".right" not in text and "answers" not in text
    with zipfile.ZipFile(tmp_path / "some/autograder/autograder.zip") as graders:
        tests = {name for name in graders.namelist() if name.startswith("tests/")}
        assert tests == {f"tests/{name}.py" for name in SOME if name}
        assert all(b"check('ex-" in graders.read(name) for name in tests)


@pytest.mark.peers
@pytest.mark.slow
def test_a_right_answer_has_the_mark_and_a_listed_wrong_one_has_none(tmp_path):
    expected = {name: [1] + [0] * len(KNOWN[name].wrong) for name in SOME if name}
    assert by_otter("said = grading.graded(some)", tmp_path) == expected


def test_a_mark_that_is_lost_by_accident_is_no_proof(monkeypatch):
    said = SimpleNamespace(message="NameError: name 'x' is not defined")
    results = {name: SimpleNamespace(test_case_results=[said]) for name in SOME}
    lost = SimpleNamespace(results=results, get_score=lambda name: 0)
    monkeypatch.setattr(assignments, "make", lambda *_: None)
    monkeypatch.setattr(grading, "submit", lambda *_: lost)
    with pytest.raises(AssertionError, match="ex-first_distillation-1: NameError"):
        grading.graded(SOME)
