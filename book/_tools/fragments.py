"""Parts of a page that Sphinx has written, found by their name.

Sphinx closes what it opens, so that counting the tags of one name finds an element's end.
"""

from __future__ import annotations

import html
import re

TAG = re.compile(r"<(?P<close>/?)(?P<name>[a-zA-Z][\w-]*)(?P<rest>[^<>]*)>")


def element(text: str, start: int) -> str:
    """The element that begins at a place of the page, with all that is in it."""
    opened = TAG.match(text, start)
    if opened is None:
        raise ValueError(f"no element begins at {start}: {text[start : start + 40]!r}")
    name, depth = opened["name"], 0
    for tag in re.compile(rf"<(/?){name}\b[^<>]*>").finditer(text, start):
        depth += -1 if tag[1] else 1
        if depth == 0:
            return text[start : tag.end()]
    raise ValueError(f"<{name}> is never closed")


def named(text: str, anchor: str) -> str:
    """The element with this id; empty where the page has none."""
    place = text.find(f' id="{anchor}"')
    return element(text, text.rfind("<", 0, place)) if place >= 0 else ""


def classed(text: str, tag: str, css: str) -> list[str]:
    """Every element of a tag and a class, the outer ones where they are nested."""
    out, place = [], 0
    opening = re.compile(rf'<{tag}\b[^<>]*\bclass="(?:[^"]* )?{css}(?: [^"]*)?"[^<>]*>')
    while found := opening.search(text, place):
        out.append(element(text, found.start()))
        place = found.start() + len(out[-1])
    return out


def words(text: str) -> str:
    """What a reader sees of it, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^<>]+>", "", text)).split())
