"""The chapters as slides: all that a chapter shows is on them, and all of it fits."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slides
from browsing import CHAPTERS, opened
from fragments import classed, named, words
from making import ROOT, run_in

WALL = {"width": 1280, "height": 720}
LOOKED_AT = ["temperature_and_kl", "policy_distillation", "sharing_and_quantization"]
FIGURE = re.compile(r'<figure\b(?![^<>]*dl-run)[^<>]* id="([^"]+)"')
PROOF = re.compile(r'<div class="proof (?!admonition)[^<>]* id="([^"]+)"')
CLAIM = re.compile(r'<span class="dl-mark">.*?</span>(.*?)<', re.DOTALL)


@pytest.fixture(scope="module")
def decks(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("slides") / "slides"
    assert len(slides.write_all(ROOT, target)) == len(CHAPTERS)
    return target


def without_exercises(page: str) -> str:
    for left_out in ("exercises", "quiz"):
        page = page.replace(named(page, left_out) or "\0", "")
    return page


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_all_that_a_chapter_shows_is_on_its_slides(site, decks, name):
    page = without_exercises((site / f"{name}.html").read_text(encoding="utf-8"))
    deck = (decks / f"{Path(name).name}.html").read_text(encoding="utf-8")
    for kind in (FIGURE, PROOF, CLAIM):
        assert kind.findall(deck) == kind.findall(page), kind.pattern
    (question,) = classed(page, "p", "dl-question")
    assert words(question) == words(*classed(deck, "p", "dl-question"))
    assert deck.count('<section class="slide">') == deck.count("<footer>") > 12


@pytest.mark.site
@pytest.mark.parametrize("name", CHAPTERS)
def test_slides_need_nothing_from_elsewhere(decks, name):
    deck = (decks / f"{Path(name).name}.html").read_text(encoding="utf-8")
    wanted = re.findall(r'<(?:img|script|link|video|source)\b[^<>]*(?:src|href)="([^"]+)"', deck)
    for one in map(html.unescape, wanted):
        assert one.startswith("data:") or (decks / one.partition("?")[0]).is_file(), one


@pytest.mark.site
def test_an_index_leads_to_all_in_the_order_of_the_book(decks):
    text = (decks / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'href="(\w+)\.html"', text) == [Path(name).name for name in CHAPTERS]
    assert text.index("<h2>Foundations</h2>") < text.index("<h2>Policies</h2>")
    assert text.count("?</li>") == len(CHAPTERS)  # each with its question
    assert "(0 slides)" not in text


@pytest.fixture
def wall(browser: Any) -> Iterator[Any]:
    with opened(browser, WALL) as page:
        yield page


@pytest.mark.site
@pytest.mark.parametrize("name", LOOKED_AT)
def test_nothing_overflows_and_keys_move(wall, decks, name):
    wall.goto((decks / f"{name}.html").as_uri())
    wall.wait_for_selector("html[data-fitted]", state="attached")
    assert wall.outside == [] and wall.errors == []
    assert wall.evaluate("slides.filter(spills).length") == 0
    assert wall.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    sizes = wall.evaluate("slides.map(one => parseFloat(one.style.fontSize || 1))")
    assert min(sizes) > 0.6  # of 21 points on a wall of 720
    here = "slides.findIndex(one => Math.abs(one.getBoundingClientRect().top) < 2)"
    for key, at in (("ArrowRight", 1), (" ", 2), ("ArrowLeft", 1)):
        wall.keyboard.press(key)
        wall.wait_for_function(f"{here} === {at}")
    controls = wall.locator("input[type=range], button")
    if controls.count():  # the keys of a clicker turn the page wherever one has clicked last
        controls.first.focus()
        at = wall.evaluate("slides.findIndex(one => one.contains(document.activeElement))")
        wall.evaluate(f"slides[{at}].scrollIntoView()")
        wall.keyboard.press("PageDown")
        wall.wait_for_function(f"{here} === {at + 1}")


def test_a_tiny_book_has_slides(changed):
    done = run_in(changed, "book/_tools/slides.py", "--root", str(changed))
    assert "1 chapters as slides" in done.stdout, done.stdout
    deck = (changed / "_build/slides/01_tiny.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in deck for name in ("def-soften", "thm-limit", "fig-answer"))
    assert "What is the answer?" in deck and "Gradient" not in deck
    assert len(list((changed / "_build/slides/_images").iterdir())) == 2


def test_without_a_site_there_are_no_slides(changed):
    for page in (changed / "_build/html/chapters").glob("*.html"):
        page.unlink()
    done = run_in(changed, "book/_tools/slides.py", "--root", str(changed))
    assert done.returncode and "build the site first" in done.stdout
