"""``{challenge}``: the entries of the challenge, from ``challenge/results.json``.

``{challenge} rules`` is the table of the tasks, ``{challenge} TASK`` that of a task's entries. What
strangers wrote becomes text and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = "challenge/results.json"
SHOWN = {"lander": "{:.1f}", "garments": "{:.2%}", "reviews": "{:.2%}"}


class Challenge(SphinxDirective):
    """Its argument is ``rules`` or a task."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / RESULTS
        self.env.note_dependency(str(path))
        known = json.loads(path.read_text(encoding="utf-8"))
        asked = self.arguments[0]
        if asked == "rules":
            rows = [[name, *task.values()] for name, task in known["tasks"].items()]
            return table(["task", "bar", "bytes at most", "networks, with their bounds"], rows)
        if asked not in known["tasks"]:
            raise self.error(f"there is no task {asked!r}")
        own = [one for one in known["entries"] if one["task"] == asked]
        own.sort(key=lambda one: (not one["passes"], one["bytes"], one["name"]))
        return table(["entry", "bytes", "score", "made by whom, how and when"], map(cells, own))


def cells(entry: dict[str, Any]) -> list[str]:
    score = SHOWN[entry["task"]].format(entry["score"])
    scored = f"Scored {entry['day']} over {entry['items']:,}"
    if entry["task"] == "lander":
        scored += f", with seeds {entry['seeds']}"
    return [
        entry["name"],
        f"{entry['bytes']:,}",
        score if entry["passes"] else f"{score}, below the bar",
        f"{entry['track'].capitalize()}, by {entry['author']}: {entry['how']}. {scored}.",
    ]


def table(head: list[str], rows: Any) -> list[nodes.Node]:
    """A table of plain text."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", row(head))
    group += nodes.tbody("", *map(row, rows))
    return [nodes.container("", nodes.table("", group), classes=["dl-table"])]


def row(texts: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", nodes.Text(t))) for t in texts))


def setup(app: Sphinx) -> None:
    app.add_directive("challenge", Challenge)
