"""The Chinese pages: catalogs that keep what is not language, and pages equal in all but words."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bookcache
import chinese
import fragments
import programs
import pytest
from accessible import ALL, COLORS, violations
from babel.messages.pofile import read_po, write_po
from browsing import PHONE, WIDE, opened, visit
from making import ROOT, missing, run_in
from markdown_it import MarkdownIt
from test_links import Links

PAGES = chinese.pages(ROOT)
pages = pytest.mark.parametrize("name", PAGES)
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]*)`")
LINK = re.compile(r"\]\(([^()\s]*)\)")
FORMULA = re.compile(r"(\$\$?)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
WORDS = r'<figcaption.*?</figcaption>| (?:alt|lang)="[^"]*"|(?:\.\./)+'
LEFT = 0.1  # of a page's paragraphs may be in English, until somebody translates them
TINY = "chapters/01_tiny"


def kept(text: str) -> Counter[tuple[str, ...]]:
    """What of a paragraph is no language: roles with their targets, code, formulas, links."""
    found: Counter[tuple[str, ...]] = Counter()
    for pattern in (ROLE, CODE, FORMULA, LINK):
        found.update((*m.groups()[:-1], target(m.groups()[-1])) for m in pattern.finditer(text))
        text = pattern.sub(" ", text)
    return found


def target(text: str) -> str:
    """What a role names, without the words that it is shown with."""
    return text.rpartition("<")[2].removesuffix(">") if text.endswith(">") else text


def translated(name: str) -> Iterator[tuple[str, str]]:
    yield from chinese.translations(ROOT, name).items()


@pages
def test_a_translation_keeps_formulas_references_code_and_links(name):
    wrong = [
        f"{text}\n  lacks {dict(kept(text) - kept(said))}\n  adds {dict(kept(said) - kept(text))}"
        for text, said in translated(name)
        if kept(text) != kept(said)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_kept_is_seen():
    text = "At $T$ the `KD` of {term}`a <b>` and {ref}`c` is [here](x.md); `$a$` is code."
    roles, code = [("term", "b"), ("ref", "c")], [("`", "KD"), ("`", "$a$")]
    assert kept(text) == Counter([*roles, *code, ("$", "T"), ("x.md",)])


def marks(text: str) -> tuple[int, int, bool]:
    """Emphases and strong words of a paragraph, and whether a star was left as a star."""
    for pattern in (ROLE, CODE, FORMULA):
        text = pattern.sub("x", text)
    shown = MarkdownIt().renderInline(text)
    return shown.count("<em>"), shown.count("<strong>"), "*" in re.sub(r"<[^<>]+>", "", shown)


@pages
def test_emphasis_is_read_as_such(name):
    """Beside a Chinese character, CommonMark takes some stars for stars."""
    wrong = [said for text, said in translated(name) if marks(said) != marks(text)]
    assert not wrong, "\n".join(wrong)


@pages
def test_a_page_is_translated(name):
    found = chinese.catalog(ROOT, name)
    left = [str(m.id) for m in found if m.id and (m.fuzzy or not m.string)]
    assert len(left) <= LEFT * len(found), "\n".join(left)


def test_the_words_of_the_directives_are_translated():
    with chinese.catalog_of(ROOT, "sphinx").open("rb") as file:
        words = {str(m.id): str(m.string) for m in read_po(file) if m.id}
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "book/_ext").glob("*.py"))
    assert all(words.values())
    assert [
        word for word in words if f'"{word}"' not in sources and f"'{word}'" not in sources
    ] == []
    asked = {a or b for a, b in re.findall(r"""\b_\((?:"([^"]+)"|'([^']+)')\)""", sources)}
    assert asked <= set(words)


# With the built site.


@pytest.fixture(scope="session")
def zh(site: Path) -> Path:
    """The site, with Chinese pages that are not older than their catalogs."""
    first = site / chinese.FOLDER / "index.html"
    if not first.exists():
        missing("the Chinese pages are not built: run `make book` first")
    catalogs = (ROOT / chinese.LOCALES).rglob("*.po")
    if any(path.stat().st_mtime > first.stat().st_mtime for path in catalogs):
        missing("the Chinese pages are older than their catalogs: run `make chinese` first")
    return site


