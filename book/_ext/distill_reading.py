"""What a chapter offers to those who read it: how much code is shown, and where to go on.

Under the question of a page stands the switch of ``_static/reading.js``; at its foot, below the
titles of the page before and the page after, stand the questions that these answer.
``{prerequisites}`` is the map of the chapters, made from what they say that one needs.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import prerequisites
from distill_directives import LedgerDirective
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.locale import _

QUESTION = '<p class="dl-question">'
INSIDE = re.compile(r'<div class="dl-before-inside[^>]*>')
CHOICES = (("text", "Text"), ("key", "Key code"), ("all", "All code"))


def switch(place: str) -> str:
    """Three radio buttons, which the keyboard knows; hidden where no script can answer them."""
    buttons = "".join(
        f'<label><input type="radio" name="dl-shown-{place}" value="{value}"'
        f"{' checked' if value == 'key' else ''}><span>{_(label)}</span></label>"
        for value, label in CHOICES
    )
    css = f"dl-shown dl-shown-{place} pst-js-only d-print-none"
    return f'<fieldset class="{css}"><legend>{_("Show")}</legend>{buttons}</fieldset>'


def offer(app: Sphinx, pagename: str, template: str, context: dict[str, Any], *_tree: Any) -> None:
    """Put the switch under the question of a page, and the questions around it at its foot."""
    if app.builder.name != "html":
        return
    before, found, after = context.get("body", "").partition(QUESTION)
    if found:
        said, end, rest = after.partition("</p>")
        # a phone has no room for it above the first picture: there it is in the fold
        rest = INSIDE.sub(lambda match: match[0] + switch("fold"), rest, count=1)
        context["body"] = f"{before}{found}{said}{end}\n{switch('page')}{rest}"
    _, earlier, later = app.builder.relations.get(pagename, (None, None, None))  # type: ignore[attr-defined]
    for place, name in (("prev", earlier), ("next", later)):
        question = app.env.metadata.get(name, {}).get("description") if name else None
        if question and context.get(place):
            said = html.escape(str(question), quote=False)
            title = context[place]["title"]
            context[f"{place}_title"] = f'{title} <span class="dl-goes-on">{said}</span>'


class Prerequisites(LedgerDirective):
    """Every chapter under the one that has to be read before it."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        page = self.env.doc2path(self.env.docname, base=False)
        for chapter in prerequisites.chapters(root):
            self.env.note_dependency(str(root / chapter))
        return self.markdown(prerequisites.outline(root, str(page)), "dl-needs")


def setup(app: Sphinx) -> None:
    app.add_directive("prerequisites", Prerequisites)
    app.connect("html-page-context", offer, priority=960)
