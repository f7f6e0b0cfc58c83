"""``{student} NAME``: a student that runs in the page, made while the site is built."""

from __future__ import annotations

from pathlib import Path

import distill_chinese
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = "_static/live"


class Student(SphinxDirective):
    """Its argument is a module of ``distill_lib.booktools.students``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from distill_lib.booktools import students

        made = students.figure(self.arguments[0])
        folder = Path(self.env.app.outdir) / FOLDER
        for name, content in made.files.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        way = distill_chinese.way(self.env, FOLDER)
        return [nodes.raw("", made.html.replace(students.STATIC, way), format="html")]


def setup(app: Sphinx) -> None:
    app.add_directive("student", Student)
