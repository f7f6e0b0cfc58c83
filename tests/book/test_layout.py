"""What a reader sees of each chapter: formulas, pictures, code, on a screen, a phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accessible import excludes_nobody
from browsing import CHAPTERS, CUT, LOOKED_AT, PHONE, WIDE, opened, visit

pytestmark = pytest.mark.site

FIRST_PICTURE, SHOWN_CODE, TEXT, WEIGHT = 1.5, 0.2, 9.0, 1_500_000
MOVES = """window.moved = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({type: "layout-shift", buffered: true});"""


def read(
    browser: Any, site: Path, name: str, size: dict[str, int], fragment: str = ""
) -> Iterator[Any]:
    with opened(browser, size) as page:
        page.name, page.size, page.asked = name, size, set()
        page.on("request", lambda r: page.asked.add(r.url.removeprefix("file://").split("?")[0]))
        page.add_init_script(MOVES)
        visit(page, site, name, fragment)
        yield page


LOOKED = [page for page in LOOKED_AT if page in CHAPTERS]

# One visit of a chapter, for all tests that only look at it.


@pytest.fixture(scope="module", params=LOOKED)
def wide(request: Any, browser: Any, site: Path) -> Iterator[Any]:
    yield from read(browser, site, request.param, WIDE)


@pytest.fixture(scope="module", params=LOOKED)
def phone(request: Any, browser: Any, site: Path) -> Iterator[Any]:
    # where more of a page lies above what was asked for than on a wide screen
    yield from read(browser, site, request.param, PHONE, "#summary")


def test_a_heading_is_where_it_was_asked_for(phone):
    """The first of those who look at the phone: nothing has moved yet."""
    lands(phone)


@pytest.mark.parametrize("name", CHAPTERS[::6])
def test_a_heading_is_where_it_was_asked_for_wide(browser, site, name):
    for page in read(browser, site, name, WIDE, "#summary"):
        lands(page)


def lands(page: Any) -> None:
    assert settled(page) < 0.1
    top = page.locator("#summary").evaluate("(e) => e.getBoundingClientRect().top")
    assert 0 <= top < page.size["height"] / 4


def test_formulas_are_drawn(wide):
    """Each has a size, and the letters of the font that came with the site."""
    written = wide.locator(".bd-article .math").count()
    assert wide.locator(".bd-article .math > math").count() == written > 0
    seen = "(all) => all.filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect())"
    boxes = wide.locator(".bd-article math").evaluate_all(f"{seen}.map((r) => [r.width, r.height])")
    assert all(width > 2 and height > 2 for width, height in boxes)
    fonts = "[...document.fonts].filter(f => f.family.includes('STIX')).map(f => f.status)"
    assert wide.evaluate(fonts) == ["loaded"]


def test_no_formula_is_cut_on_a_phone(phone):
    """What is wider than the screen has a box around it that scrolls."""
    assert phone.evaluate(CUT) == 0


CARDS = """(tables) => tables.map((table) => ({
  wide: table.scrollWidth > table.clientWidth,
  cells: [...table.querySelectorAll("tbody td:not(:first-child)")].map((cell) => [
    getComputedStyle(cell, "::before").content, cell.getBoundingClientRect().left]),
  names: [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim()),
}))"""


def test_a_table_of_sentences_is_cards_on_a_phone(phone):
    """Nothing of it is to the side, and each cell says what it is about."""
    for table in phone.locator(".dl-cards").evaluate_all(CARDS):
        assert not table["wide"] and len({left for _, left in table["cells"]}) == 1
        assert {name for name, _ in table["cells"]} == {f'"{n}"' for n in table["names"][1:]}


def test_a_table_is_cards_where_its_cells_are_sentences_and_on_a_phone_alone(page, site):
    page.set_viewport_size(PHONE)
    visit(page, site, "chapters/policies/kickstarting")
    tables = page.locator(".bd-article table.dl-cards")
    assert tables.count() == 1 and page.locator(".bd-article table").count() > 1
    row = tables.locator("tbody tr").first
    display = "(e) => getComputedStyle(e).display"
    assert row.evaluate(display) == "block"
    page.set_viewport_size(WIDE)
    assert row.evaluate(display) == "table-row" and tables.locator("th").first.is_visible()


def test_a_formula_that_fits_again_does_not_fade(page, site):
    """A narrow window gives it a scroller with a fading edge; a wide one takes both away."""
    faded = ".bd-article span.math.dl-more"
    visit(page, site, "chapters/foundations/what_teaching_costs")
    page.set_viewport_size({"width": 100, "height": 900})
    page.wait_for_function(f"document.querySelectorAll('{faded}').length > 5")
    page.set_viewport_size(WIDE)
    page.wait_for_function(f"document.querySelectorAll('{faded}').length === 0")


def test_no_formula_of_the_proofs_is_cut_on_a_phone(page, site):
    page.set_viewport_size(PHONE)
    visit(page, site, "book/proofs")
    assert page.evaluate(CUT) == 0


SEEN = """(selector) => {
  // a folded solution keeps its place in the page and is not seen
  const open = (e) => e.checkVisibility({visibilityProperty: true})
    && !e.parentElement.closest("details:not([open]), .toggle-hidden");
  return [...document.querySelectorAll(selector)].filter(open)
    .map((e) => ({top: e.getBoundingClientRect().top + scrollY, high: e.offsetHeight || 0}));
}"""


def first_picture_is_early(page: Any) -> None:
    """A figure, a slider or a film within the first screen and a half."""
    high = page.size["height"]
    pictures = page.evaluate(SEEN, ".bd-article figure, .bd-article .dl-fig, .bd-article video")
    assert pictures[0]["top"] < FIRST_PICTURE * high
    (question,) = page.evaluate(SEEN, ".bd-article .dl-question")
    assert question["top"] < high / 2


def test_the_first_picture_comes_early(wide):
    first_picture_is_early(wide)


def test_the_first_picture_comes_early_on_a_phone(phone):
    first_picture_is_early(phone)


def test_code_is_the_smaller_part_of_a_page(wide):
    code = wide.evaluate(SEEN, ".bd-article .cell_input, .bd-article > * div.highlight-python")
    whole = wide.evaluate("document.querySelector('.bd-article').offsetHeight")
    assert 0 < sum(box["high"] for box in code) < SHOWN_CODE * whole


def sizes_of_text(svg: str) -> list[float]:
    """Sizes in the units of its own width; matplotlib draws a glyph at a hundredth of its size."""
    return [100 * float(scale) for scale in re.findall(r"scale\((0\.\d+) -0", svg)]


def test_the_text_of_figures_is_legible_on_a_phone(phone, site):
    small, drawn = [], 0
    for image in phone.locator(".bd-article figure img[src$='.svg']").all():
        file = (site / phone.name).parent / str(image.get_attribute("src"))
        svg = file.resolve().read_text(encoding="utf-8")
        (wide,) = re.findall(r'viewBox="0 0 ([\d.]+)', svg)
        scale = image.bounding_box()["width"] / float(wide)
        drawn += len(sizes := sizes_of_text(svg))
        small += [f"{file.name}: {s * scale:.1f} px" for s in sizes if s * scale < TEXT]
    assert drawn > 0
    assert not small, small[:3]
    for figure in phone.locator(".dl-fig svg").all():
        assert 14 * figure.bounding_box()["width"] / 480 >= TEXT  # as static/common.js draws it


def test_a_page_is_not_heavy(wide):
    """All that it asks for but films, before any compression."""
    wide.wait_for_function("document.fonts.status === 'loaded'")
    files = [Path(f) for f in wide.asked if not f.endswith((".mp4", ".webm"))]
    assert sum(file.stat().st_size for file in files if file.is_file()) < WEIGHT


def test_films_start_together(wide):
    for films in wide.locator(".dl-films").all():
        films.locator("button").click()
        moving = films.locator("video").evaluate_all("all => all.map((film) => !film.paused)")
        assert moving and all(moving)
        films.locator("button").click()
        assert films.locator("video").evaluate_all("all => all.every((film) => film.paused)")


def settled(page: Any) -> float:
    """The sum of layout shifts, which is good below 0.1."""
    page.wait_for_function("!document.documentElement.classList.contains('dl-landing')")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return float(page.evaluate("window.moved"))


def test_nothing_jumps_while_a_page_loads(wide):
    assert settled(wide) < 0.1


@pytest.mark.parametrize("name", CHAPTERS[::6])
def test_nothing_jumps_while_a_page_loads_on_a_phone(browser, site, name):
    """Each page was asked for a heading above; some here for their beginning."""
    for page in read(browser, site, name, PHONE):
        assert settled(page) < 0.1


def test_a_printed_page_has_its_answers_and_its_number(wide, tmp_path):
    """The last but one of those who look at the wide page: it changes it."""
    answers = wide.locator(".bd-article details.dl-choice").count()
    wide.emulate_media(media="print")
    wide.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert len(wide.evaluate(SEEN, ".bd-article details > :not(summary)")) >= answers > 0
    assert wide.locator(".bd-article h1 .section-number").is_visible()
    assert not wide.locator("#jb-print-docs-body").is_visible()
    # code goes to the next sheet as a whole: nothing of its box is left behind
    whole = "all => all.every((e) => getComputedStyle(e).breakInside === 'avoid')"
    assert wide.eval_on_selector_all(".bd-article .cell_input", whole)
    divisible = "all => all.every((e) => getComputedStyle(e).overflowX === 'visible')"
    assert wide.eval_on_selector_all(".bd-article pre, .bd-article .cell_output", divisible)
    if wide.name not in LOOKED[::3]:  # a PDF takes seconds, and what can be wrong is above
        return
    sheets = wide.pdf(path=str(tmp_path / "wide.pdf"))
    assert sheets.count(b"/Type /Page\n") + sheets.count(b"/Type /Page ") > 5


def test_a_chapter_needs_no_network_and_excludes_nobody(wide):
    """The last of those who look at the wide page: it takes away from it."""
    wide.emulate_media(media="screen")
    wide.evaluate("window.dispatchEvent(new Event('afterprint'))")
    excludes_nobody(wide)
