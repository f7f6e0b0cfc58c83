"""The page as its reader meets it: the question first, bookkeeping in folds.

A code cell says by a tag what it is for. The input of a ``work`` cell is read; that of a
``figure`` or a ``check`` stands in a fold under what came out of it; the ``setup`` cell goes, with
costs, goals and links, into the one folded line that the directive ``before`` writes under the
title. Above that line stands the question of the page, the ``description`` of its front matter.
"""

from __future__ import annotations

from typing import Any

from distill_directives import Cost
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.locale import _

FOLDED = {"figure": "Code of the figure", "check": "Code of these statements", "setup": "Set-up"}
UNSEEN = "Code of the numbers in the text"


class Before(Cost):
    """Costs, links, what to have read, what one will be able to do, and the set-up cell."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        (cost,) = super().run()
        spent = self.summary()
        inside = nodes.container(classes=["dl-before-inside"])
        inside += cost
        self.state.nested_parse(StringList(self.content), self.content_offset, inside)
        rest = _("set-up · what you will be able to do")
        return [fold(f"{_('Before you start')}{spent} · {rest}", inside)]

    def summary(self) -> str:
        runs = self.runs()
        return f" · {self.spent(runs[0]).partition(',')[0]}" if runs else ""


def fold(summary: str, *inside: nodes.Node, css: str = "dl-before") -> nodes.container:
    """A closed ``details`` element with these nodes in it."""
    opened = f'<details class="{css}"><summary>{summary}</summary>'
    box = nodes.container(classes=[f"{css}-box"])
    box += nodes.raw("", opened, format="html")
    box.extend(inside)
    box += nodes.raw("", "</details>", format="html")
    return box


def arrange(app: Sphinx, doctree: nodes.document) -> None:
    """Fold the cells of a page by their tags, and put its question under its title.

    The set-up cells that a page begins with go into the line before which they stand; a later one
    needs what was run before it, and is folded where it is.
    """
    opening = True
    for cell in list(doctree.findall(is_cell)):
        tags = {c.removeprefix("tag_") for c in cell["classes"]}
        opening = opening and "setup" in tags
        if opening:
            take_in(doctree, cell)
        elif kinds := tags & set(FOLDED):
            source, shows = cell.children[0], len(list(cell.findall(is_shown))) > 0
            cell.remove(source)
            cell += fold(_(FOLDED[kinds.pop()] if shows else UNSEEN), source, css="dl-code")
    if list(doctree.findall(is_before)):
        question = app.env.metadata[app.env.docname].get("description", "")
        title = next(iter(doctree.findall(nodes.title)))
        said = nodes.paragraph(str(question), str(question), classes=["dl-question"])
        said.source, said.line = title.source, title.line  # what has a source is translated
        title.parent.insert(title.parent.index(title) + 1, said)


def take_in(doctree: nodes.document, cell: Any) -> None:
    """Move the set-up cell into the line before which it stands."""
    inside = next((n for n in doctree.findall(nodes.container) if is_inside(n)), None)
    if inside is not None:
        cell.parent.remove(cell)
        inside += cell


def is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def is_shown(node: nodes.Node) -> bool:
    """An output that a reader sees; glued numbers are not."""
    if isinstance(node, nodes.container) and node.get("nb_element") == "mime_bundle":
        kinds = {child.get("mime_type", "") for child in node.children}
        return not all(kind.startswith("application/papermill.record") for kind in kinds)
    return isinstance(node, nodes.literal_block) and "output" in node["classes"]


def is_before(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and "dl-before-box" in node["classes"]


def is_inside(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and "dl-before-inside" in node["classes"]


def name_checkers(app: Sphinx, doctree: nodes.document) -> None:
    """Say under an exercise what its checker is called, which else stands in the solution only."""
    code = "".join(block.astext() for block in doctree.findall(nodes.literal_block))
    for exercise in doctree.findall(is_exercise):
        name = exercise["label"]
        if f'check("{name}"' in code and name not in exercise.astext():
            said = nodes.paragraph("", f"{_('Its checker:')} ", classes=["dl-checker"])
            said += nodes.literal("", name)
            exercise.children[-1].append(said)


def is_exercise(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Element) and node.get("type") == "exercise"


def setup(app: Sphinx) -> None:
    app.add_directive("before", Before)
    app.connect("doctree-read", name_checkers)
    # after the collector of the metadata
    app.connect("doctree-read", arrange, priority=900)
