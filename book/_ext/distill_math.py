"""Formulas as MathML, made when the book is built: the browser draws it, and readers read it aloud.

No script runs for a formula, and nothing moves when it has come. The letters are those of STIX Two
Math, of which the site gets what its formulas need; a browser without it takes a font of its own.
"""

from __future__ import annotations

import html
import logging as standard_logging
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NoReturn

from docutils import nodes
from fontTools import subset, ttLib
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

log = logging.getLogger(__name__)

SOURCE = "ziamath", "ziamath/fonts/STIXTwoMath-Regular.ttf"  # any package that ships it would do
FONT = "_static/fonts/stix-two-math.woff"
CLASS = "math notranslate nohighlight"
FORMULA = re.compile(r"<math\b.*?</math>", re.DOTALL)
TAG = re.compile(r"<[^<>]*>")
ENVIRONMENT = re.compile(r"\\begin\{(\w+)\}.*?\\end\{\1\}", re.DOTALL)
BEFORE, AFTER = re.compile(r"[(\[“‘（「]+$"), re.compile(r"^[.,;:!?)\]”’。，、；：！？）」]+")
ABOUT = (0, 13, 14)  # what a font says of its copyright, its license, and where that stands


def mathml(app: Any, node: nodes.Element, displayed: bool) -> str:
    """A formula as MathML; what cannot be read stays as it is, and fails a build with ``-W``."""
    tex = node.astext()
    if displayed and r"\\" in ENVIRONMENT.sub("", tex):  # lines without what lays them out
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    converter = LatexToMathML(macros=app.config.distill_macros, fancy_error=False)
    try:
        return converter.convert_with_local_state(tex, displaystyle=displayed)
    except LatexError as error:
        log.warning("no formula: %s (%s)", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def visit_inline(writer: Any, node: nodes.math) -> NoReturn:
    inside = mathml(writer.builder.app, node, displayed=False)
    writer.body.append(f"{writer.starttag(node, 'span', '', CLASS=CLASS)}{inside}</span>")
    raise nodes.SkipNode


def visit_displayed(writer: Any, node: nodes.math_block) -> NoReturn:
    writer.body.append(writer.starttag(node, "div", CLASS=CLASS))
    if node["number"]:
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({number})')
        writer.add_permalink_ref(node, "Link to this equation")
        writer.body.append("</span>")
    inside = mathml(writer.builder.app, node, displayed=True)
    writer.body.append(f"{inside}</div>\n")
    raise nodes.SkipNode


def together(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """No line ends between a formula and the comma after it, or the bracket before it."""
    for node in list(doctree.findall(nodes.math)):
        parent, parts = node.parent, [node.deepcopy()]
        at = parent.index(node)
        for place, mark in ((at - 1, BEFORE), (at + 1, AFTER)):
            text: Any = parent[place] if 0 <= place < len(parent) else None
            found = mark.search(text) if isinstance(text, nodes.Text) else None
            if found:
                # by its place: texts that say the same are equal
                parent[place] = nodes.Text(text[: found.start()] + text[found.end() :])
                parts.insert(0 if place < at else len(parts), nodes.Text(found[0]))
        if len(parts) > 1:
            parent[at] = nodes.inline("", "", *parts, classes=["dl-together"])


def letters(site: Path) -> set[int]:
    """What the formulas of all pages are written in."""
    found: set[int] = set(range(ord("0"), ord("z")))
    for page in site.rglob("*.html"):
        for formula in FORMULA.findall(page.read_text(encoding="utf-8")):
            found.update(map(ord, html.unescape(TAG.sub("", formula))))
    return found


def write_font(app: Sphinx, error: Exception | None) -> None:
    """The font with these letters and their larger forms, and its license."""
    if error is not None or app.builder.name != "html":
        return
    package, file = SOURCE
    target = Path(app.outdir) / FONT
    target.parent.mkdir(parents=True, exist_ok=True)
    standard_logging.getLogger("fontTools").setLevel(standard_logging.WARNING)  # tells every table
    options = subset.Options(name_IDs=[*ABOUT, 1], layout_features=["*"], hinting=False)
    with ttLib.TTFont(distribution(package).locate_file(file), recalcTimestamp=False) as font:
        only = subset.Subsetter(options)
        only.populate(unicodes=letters(Path(app.outdir)))
        only.subset(font)
        font.flavor = "woff"
        font.save(target)
        said = [font["name"].getDebugName(number) for number in ABOUT]
    text = "\n\n".join(filter(None, said))
    target.with_suffix(".LICENSE.txt").write_text(f"{text}\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.add_config_value("distill_macros", {}, "env")
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_displayed, None))
    app.connect("doctree-resolved", together)
    app.connect("build-finished", write_font)
