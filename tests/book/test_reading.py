"""What a page offers to those who read it, on the tiny book and on the built site."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CHAPTERS, PHONE, WIDE, opened, visit
from test_layout import MOVES, settled

TINY = "chapters/01_tiny"
SHOWN = """(selector) => [...document.querySelectorAll(selector)].filter((e) =>
  e.checkVisibility({visibilityProperty: true, opacityProperty: true})).length"""
WORK = ".tag_work .cell_input"
FOLDED = "details.dl-code .cell_input"
NO_STORAGE = """Object.defineProperty(window, "localStorage", {get() {
  throw new DOMException("refused", "SecurityError"); }});"""


@pytest.fixture
def small(built: tuple[Path, str]) -> Path:
    """The site of the tiny book."""
    return built[0] / "_build/html"


@pytest.fixture
def reader(browser: Any) -> Iterator[Any]:
    with opened(browser, WIDE) as page:
        yield page


def choose(page: Any, label: str) -> None:
    page.locator(".dl-shown label:visible", has_text=label).click()


def seen(page: Any) -> tuple[bool, bool, bool, bool]:
    """Whether code that is read, code in folds, outputs and the figure are seen."""
    counts = [page.evaluate(SHOWN, what) for what in (WORK, FOLDED, ".tag_work .cell_output")]
    counts.append(page.evaluate(SHOWN, "#fig-answer img"))
    return tuple(count > 0 for count in counts)  # type: ignore[return-value]


def test_a_reader_chooses_how_much_code_is_shown(small, reader):
    visit(reader, small, TINY)
    assert seen(reader) == (True, False, True, True)
    choose(reader, "Text")
    assert seen(reader) == (False, False, True, True)
    choose(reader, "All code")
    assert seen(reader) == (True, True, True, True)
    choose(reader, "Key code")
    assert seen(reader) == (True, False, True, True)


def test_no_choice_opens_an_answer(small, reader):
    visit(reader, small, TINY)
    for label in ("All code", "Text", "Key code"):
        choose(reader, label)
        assert reader.evaluate(SHOWN, "details.sd-dropdown p, .solution.dropdown pre") == 0


def test_the_choice_is_remembered_before_the_first_paint(small, reader):
    visit(reader, small, TINY)
    choose(reader, "All code")
    reader.add_init_script(MOVES)
    visit(reader, small, TINY)
    assert reader.locator(".dl-shown-page :checked").get_attribute("value") == "all"
    assert seen(reader) == (True, True, True, True)
    assert settled(reader) < 0.1


def test_a_page_without_storage_works(small, reader):
    reader.add_init_script(NO_STORAGE)
    visit(reader, small, TINY)
    choose(reader, "Text")
    assert seen(reader) == (False, False, True, True)
    # the theme's own line needs storage; ours is not among those that fail
    assert not [error for error in reader.errors if "dl-" in error]


def test_an_unknown_choice_is_the_usual_one(small, reader):
    reader.add_init_script("localStorage.setItem('dl-shown', 'nothing')")
    visit(reader, small, TINY)
    assert reader.locator(".dl-shown-page :checked").get_attribute("value") == "key"
    assert seen(reader) == (True, False, True, True)


def test_the_switch_works_by_keyboard_and_has_room_for_a_thumb(small, reader):
    visit(reader, small, TINY)
    reader.locator(".dl-shown-page :checked").focus()
    reader.keyboard.press("ArrowRight")
    assert seen(reader) == (True, True, True, True)
    reader.set_viewport_size(PHONE)
    choose(reader, "Text")  # in the fold, which stays open for those who choose in it
    assert seen(reader) == (False, False, True, True)
    labels = reader.locator(".dl-shown label:visible").all()
    assert len(labels) == 3
    for label in labels:
        box = label.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44
    assert reader.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("label", ["Text", "All code"])
def test_paper_shows_what_it_always_shows(small, reader, label):
    visit(reader, small, TINY)
    choose(reader, label)
    reader.emulate_media(media="print")
    reader.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert seen(reader) == (True, False, True, True)
    assert reader.evaluate(SHOWN, ".dl-shown") == 0


def goes_on(html: str) -> dict[str, str]:
    """The question under each of the two links at the foot of a page."""
    found = re.findall(r'class="(left-prev|right-next)".*?</a>', html, re.DOTALL)
    parts = re.split(r'class="(?:left-prev|right-next)"', html)[1:]
    lines = [re.search(r'"dl-goes-on">([^<]+)<', part.partition("</a>")[0]) for part in parts]
    return {side: line[1] for side, line in zip(found, lines, strict=True) if line}


def test_the_foot_of_a_page_has_the_questions_around_it(small):
    before = (small / "book/intro.html").read_text()
    after = (small / "book/reference.html").read_text()
    assert goes_on(before) == {"right-next": "What is the answer?"}
    assert goes_on(after) == {"left-prev": "What is the answer?"}
    assert goes_on((small / f"{TINY}.html").read_text()) == {}  # neither neighbor has a question


@pytest.mark.site
def test_chapters_lead_on_by_their_questions(site):
    for name, later in itertools.pairwise(CHAPTERS):
        text = (site / f"{later}.html").read_text(encoding="utf-8")
        (question,) = re.findall(r'<p class="dl-question">(.*?)</p>', text)
        led = goes_on((site / f"{name}.html").read_text(encoding="utf-8"))
        assert led["right-next"].split() == re.sub("<[^>]+>", "", question).split()


@pytest.mark.site
@pytest.mark.parametrize("shown", ["text", "all"])
def test_nothing_jumps_for_those_who_have_chosen(reader, site, shown):
    reader.add_init_script(f"localStorage.setItem('dl-shown', '{shown}');{MOVES}")
    for name in CHAPTERS[:3]:
        visit(reader, site, name)
        assert settled(reader) < 0.1


LIST = """(list) => {
  const cell = document.querySelector(".tag_check .cell_output");
  cell.innerHTML = `<div class="output text_html"><ul class="dl-claims">${list}</ul></div>`;
  cell.scrollIntoView({block: "center"});
}"""
MARKS = """() => [...document.querySelectorAll(".dl-mark")].map((mark) => {
  const box = mark.getBoundingClientRect(), words = new Range();
  words.selectNode(mark.nextSibling);
  const hit = document.elementFromPoint(box.left + 3, box.top + box.height / 2);
  return {left: box.left, right: box.right, seen: mark.contains(hit),
          words: words.getClientRects()[0].left};
})"""


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_mark_of_a_claim_stands_in_the_margin_where_there_is_one(small, reader, size):
    from distill_lib.booktools import claims

    record = {"text": "It learns.", "value": 1.0, "relation": ">=", "bound": 0.5, "seeds": 3}
    record |= {"source": None, "kind": "claim"}
    entries = [claims._as_html({**record, "holds": holds}) for holds in (True, False)]
    reader.set_viewport_size(size)
    visit(reader, small, TINY)
    reader.evaluate(LIST, "".join(entries))
    prose = reader.locator(".bd-article > section > p").last.bounding_box()["x"]
    marks = reader.evaluate(MARKS)
    assert len(marks) == 2 and all(mark["seen"] for mark in marks)
    for mark in marks:
        assert 0 <= mark["left"] < mark["right"] <= mark["words"] + 1
        assert (mark["left"] < prose) == (size == WIDE)
    assert reader.evaluate("document.documentElement.scrollWidth") <= size["width"]
