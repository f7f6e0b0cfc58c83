"""The rules of a page's source: its question first, cells of three kinds, enough and not too much.

All chapters follow them. The museums do not: the code of an exhibit is its subject and stays in
sight.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import bookcache
import fragments
import pytest
from making import ROOT
from test_sources import CHAPTERS, prose

follows = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)

KINDS = {"setup", "work", "figure", "check"}
WORK_LINES, WORDS, SHOWN = 15, 3_500, 22
STATES = {"claim", "measurement", "glue"}
DRAWS = {
    "band",
    "dots",
    "Films",
    "plot",
    "subplots",
    "axhline",
    "axvline",
    "legend",
    "imshow",
    "bar",
}


def cells(path: Path) -> Iterator[tuple[set[str], str, dict[str, object]]]:
    """Tags, code and options of each cell that a reader meets outside of solutions."""
    solved = False
    for cell in bookcache.read(path).cells:
        if cell.cell_type == "code":
            if not solved:
                yield set(cell.metadata.get("tags", ())), cell.source, cell.metadata
        else:
            marks = re.findall(r"\{solution-(start|end)\}", cell.source)
            solved = marks[-1] == "start" if marks else solved


def called(node: ast.AST) -> set[str]:
    """Names of the functions and methods that are called."""
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return {getattr(f, "id", getattr(f, "attr", "")) for f in calls}


def complaints(tags: set[str], source: str, metadata: dict[str, object]) -> Iterator[str]:
    kinds, tree = tags & KINDS, ast.parse(source)
    if len(kinds) != 1 or tags != kinds:
        yield f"a cell has one tag of {sorted(KINDS)}, not {sorted(tags)}"
        return
    (kind,) = kinds
    if kind == "work":
        if (lines := len(source.strip().splitlines())) > WORK_LINES:
            yield f"{lines} lines in a cell that is read"
        if bookkeeping := called(tree) & (STATES | DRAWS):
            yield f"{sorted(bookkeeping)} in a cell that is read"
        if any("print" in called(n) for n in ast.walk(tree) if isinstance(n, ast.For | ast.While)):
            yield "a loop that prints in a cell that is read"
    if kind == "figure":
        options = metadata.get("mystnb", {})
        assert isinstance(options, dict)
        if {"caption", "name"} - set(options.get("figure", {})):
            yield "a figure has a caption and a name"
        if stated := called(tree) & STATES:
            yield f"{sorted(stated)} in a figure"


@follows
def test_a_cell_is_of_one_kind(path):
    found = [
        f"{source.splitlines()[0]}: {complaint}"
        for tags, source, metadata in cells(path)
        for complaint in complaints(tags, source, metadata)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("tags", "source", "words"),
    [
        ({"work"}, "x = 1\n" * 16, "16 lines"),
        ({"work"}, "claim('A {value}.', 1)", "claim"),
        ({"work"}, "ax.plot(x)", "plot"),
        ({"work"}, "for x in y:\n    print(x)", "a loop that prints"),
        ({"figure"}, "ax.plot(x)", "a caption and a name"),
        ({"figure"}, "glue('a', 1)", "glue"),
        (set(), "x = 1", "one tag"),
        ({"work", "check"}, "x = 1", "one tag"),
        ({"check"}, "claim('A {value}.', 1)", ""),
        ({"work"}, "print(x)", ""),
    ],
)
def test_what_breaks_a_rule_is_found(tags, source, words):
    found = list(complaints(tags, source, {}))
    assert any(words in complaint for complaint in found) if words else not found


@follows
def test_the_question_comes_first(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^description: .+\?\"?$", text, re.MULTILINE)
    assert re.search(r"^# .+\n\n:{3,}\{before\}", text, re.MULTILINE)
    kinds = [next(iter(tags)) for tags, _, _ in cells(path)]
    assert kinds[0] == "setup" and "figure" in kinds[:6]


@follows
def test_a_page_is_not_too_long(path):
    assert len(prose(path).split()) <= WORDS
    shown = [tags for tags, _, _ in cells(path) if "work" in tags]
    assert len(shown) <= SHOWN


@pytest.mark.site
@pytest.mark.parametrize("path", bookcache.chapters(ROOT), ids=lambda path: path.stem)
def test_cells_stand_in_the_order_in_which_they_run(site, path):
    """Whoever copies a page from top to bottom runs what the build has run, folds included."""
    text = (site / path.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8")
    article = fragments.element(text, text.index("<article"))
    shown = [fragments.words(cell) for cell in fragments.classed(article, "div", "cell_input")]
    source = [cell.source for cell in bookcache.read(path).cells if cell.cell_type == "code"]
    assert ["".join(code.split()) for code in shown] == ["".join(code.split()) for code in source]


@pytest.mark.site
@pytest.mark.parametrize("path", bookcache.chapters(ROOT), ids=lambda path: path.stem)
def test_an_exercise_says_what_its_checker_is_called(site, path):
    """Nobody has to open the solution to be allowed to check."""
    text = (site / path.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8")
    asked = [fragments.words(one) for one in fragments.classed(text, "div", "exercise")]
    code = path.read_text(encoding="utf-8")
    for name in set(re.findall(r'^check\("(ex-[\w-]+)"', code, re.MULTILINE)):
        assert any(re.search(rf"{name}\b", one) for one in asked), name
