"""Every link of the built site leads somewhere, and none to an address that nobody has said."""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import addresses
import pytest
from making import ROOT

pytestmark = pytest.mark.site


class Links(HTMLParser):
    """What a page links, loads and can be linked at."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {str(found[key]) for key in ("id", "name") if found.get(key)}
        if tag in {"a", "link", "img", "script", "source", "video"}:
            self.links += [str(found[key]) for key in ("href", "src") if found.get(key)]
        if tag == "meta" and found.get("property") in {"og:url", "og:image"}:
            self.links.append(str(found.get("content", "")))


@cache
def read(path: Path) -> Links:
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def pages(site: Path) -> list[Path]:
    found = list(site.rglob("*.html"))
    assert len(found) > 50
    return found


def test_no_link_inside_the_site_is_dead(site):
    dead = []
    for page in pages(site):
        for link in read(page).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            where = f"{page.relative_to(site)}: {link}"
            if not target.exists():
                dead.append(where)
            elif parts.fragment and target.suffix == ".html":
                dead += [] if unquote(parts.fragment) in read(target).anchors else [where]
    assert not dead, "\n".join(dead[:20])


def test_no_page_names_an_address_that_nobody_has_said(site):
    address = addresses.find(ROOT)
    said = [part for part in (address.repository, address.site) if part]
    for page in pages(site):
        for link in read(page).links:
            host = urlsplit(link).netloc
            if "github.io" in host or "colab.research" in host:
                path = address.repository.removeprefix("https://github.com/")
                assert any(link.startswith(part) for part in said) or (path and path in link), (
                    f"{page.name}: {link}"
                )
