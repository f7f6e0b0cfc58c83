"""A browser without a network, for tests that look at the built site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bookcache
import browser
from browser import opened, visit
from making import ROOT, missing

__all__ = ["CHAPTERS", "CUT", "PAGES", "PHONE", "WIDE", "chromium", "launched", "opened", "visit"]

PAGES = [page.removesuffix(".md") for page in bookcache.pages(ROOT)]
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# How many formulas end outside of the screen, with nothing to scroll.
CUT = """() => [...document.querySelectorAll(".bd-article mjx-math")].filter((formula) => {
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
