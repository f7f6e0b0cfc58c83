"""How Sphinx writes the Chinese pages, and the way between the languages on both of their pages.

``book/_tools/chinese.py`` starts Sphinx again with what it has read for the English site and with
another language. Of that, only the pages that have a catalog are read again and written, to ``zh/``
in the same site; all that they need, and every page that has no translation, is the English site's.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import bookcache
import chinese
import plainmyst
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.util import logging
from sphinx.util.nodes import extract_messages
from sphinx.util.osutil import relative_uri

log = logging.getLogger(__name__)

KEPT = "论断的句子、代码和程序的输出保留英文。"
MISSING = "本页有 {} 段尚无译文，或英文在翻译之后有改动，以英文显示。"
# What is English on a Chinese page is read aloud as such; an emphasis of Chinese does not lean.
REPAIRS = (
    ('<div class="cell_output', '<div lang="en" class="cell_output'),
    ("<figcaption", '<figcaption lang="zh-CN"'),
    ("<em>et al.</em>", "<i>et al.</i>"),
)
pages = cache(chinese.pages)


class ChinesePages(StandaloneHTMLBuilder):
    """Writes what has a catalog to ``zh/``, and knows that everything else is where it was."""

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        uri = super().get_target_uri(docname, typ)
        return in_chinese(uri) if docname in pages(Path(self.srcdir)) else uri

    def get_outfilename(self, pagename: str) -> str:
        return str(Path(self.outdir) / self.get_target_uri(pagename))

    def copy_assets(self) -> None:
        """Scripts and styles are those of the English site, but for the words of the scripts."""
        self.copy_translation_js()

    def index_page(self, *_: Any) -> None:
        """What is found by the search are English pages."""

    def finish(self) -> None:
        """Pictures and indices are those of the English site."""


def in_chinese(uri: str) -> str:
    return f"{chinese.FOLDER}/{uri}"


def way(env: Any, target: str) -> str:
    """How the page that is read links a file of the site."""
    return relative_uri(env.app.builder.get_target_uri(env.docname), target)


def written(app: Sphinx) -> list[str]:
    """The pages that this run of Sphinx writes."""
    is_chinese = app.config.language == chinese.LANGUAGE
    return pages(Path(app.srcdir)) if is_chinese else list(app.env.found_docs)


def read_only(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """Of the pages, which the change of the language has made old, those that have a catalog.

    A site that was moved after it was built cannot be read again: then all pages are.
    """
    ours = pages(Path(app.srcdir))
    docnames[:] = [name for name in docnames if name in ours or name not in env.all_docs]


def glued(
    name: str,
    rawtext: str,
    text: str,
    lineno: int,
    inliner: Any,
    options: Any = None,
    content: Any = (),
) -> Any:
    """A number of the execution in a translated paragraph, which is read without its cells."""
    env = inliner.document.settings.env
    try:
        value = plainmyst.glue_value(text, numbers(Path(env.srcdir), env.docname))
    except ValueError as error:
        return [], [inliner.reporter.warning(str(error), line=lineno)]
    return [nodes.inline(rawtext, value, classes=["pasted-text"])], []


@cache
def numbers(root: Path, page: str) -> plainmyst.Context:
    _, notebook = bookcache.executed(bookcache.open_cache(root), root / f"{page}.md")
    return plainmyst.Context(root, page, "", glue=bookcache.glued(notebook))


def name_parts(app: Sphinx, doctree: nodes.document) -> None:
    """The parts of the book, which stand in the sidebar and come from ``_toc.yml``."""
    known = chinese.translations(Path(app.srcdir), app.env.docname)
    for tree in doctree.findall(addnodes.toctree):
        tree["caption"] = known.get(tree.get("caption"), tree.get("caption"))


def check_shown(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx passes over, in silence, what does not read as one paragraph."""
    known = chinese.translations(Path(app.srcdir), app.env.docname)
    for node, message in extract_messages(doctree):
        asked = known.get(message, message) != message and not isinstance(node, nodes.image)
        if asked and not node.get("translated", True):
            log.warning("the translation of %r is no paragraph", message, location=node)


def finish_page(app: Sphinx, doctree: nodes.document) -> None:
    """The question of the page in Chinese, and under it what is not."""
    root, page = Path(app.srcdir), app.env.docname
    known = chinese.translations(root, page)
    missing = sum(text not in known for text in chinese.messages(chinese.english(root, page)))
    place = next(iter(doctree.findall(nodes.title)))
    for said in (n for n in doctree.findall(nodes.paragraph) if "dl-question" in n["classes"]):
        place = said
        said[:] = [nodes.Text(known.get(said.rawsource, said.astext()))]
        app.env.metadata[page]["description"] = said.astext()
    words = KEPT + (MISSING.format(missing) if missing else "")
    note = nodes.paragraph("", words, classes=["dl-translated"])
    place.parent.insert(place.parent.index(place) + 1, note)


def languages(app: Sphinx, pagename: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Lead from each of the two pages to the other, for readers and for what reads the head."""
    if app.builder.name != "html" or pagename not in pages(Path(app.srcdir)):
        return
    uri, own = f"{pagename}.html", app.builder.get_target_uri(pagename)
    site = app.config.distill_site
    context["pageurl"] = site + own if site else None
    for code, target, name in (("en", uri, "English"), ("zh-CN", in_chinese(uri), "中文")):
        to = relative_uri(own, target)
        alternate = site + target if site else to or Path(uri).name
        context["metatags"] += f'<link rel="alternate" hreflang="{code}" href="{alternate}" />\n'
        if target != own:
            link = f'<a href="{to}" hreflang="{code}" lang="{code}">{name}</a>'
            line = f'</h1>\n<p class="dl-languages d-print-none">{link}</p>'
            context["body"] = context["body"].replace("</h1>", line, 1)
    if app.config.language == chinese.LANGUAGE:
        for text, repaired in REPAIRS:
            context["body"] = context["body"].replace(text, repaired)


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", languages, priority=970)
    if app.config.language != chinese.LANGUAGE:
        return
    app.add_builder(ChinesePages, override=True)
    app.add_role_to_domain("glue", "text", glued, override=True)
    app.connect("env-before-read-docs", read_only)
    # when the parts have come into the page, and before they are collected
    app.connect("doctree-read", name_parts, priority=300)
    app.connect("doctree-read", check_shown, priority=300)
    # after the question of the page stands under its title
    app.connect("doctree-read", finish_page, priority=910)
