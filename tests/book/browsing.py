"""A browser without a network, for tests that look at the built site."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import bookcache
import browser
from browser import opened, visit
from making import ROOT, missing

__all__ = [
    "CHAPTERS",
    "CUT",
    "LOOKED_AT",
    "PAGES",
    "PHONE",
    "WIDE",
    "chromium",
    "launched",
    "opened",
    "visit",
]

PAGES = [page.removesuffix(".md") for page in bookcache.pages(ROOT)]
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
# One style sheet draws all pages, and a browser takes half a minute for each: every third is looked
# at, and all where DISTILL_EVERYTHING asks for it, as the hosted workflow does.
STEP = 1 if os.environ.get("DISTILL_EVERYTHING") else 3
LOOKED_AT = [*CHAPTERS[::STEP], *[page for page in PAGES if page not in CHAPTERS][::STEP]]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# How many formulas end outside of the screen, with nothing to scroll.
CUT = """() => [...document.querySelectorAll(".bd-article math")].filter((formula) => {
  if (formula.getBoundingClientRect().right <= innerWidth) return false;
  for (let box = formula; box; box = box.parentElement) {
    if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
  }
  return true;
}).length"""


def chromium() -> str:
    found = browser.chromium()
    if found is None:
        missing(browser.WHERE)
    return str(found)


def launched() -> Iterator[Any]:
    with browser.launched(chromium()) as running:
        yield running
