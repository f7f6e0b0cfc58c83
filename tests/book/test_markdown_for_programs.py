"""What programs read: Markdown beside each page, llms.txt, sitemap.xml."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import bookcache
import fragments
import notebooks
import programs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import ROOT

CHAPTER = "chapters/01_tiny"
LINK = re.compile(r"\]\(([^)#\s]+)")
MYST = re.compile(r"^:::|\{[a-z][\w:-]*\}`|^\([\w-]+\)=$", re.MULTILINE)


@pytest.fixture
def small(built: tuple[Path, str]) -> Path:
    """The site of the tiny book."""
    return built[0] / "_build/html"


def test_each_page_has_its_markdown_beside_it(small, built):
    for page in bookcache.pages(built[0]):
        text = (small / page).read_text()
        assert text.startswith("# ")
        assert not MYST.search(text), page


def test_numbers_outputs_and_pictures_are_words(small):
    text = (small / f"{CHAPTER}.md").read_text()
    for part in (
        "**What is the answer?**",
        "is 42, a third of it 14.0",
        "```text\n44 is two more\n```",
        "*Figure 1.1.* The answer grows",
        "(Picture: A line that rises from 0 to 42.)",
        "**Theorem 1.1 (High-temperature limit).**",
        "\\tag{1.1}",
    ):
        assert part in text, part
    assert "papermill" not in text and "matplotlib.figure" not in text


def test_what_the_build_makes_is_in_it(small):
    text = (small / "book/reference.md").read_text()
    assert "- **Teacher**: The model whose outputs are copied." in text
    assert "### `distill_lib.answer(offset=0)`" in text
    assert "The answer, moved by an offset." in text
    assert "The answer is large (holds; 42 >= 40)" in text and "01_tiny:" in text
    assert re.search(r"^- 01_tiny: \d+ s, 0\.\d{5} kWh, cpu\n- in all: \d+ s, ", text, re.MULTILINE)
    assert "Distilling the knowledge" in (small / "book/bibliography.md").read_text()


def dead(site: Path, page: Path) -> list[str]:
    prose = programs.FENCED.sub("", page.read_text(encoding="utf-8"))
    links = [unquote(link) for link in LINK.findall(prose)]
    return [link for link in links if "://" not in link and not (page.parent / link).exists()]


def test_its_links_lead_to_pages_of_the_site(small, built):
    for page in bookcache.pages(built[0]):
        assert dead(small, small / page) == [], page
    assert dead(small, small / "llms.txt") == []


def test_llms_txt_lists_pages_with_their_questions(small):
    lines = (small / "llms.txt").read_text().splitlines()
    assert lines[0] == "# Learning from Teachers"
    assert lines[2].startswith("> It has one chapter, Temperature,")
    assert "- [Temperature](chapters/01_tiny.md): What is the answer?" in lines
    assert [line for line in lines if line.startswith("## ")] == [
        "## Start",
        "## Chapters",
        "## Reference",
    ]


def test_a_page_offers_its_notebook_and_its_markdown(small):
    text = (small / f"{CHAPTER}.html").read_text()
    assert 'href="../notebooks/01_tiny.ipynb"' in text and 'href="01_tiny.md"' in text


def test_addresses_only_where_one_is_known(changed, monkeypatch):
    site = changed / "_build/html"
    assert not (site / "sitemap.xml").exists()
    xrefs = json.loads((changed / "_build/xrefs.json").read_text())
    monkeypatch.setenv("DISTILL_SITE", "https://book.example/a&b")
    shutil.rmtree(changed / "_build/notebooks")
    notebooks.write_all(changed, xrefs)
    found = re.findall("<loc>(.*?)</loc>", (site / "sitemap.xml").read_text())
    pages = [page.removesuffix(".md") for page in bookcache.pages(changed)]
    assert found == [f"https://book.example/a&amp;b/{page}.html" for page in pages]
    assert f"](https://book.example/a&b/{CHAPTER}.md)" in (site / "llms.txt").read_text()
    assert "https://book.example" not in (site / f"{CHAPTER}.md").read_text()


def test_the_same_bytes_twice(changed):
    """They are made from sources and the record of the execution alone."""
    site = changed / "_build/html"
    before = {path: path.read_bytes() for path in [*site.rglob("*.md"), site / "llms.txt"]}
    notebooks.write_all(changed, json.loads((changed / "_build/xrefs.json").read_text()))
    assert before == {path: path.read_bytes() for path in before}


names = st.sampled_from(["div", "p", "dl"])
trees = st.recursive(
    st.just("text"),
    lambda inner: st.builds(
        lambda name, parts: f"<{name}>{''.join(parts)}</{name}>", names, st.lists(inner, max_size=3)
    ),
)


@given(before=trees, inside=trees, after=trees)
def test_an_element_is_found_to_its_end(before, inside, after):
    element = f'<div class="a dl-b c" id="x">{inside}</div>'
    page = f"{before}{element}{after}"
    assert fragments.named(page, "x") == element
    assert fragments.classed(page, "div", "dl-b") == [element]
    assert fragments.named(page, "y") == "" and fragments.classed(page, "div", "dl") == []


def test_what_is_never_closed_is_refused():
    with pytest.raises(ValueError, match="never closed"):
        fragments.element("<div><div></div>", 0)
    with pytest.raises(ValueError, match="no element"):
        fragments.element("words", 0)


@pytest.mark.site
def test_the_whole_book_is_there_for_programs(site):
    for page in bookcache.pages(ROOT):
        text = (site / page).read_text(encoding="utf-8")
        assert text.startswith("# ") and len(text) > 500, page
        assert not MYST.search(programs.FENCED.sub("", text)), page
        assert dead(site, site / page) == [], page
    lines = (site / "llms.txt").read_text(encoding="utf-8").splitlines()
    chapters = [line for line in lines if "](" in line and "chapters/" in line]
    assert len(chapters) == sum(page.startswith("chapters/") for page in bookcache.pages(ROOT))
    assert all(line.endswith("?") for line in chapters)
