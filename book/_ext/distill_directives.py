"""Directives that turn the ledgers into text, so that no cost and no result is typed.

``{cost}`` is the line under a chapter's title, ``{scoreboard}`` the table of all claims,
``{status}`` the table of all chapters. Each writes Markdown that is then parsed like the page.
``{live}`` shows a chapter's live figure on another page.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import addresses
import bookcache
import distill_chinese
import ledger
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.directives.code import LiteralInclude
from sphinx.locale import _
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

DOCSTRING = re.compile(r'\n[ ]*r?""".*?"""', re.DOTALL)
SIGNS = {">=": "≥", "<=": "≤", "==": "="}


FIND = """<div class="dl-find">
<label for="dl-find-claim">Which claim do you look for?</label>
<input id="dl-find-claim" type="search" autocomplete="off" spellcheck="false"
 placeholder="for example: temperature, Hinton, pruning"/>
<p role="status" aria-live="polite"></p>
</div>"""


class LedgerDirective(SphinxDirective):
    """Reads ledgers, writes Markdown."""

    def ledger(self, name: str) -> list[dict[str, Any]]:
        path = Path(self.env.srcdir) / "_build" / f"{name}.json"
        if not path.exists():
            log.warning("%s is missing: run book/_tools/ledger.py first", path.name)
            return []
        return json.loads(path.read_text(encoding="utf-8"))

    def markdown(self, text: str, css: str) -> list[nodes.Node]:
        box = nodes.container(classes=[css])
        self.state.nested_parse(StringList(text.splitlines(), "ledger"), self.content_offset, box)
        return [box]

    def chapter_link(self, chapter: str) -> str:
        depth = self.env.docname.count("/")
        # not all pages with code are in chapters/
        pages = sorted(page for page in self.env.found_docs if page.rpartition("/")[2] == chapter)
        page = pages[0] if pages else f"chapters/{chapter}"
        return f"[{self.title(chapter)}]({'../' * depth}{page}.md)"

    def title(self, chapter: str) -> str:
        pages = sorted(page for page in self.env.found_docs if page.rpartition("/")[2] == chapter)
        return bookcache.title(Path(self.env.doc2path(pages[0]))) if pages else chapter


class Cost(LedgerDirective):
    """Minutes, memory, downloads and the ways to run the chapter this stands in."""

    option_spec: ClassVar = {"downloads": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        chapter, runs = Path(self.env.docname).name, self.runs()
        if not runs:
            log.warning(
                "no cost is known of %s: was it executed?", chapter, location=self.get_location()
            )
        facts = [self.spent(row) for row in runs]
        facts.append(f"{_('downloads')}: {self.options.get('downloads', _('none'))}")
        (box,) = self.markdown(" · ".join([*facts, *self.links(chapter)]), "dl-cost")
        for text in box.findall(nodes.paragraph):
            text["translatable"] = False  # it is written anew in each language
        return [box]

    def runs(self) -> list[dict[str, Any]]:
        chapter = Path(self.env.docname).name
        return [row for row in self.ledger("costs") if row["chapter"] == chapter]

    def spent(self, row: dict[str, Any]) -> str:
        seconds = row["seconds"]
        time = (
            _("under a minute")
            if seconds < 55
            else _("{} min").format(math.ceil(seconds / 60 - 0.1))
        )
        memory = f", {row['peak_rss_mb'] / 1000:.1f} GB" if row["peak_rss_mb"] else ""
        device = row["device"].upper() if row["device"] in {"cpu", "cuda"} else row["device"]
        return f"{device}: {time}{memory}"

    def links(self, chapter: str) -> list[str]:
        address = addresses.Address(self.config.distill_repository, self.config.distill_site)
        colab = address.notebook_in_colab(chapter)
        links = [f"[{_('open in Colab')}]({colab})"] if colab else []
        files = ((_("download the notebook"), "ipynb"), (_("as Markdown"), "md"))
        return [*links, *(f"{{raw-file}}`{title} <{chapter}.{kind}>`" for title, kind in files)]


class Live(LedgerDirective):
    """The live figure of a chapter, as its execution made it; its argument is the chapter."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        found = [row["html"] for row in self.ledger("live") if row["chapter"] == self.arguments[0]]
        if not found:
            log.warning("%s has no live figure", self.arguments[0], location=self.get_location())
        return [nodes.raw("", html, format="html") for html in found[:1]]


