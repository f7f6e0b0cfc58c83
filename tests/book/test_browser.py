"""The built site in a real browser, with no network."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bookcache
import pytest
import torch
from conftest import ROOT, missing

from distill_lib import losses
from distill_lib.booktools import DirectionSlider

pytestmark = pytest.mark.site

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAGES = [page.removesuffix(".md") for page in bookcache.pages(ROOT)]
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
DIRECTION = "dlDirection"
CONFIG = re.compile(r"(dl(?!Pole)\w+)\(root,(\{.*?\})\);\}\);", re.DOTALL)


def chromium() -> str:
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing("no Chromium: install it, or name its file in the variable CHROMIUM")
    return str(found)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    """A page that may read files only; what else it asks for is refused and counted."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.outside, page.errors = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))

    def gate(route: Any) -> None:
        url = route.request.url
        if url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            page.outside.append(url)
            route.abort()

    page.route("**/*", gate)
    yield page
    context.close()


def visit(page: Any, site: Path, name: str) -> None:
    page.goto((site / f"{name}.html").as_uri(), wait_until="load")
    # Colors are measured when they have arrived, not on their way.
    page.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    page.evaluate("() => window.MathJax && MathJax.startup && MathJax.startup.promise")


def violations(page: Any) -> list[str]:
    """What axe-core finds serious or critical, with the first element of each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"runOnly": RULES, "resultTypes": ["violations"]}).response
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
        for v in found["violations"]
        if v["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_network_and_excludes_nobody(page, site, name):
    visit(page, site, name)
    assert page.outside == []
    assert page.errors == []
    assert page.locator("mjx-merror").count() == 0
    assert violations(page) == []
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert violations(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", CHAPTERS)
def test_formulas_are_drawn(page, site, name):
    visit(page, site, name)
    written = page.locator(".bd-article .math").count()
    drawn = page.locator(".bd-article mjx-container").count()
    assert drawn >= written > 0
    fonts = page.evaluate("[...document.fonts].filter(f => f.family.startsWith('MJX')).length")
    assert fonts > 0


def test_search_works_from_files(page, site):
    page.goto((site / "search.html").as_uri() + "?q=temperature", wait_until="load")
    page.wait_for_selector("#search-results li")
    assert page.outside == []


def sliders(site: Path) -> list[tuple[str, int, str, dict[str, Any]]]:
    """Every slider of the site: its page, its place there, its kind, its configuration."""
    found = []
    for name in CHAPTERS:
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        for place, (kind, config) in enumerate(CONFIG.findall(text)):
            found.append((name, place, kind, json.loads(config)))
    return found


def expected(kind: str, config: dict[str, Any], index: int) -> dict[str, Any]:
    """The numbers that distill_lib computes for one position of a slider."""
    at = config["positions"][index]
    if kind == "dlTemperature":
        z = torch.tensor(config["logits"], dtype=torch.float64)
        p = (z / at).softmax(-1)
        return {"T": at, "p": p.tolist(), "entropy": -(p * p.log()).sum().item()}
    if kind == "dlBeta":
        student, teacher = (
            torch.tensor(config[side], dtype=torch.float64) for side in ("student", "teacher")
        )
        both = {"student": student, "teacher": teacher}
        forward, reverse = losses.kl(**both).item(), losses.reverse_kl(**both).item()
        d = losses.jsd(**both, beta=at).item() if 0 < at < 1 else 0.0
        over_beta = d / at if at else forward
        over_rest = d / (1 - at) if at < 1 else reverse
        return {
            "beta": at,
            "d": d,
            "over_beta": over_beta,
            "over_rest": over_rest,
            "forward": forward,
            "reverse": reverse,
        }
    return {"position": at, **config["fits"][index]}


def written_sliders(name: str) -> list[DirectionSlider]:
    """The direction sliders of a chapter, made again from its code."""
    made = []
    for cell in bookcache.read(ROOT / f"{name}.md").cells:
        calls = ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else []
        for call in calls:
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DirectionSlider":
                made.append(eval(ast.unparse(call), {"DirectionSlider": DirectionSlider}))
    return made


@pytest.mark.parametrize("name", CHAPTERS)
def test_fits_of_the_direction_sliders_are_those_of_the_library(site, name):
    shown = [config for page, _, kind, config in sliders(site) if (page, kind) == (name, DIRECTION)]
    made = {len(slider.positions): slider for slider in written_sliders(name)}
    for config in shown:
        slider = made[len(config["positions"])]
        x = slider.target.grid()
        p = slider.target.log_density(x)
        for fit, again in zip(config["fits"], slider.fits, strict=True):
            assert fit == pytest.approx(again, abs=1e-6)
            q = torch.distributions.Normal(fit["mu"], fit["sigma"]).log_prob(x)
            forward = losses.kl(student=q, teacher=p).item()
            reverse = losses.reverse_kl(student=q, teacher=p).item()
            assert (fit["forward"], fit["reverse"]) == pytest.approx((forward, reverse), abs=1e-6)


def move(slider: Any, index: int) -> dict[str, Any]:
    slider.locator("input[type=range]").evaluate(
        "(e, i) => { e.value = i; e.dispatchEvent(new Event('input', {bubbles: true})); }", index
    )
    return json.loads(slider.get_attribute("data-values"))


def test_sliders_agree_with_the_library(page, site):
    kinds = set()
    for name, place, kind, config in sliders(site):
        visit(page, site, name)
        slider = page.locator(".dl-fig").nth(place)
        last = len(config["positions"]) - 1
        for index in sorted({0, last // 3, last // 2, last - 1, last}):
            shown, wanted = move(slider, index), expected(kind, config, index)
            assert set(shown) <= set(wanted), kind
            for key, value in shown.items():
                assert value == pytest.approx(wanted[key], abs=1e-6, rel=1e-6), (name, key, index)
        kinds.add(kind)
    assert kinds == {"dlTemperature", "dlDirection", "dlBeta"}


def test_sliders_move_by_keyboard_and_by_touch(page, site):
    for name, place, _, config in sliders(site):
        visit(page, site, name)
        slider = page.locator(".dl-fig").nth(place)
        handle = slider.locator("input[type=range]")
        handle.focus()
        page.keyboard.press("End")
        at_end = slider.get_attribute("data-values")
        assert handle.input_value() == str(len(config["positions"]) - 1)
        page.keyboard.press("Home")
        assert slider.get_attribute("data-values") != at_end
        box = handle.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
        assert int(handle.input_value()) > len(config["positions"]) / 2


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_page_says_its_question_to_search_results(site, name):
    """Not the line of its costs."""
    text = (site / f"{name}.html").read_text(encoding="utf-8")
    said = re.findall(
        r'<meta (?:name="description"|property="og:description") content="([^"]*)', text
    )
    assert len(said) == 2 and len(set(said)) == 1
    assert said[0].endswith("?") and "CPU" not in said[0]
    assert "fontawesome.js" not in text


def test_on_paper_every_fold_is_open(site, browser):
    page = browser.new_page()
    page.goto((site / f"{CHAPTERS[0]}.html").as_uri())
    closed = ".bd-article details:not([open])"
    assert page.locator(closed).count() > 5
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator(closed).count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator(closed).count() > 5
    page.close()


@pytest.mark.parametrize("name", [*CHAPTERS, "book/proofs"])
def test_no_formula_is_cut_on_a_phone(site, browser, name):
    """What is wider than the screen has a box around it that scrolls."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_function("window.MathJax?.startup?.promise")
    page.evaluate("MathJax.startup.promise")
    cut = page.evaluate(
        """() => [...document.querySelectorAll(".bd-article mjx-math")].filter((formula) => {
          if (formula.getBoundingClientRect().right <= innerWidth) return false;
          for (let box = formula; box; box = box.parentElement) {
            if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
          }
          return true;
        }).length"""
    )
    page.close()
    assert cut == 0


