"""The built site in a real browser, with no network."""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

import bookcache
import pytest
import torch
from accessible import COLORS, excludes_nobody, violations
from browsing import CHAPTERS, LOOKED_AT, PAGES, visit
from making import ROOT

from distill_lib import losses
from distill_lib.booktools import DirectionSlider

pytestmark = pytest.mark.site

DIRECTION = "dlDirection"
CONFIG = re.compile(r"(dl(?!Pole)\w+)\(root,(\{.*?\})\);\}\);", re.DOTALL)


# The chapters are asked in test_layout.py, whose visit this uses.
@pytest.mark.parametrize("name", [name for name in LOOKED_AT if name not in CHAPTERS])
def test_a_page_needs_no_network_and_excludes_nobody(page, site, name):
    visit(page, site, name)
    excludes_nobody(page)


@pytest.mark.parametrize("name", ["genindex", "search", "prf-prf"])
def test_the_lists_fit_a_phone(page, site, name):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((site / f"{name}.html").as_uri(), wait_until="load")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_search_works_from_files(page, site):
    page.goto((site / "search.html").as_uri() + "?q=temperature", wait_until="load")
    page.wait_for_selector("#search-results li:nth-child(2) a")
    found = page.locator("#search-results li a").evaluate_all("all => all.map((a) => a.pathname)")
    # the definition first, then the chapter
    assert found[0].endswith("/book/glossary.html")
    assert found[1].endswith("/chapters/foundations/temperature_and_kl.html")
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
            said = slider.evaluate("(e) => e.textContent")
            assert not re.search(r"(?<!\w)-\d", said), said  # a minus is no hyphen
        kinds.add(kind)
    knobs = {"dlBits", "dlSparsity", "dlMixture", "dlBudget"}  # test_live_knobs.py makes them again
    assert kinds == {"dlTemperature", "dlDirection", "dlBeta"} | knobs


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


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_to_search_results_what_it_is(site, name):
    """A chapter its question, another page its first sentence; not the line of costs."""
    text = (site / f"{name}.html").read_text(encoding="utf-8")
    said = re.findall(
        r'<meta (?:name="description"|property="og:description") content="([^"]*)', text
    )
    assert len(said) == 2 and len(set(said)) == 1
    assert said[0].endswith("?" if name in CHAPTERS else (".", "?", ":")), said[0]
    assert "CPU" not in said[0] and len(html.unescape(said[0])) <= 300
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


def test_one_faint_text_is_found(page, site):
    """Also among thousands that are not."""
    visit(page, site, "book/api_data")
    page.evaluate("document.querySelectorAll('.bd-article p')[20].style.color = '#ccc'")
    found = violations(page, COLORS)
    assert len(found) == 1 and found[0].startswith("color-contrast")


def test_one_link_that_looks_like_its_text_is_found(page, site):
    visit(page, site, CHAPTERS[0])
    link = page.locator(".bd-article p > a.reference.internal:not(:has(*))").first
    link.evaluate("(a) => { a.style.textDecoration = 'none'; a.style.color = '#2a2f3a'; }")
    found = violations(page, COLORS)
    assert len(found) == 1 and found[0].startswith("link-in-text-block"), found
