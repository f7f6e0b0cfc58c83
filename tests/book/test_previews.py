"""What a link leads to is shown in small: from data of the page, by pointer and by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distill_previews
import pytest
from accessible import violations
from browsing import CHAPTERS, PAGES, PHONE, WIDE, opened, visit

TINY = "chapters/01_tiny"
DATA = re.compile(r'<script type="application/json" id="dl-previews">(.*?)</script>', re.DOTALL)
THERE = {
    "book/b.html": """<dl><dt id="term-a">a<a class="headerlink" href="#term-a">#</a></dt>
      <dt id="term-b">b</dt><dd><p>A <a href="x.html">thing</a>.</p></dd></dl>
      <figure id="fig-a"><img alt="A line" src="../_images/a.svg" /></figure>
      <div class="proof theorem admonition" id="thm-a"><p>T \\(x\\)</p></div>
      <div class="proof theorem admonition" id="thm-long"><p>WORDS</p></div>
      <div class="math notranslate" id="equation-a">\\[x\\]</div>
      <section id="sec"><p>S</p></section>
      """.replace("WORDS", "long " * 1_000),
    "c/d/e.html": "".join(
        f'<a class="reference internal" href="{link}">x</a>'
        for link in (
            *(f"../../book/b.html#{a}" for a in ("term-a", "fig-a", "thm-a", "thm-long")),
            *(f"../../book/b.html#{a}" for a in ("equation-a", "sec", "gone")),
            "../../book/gone.html#x",
            "#thm-own",
        )
    ),
}


def test_targets_on_other_pages_are_gathered():
    found = distill_previews.previews(lambda page: THERE.get(page, ""), "c/d/e.html")
    assert {link.rpartition("#")[2] for link in found} == {"term-a", "fig-a", "thm-a", "equation-a"}
    assert found["../../book/b.html#term-a"] == "<p><strong>a</strong></p><p>A thing.</p>"
    # the picture as the page that shows it needs it, and nothing twice that has a name
    assert 'src="../../_images/a.svg"' in found["../../book/b.html#fig-a"]
    assert 'alt="A line"' in found["../../book/b.html#fig-a"]
    assert not any(" id=" in shown or "<a" in shown for shown in found.values())


def test_data_cannot_end_its_element(built):
    (data,) = DATA.findall((built[0] / f"_build/html/{TINY}.html").read_text())
    assert "</" not in data
    assert set(json.loads(data)) == {
        "../book/bibliography.html#id2",
        "../book/reference.html#term-Teacher",
        "../book/reference.html#term-soft-target",
    }


def test_the_first_mention_of_a_term_leads_to_the_glossary(small):
    text = (small / f"{TINY}.html").read_text()
    found = re.findall(
        r'<a [^>]*#term-soft-target"[^>]*><span class="dl-term">(.*?)</span>', text, re.DOTALL
    )
    assert [" ".join(words.split()) for words in found] == ["Soft targets"]
    assert text.count("#term-Teacher") == 2  # the author's own link, and its preview


@pytest.fixture
def small(built: tuple[Path, str]) -> Path:
    """The site of the tiny book."""
    return built[0] / "_build/html"


@pytest.fixture
def reader(browser: Any, small: Path) -> Iterator[Any]:
    with opened(browser, WIDE) as page:
        visit(page, small, TINY)
        yield page
        assert page.errors == [] and page.outside == []


def link(page: Any, end: str) -> Any:
    return page.locator(f".bd-article a.reference.internal[href$='{end}']").first


TIP = "#dl-preview"
SHOWS = {
    "#term-Teacher": "The model whose outputs are copied.",
    "#term-soft-target": "in the place of a label",
    "bibliography.html#id2": "Distilling the knowledge",
    "#thm-limit": "High-temperature limit",
    "#def-soften": "tempered softmax",
    "#fig-scheme": "Teacher and student.",
    "#equation-eq-soften": "(1.1)",
}


@pytest.mark.parametrize("end", SHOWS)
def test_the_pointer_shows_what_a_link_leads_to(reader, end):
    link(reader, end).hover()
    reader.wait_for_selector(TIP, state="visible")
    assert SHOWS[end] in reader.inner_text(TIP)
    assert link(reader, end).get_attribute("aria-describedby") == "dl-preview"
    box, size = reader.locator(TIP).bounding_box(), reader.viewport_size
    assert box["x"] >= 0 and box["x"] + box["width"] <= size["width"]
    assert box["y"] >= 0 and box["y"] + box["height"] <= size["height"]


def test_a_preview_has_its_formula_and_its_picture(reader):
    link(reader, "#thm-limit").hover()
    reader.wait_for_selector(f"{TIP} math", state="visible")
    reader.keyboard.press("Escape")
    link(reader, "#fig-scheme").hover()
    reader.wait_for_function(f"document.querySelector('{TIP} img')?.naturalWidth > 0")


def test_what_is_no_definition_has_no_preview(reader):
    """Sections and pages are read where they stand."""
    link(reader, "#sec-limit").focus()
    assert not reader.is_visible(TIP)


def test_the_keyboard_shows_it_and_escape_closes_it(reader):
    term = link(reader, "#term-Teacher")
    for _ in range(60):
        reader.keyboard.press("Tab")
        if term.evaluate("(e) => e === document.activeElement"):
            break
    assert reader.is_visible(TIP)
    assert violations(reader) == []
    reader.keyboard.press("Escape")
    assert not reader.is_visible(TIP)
    assert term.evaluate("(e) => e === document.activeElement")
    reader.keyboard.press("Shift+Tab")
    reader.keyboard.press("Tab")
    assert reader.is_visible(TIP)
    reader.keyboard.press("Tab")  # to a link that has no preview
    assert not reader.is_visible(TIP)


def test_the_pointer_may_go_into_it_and_it_stays(reader):
    link(reader, "#thm-limit").hover()
    reader.wait_for_selector(TIP, state="visible")
    reader.locator(TIP).hover()
    # longer than it takes to close for those who leave
    reader.evaluate("() => new Promise((done) => setTimeout(done, 400))")
    assert reader.is_visible(TIP)
    reader.mouse.move(2, 2)
    reader.wait_for_selector(TIP, state="hidden")


def test_a_tap_follows_the_link(small, browser):
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    visit(page, small, TINY)
    page.evaluate(
        f"""() => {{ window.seen = 0; const tip = document.querySelector("{TIP}");
        new MutationObserver(() => {{ window.seen += !tip.hidden; }})
        .observe(tip, {{attributes: true}}); }}"""
    )
    link(page, "#fig-answer").tap()
    page.wait_for_function("location.hash === '#fig-answer'")
    assert page.evaluate("window.seen") == 0 and not page.is_visible(TIP)
    context.close()


@pytest.mark.site
def test_previews_weigh_little(site):
    """Every chapter has some, and none is made heavy by them."""
    weights = {}
    for name in PAGES:
        found = DATA.findall((site / f"{name}.html").read_text(encoding="utf-8"))
        weights[name] = sum(len(data.encode()) for data in found)
        for shown in (json.loads(data) for data in found):
            for source in re.findall(r'src="([^"]+)"', json.dumps(shown).replace('\\"', '"')):
                assert ((site / name).parent / source).exists(), f"{name}: {source}"
    print(f"previews: {max(weights.values()):,} bytes at most")
    assert all(weights[name] > 0 for name in CHAPTERS)
    assert max(weights.values()) < 100_000
