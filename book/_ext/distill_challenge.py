"""``{challenge}``: the entries of the challenge, from ``challenge/results.json``.

``{challenge} rules`` is the table of the tasks, ``{challenge} TASK`` that of a task's entries. What
strangers wrote becomes text and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import scores
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Challenge(SphinxDirective):
    """Its argument is ``rules`` or a task."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(root / scores.RESULTS))
        try:
            return table(scores.rows(root, self.arguments[0]))
        except KeyError as error:
            raise self.error(f"there is no task {error}") from None


def table(rows: Sequence[Sequence[str]]) -> list[nodes.Node]:
    """A table of plain text, its head first."""
    head, *body = rows
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", row(head))
    group += nodes.tbody("", *map(row, body))
    return [nodes.container("", nodes.table("", group), classes=["dl-table"])]


def row(texts: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", nodes.Text(t))) for t in texts))


def setup(app: Sphinx) -> None:
    app.add_directive("challenge", Challenge)
