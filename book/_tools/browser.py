"""Chromium without a network, for what looks at the built site: the paper edition and the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
WHERE = "no Chromium: install it, or name its file in the variable CHROMIUM"


def chromium() -> str | None:
    """The file of the browser, where there is one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def launched(path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield running
        running.close()


@contextlib.contextmanager
def opened(browser: Any, size: dict[str, int], **options: Any) -> Iterator[Any]:
    """A page that may read files only; what else it asks for is refused and counted."""
    context = browser.new_context(viewport=size, color_scheme="light", **options)
    page = context.new_page()
    page.outside, page.errors = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    # axe-core and the search ask for files, which a browser refuses to pages that are files
    refused = ("Access to ", "Failed to load resource: net::ERR_FAILED", "Failed to fetch")
    page.on(
        "console",
        lambda said: (
            said.type == "error"
            and not said.text.startswith(refused)
            and page.errors.append(said.text)
        ),
    )

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


def visit(page: Any, site: Path, name: str, fragment: str = "") -> None:
    page.goto((site / f"{name}.html").as_uri() + fragment, wait_until="load")
    # Colors are measured when they have arrived, not on their way.
    page.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    page.evaluate("() => document.fonts.ready.then(() => {})")