# The rules of a page as it is seen; pages of the first edition join as they are rewritten.

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
FIRST_PICTURE, SHOWN_CODE, TEXT, WEIGHT = 1.5, 0.2, 9.0, 2_500_000
SEEN = """(selector) => {
  const open = (e) => e.getClientRects().length && !e.parentElement.closest("details:not([open])");
  return [...document.querySelectorAll(selector)].filter(open)
    .map((e) => ({top: e.getBoundingClientRect().top + scrollY, high: e.offsetHeight || 0}));
}"""
follows = pytest.mark.parametrize("name", CHAPTERS)


@follows
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_first_picture_comes_early(page, site, name, size):
    """A figure, a slider or a film within the first screen and a half."""
    page.set_viewport_size(size)
    visit(page, site, name)
    pictures = page.evaluate(SEEN, ".bd-article figure, .bd-article .dl-fig, .bd-article video")
    assert pictures[0]["top"] < FIRST_PICTURE * size["height"]
    (question,) = page.evaluate(SEEN, ".bd-article .dl-question")
    assert question["top"] < size["height"] / 2


@follows
def test_code_is_the_smaller_part_of_a_page(page, site, name):
    visit(page, site, name)
    code = page.evaluate(SEEN, ".bd-article .cell_input, .bd-article > * div.highlight-python")
    whole = page.evaluate("document.querySelector('.bd-article').offsetHeight")
    assert 0 < sum(box["high"] for box in code) < SHOWN_CODE * whole


