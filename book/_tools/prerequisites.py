"""Which chapter needs which, read from their lines "You need …", as one nested list.

A chapter stands under the one of its needs that is reached last; what else it needs is named beside
it, unless that is needed on the way there anyway.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

import bookcache

LABEL = re.compile(r"^\(([\w-]+)\)=\n+# (.+)$", re.MULTILINE)
NEED = re.compile(r"^You need (.*?\.)(?=\s|$)", re.MULTILINE | re.DOTALL)
REF = re.compile(r"\{ref\}`(?:[^`<]*<)?([\w-]+)>?`")


@dataclass(frozen=True)
class Chapter:
    """A page, its title, and the pages that have to be read before it."""

    page: str
    title: str
    needs: tuple[str, ...]


def chapters(root: Path) -> dict[str, Chapter]:
    """Every chapter in reading order, with its direct needs.

    Raises:
        ValueError: A chapter needs itself, directly or by way of others.
    """
    names = [page for page in bookcache.pages(root) if page.startswith("chapters/")]
    texts = {page: (root / page).read_text(encoding="utf-8") for page in names}
    heads = {page: LABEL.search(text) for page, text in texts.items()}
    pages = {head[1]: page for page, head in heads.items() if head}
    found = {}
    for page, text in texts.items():
        said, head = NEED.search(text), heads[page]
        labels = REF.findall(said[1]) if said else []
        needs = dict.fromkeys(pages[label] for label in labels if label in pages)
        found[page] = Chapter(page, head[2] if head else Path(page).stem, tuple(needs))
    for page in found:
        behind(found, page, ())
    return found


def behind(found: dict[str, Chapter], page: str, way: tuple[str, ...] = ()) -> set[str]:
    """All that a chapter needs, directly or not."""
    if page in way:
        raise ValueError(f"needs itself: {' → '.join([*way[way.index(page) :], page])}")
    needs = set(found[page].needs)
    return needs.union(*(behind(found, need, (*way, page)) for need in needs))


def depth(found: dict[str, Chapter], page: str) -> int:
    """How many chapters stand before it on the longest way."""
    return max((1 + depth(found, need) for need in found[page].needs), default=0)


def outline(root: Path, page: str) -> str:
    """The nested list as Markdown, with the links that it takes on this page."""
    found = chapters(root)
    order = list(found)
    under: dict[str, list[str]] = {}
    beside: dict[str, list[str]] = {}
    for name, chapter in found.items():
        # what is needed for another need goes without saying
        implied = set().union(*(behind(found, need) for need in chapter.needs))
        left = [need for need in chapter.needs if need not in implied]
        last = max(left, key=lambda need: (depth(found, need), order.index(need)), default="")
        under.setdefault(last, []).append(name)
        beside[name] = [need for need in left if need != last]

    def link(name: str) -> str:
        title = found[name].title.partition(":")[0]
        return f"[{title}]({posixpath.relpath(name, posixpath.dirname(page) or '.')})"

    def lines(parent: str, indent: int) -> list[str]:
        out = []
        for name in under.get(parent, []):
            also = " and ".join(link(need) for need in beside[name])
            out.append(f"{'  ' * indent}- {link(name)}{f', with {also}' if also else ''}")
            out += lines(name, indent + 1)
        return out

    return "\n".join(lines("", 0))