@pytest.mark.site
@pages
def test_the_catalogs_have_the_paragraphs_of_the_english_pages(site, name):
    now = chinese.messages(chinese.english(ROOT, name))
    known = [str(m.id) for m in chinese.catalog(ROOT, name) if m.id]
    changed = [f"not in the catalog: {text}" for text in now if text not in known]
    gone = [f"no longer on the page: {text}" for text in known if text not in now]
    assert not changed + gone, "run `make chinese`:\n" + "\n".join([*changed, *gone])


def article(site: Path, page: str) -> str:
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    return fragments.element(text, text.index("<article"))


def parts(site: Path, page: str) -> dict[str, Any]:
    """What both pages of a pair have in common."""
    text = article(site, page)
    links = Links()
    links.feed(text)
    folder = posixpath.dirname(page)
    inside = [posixpath.normpath(posixpath.join(folder, link)) for link in links.links]
    # a caption stands in an output, too
    cells = fragments.classed(re.sub(WORDS, "", text, flags=re.DOTALL), "div", "cell_output")
    return {
        "formulas": Counter(map(fragments.words, fragments.classed(text, "span", "math"))),
        "displayed": [fragments.words(f) for f in fragments.classed(text, "div", "math")],
        "code": [fragments.words(f) for f in fragments.classed(text, "div", "cell_input")],
        "outputs": cells,
        "numbers": Counter(map(fragments.words, fragments.classed(text, "span", "pasted-text"))),
        "labels": {a for a in links.anchors if not a.startswith("id")},
        "links": Counter(link.removeprefix(f"{chinese.FOLDER}/") for link in inside),
    }


@pytest.mark.site
@pages
def test_a_pair_of_pages_differs_in_words_alone(zh, name):
    theirs, ours = parts(zh, name), parts(zh, f"{chinese.FOLDER}/{name}")
    terms = "book/glossary.html#term-"  # linked where an English page first says one of them
    for part in theirs:
        if isinstance(theirs[part], Counter):
            lacks, adds = theirs[part] - ours[part], ours[part] - theirs[part]
            assert {k for k in lacks if terms not in k} | set(adds) == set(), part
        else:
            assert ours[part] == theirs[part], part


@pytest.mark.site
@pages
def test_a_page_says_its_language_and_where_the_other_is(zh, name):
    for page, code, other in ((name, "en", "zh-CN"), (f"{chinese.FOLDER}/{name}", "zh-CN", "en")):
        text = (zh / f"{page}.html").read_text(encoding="utf-8")
        assert f'<html lang="{code}"' in text
        assert set(re.findall(r'rel="alternate" hreflang="([^"]+)"', text)) == {"en", "zh-CN"}
        assert f'hreflang="{other}" lang="{other}"' in article(zh, page)


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def screen(request: Any, browser: Any) -> Iterator[Any]:
    with opened(browser, request.param) as page:
        page.lost = []
        page.on("requestfailed", lambda request: page.lost.append(request.url))
        yield page


@pytest.mark.site
@pages
def test_a_chinese_page_is_whole_in_a_browser(screen, zh, name):
    visit(screen, zh, f"{chinese.FOLDER}/{name}")
    assert screen.outside == screen.lost == screen.errors == []
    for theme, rules in {"light": ALL, "dark": COLORS}.items():
        screen.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        assert violations(screen, rules) == []
        wide = screen.evaluate("document.documentElement.scrollWidth")
        assert wide <= screen.viewport_size["width"]
    screen.locator(".dl-languages a").click()
    assert screen.url == (zh / f"{name}.html").as_uri()
    screen.locator(".dl-languages a").click()
    assert screen.url == (zh / chinese.FOLDER / f"{name}.html").as_uri()


# On the tiny book, with catalogs of its own.


def change(root: Path, page: str, **said: str) -> None:
    """Give paragraphs, named by their first word, another translation."""
    found = chinese.catalog(root, page)
    for message in found:
        message.string = said.get(str(message.id).partition(" ")[0], message.string)
    with chinese.catalog_of(root, page).open("wb") as file:
        write_po(file, found)


