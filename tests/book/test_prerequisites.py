"""The map of the chapters on the cover: what each of them says that one needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import prerequisites
import pytest
from browsing import CHAPTERS, visit
from hypothesis import given
from hypothesis import strategies as st
from making import ROOT

ENTRY = re.compile(r"^(?P<indent> *)- \[[^]]*\]\((?P<page>[^)]*)\)(?P<also>.*)$", re.MULTILINE)


def write(root: Path, needs: dict[str, list[str]]) -> Path:
    """A book of chapters that have nothing but a title and their needs."""
    (root / "chapters").mkdir(parents=True)
    toc = "format: jb-book\nroot: intro.md\nparts:\n  - chapters:\n"
    (root / "intro.md").write_text("# A book\n")
    for name, before in needs.items():
        refs = " and ".join(f"{{ref}}`ch-{need}`" for need in before) or "nothing"
        text = f"(ch-{name})=\n# {name.upper()}: a title\n\nYou need {refs}. {{ref}}`ch-z` too.\n"
        (root / f"chapters/{name}.md").write_text(text)
        toc += f"      - file: chapters/{name}.md\n"
    (root / "_toc.yml").write_text(toc)
    return root


def test_a_chapter_stands_under_what_it_needs(tmp_path):
    book = write(tmp_path, {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["a"], "e": ["c", "d"]})
    assert prerequisites.outline(book, "book/intro.md").splitlines() == [
        "- [A](../chapters/a.md)",
        "  - [B](../chapters/b.md)",
        "    - [C](../chapters/c.md)",  # a goes without saying
        "      - [E](../chapters/e.md), with [D](../chapters/d.md)",
        "  - [D](../chapters/d.md)",
    ]


def test_a_chapter_that_needs_itself_is_an_error(tmp_path):
    book = write(tmp_path, {"a": ["c"], "b": ["a"], "c": ["b"]})
    with pytest.raises(ValueError, match=r"needs itself: chapters/a.md → chapters/c.md"):
        prerequisites.outline(book, "intro.md")


@st.composite
def books(draw: st.DrawFn) -> dict[str, list[str]]:
    names = "abcdefghij"[: draw(st.integers(1, 10))]
    return {
        name: draw(st.lists(st.sampled_from(names[:place]), unique=True)) if place else []
        for place, name in enumerate(names)
    }


def entries(outline: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each chapter with those above it and those named beside it."""
    above: list[str] = []
    for entry in ENTRY.finditer(outline):
        above = above[: len(entry["indent"]) // 2]
        yield entry["page"], list(above), re.findall(r"\]\(([^)]*)\)", entry["also"])
        above.append(entry["page"])


@given(needs=books())
def test_the_map_says_what_the_chapters_say(needs, tmp_path_factory):
    book = write(tmp_path_factory.mktemp("book") / "b", needs)
    found = prerequisites.chapters(book)
    seen = list(entries(prerequisites.outline(book, "intro.md")))
    assert sorted(page for page, _, _ in seen) == sorted(found)
    for page, above, beside in seen:
        direct = set(found[page].needs)
        assert bool(above) == bool(direct) and set(above[-1:]) | set(beside) <= direct
        # what is shown is enough to find all that is needed
        shown = set(above[-1:]) | set(beside)
        assert direct <= shown.union(*(prerequisites.behind(found, s) for s in shown))


def test_the_map_of_this_book_has_every_chapter():
    found = prerequisites.chapters(ROOT)
    assert [page.removesuffix(".md") for page in found] == CHAPTERS
    (first,) = [page for page, chapter in found.items() if not chapter.needs]
    assert first.endswith("temperature_and_kl.md")


def test_a_map_is_a_list_of_links_on_the_page_and_in_its_markdown(built):
    html = built[0] / "_build/html/book"
    text = (html / "intro.html").read_text()
    tree = text[text.index('<div class="dl-needs') :]
    assert 'href="../chapters/01_tiny.html"' in tree[: tree.index("</div>")]
    assert "- [Temperature](../chapters/01_tiny.html)" in (html / "intro.md").read_text()


@pytest.mark.site
def test_the_cover_shows_the_ways_in(page, site):
    visit(page, site, "book/intro")
    assert page.locator(".dl-needs li").count() == len(CHAPTERS)
    for name in ("three-ways-in", "the-chapters"):
        assert page.locator(f"#{name}").is_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    wide = "all => Math.max(...all.map((e) => e.getBoundingClientRect().right))"
    assert page.eval_on_selector_all(".dl-needs li a", wide) <= 390
