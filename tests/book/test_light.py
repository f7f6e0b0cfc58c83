"""Style sheets and an icon font that hold what the pages use."""

from __future__ import annotations

import re

import distill_light as light
import pytest
from hypothesis import given
from hypothesis import strategies as st

SELECTORS = {  # what it asks for, and no more
    ".a": {"a"}, "#b": {"b"}, "p.a > .b:hover": {"a", "b"}, ".a:not(.b)": {"a"}, "p": set(),
    ":is(.a,.b) .c": {"c"}, "[class*=a] .b": {"b"}, ".a.b::before": {"a", "b"},
    "html[data-theme=dark] #a": {"a"}, ":root": set(),
}  # fmt: skip
NAMES = st.sets(st.sampled_from("abc"))


@given(st.lists(st.sampled_from(list(SELECTORS)), min_size=1, max_size=4), NAMES)
def test_a_rule_stays_while_one_of_its_selectors_can_meet_something(selectors, names):
    sheet = f"{','.join(selectors)}{{color:red}}"
    kept = [selector for selector in selectors if SELECTORS[selector] <= names]
    wanted = f"{','.join(kept)}{{color:red}}" if kept else ""
    assert light.lighter(sheet, names.__contains__) == wanted
    inside = f"@media print{{{wanted}}}" if kept else ""
    assert light.lighter(f"@media print{{{sheet}}}", names.__contains__) == inside


@pytest.mark.parametrize(
    "rule",
    [
        "@font-face{font-family:x;src:url(x.ttf)}",
        "@keyframes turn{from{top:0}to{top:1px}}",
        '@charset "utf-8";',
        "/*! whose work this is */",
    ],
)
def test_what_is_no_rule_stays_as_it_is(rule):
    assert light.lighter(rule, lambda name: False) == rule


@pytest.mark.site
def test_the_icons_of_the_pages_are_in_the_font(site):
    from fontTools import ttLib

    sheet = (site / "_static/styles/pydata-sphinx-theme.css").read_text(encoding="utf-8")
    drawn = dict(re.findall(r'\.fa-([\w-]+):before\{content:"([\ue000-\uf8ff])"', sheet))
    pages = [page.read_text(encoding="utf-8") for page in (site / "chapters").rglob("*.html")]
    asked = {name for page in pages for name in re.findall(r"\bfa-([\w-]+)", page)}
    icons = asked - {"solid", "regular", "brands", "lg", "fw", "sm"}
    assert "magnifying-glass" in icons <= set(drawn)
    font = ttLib.TTFont(site / "_static" / light.FONTS / "fa-solid-900.ttf")
    assert {ord(drawn[name]) for name in icons} <= set(font.getBestCmap())
    assert len(font.getBestCmap()) < 100  # of 1,400


@pytest.mark.site
def test_the_sheets_have_lost_what_no_page_has(site):
    for glob in light.SHEETS:
        for sheet in (site / "_static").glob(glob):
            text = sheet.read_text(encoding="utf-8")
            assert ".btn-outline-warning" not in text and len(text) < 150_000
