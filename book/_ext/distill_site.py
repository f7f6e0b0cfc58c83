"""Repairs of the built site: what the theme and viewcode leave that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

BACK = re.compile(r'<a class="viewcode-back" href="([^"#]+)#([^"]+)">\[docs\]</a>')
ID = re.compile(r'\bid="([^"]+)"')
# Templates of the theme's own build, with links to files that are not in the site.
LEFT_OVER = "_static/*-macros.html"


def mend(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    site = Path(app.outdir)
    for path in site.glob(LEFT_OVER):
        path.unlink()
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
    app.connect("build-finished", mend)
