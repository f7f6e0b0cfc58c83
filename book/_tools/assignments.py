"""Write _build/assignments: each chapter's checked exercises as an assignment of otter-grader.

A notebook for `otter assign` is made from the chapter, with the questions as the site numbers them
and tests that call the chapter's own checker; otter makes of it what a student gets (``student``)
and what grades (``autograder``). Then otter grades all that we know to be right and wrong, and its
marks are kept in book/assignments.json, of which a page makes a table: grading.py.

    python book/_tools/assignments.py [--root FOLDER] [--no-grading]

otter lies in a folder of its own (PEERS in make.py), with five packages that it needs and the book
has not.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import addresses
import bookcache
import nbformat
import notebooks
import plainmyst
from plainmyst import Context
from programs import expand

from distill_lib.booktools import answers
from distill_lib.booktools.exercises import Exercise

OTTER = Path(sys.prefix) / "peers/otter"
CONFIG = """\
# ASSIGNMENT CONFIG
name: {name}
init_cell: false
export_cell: {{pdf: false}}
tests: {{ok_format: false}}
"""
HEAD = """\
Put your answer in place of the three dots. The cell below it says whether it is right; where your
mistake is a usual one, it says which. The last cell makes the file to hand in. An answer may need
code of the chapter: add cells as you like.
"""
IMPORTS = """\
import math

import otter
import torch
import torch.nn.functional as F

from distill_lib.booktools import check

grader = otter.Notebook("{name}.ipynb")"""
KNOWN = "from distill_lib.booktools import answers"
ANSWER = """\
# {asked}
# BEGIN SOLUTION NO PROMPT
{known}
# END SOLUTION
{variable} = {right}  # SOLUTION"""
TEST = """\
def test_answer({variable}):
    from distill_lib.booktools import check

    check({name!r}, {variable})
"""
KINDS_OF_CELLS = ("markdown", "code", "raw")
KINDS = {"number": "a number", "tensor": "a tensor, or lists of numbers", "choice": "a word"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    parser.add_argument("--no-grading", action="store_true", help="only write the assignments")
    options = parser.parse_args()
    import grading  # which uses this file

    root = options.root.resolve()
    target = root / "_build/assignments"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    wheel = notebooks.wheel(root, target)
    asked = questions(root)
    for page, texts in asked.items():
        make(target / page, texts, setup(root, wheel))
    print(f"{len(asked)} assignments in {target}", flush=True)
    return 0 if options.no_grading else grading.keep(root, asked)


def questions(root: Path) -> dict[str, dict[str, str]]:
    """What each chapter asks: checked exercises by name, as Markdown, numbered as on the site."""
    path = root / "_build/xrefs.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing: build the site first (python make.py book).")
    xrefs, known = json.loads(path.read_text(encoding="utf-8")), answers.load()
    macros = bookcache.config(root)["sphinx"]["config"]["distill_macros"]
    asked = {}
    for page in bookcache.chapters(root):
        context = notebooks.context_of(root, page, xrefs, {})
        texts = dict(exercises(page.read_text(encoding="utf-8"), context))
        checked = {name: expand(text, macros) for name, text in texts.items() if name in known}
        if checked:
            title = f"# {xrefs['pages'][context.page]}: exercises\n\n{HEAD}"
            asked[page.stem] = {"": title, **checked}
    return asked


def exercises(text: str, context: Context) -> Iterator[tuple[str, str]]:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        fence = plainmyst.FENCE.match(line)
        if fence and fence["info"].strip() in {"{exercise}", "{exercise-start}"}:
            body = lines[number + 1 : plainmyst.closing(lines, number, fence["fence"])]
            options, _ = plainmyst.split_options(body)
            yield options["label"], plainmyst.rewrite_directive("exercise", "", body, context)


def setup(root: Path, wheel: Path) -> str:
    """The cell that installs what a student's machine lacks."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    needs = notebooks.listed({**notebooks.NEEDS[""], "otter": "otter-grader"})
    site = addresses.find(root).site
    return notebooks.SETUP.format(wheel=wheel.name, digest=digest, site=site, needs=needs)


def make(target: Path, texts: Mapping[str, str], install: str) -> None:
    """The folders ``student`` and ``autograder`` of an assignment, by otter."""
    name = target.name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.ipynb"
        nbformat.write(master(name, texts, install), path)
        # it prints what it does, and a summary; where it fails, it raises
        with contextlib.redirect_stdout(None):
            otter("assign").main(str(path), str(target), no_run_tests=True)
    (made,) = (target / "autograder").glob("*.zip")
    made.rename(target / "autograder/autograder.zip")


def master(name: str, texts: Mapping[str, str], install: str) -> Any:
    """A notebook as `otter assign` reads it."""
    note, code, raw = (getattr(nbformat.v4, f"new_{kind}_cell") for kind in KINDS_OF_CELLS)
    ignored = {"tags": ["otter_ignore"], "jupyter": {"source_hidden": True}}
    cells = [raw(CONFIG.format(name=name)), note(texts[""]), code(install, metadata=ignored)]
    cells.append(code(IMPORTS.format(name=name)))
    for exercise in (answers.load()[key] for key in texts if key):
        about = {"name": exercise.id, "variable": variable(exercise.id)}
        answer = ANSWER.format(asked=wanted(exercise), known=KNOWN, right=right(exercise), **about)
        cells += [
            raw(f"# BEGIN QUESTION\nname: {exercise.id}\npoints: 1"),
            note(texts[exercise.id]),
            raw("# BEGIN SOLUTION"),
            code(answer),
            raw("# END SOLUTION"),
            raw("# BEGIN TESTS"),
            code(TEST.format(**about)),
            raw("# END TESTS"),
            raw("# END QUESTION"),
        ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def variable(name: str) -> str:
    """Where the answer to an exercise stands: ``divergences_1`` for ``ex-divergences-1``."""
    return name.removeprefix("ex-").replace("-", "_")


def right(exercise: Exercise) -> str:
    return f"answers.load()[{exercise.id!r}].right"


def wanted(exercise: Exercise) -> str:
    """What kind of answer is asked for."""
    if exercise.inputs is not None:
        return f"a function with the arguments {', '.join(exercise.inputs(0))}"
    return KINDS[exercise.kind]


def otter(module: str) -> Any:
    """A module of otter, for this process and the kernels that it starts."""
    if str(OTTER) not in sys.path:
        sys.path.append(str(OTTER))
        paths = [str(OTTER), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return importlib.import_module(f"otter.{module}")


if __name__ == "__main__":
    raise SystemExit(main())
