"""A page of Chromium, as wide as a phone and without a network."""

from __future__ import annotations

import os
import shutil

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
