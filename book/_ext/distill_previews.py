"""What a link leads to, in small: definitions, works, theorems, figures and equations on hover.

When Sphinx has written all pages, the target of each link to one of these on another page is put
into the page, as data of ``_static/previews.js``, which nothing has to fetch. What a page holds
itself is copied by the script. Links inside of a preview are words: nobody could reach them there.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

import distill_chinese
import fragments
from sphinx.application import Sphinx

LINK = re.compile(r'<a class="[^"]*\breference internal\b[^"]*" href="([^"#:]+)#([^"]+)"')
HEADERLINK = re.compile(r'<a class="headerlink"[^<>]*>.*?</a>', re.DOTALL)
LINKS = re.compile(r"</?a\b[^<>]*>")
BACKLINKS = re.compile(r'<span class="backrefs">.*?</span>', re.DOTALL)
NAMES = re.compile(r' (?:id|role|title|aria-[\w-]+|data-[\w-]+)="[^"]*"')
SOURCE = re.compile(r'(<img\b[^<>]*\bsrc=")([^":]+)"')
PREVIEWED = re.compile(r'<(?:figure|div[^<>]*class="(?:proof|citation|math|exercise)\b|dt)[^<>]*')
LONGEST = 1_200  # letters; a proof is read where it stands


def write(app: Sphinx, error: Exception | None) -> None:
    """Put the previews into the pages, the last thing of a build."""
    if error is not None or app.builder.name != "html":
        return
    site = Path(app.outdir)

    @cache
    def read(page: str) -> str:
        path = site / page
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    for docname in sorted(distill_chinese.written(app)):
        page = app.builder.get_target_uri(docname)
        if found := previews(read, page):
            # "<" could end the element that holds the data, or change how it is read
            data = json.dumps(found, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c")
            line = f'<script type="application/json" id="dl-previews">{data}</script>\n'
            text = read(page).replace("</body>", f"{line}</body>", 1)
            (site / page).write_text(text, encoding="utf-8")


def previews(read: Any, page: str) -> dict[str, str]:
    """For each link of a page that leads to one of these on another page: the target in small."""
    found = {}
    for path, anchor in sorted(set(LINK.findall(read(page)))):
        there = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        shown = preview(read(there), html.unescape(anchor))
        if shown and there != page:
            found[html.unescape(f"{path}#{anchor}")] = moved(shown, there, page)
    return found


def preview(text: str, anchor: str) -> str:
    """The target's HTML; empty where it is a section or code, or too long to be read in passing."""
    target = fragments.named(text, anchor)
    if not PREVIEWED.match(target):
        return ""
    if target.startswith("<dt"):
        if not anchor.startswith("term-"):
            return ""
        place = text.find("<dd", text.find(target))
        meaning = fragments.element(text, place)[len("<dd>") : -len("</dd>")]
        target = f"<p><strong>{fragments.words(HEADERLINK.sub('', target))}</strong></p>{meaning}"
    for pattern in (HEADERLINK, BACKLINKS, LINKS, NAMES):
        target = pattern.sub("", target)
    return target if len(fragments.words(target)) <= LONGEST else ""


def moved(shown: str, there: str, page: str) -> str:
    """With the addresses of its pictures as the page that shows it needs them."""

    def move(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(there), match[2]))
        return f'{match[1]}{posixpath.relpath(path, posixpath.dirname(page) or ".")}"'

    return SOURCE.sub(move, shown)


def setup(app: Sphinx) -> None:
    # after the repairs of the pages, which read and write them too
    app.connect("build-finished", write, priority=900)
