"""The PDF and the EPUB of three pages: they open, nothing in them is raw, cut or leads nowhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import epub
import fragments
import paper
import pytest
from browsing import chromium
from making import ROOT, missing

PAGES = (
    "chapters/foundations/temperature_and_kl",  # answers, live figures
    "chapters/policies/own_states",  # films
    "book/notation",
)
X, M = epub.X, epub.M
OPF = "{http://www.idpf.org/2007/opf}"


@pytest.fixture(scope="module")
def made(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files, in which the tool itself finds nothing wrong."""
    chromium()
    target = tmp_path_factory.mktemp("paper") / "out"
    assert paper.write(ROOT, target, PAGES) == []
    return target


@pytest.fixture(scope="module")
def files(made: Path) -> dict[str, bytes]:
    """What is in the EPUB."""
    with zipfile.ZipFile(made / f"{paper.NAME}.epub") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def trees(files: dict[str, bytes]) -> dict[str, ElementTree.Element]:
    found = {n: ElementTree.fromstring(b) for n, b in files.items() if n.endswith(".xhtml")}
    return {name.removeprefix("book/").removesuffix(".xhtml"): tree for name, tree in found.items()}


def pages_of(pdf: Path) -> list[str]:
    """The text of each page of a PDF."""
    if shutil.which("pdftotext") is None:
        missing("no pdftotext: install poppler-utils")
    done = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, check=True)
    return done.stdout.decode().split("\f")[:-1]


def title(site: Path, page: str) -> str:
    """A page's heading, as the site has it."""
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    heading = re.sub(r'<a class="headerlink".*?</a>', "", text[text.index("<h1") :], count=1)
    return fragments.words(fragments.element(heading, 0))


@pytest.mark.site
def test_the_contents_name_the_page_on_which_each_chapter_begins(made: Path, site: Path) -> None:
    pages = pages_of(made / f"{paper.NAME}.pdf")
    contents = next(text for text in pages if text.lstrip().startswith("Contents"))
    for page in PAGES:
        name = title(site, page)
        number = re.search(rf"{re.escape(name)} +(\d+)$", contents, re.MULTILINE)
        assert number, (name, contents)
        assert pages[int(number[1]) - 1].lstrip().splitlines()[0].endswith(name)


@pytest.mark.site
def test_a_chapter_is_a_pdf_with_its_answers_and_no_raw_formula(made: Path, site: Path) -> None:
    for page in PAGES[:2]:
        pages = pages_of(made / f"{paper.short(page)}.pdf")
        text = "\n".join(pages)
        assert title(site, page) in pages[0]
        assert text.count("Solution to Exercise") > 3
        assert not re.search(r"\\frac|\\sum|\\begin\{|\$\$|\\\(", text)
        assert "file:" not in text
    assert not (made / "notation.pdf").exists()  # the other pages are in the book alone


@pytest.mark.site
def test_no_link_of_a_pdf_leads_to_the_machine_that_made_it(made: Path) -> None:
    for pdf in made.glob("*.pdf"):
        assert b"/URI (file" not in pdf.read_bytes(), pdf.name
    whole = (made / f"{paper.NAME}.pdf").read_bytes()
    assert b"/Outlines" in whole and b"/Dest /own_states" in whole


@pytest.mark.site
def test_every_formula_is_mathml(trees: dict[str, ElementTree.Element], site: Path) -> None:
    for page in PAGES:
        text = (site / f"{page}.html").read_text(encoding="utf-8")
        article = fragments.classed(text, "article", "bd-article")[0]
        wanted = len(re.findall(r'<(?:span|div) class="math ', article))
        tree = trees[paper.short(page)]
        assert len(tree.findall(f".//{M}math")) == wanted > 0
        assert tree.find(f".//{M}merror") is None
        assert all(len(math) for math in tree.iter(f"{M}math"))


@pytest.mark.site
def test_the_epub_lists_all_that_is_in_it(files: dict[str, bytes]) -> None:
    package = ElementTree.fromstring(files["book/book.opf"])
    items = {i.get("id"): i.get("href") for i in package.iter(f"{OPF}item")}
    listed = {f"book/{name}" for name in items.values()}
    assert listed | {"mimetype", "META-INF/container.xml", "book/book.opf"} == set(files)
    read = [items[ref.get("idref")] for ref in package.iter(f"{OPF}itemref")]
    assert read == ["cover.xhtml", "nav.xhtml", *(f"{paper.short(p)}.xhtml" for p in PAGES)]
    nav = ElementTree.fromstring(files["book/nav.xhtml"])
    assert [a.get("href") for a in nav.iter(f"{X}a")] == read[2:]
    has = {i.get("href"): i.get("properties") for i in package.iter(f"{OPF}item")}
    assert (has["nav.xhtml"], has["images/cover.png"]) == ("nav", "cover-image")
    assert has["notation.xhtml"] == "mathml"


