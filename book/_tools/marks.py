"""The table of the marks that otter gave to known answers, from the file that grading.py wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import bookcache

RECORD = "book/assignments.json"
HEAD = ["chapter", "exercises", "right answers, full mark", "wrong answers", "of these, no mark"]


def said(root: Path) -> str:
    """When the marks were given, and by whom."""
    record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    return f"Graded by otter-grader {record['otter']} on {record['day']}."


def rows(root: Path) -> list[list[str]]:
    """The head of the table, a line a chapter in reading order, and their sum."""
    record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    pages: dict[str, list[list[float]]] = {}
    for name, marks in record["marks"].items():
        pages.setdefault(name.removeprefix("ex-").rpartition("-")[0], []).append(marks)
    titles = {path.stem: bookcache.title(path) for path in (root / "chapters").rglob("*.md")}
    lines = [[titles[page], *counts(marks)] for page, marks in pages.items()]
    return [HEAD, *lines, ["all", *counts([one for marks in pages.values() for one in marks])]]


def counts(marks: Sequence[Sequence[float]]) -> list[str]:
    """Of exercises with the mark of the right answer first, the numbers of the table."""
    wrong = [mark for one in marks for mark in one[1:]]
    full = sum(one[0] == 1 for one in marks)
    return [str(n) for n in (len(marks), full, len(wrong), sum(mark == 0 for mark in wrong))]
