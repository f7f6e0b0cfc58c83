"""``{student} NAME``: a student that runs in the page, made while the site is built.

With ``:name:`` and ``:caption:`` it is a figure with a number, to which the text can refer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import distill_chinese
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = "_static/live"


class Student(SphinxDirective):
    """Its argument is a module of ``distill_lib.booktools.students``."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "name": directives.unchanged_required,
        "caption": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        from distill_lib.booktools import students

        made = students.figure(self.arguments[0])
        folder = Path(self.env.app.outdir) / FOLDER
        for name, content in made.files.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        way = distill_chinese.way(self.env, FOLDER)
        runs = nodes.raw("", made.html.replace(students.STATIC, way), format="html")
        if "caption" not in self.options:
            return [runs]
        words, faults = self.state.inline_text(self.options["caption"], self.lineno)
        caption = nodes.caption(self.options["caption"], "", *words)
        self.set_source_info(caption)  # without it, nothing is there to translate
        figure = nodes.figure("", runs, caption)
        figure["classes"].append("dl-run")
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure, *faults]


def setup(app: Sphinx) -> None:
    app.add_directive("student", Student)