def sizes_of_text(svg: str) -> list[float]:
    """Sizes in the units of its own width; matplotlib draws a glyph at a hundredth of its size."""
    return [100 * float(scale) for scale in re.findall(r"scale\((0\.\d+) -0", svg)]


@follows
def test_the_text_of_figures_is_legible_on_a_phone(page, site, name):
    page.set_viewport_size(PHONE)
    visit(page, site, name)
    small, drawn = [], 0
    for image in page.locator(".bd-article figure img[src$='.svg']").all():
        file = (site / name).parent / str(image.get_attribute("src"))
        svg = file.resolve().read_text(encoding="utf-8")
        (wide,) = re.findall(r'viewBox="0 0 ([\d.]+)', svg)
        scale = image.bounding_box()["width"] / float(wide)
        drawn += len(sizes := sizes_of_text(svg))
        small += [f"{file.name}: {s * scale:.1f} px" for s in sizes if s * scale < TEXT]
    assert drawn > 0
    assert not small, small[:3]
    for figure in page.locator(".dl-fig svg").all():
        assert 14 * figure.bounding_box()["width"] / 480 >= TEXT  # as static/common.js draws it


@follows
def test_a_page_is_not_heavy(page, site, name):
    """All that it asks for, before any compression."""
    asked: set[Path] = set()
    page.on("request", lambda r: asked.add(Path(r.url.removeprefix("file://").split("?")[0])))
    visit(page, site, name)
    page.wait_for_function("document.fonts.status === 'loaded'")
    assert sum(f.stat().st_size for f in asked if f.is_file()) < WEIGHT


@follows
def test_a_printed_page_has_its_answers_and_its_number(page, site, name, tmp_path):
    visit(page, site, name)
    answers = page.locator(".bd-article details", has_text="Answer").count()
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert len(page.evaluate(SEEN, ".bd-article details > :not(summary)")) >= answers > 0
    assert page.locator(".bd-article h1 .section-number").is_visible()
    assert not page.locator("#jb-print-docs-body").is_visible()
    # code goes to the next sheet as a whole: nothing of its box is left behind
    whole = "all => all.every((e) => getComputedStyle(e).breakInside === 'avoid')"
    assert page.eval_on_selector_all(".bd-article .cell_input", whole)
    divisible = "all => all.every((e) => getComputedStyle(e).overflowX === 'visible')"
    assert page.eval_on_selector_all(".bd-article pre, .bd-article .cell_output", divisible)
    sheets = page.pdf(path=str(tmp_path / "page.pdf"))
    assert sheets.count(b"/Type /Page\n") + sheets.count(b"/Type /Page ") > 5


@follows
def test_films_start_together(page, site, name):
    visit(page, site, name)
    for films in page.locator(".dl-films").all():
        films.locator("button").click()
        moving = films.locator("video").evaluate_all("all => all.map((film) => !film.paused)")
        assert moving and all(moving)
        films.locator("button").click()
        assert films.locator("video").evaluate_all("all => all.every((film) => film.paused)")


MOVES = """window.moved = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({type: "layout-shift", buffered: true});"""


@follows
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("place", ["", "#summary"], ids=["top", "middle"])
def test_nothing_jumps_while_a_page_loads(page, site, name, size, place):
    """The sum of layout shifts, which is good below 0.1; and the heading is where it was asked."""
    page.set_viewport_size(size)
    page.add_init_script(MOVES)
    page.goto((site / f"{name}.html").as_uri() + place, wait_until="load")
    page.evaluate("MathJax.startup.promise")
    page.wait_for_function("!document.documentElement.classList.contains('dl-landing')")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert page.evaluate("window.moved") < 0.1
    if place:
        top = page.locator(place).evaluate("(e) => e.getBoundingClientRect().top")
        assert 0 <= top < size["height"] / 4
