"""Style sheets without the rules, and an icon font without the icons, that no page uses.

The theme brings Bootstrap, its components and 1,400 icons to every page: over half a megabyte, of
which a page uses a tenth. A rule goes if its selector asks for a class or an id that no page and no
script of the site has; what a selector asks for in ``:not(…)`` and its like is not looked at.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import tinycss2
from fontTools import subset, ttLib
from sphinx.application import Sphinx

SHEETS = ("styles/pydata-sphinx-theme.css", "sphinx-design.min.css", "mystnb.*.css")
FONTS = "vendor/fontawesome/webfonts"
NAMES = re.compile(r'\b(?:class|id)="([^"]*)"')
WORD = re.compile(r"[\w-]+")
# Icons are letters for private use, written as themselves or by their number.
ICON = re.compile(r"[\ue000-\uf8ff]|\\[ef][0-9a-f]{3}\b")
# Compressed with Brotli, which Python cannot write: the few icons that are left need none.
COMPRESSED = re.compile(r'url\([^)]*/fa-[\w-]+\.woff2\) format\("woff2"\),?')
GROUPS = {"media", "supports", "layer", "container"}


def used(site: Path) -> set[str]:
    """Classes and ids of all pages, and every word of the scripts, which may make some."""
    words: set[str] = set()
    for page in site.rglob("*.html"):
        for names in NAMES.findall(page.read_text(encoding="utf-8")):
            words.update(names.split())
    for script in (site / "_static").rglob("*.js"):
        words.update(WORD.findall(script.read_text(encoding="utf-8")))
    return words


def needed(selector: list[tinycss2.ast.Node]) -> Iterator[str]:
    """The classes and ids without which a selector meets nothing."""
    for before, token in zip([None, *selector], selector, strict=False):
        if token.type == "hash" or (token.type == "ident" and before == "."):
            yield token.value


def split(prelude: list[tinycss2.ast.Node]) -> list[list[tinycss2.ast.Node]]:
    """The selectors of a list."""
    parts: list[list[tinycss2.ast.Node]] = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def lighter(sheet: str, has: Callable[[str], bool]) -> str:
    """The sheet without the rules that ask for what is not there.

    ``has`` says of the name of a class or an id whether the site has it.
    """
    return "".join(rules(tinycss2.parse_stylesheet(sheet, skip_comments=False), has))


def rules(parsed: list[tinycss2.ast.Node], has: Callable[[str], bool]) -> Iterator[str]:
    for rule in parsed:
        if rule.type == "qualified-rule":
            kept = [part for part in split(rule.prelude) if all(map(has, needed(part)))]
            if kept:
                said = ",".join(tinycss2.serialize(part).strip() for part in kept)
                yield f"{said}{{{tinycss2.serialize(rule.content)}}}"
        elif rule.type == "at-rule" and rule.content and rule.lower_at_keyword in GROUPS:
            inside = "".join(rules(tinycss2.parse_rule_list(rule.content), has))
            if inside:
                asked = tinycss2.serialize(rule.prelude).strip()
                yield f"@{rule.at_keyword} {asked}{{{inside}}}"
        elif rule.type != "comment" or rule.value.startswith("!"):
            yield rule.serialize()


def fewer_icons(font: Path, codes: set[int]) -> None:
    """Leave these icons in a font."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells of every table
    options = subset.Options(name_IDs=[], hinting=False, notdef_outline=True)
    with ttLib.TTFont(font, recalcTimestamp=False) as icons:
        only = subset.Subsetter(options)
        only.populate(unicodes=codes)
        only.subset(icons)
        icons.save(font)


def lighten(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.name != "html":
        return
    static, names = Path(app.outdir) / "_static", used(Path(app.outdir))
    for sheet in sorted(path for glob in SHEETS for path in static.glob(glob)):
        text = lighter(sheet.read_text(encoding="utf-8"), names.__contains__)
        sheet.write_text(COMPRESSED.sub("", text), encoding="utf-8")
        sheet.with_name(f"{sheet.name}.map").unlink(missing_ok=True)  # of another sheet now
    sheets = [path.read_text(encoding="utf-8") for path in static.rglob("*.css")]
    icons = {icon for text in sheets for icon in ICON.findall(text)}
    codes = {ord(icon) if len(icon) == 1 else int(icon[1:], 16) for icon in icons}
    for font in (static / FONTS).glob("fa-*.ttf"):
        fewer_icons(font, codes)
        font.with_suffix(".woff2").unlink(missing_ok=True)


def setup(app: Sphinx) -> None:
    # After the repairs of distill_site, which take scripts away
    app.connect("build-finished", lighten, priority=900)
