"""Symptoms of mistakes: a line at each exhibit of the museums, a page of all, a file for programs.

``{symptoms}`` stands under the title of an exhibit, ``{symptom-index}`` on the page that collects
them; ``errata.json`` is written into the site. What each of them shows is read by
``book/_tools/symptoms.py`` from one place, the sources of the museums.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import symptoms
from distill_directives import LedgerDirective
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)

PAGE = "symptoms.html"  # beside the museums
FIELD = """<div class="dl-find">
<label for="dl-find-symptom">What do you see?</label>
<input id="dl-find-symptom" type="search" autocomplete="off" spellcheck="false"
 placeholder="for example: NaN, negative, slow" aria-controls="dl-symptoms"/>
<p id="dl-found" role="status" aria-live="polite"></p>
</div>"""


class Symptoms(LedgerDirective):
    """The line under the title of an exhibit; what the text does not name, it names."""

    has_content = True
    option_spec: ClassVar = {"repair": directives.unchanged, "test": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        line = nodes.paragraph(classes=["dl-symptoms"])
        line += nodes.Text("What one sees: ")
        for place, symptom in enumerate(symptoms.lines("\n".join(self.content))):
            line += nodes.Text(" · " if place else "")
            line += nodes.reference("", symptom, refuri=f"{PAGE}#{slug(symptom)}", internal=True)
        names = {"Repaired by": "repair", "Held by": "test"}
        shows = {"repair": repaired, "test": tested}
        said = [
            f"{words} {', '.join(map(shows[key], symptoms.names(self.options[key])))}"
            for words, key in names.items()
            if key in self.options
        ]
        return [line, *(self.markdown(" · ".join(said), "dl-symptoms") if said else [])]


class SymptomIndex(LedgerDirective):
    """All symptoms, each with the exhibits that cause it, and a field that looks for words."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        for page in symptoms.MUSEUMS:
            self.env.note_dependency(str(root / f"{page}.md"))
        everything = nodes.container(ids=["dl-symptoms"])
        for symptom, causes in symptoms.grouped(symptoms.read(root)).items():
            box = nodes.container(classes=["dl-symptom"], ids=[slug(symptom)])
            text = [f"**{symptom}**", "", *(row(exhibit) for exhibit in causes)]
            self.state.nested_parse(StringList(text, "symptoms"), self.content_offset, box)
            everything += box
        up = "../" * self.env.docname.count("/")
        after = f'<script src="{up}_static/symptoms.js"></script>'
        link = f'<p><a href="{up}{symptoms.FILE}" download>{symptoms.FILE}</a></p>'
        return [
            nodes.raw("", FIELD, format="html"),
            everything,
            nodes.raw("", after + link, format="html"),
        ]


def row(exhibit: symptoms.Exhibit) -> str:
    """An exhibit with its repairs and the first of its tests."""
    if not (exhibit.anchor and exhibit.repair and exhibit.test):
        log.warning("%s: %r lacks a label, a repair or a test", exhibit.page, exhibit.title)
    repairs = ", ".join(repaired(name) for name in exhibit.repair)
    held = "".join(f" ({tested(test)})" for test in exhibit.test[:1])
    return f"- {{ref}}`{exhibit.title} <{exhibit.anchor}>`: {repairs}{held}"


def repaired(name: str) -> str:
    return f"{{py:obj}}`{name}`"


def tested(test: str) -> str:
    file, _, name = test.partition("::")
    return f"{{src}}`{name} <{file}>`"


def slug(symptom: str) -> str:
    return "see-" + re.sub(r"[^a-z0-9]+", "-", symptom.lower()).strip("-")


def write(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        symptoms.write(Path(app.srcdir), Path(app.outdir))


def setup(app: Sphinx) -> None:
    app.add_directive("symptoms", Symptoms)
    app.add_directive("symptom-index", SymptomIndex)
    app.connect("build-finished", write)
