"""The book's Sphinx extension: checks and repairs; directives and references are beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

sys.path.append(str(Path(__file__).resolve().parents[1] / "_tools"))
import addresses
import distill_cells
import distill_challenge
import distill_chinese
import distill_directives
import distill_light
import distill_marks
import distill_math
import distill_once
import distill_previews
import distill_quiz
import distill_reading
import distill_site
import distill_sources
import distill_students
import distill_symptoms
import distill_terms
import distill_xrefs

log = logging.getLogger(__name__)


def say_where(app: Sphinx, config: Any) -> None:
    """Give the pages the book's address, or none of the buttons that need one."""
    address = addresses.find(Path(app.srcdir))
    config.distill_repository, config.distill_site = address.repository, address.site
    config.html_baseurl = config.ogp_site_url = address.site
    buttons = ("use_repository_button", "use_issues_button", "use_edit_page_button")
    config.html_theme_options = {
        **config.html_theme_options,
        **dict.fromkeys(buttons, bool(address.repository)),
        "repository_url": address.repository,
    }


def check_alt(app: Sphinx, doctree: nodes.document) -> None:
    """Every image has a text alternative; with -W a missing one fails the build."""
    for node in doctree.findall(nodes.image):
        alt = (node.get("alt") or "").strip()
        # Sphinx fills in the file's name, which tells a listener nothing.
        if not alt or "jupyter_execute" in alt or alt.endswith((".png", ".svg", ".jpg", ".gif")):
            log.warning("image without alt text: %s", node.get("uri"), location=node)


def prepare_other_builders(app: Sphinx) -> None:
    """Let builders such as singlehtml draw hidden cells: give them the handlers of html."""
    if app.builder.format == "html" and app.builder.name != "html":
        handlers = app.registry.translation_handlers
        own = handlers.get(app.builder.name, {})
        handlers[app.builder.name] = {**handlers.get("html", {}), **own}


def drop_thebe(app: Sphinx, pagename: str, template: str, context: dict[str, Any], _: Any) -> None:
    """sphinx-thebe, even switched off, adds its script twice: an error on each page."""
    context["script_files"] = [s for s in context.get("script_files", []) if not is_thebe(s)]


def is_thebe(script: Any) -> bool:
    body = str(getattr(script, "attributes", {}).get("body", ""))
    return "thebe" in str(getattr(script, "filename", script) or "") or "THEBE_JS_URL" in body


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("distill_repository", "", "env")
    app.add_config_value("distill_site", "", "env")
    app.connect("config-inited", say_where, priority=100)
    distill_directives.setup(app)
    distill_cells.setup(app)
    distill_challenge.setup(app)
    distill_marks.setup(app)
    distill_chinese.setup(app)
    distill_once.setup(app)
    distill_quiz.setup(app)
    distill_sources.setup(app)
    distill_site.setup(app)
    distill_light.setup(app)
    distill_math.setup(app)
    distill_reading.setup(app)
    distill_previews.setup(app)
    distill_students.setup(app)
    distill_symptoms.setup(app)
    distill_terms.setup(app)
    app.connect("builder-inited", prepare_other_builders)
    app.connect("doctree-read", check_alt)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", distill_xrefs.write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
