"""Words of the glossary lead there, the first time that a chapter uses them.

Only terms of more than one word, for those have one meaning; only within a line of running prose,
and not where a chapter links the term itself. ``_static/previews.js`` shows their definition.
"""

from __future__ import annotations

import re
from pathlib import Path

import bookcache
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

GLOSSARY = re.compile(r"^```\{glossary\}\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROSE = (nodes.document, nodes.section, nodes.bullet_list, nodes.enumerated_list, nodes.list_item)


def terms(root: Path) -> tuple[str, list[str]]:
    """The page of the glossary, and its terms of more than one word; empty where there is none."""
    for page in bookcache.pages(root):
        if found := GLOSSARY.search((root / page).read_text(encoding="utf-8")):
            lines = [line.strip() for line in found[1].splitlines() if line[:1].strip()]
            return page, [line for line in lines if re.search(r"[ -]", line)]
    return "", []


def link(app: Sphinx, doctree: nodes.document) -> None:
    if not app.env.docname.startswith("chapters/"):
        return
    page, left = terms(Path(app.srcdir))
    app.env.note_dependency(str(Path(app.srcdir) / page))
    said = {n["reftarget"].lower() for n in doctree.findall(addnodes.pending_xref)}
    patterns = {
        term: re.compile(rf"\b{re.escape(term)}s?\b", re.IGNORECASE)
        for term in left
        if term.lower() not in said
    }
    for text in [node for node in doctree.findall(nodes.Text) if is_prose(node)]:
        words = str(text)
        found = [(match, term) for term, p in patterns.items() if (match := p.search(words))]
        pieces, end = [], 0
        for match, term in sorted(found, key=lambda pair: pair[0].start()):
            if match.start() >= end:
                pieces += [nodes.Text(words[end : match.start()]), reference(app, match[0], term)]
                end = match.end()
                del patterns[term]
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(words[end:])])


def is_prose(text: nodes.Text) -> bool:
    """Of a paragraph that stands on the page itself: no caption, theorem, exercise or fold."""
    node = text.parent
    if not isinstance(node, nodes.paragraph):
        return False
    while node.parent is not None:
        node = node.parent
        if not isinstance(node, PROSE):
            return False
    return True


def reference(app: Sphinx, words: str, term: str) -> addnodes.pending_xref:
    shown = nodes.inline("", words, classes=["dl-term"])
    where = {"refdomain": "std", "reftype": "term", "reftarget": term, "refexplicit": True}
    return addnodes.pending_xref("", shown, refdoc=app.env.docname, refwarn=True, **where)


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", link, priority=950)