@pytest.mark.site
def test_the_epub_needs_no_script_and_no_network(
    files: dict[str, bytes], trees: dict[str, ElementTree.Element]
) -> None:
    for name, tree in trees.items():
        assert tree.get("lang") == "en"
        for element in tree.iter():
            assert element.tag.rpartition("}")[2] not in {"script", "iframe", "video", "canvas"}
            assert not [key for key in element.attrib if key.startswith("on")]
            source = element.get("src")
            assert source is None or f"book/{source}" in files, (name, source)
    assert b"url(" not in files["book/style.css"] and b"@import" not in files["book/style.css"]


@pytest.mark.site
def test_links_of_the_epub_lead_somewhere(trees: dict[str, ElementTree.Element]) -> None:
    places = {n: {e.get("id") for e in tree.iter()} | {""} for n, tree in trees.items()}
    for name, tree in trees.items():
        for link in tree.iter(f"{X}a"):
            to = link.get("href", "")
            if not re.match(r"https?:", to):
                file, _, place = to.partition("#")
                assert place in places[file.removesuffix(".xhtml") or name], (name, to)


@pytest.mark.site
def test_what_moves_is_a_picture_and_a_sentence(trees: dict[str, ElementTree.Element]) -> None:
    for page, words in zip(PAGES, ("can be moved on", "These films run on"), strict=False):
        said = ["".join(p.itertext()) for p in trees[paper.short(page)].iter(f"{X}p")]
        assert any(words in text for text in said)
        pictures = [i.get("src", "") for i in trees[paper.short(page)].iter(f"{X}img")]
        assert any(re.search(r"-(live|film)-\d+\.png$", source) for source in pictures)


BODY = '<article xmlns="http://www.w3.org/1999/xhtml">{}</article>'


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("<p>", "not well-formed"),
        ('<p id="a"/><p id="a"/>', "the id a twice"),
        ("<script/>", "has <script>"),
        ('<span class="math">x</span>', "no MathML: x"),
        ('<a href="other.xhtml">x</a>', "a link to nowhere: other.xhtml"),
        ('<a href="#b">x</a>', "a link to nowhere: #b"),
        ('<img src="images/x.png"/>', "a picture that is not there"),
        (r"<p>\frac</p>", r"raw TeX: \frac"),
        ('<math xmlns="http://www.w3.org/1998/Math/MathML"><merror/></math>', "with an error"),
        (r"<pre>\frac</pre>", ""),
        ('<a href="#" /><a href="here.xhtml">x</a>', ""),
    ],
)
def test_the_check_names_the_page(inside: str, said: str) -> None:
    page = SimpleNamespace(name="here", xhtml=BODY.format(inside), images={})
    found = epub.check({"book/here": page})
    assert len(found) == bool(said)
    assert all(line.startswith("book/here: ") and said in line for line in found)


def test_without_a_browser_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt install chromium"):
        paper.write(tmp_path, tmp_path / "out", [])


def test_links_to_the_files_are_there_only_with_them(tmp_path: Path) -> None:
    site, target = tmp_path / "_build/html", tmp_path / "_build/paper"
    (tmp_path / "_toc.yml").write_text("root: intro.md\nparts: [{chapters: [{file: one.md}]}]\n")
    (tmp_path / "intro.md").write_text("# Book\n")
    (tmp_path / "one.md").write_text("---\nfile_format: mystnb\nkernelspec: {name: python3}\n---\n")
    site.mkdir(parents=True)
    target.mkdir()
    (target / "one.pdf").touch()
    (site / "intro.html").write_text("<article></article>")
    (site / "one.html").write_text('<a href="one.md">as Markdown</a>')
    for _ in range(2):  # the second time changes nothing
        paper.offer(tmp_path, target, ["intro", "one"])
        assert (site / "one.html").read_text().count('href="paper/one.pdf"') == 1
        assert (site / "intro.html").read_text().count(".epub") == 1
    assert (site / "paper/one.pdf").exists()
