"""``{graded}``: what otter said to the known answers, from ``book/assignments.json``."""

from __future__ import annotations

from pathlib import Path

import marks
from distill_challenge import table
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Graded(SphinxDirective):
    """A sentence that says when, and the table."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(root / marks.RECORD))
        return [nodes.paragraph("", marks.said(root)), *table(marks.rows(root))]


def setup(app: Sphinx) -> None:
    app.add_directive("graded", Graded)