@pytest.fixture
def tiny(changed: Path) -> Path:
    """The tiny book with a translation in which a paragraph is missing and one is old."""
    for page in ("book/intro", TINY):
        found = chinese.Catalog(locale=chinese.LANGUAGE, fuzzy=False)
        for message in chinese.messages(chinese.english(changed, page)):
            old = {"fuzzy"} if message.startswith("Use") else set()
            found.add(message, f"译文 {message}", flags=old)
        path = chinese.catalog_of(changed, page)
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            write_po(file, found)
    change(changed, TINY, **{"Proof.": ""})
    return changed


def test_what_is_not_translated_is_shown_in_english_and_counted(tiny):
    site = tiny / "_build/html"
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    done = run_in(tiny, "book/_tools/chinese.py")
    assert done.returncode == 0, done.stdout
    text = (site / f"{chinese.FOLDER}/{TINY}.html").read_text(encoding="utf-8")
    assert "本页有 2 段" in text and "<p>Use <a" in text and "Proof. Expand " in text
    for part in (
        '<p class="dl-question">译文 What is the answer?</p>',
        '<span class="pasted-text">42</span>, a third of it <span class="pasted-text">14.0</span>',
        'href="../../notebooks/01_tiny.ipynb"',
        'href="../../chapters/01_tiny.md"',
        'href="../../book/reference.html',
        'src="../../_images/scheme.svg"',
        "图 1.1",
        "译文 Teacher and student.",
    ):
        assert part in text, part
    assert {path: path.read_bytes() for path in before} == before
    assert not (site / chinese.FOLDER / "_static").exists()


def test_what_is_no_paragraph_is_an_error(tiny):
    change(tiny, TINY, Teacher="- 师生", The="{glue:text}`nothing`")
    done = run_in(tiny, "book/_tools/chinese.py")
    assert done.returncode != 0
    assert "is no paragraph" in done.stdout and "no cell glues 'nothing'" in done.stdout


def test_the_sitemap_has_the_chinese_pages(tiny, monkeypatch):
    monkeypatch.setenv("DISTILL_SITE", "https://book.example/")
    names = [page.removesuffix(".md") for page in bookcache.pages(tiny)]
    programs.write_lists(tiny, dict.fromkeys(names, "T"), dict.fromkeys(names, "# T"))
    found = re.findall("<loc>(.*?)</loc>", (tiny / "_build/html/sitemap.xml").read_text())
    ours = [f"https://book.example/zh/{name}.html" for name in ("book/intro", TINY)]
    assert len(found) == len(names) + 2 and found[-2:] == ours


def test_an_empty_file_becomes_a_catalog(tiny):
    chinese.catalog_of(tiny, "book/reference").write_bytes(b"")
    said = chinese.refresh(tiny, "book/reference")
    found = chinese.catalog(tiny, "book/reference")
    assert len(said) == len(found) > 3 and all(": new: " in line for line in said)
    assert found.locale.territory == "CN" and not found.fuzzy


def test_a_catalog_follows_the_english_page(tiny):
    path, found = chinese.catalog_of(tiny, TINY), chinese.catalog(tiny, TINY)
    text = "For zero-mean logits,"
    found.delete(text)
    found.add("For zero-mean logit vectors,", "对零均值的 logits，")
    found.add("No longer there at all", "不见了")
    with path.open("wb") as file:
        write_po(file, found)
    said = "\n".join(chinese.refresh(tiny, TINY))
    assert f"changed: {text}" in said and "gone: No longer" in said and "new: Proof." in said
    again = chinese.catalog(tiny, TINY)
    assert again[text].fuzzy and again[text].string == "对零均值的 logits，"
    assert again[text].user_comments == ["English was: For zero-mean logit vectors,"]
    assert text not in chinese.translations(tiny, TINY)
    once = path.read_bytes()
    assert not [line for line in chinese.refresh(tiny, TINY) if "gone:" in line]
    assert path.read_bytes() == once
