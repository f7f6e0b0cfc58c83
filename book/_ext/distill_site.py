"""Repairs of the built site: what the theme leaves that leads nowhere, weighs much, or says little.

A page's front matter has its ``description``, the question that it answers; search results show it.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from distill_cards import card
from docutils import nodes
from sphinx.application import Sphinx

BACK = re.compile(r'<a class="viewcode-back" href="([^"#]+)#([^"]+)">\[docs\]</a>')
ID = re.compile(r'\bid="([^"]+)"')
# Templates of the theme's own build, with links to files that are not in the site.
LEFT_OVER = "_static/*-macros.html"
# Half of a page's weight: draws as SVG the icons that the theme's web font already shows.
ICONS = re.compile(r"\s*<script[^>]*/fontawesome\.js[^>]*></script>")
# What only the page of the search needs; all others send their readers there.
SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^>]*></script>'
)
DESCRIBED = re.compile(r'(<meta (?:name="description"|property="og:description") content=")[^"]*')
NOWHERE = re.compile(r'<meta property="og:url" content="(?!https?:)[^"]*" />\s*')


def describe(app: Sphinx, pagename: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """The question of the page in place of its first words, and no address where there is none."""
    tags = NOWHERE.sub("", context.get("metatags", ""))
    said = app.env.metadata.get(pagename, {}).get("description") or opening(tree)
    if said:
        text = html.escape(str(said), quote=True)
        tags = DESCRIBED.sub(lambda match: match[1] + text, tags) + card(app, pagename, str(said))
    context["metatags"] = tags


def opening(tree: Any) -> str:
    """The first sentence of a page that asks no question."""
    for text in tree.findall(nodes.paragraph) if tree is not None else ():
        if "dl-translated" not in text["classes"]:
            return re.split(r"(?<=[.?!])\s|(?<=[。？！])", " ".join(text.astext().split()))[0]
    return ""


def mend(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    site = Path(app.outdir)
    for path in site.glob(LEFT_OVER):
        path.unlink()
    for path in (site / "_static/scripts").glob("fontawesome.js*"):
        path.unlink()
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        lighter = ICONS.sub("", text)
        if path.name != "search.html":
            lighter = SEARCH.sub("", lighter)
        if lighter != text:
            path.write_text(lighter, encoding="utf-8")
    anchors: dict[Path, set[str]] = {}
    for path in (site / "_modules").rglob("*.html"):
        text = path.read_text(encoding="utf-8")

        def keep(match: re.Match[str], path: Path = path) -> str:
            target = (path.parent / match[1]).resolve()
            if target not in anchors:
                there = target.read_text(encoding="utf-8") if target.exists() else ""
                anchors[target] = set(ID.findall(there))
            return match[0] if match[2] in anchors[target] else ""

        mended = BACK.sub(keep, text)
        if mended != text:
            path.write_text(mended, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", describe, priority=950)
    app.connect("build-finished", mend)