class Scoreboard(LedgerDirective):
    """Every claim of the book, by page, and apart from them what this machine measured."""

    option_spec: ClassVar = {"machine": directives.flag}

    def run(self) -> list[nodes.Node]:
        kind = "machine" if "machine" in self.options else "claim"
        rows = [row for row in self.ledger("claims") if row["kind"] == kind]
        lines = [self.total(rows), ""]
        for chapter in dict.fromkeys(row["chapter"] for row in rows):
            own = [row for row in rows if row["chapter"] == chapter]
            cells = [self.measured(row) if kind == "machine" else self.claimed(row) for row in own]
            lines += [
                f":::{{dropdown}} {self.title(chapter)} ({len(own)})",
                *table(cells),
                ":::",
                "",
            ]
        found = self.markdown("\n".join(lines), "dl-table")
        if kind == "machine":
            return found
        up = "../" * self.env.docname.count("/")
        script = f'<script src="{up}_static/scoreboard.js"></script>'
        field = nodes.raw("", FIND, format="html")
        return [field, *found, nodes.raw("", script, format="html")]

    def total(self, rows: list[dict[str, Any]]) -> str:
        if "machine" in self.options:
            machines = sorted({row["machine"] for row in rows})
            return f"Measured on: {'; '.join(machines) or 'nothing was measured'}."
        held = sum(row["holds"] for row in rows)
        return f"{held} of {len(rows)} claims held when these pages were built."

    def claimed(self, row: dict[str, Any]) -> dict[str, str]:
        bound = f"{SIGNS[row['relation']]} {number(row['bound'])}"
        if row.get("tolerance"):
            bound += f" ± {number(row['tolerance'])}"
        return {
            "claim": f"{'' if row['holds'] else '**does not hold:** '}{row['text']}",
            "measured": number(row["value"]),
            "bound": bound,
            "seeds": str(row["seeds"] or "–"),
            "compared with": row["source"] or "–",
        }

    def measured(self, row: dict[str, Any]) -> dict[str, str]:
        return {"on this machine": row["text"], "compared with": row["source"] or "–"}


def table(rows: list[dict[str, str]]) -> list[str]:
    """A Markdown table of rows with the same columns."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        # claims are plain text: what would be markup in Markdown is escaped
        cells = [re.sub(r"([|$_<{`])", r"\\\1", cell) for cell in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


class Status(LedgerDirective):
    """What each chapter cost when these pages were built, and how many claims it makes."""

    def run(self) -> list[nodes.Node]:
        costs = self.ledger("costs")
        claims = Counter(c["chapter"] for c in self.ledger("claims") if c["kind"] == "claim")
        lines = ["| chapter | seconds | kWh | peak memory (MB) | claims | device | profile |"]
        lines.append("|---|--:|--:|--:|--:|---|---|")
        for row in costs:
            cells = [
                self.chapter_link(row["chapter"]),
                f"{row['seconds']:,.0f}",
                f"{ledger.kwh(row['seconds']):.5f}",
                f"{row['peak_rss_mb']:,}" if row["peak_rss_mb"] else "–",
                str(claims[row["chapter"]]),
                row["device"],
                row["profile"],
            ]
            lines.append("| " + " | ".join(cells) + " |")
        seconds = sum(row["seconds"] for row in costs)
        total = (
            f"Chapters: {len(costs)}. Seconds in all: {seconds:,.0f}. "
            f"At {ledger.WATTS} watts: {ledger.kwh(seconds):.4f} kWh."
        )
        return self.markdown("\n".join([total, "", *(lines if costs else [])]), "dl-table")


class Excerpt(LiteralInclude):
    """``literalinclude``, with ``:nodoc:`` without the docstring, which the API page has."""

    option_spec: ClassVar = {**LiteralInclude.option_spec, "nodoc": directives.flag}

    def run(self) -> list[nodes.Node]:
        found = super().run()
        for block in (b for node in found for b in node.findall(nodes.literal_block)):
            if "nodoc" in self.options:
                block.rawsource = DOCSTRING.sub("", block.rawsource, count=1)
                block.children = [nodes.Text(block.rawsource)]
        return found


def number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (f"{value:,}" if isinstance(value, int) else f"{value:,.4g}").replace("-", "\u2212")


def raw_file(name: str, rawtext: str, text: str, lineno: int, inliner: Any, *more: Any) -> Any:
    """A link to a generated file that is put into the site after Sphinx has ended: a notebook, or
    the page's Markdown, which lies beside it."""
    title, _, target = text.rstrip(">").partition(" <")
    env = inliner.document.settings.env
    folder = Path(env.docname).parent.as_posix() if target.endswith(".md") else "notebooks"
    refuri = distill_chinese.way(env, f"{folder}/{target}")
    return [nodes.reference(rawtext, title, refuri=refuri, classes=["dl-download"])], []


def setup(app: Sphinx) -> None:
    app.add_directive("literalinclude", Excerpt, override=True)
    app.add_directive("cost", Cost)
    app.add_directive("live", Live)
    app.add_directive("scoreboard", Scoreboard)
    app.add_directive("status", Status)
    app.add_role("raw-file", raw_file)
