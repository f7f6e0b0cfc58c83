"""The scoreboard: words are looked for in all claims, and a column sorts them by their numbers."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import WIDE, opened, visit
from making import ROOT

SCRIPT = (ROOT / "book/_static/scoreboard.js").read_text(encoding="utf-8")
HEAD = "<thead><tr><th>claim</th><th>measured</th><th>compared with</th></tr></thead>"
FOLDS = {
    "Pruning": [
        ("Half is enough.", "≥ 0.5", "–"),
        ("Little is lost.", "−1,200", "Hinton"),
        ("All is lost.", "3e−05", "–"),
    ],
    "Drafts": [("It holds.", "yes", "Hinton"), ("It counts.", "≤ 12", "Ross")],
}


def made() -> str:
    folds = ""
    for name, rows in FOLDS.items():
        body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
        folds += f"<details><summary>{name}</summary><table>{HEAD}<tbody>{body}</tbody></table>"
        folds += "</details>"
    other = f"<details><summary>x</summary><table>{HEAD.replace('claim', 'machine')}"
    other += "<tbody><tr><td>Hinton</td></tr></tbody></table></details>"
    find = '<div class="dl-find"><input/><p role="status"></p></div>'
    return (
        f'<!doctype html><article class="bd-article">{find}{folds}{other}</article>'
        f"<script>{SCRIPT}</script>"
    )


@pytest.fixture
def board(browser: Any) -> Any:
    with opened(browser, WIDE) as page:
        page.set_content(made())
        yield page
        assert page.errors == []


def column(page: Any, fold: int, cell: int) -> list[str]:
    rows = page.locator("details").nth(fold).locator(f"tbody td:nth-child({cell})")
    return list(rows.all_text_contents())


def test_words_are_looked_for_in_claims_sources_and_titles(board):
    assert board.locator("[role=status]").text_content() == "5 of 5 claims"
    assert board.locator("details[open]").count() == 0
    for words, found in (("hinton", 2), ("LOST", 2), ("pruning hinton", 1), ("drafts", 2)):
        board.locator("input").fill(words)
        assert board.locator("[role=status]").text_content() == f"{found} of 5 claims"
        seen = board.locator("tbody tr:visible")
        assert seen.count() == found
        assert all(
            board.locator("details[open]").nth(i).locator("tr:visible").count() > 1
            for i in range(board.locator("details[open]").count())
        )
    board.locator("input").fill("zebra")
    assert "try fewer" in board.locator("[role=status]").text_content()
    board.locator("input").fill("")
    assert board.locator("details:visible").count() == 3
    assert board.locator("details[open]").count() == 0


def test_a_column_sorts_numbers_as_numbers_and_dashes_last(board):
    board.locator("details").first.evaluate("e => { e.open = true; }")
    measured = board.locator("details").first.get_by_role("button", name="measured")
    measured.click()
    assert column(board, 0, 2) == ["−1,200", "3e−05", "≥ 0.5"]
    measured.click()
    assert column(board, 0, 2) == ["≥ 0.5", "3e−05", "−1,200"]
    head = board.locator("details").first.locator("th").nth(1)
    assert head.get_attribute("aria-sort") == "descending"
    board.locator("details").first.get_by_role("button", name="compared with").click()
    assert column(board, 0, 3) == ["Hinton", "–", "–"]
    assert head.get_attribute("aria-sort") is None


def test_the_scoreboard_of_the_book_is_looked_through(page, site):
    visit(page, site, "book/scoreboard")
    field = page.locator("#dl-find-claim")
    assert field.is_visible()
    everything = page.locator("[role=status]").first.text_content()
    total = int(everything.split()[0])
    assert total > 500 and everything == f"{total} of {total} claims"
    field.fill("temperature")
    few = int(page.locator("[role=status]").first.text_content().split()[0])
    assert 0 < few < total
    assert page.locator(".bd-article details[open]").count() > 0
    fold = page.locator(".bd-article details[open]").first
    fold.locator("th").nth(1).get_by_role("button").click()
    assert fold.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    assert page.errors == []
