"""What otter says to answers that we know: a mark for each right one, none for each wrong one.

All chapters are graded as one assignment, with the very tests of their own ones, since a submission
costs the start of a kernel: first all right answers, then the first mistake of every exercise, the
second, and so on; an exercise that has no more of them is answered rightly again.
"""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import assignments
import nbformat
from marks import RECORD

from distill_lib.booktools import answers


def keep(root: Path, asked: Mapping[str, Mapping[str, str]]) -> int:
    """Grade all, keep the marks, and say what is not as it should be."""
    began = time.perf_counter()
    names = [name for texts in asked.values() for name in texts if name]
    marks = graded({name: text for texts in asked.values() for name, text in texts.items()})
    record = {
        "day": datetime.date.today().isoformat(),
        "otter": assignments.otter("version").__version__,
        "seconds": round(time.perf_counter() - began),
        "marks": {name: marks[name] for name in names},
    }
    text = json.dumps(record).replace('"ex-', '\n"ex-')
    (root / RECORD).write_text(text + "\n", encoding="utf-8", newline="\n")
    amiss = [name for name in names if marks[name] != [1.0] + [0.0] * (len(marks[name]) - 1)]
    print(f"{RECORD}: {len(names)} exercises in {record['seconds']} s", *amiss, flush=True)
    return len(amiss)


def graded(texts: Mapping[str, str]) -> dict[str, list[float]]:
    """For each exercise the mark of its right answer, then of each listed wrong one."""
    known = {name: answers.load()[name] for name in texts if name}
    reasons = {name: list(exercise.wrong.values()) for name, exercise in known.items()}
    marks: dict[str, list[float]] = {name: [] for name in known}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "all"
        assignments.make(made, texts, "")
        for number in range(1 + max(len(exercise.wrong) for exercise in known.values())):
            wrong = [name for name in known if 0 < number <= len(known[name].wrong)]
            given = {name: mistake(name, number) for name in wrong}
            given = {name: assignments.right(known[name]) for name in known} | given
            results = submit(made, given)
            for name in wrong if number else known:
                marks[name].append(results.get_score(name))
            for name in wrong:  # the mark is lost for the reason that we know, not by accident
                (said,) = results.results[name].test_case_results
                if not (marks[name][-1] or reasons[name][number - 1] in said.message):
                    raise AssertionError(f"{name}: {said.message}")
    return marks


def mistake(name: str, number: int) -> str:
    """A listed wrong answer, counted from 1, as an expression."""
    return f"list(answers.load()[{name!r}].wrong)[{number - 1}]"


def submit(assignment: Path, given: Mapping[str, str]) -> Any:
    """What otter says to a student who hands in these expressions."""
    notebook = nbformat.read(assignment / f"student/{assignment.name}.ipynb", as_version=4)
    for name, answer in given.items():
        empty = f"{assignments.variable(name)} = ..."
        (cell,) = (cell for cell in notebook.cells if cell.source.endswith(empty))
        filled = empty.replace("...", answer)
        cell.source = cell.source.replace(empty, f"{assignments.KNOWN}\n{filled}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{assignment.name}.ipynb"
        nbformat.write(notebook, path)
        grader = str(assignment / "autograder/autograder.zip")
        return assignments.otter("api").grade_submission(str(path), grader, quiet=True)
