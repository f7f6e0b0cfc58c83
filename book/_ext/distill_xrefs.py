"""Write _build/xrefs.json: what every reference of the book reads as, and where it leads.

The clean notebooks are made from the Markdown sources, which say ``{prf:ref}`thm-limit```. Only
Sphinx knows that this is "Theorem 1.2" and on which page, so it is asked at the end of a build.
"""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import Any

import chinese
from docutils import nodes
from docutils.utils import new_document
from sphinx import addnodes
from sphinx.application import Sphinx


def write(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html" or app.config.language == chinese.LANGUAGE:
        return
    references: dict[str, dict[str, str]] = {}
    for docname in sorted(app.env.found_docs, reverse=True):  # the last that says it is kept
        resolve(app, docname, references)
    pages = {name: title.astext() for name, title in app.env.titles.items()}
    record = {"references": references, "numbers": numbers(app.env), "pages": pages}
    target = Path(app.outdir).parent / "xrefs.json"
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")


def key(kind: str, target: str, title: str = "") -> str:
    """How the notebooks look a reference up; ``notebooks.py`` builds the same string."""
    return f"{kind}|{' '.join(target.lower().split())}|{' '.join(title.split())}"


def resolve(app: Sphinx, docname: str, found: dict[str, dict[str, str]]) -> None:
    """Each reference of one page that is not yet known, alone in a document of its own."""
    for node in reversed(list(app.env.get_doctree(docname).findall(addnodes.pending_xref))):
        title = node.astext() if node.get("refexplicit") else ""
        # Sphinx has made its quotes typographic, the source has not
        title = title.translate({0x2019: "'", 0x2018: "'", 0x201C: '"', 0x201D: '"'})
        name = key(node["reftype"], node["reftarget"], title)
        if name in found:
            continue
        document = new_document(docname)
        document.settings.env = app.env
        paragraph = nodes.paragraph("", "", node.deepcopy())
        document += paragraph
        app.env.resolve_references(document, docname, app.builder)
        link = next(iter(document.findall(nodes.reference)), None)
        found[name] = {"text": paragraph.astext(), "uri": address(docname, link)}


def address(docname: str, link: Any) -> str:
    """The link's target, relative to the site's root; empty when there is none."""
    if link is None:
        return ""
    page = f"{docname}.html"
    if "refuri" not in link:
        return f"{page}#{link['refid']}"
    if "://" in link["refuri"]:
        return link["refuri"]
    path, _, anchor = link["refuri"].partition("#")
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    return f"{joined}#{anchor}" if anchor else joined


def numbers(env: Any) -> dict[str, str]:
    """Label to "Theorem 1.2", "Exercise 1.3", "Figure 2.1" or "(1.4)"."""
    counted = {
        label: ".".join(map(str, digits))
        for kinds in env.toc_fignumbers.values()
        for labels in kinds.values()
        for label, digits in labels.items()
    }
    names = {}
    for label, entry in getattr(env, "proof_list", {}).items():
        number = "" if entry["nonumber"] else counted.get(label, "")
        names[label] = f"{entry['realtype'].title()} {number}".strip()
    for label, entry in getattr(env, "sphinx_exercise_registry", {}).items():
        if entry["type"].startswith("exercise"):
            names[label] = f"Exercise {counted.get(label, '')}".strip()
    for label, (_, number) in env.get_domain("math").equations.items():
        names[label] = f"({counted.get(nodes.make_id(f'equation-{label}'), number)})"
    for label, (_, anchor, _) in env.get_domain("std").labels.items():
        if anchor in counted and label not in names:
            names[label] = f"Figure {counted[anchor]}"
    return names
