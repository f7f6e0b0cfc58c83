"""A page of Chromium, as wide as a phone and without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def page():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs Chromium on the path")
        pytest.skip("needs Chromium on the path")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 390, "height": 900}, offline=True)
        yield context.new_page()
        browser.close()


COLORS = {"light": "#222832;background:#fff", "dark": "#ced6dd;background:#14181e"}
# what a page has and a figure alone has not
OF_A_FRAGMENT = {"page-has-heading-one", "document-title", "landmark-one-main", "region"}


@pytest.fixture(scope="session")
def excludes_nobody() -> Callable[[Any], None]:
    """Holds a shown figure to what a phone, a thumb, weak eyes and a screen reader need."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")

    def look(page: Any) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        tall = page.locator("button:visible, input:visible, textarea:visible").evaluate_all(
            "all => all.map(e => (e.type === 'radio' ? e.parentElement : e).offsetHeight)"
        )
        assert min(tall) >= 44
        for scheme, colors in COLORS.items():
            page.emulate_media(color_scheme=scheme)
            page.evaluate(f"document.body.style.cssText = 'color-scheme:{scheme};color:{colors}'")
            found = {v["id"] for v in axe.Axe().run(page).response["violations"]}
            assert found <= OF_A_FRAGMENT

    return look
