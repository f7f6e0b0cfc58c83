"""Write _build/paper: the book as PDF and as EPUB, and a PDF of each chapter, from the built site.

Chromium opens each page once, with no network, and hands back what the page's scripts made of it:
well-formed XHTML, live figures as pictures. The EPUB is these pages (epub.py). The PDF is printed
from the same, as one document, so that links, bookmarks and page numbers go through the whole of it
and nothing has to be merged. No LaTeX, no second execution.

    python book/_tools/paper.py [--root FOLDER] [--to FOLDER] [PAGE ...]
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import addresses
import bookcache
import browser
import epub
import programs

NAME = "learning-from-teachers"
HERE = Path(__file__).with_name("paper")
# The printed width of A4 between the margins of distill.css; what is wider here is cut there.
PRINTED = {"width": 672, "height": 1000}
# As narrow as a figure may be: what it says is then read on a phone, too.
DRAWN = {"width": 560, "height": 1000}
COVER = {"width": 600, "height": 800}
SUBTITLE = "An executable textbook of knowledge distillation"
FIGURE = "_static/figures/teacher_student.svg"

# A still picture has no buttons; nobody could press them.
STILL = """:is(.dl-live, .dl-fig) :is(button, input, textarea, select, fieldset) {
  display: none !important; }"""
COVERED = """<div style="background: #fff; color: #1b1b1b; inset: 0; padding: 60px 50px;
 position: fixed; z-index: 9999"><h1 style="color: #0072B2; font-size: 58px">{title}</h1>
<p style="font-size: 24px">{subtitle}</p>
<img src="{figure}" alt="" style="margin: 70px 0; width: 100%"/><p>{author}</p></div>"""


@dataclass
class Page:
    """A page of the book: its name in files, its title, its XHTML, its pictures by name."""

    name: str
    title: str
    xhtml: str
    images: dict[str, str] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="names; default: all of the book")
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    parser.add_argument("--to", type=Path, help="default: _build/paper")
    options = parser.parse_args()
    root = options.root.resolve()
    if not (root / "_build/html/index.html").exists():
        raise SystemExit("The site is not built: python make.py book first.")
    names = [Path(page).with_suffix("").as_posix() for page in bookcache.pages(root)]
    if unknown := set(options.pages) - {short(name) for name in names}:
        raise SystemExit(f"No page {sorted(unknown)}; there are {[short(n) for n in names]}.")
    wanted = [name for name in names if not options.pages or short(name) in options.pages]
    if options.to is None:
        shutil.rmtree(root / "_build/paper", ignore_errors=True)
    target = (options.to or root / "_build/paper").resolve()
    problems = write(root, target, wanted)
    if wanted == names and options.to is None and not problems:
        offer(root, target, names)
    for problem in problems:
        print(problem, flush=True)
    return 1 if problems else 0


def short(name: str) -> str:
    return name.rpartition("/")[2]


def write(root: Path, target: Path, names: Sequence[str]) -> list[str]:
    """PDFs and EPUB of these pages; returns what is wrong with them."""
    path = browser.chromium()
    if path is None:
        raise SystemExit(f"{browser.WHERE} (on Debian and Ubuntu: apt install chromium)")
    target.mkdir(parents=True, exist_ok=True)
    with browser.launched(path) as running:
        pages, problems = harvested(running, root, names)
        problems += epub.check(pages)
        cover = picture_of_cover(running, root)
        contents = programs.contents(root)
        parts = [(caption, [n for n in own if n in names]) for caption, own in contents]
        book = Book(bookcache.config(root)["title"], root, pages, [p for p in parts if p[1]])
        style = epub.light((root / "_build/html/_static/pygments.css").read_text(encoding="utf-8"))
        style += text("epub.css")
        author = bookcache.config(root)["author"]
        epub.write(target / f"{NAME}.epub", book, cover, author, style)
        problems += printed(running, book, target / f"{NAME}.pdf", book.bound())
        for name in set(names) & set(runs(root)):
            printed(running, book, target / f"{short(name)}.pdf", [pages[name]])
    formulas = sum(page.xhtml.count("<math") for page in pages.values())
    print(f"{len(pages)} pages with {formulas} formulas in {target}", flush=True)
    return problems


def offer(root: Path, target: Path, names: Sequence[str]) -> None:
    """Put the files beside the site, and links to them into its pages: only now they lead there."""
    site = root / "_build/html"
    shutil.copytree(target, site / "paper", dirs_exist_ok=True)
    for name in names:
        page = site / f"{name}.html"
        said, up = page.read_text(encoding="utf-8"), "../" * name.count("/")
        if f'="{up}paper/' in said:
            continue
        link = f'<a class="dl-download" href="{up}paper/{{}}" download>{{}}</a>'.format
        if name in runs(root):
            more = f"as Markdown</a> · {link(f'{short(name)}.pdf', 'as PDF')}"
            said = said.replace("as Markdown</a>", more, 1)
        elif name == names[0]:
            files = link(f"{NAME}.pdf", "PDF"), link(f"{NAME}.epub", "EPUB")
            more = f'<p class="dl-paper">The whole book as {files[0]} or {files[1]}.</p>'
            said = said.replace("</article>", f"{more}</article>", 1)
        page.write_text(said, encoding="utf-8", newline="\n")


def runs(root: Path) -> list[str]:
    """The pages that offer their notebook offer a PDF too."""
    return [p.relative_to(root).with_suffix("").as_posix() for p in bookcache.chapters(root)]


def harvested(running: Any, root: Path, names: Sequence[str]) -> tuple[dict[str, Page], list[str]]:
    """Each page as the browser has drawn it, and what was wrong in it."""
    site, pages, problems = root / "_build/html", {}, []
    known = {name: short(name) for name in names}
    for name in names:
        with browser.opened(running, DRAWN, device_scale_factor=2) as tab:
            browser.visit(tab, site, name)
            tab.add_style_tag(content=STILL)
            stills, images = [], {}
            for number, figure in enumerate(tab.query_selector_all(".dl-live, .dl-fig")):
                stills.append(f"{short(name)}-live-{number}.png")
                images[stills[-1]] = data_url(figure.screenshot())
            about = {"root": f"{site.as_uri()}/", "site": addresses.find(root).site}
            made = tab.evaluate(script("harvest"), {**about, "pages": known, "stills": stills})
            images = {**made["images"], **images}
            pages[name] = Page(short(name), made["title"], made["xhtml"], images)
            problems += [f"{name}: {said}" for said in [*tab.errors, *tab.outside]]
    return pages, problems


def text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def script(name: str) -> str:
    """A function, without the comment that heads its file."""
    return re.sub(r"\A(//.*\n)+", "", text(f"{name}.js"))


def data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@dataclass
class Book:
    """What is bound: its pages by their names in the site, in parts."""

    title: str
    root: Path
    pages: dict[str, Page]
    parts: list[tuple[str, list[str]]]

    def bound(self) -> list[Page]:
        """With a title page, the contents, and a leaf before each part."""
        pages = [Page("title-page", self.title, self.cover(), figure(self.root))]
        pages.append(Page("contents", "Contents", self.contents()))
        for number, (caption, names) in enumerate(self.parts):
            if caption != "Start":
                leaf = (
                    f'<article class="bd-article dl-part"><h1>{html.escape(caption)}</h1></article>'
                )
                pages.append(Page(f"part-{number}", caption, leaf))
            pages += [self.pages[name] for name in names]
        return pages

    def cover(self) -> str:
        about = bookcache.config(self.root)
        return (
            f'<article class="bd-article dl-title"><h1>{html.escape(self.title)}</h1>'
            f'<p>{SUBTITLE}</p><img src="images/{short(FIGURE)}" alt=""/>'
            f"<p>{html.escape(about['author'])}, {about['copyright']}</p>"
            "<p>Text and figures: CC BY 4.0. Code: MIT.</p></article>"
        )

    def contents(self) -> str:
        lines = []
        for caption, names in self.parts:
            rows = "".join(
                f'<li><a href="{self.pages[n].name}.xhtml"><span>{html.escape(self.pages[n].title)}'
                "</span></a></li>"
                for n in names
            )
            lines.append(f"<p><strong>{html.escape(caption)}</strong></p><ul>{rows}</ul>")
        inside = "".join(lines)
        return f'<article class="bd-article dl-contents"><h1>Contents</h1>{inside}</article>'


def figure(root: Path) -> dict[str, str]:
    return {short(FIGURE): (root / "_build/html" / FIGURE).as_uri()}


def printed(running: Any, book: Book, target: Path, pages: Sequence[Page]) -> list[str]:
    """Print pages as one PDF, with bookmarks; returns what is wrong with how they look."""
    images = {name: src for page in pages for name, src in page.images.items()}
    site = book.root / "_build/html"
    with browser.opened(running, PRINTED) as tab:
        tab.set_default_timeout(600_000)
        browser.visit(tab, site, next(iter(book.pages)))
        tab.emulate_media(media="print")
        tab.add_style_tag(content=text("print.css"))
        title = book.title if len(pages) > 1 else f"{pages[0].title} – {book.title}"
        articles = [(page.name, page.xhtml) for page in pages]
        tab.evaluate(script("print"), {"title": title, "articles": articles, "images": images})
        problems = tab.evaluate(script("find"))
        options = {"path": target, "prefer_css_page_size": True, "outline": True, "tagged": True}
        tab.pdf(**options)
        if len(pages) > 1:  # the contents say on which page a chapter begins when that is known
            tab.evaluate(script("number"), starts(target.read_bytes()))
            tab.pdf(**options)
        return [*problems, *tab.errors, *tab.outside]


def starts(pdf: bytes) -> dict[str, int]:
    """On which page each chapter begins, as Chromium has written it."""
    leaves = [int(n) for n in re.findall(rb"(\d+) 0 obj\s*<<\s*/Type /Page\b", pdf)]
    found = re.findall(rb"^(?:<<)?/([\w-]+) \[(\d+) 0 R /XYZ", pdf, re.MULTILINE)
    return {name.decode(): leaves.index(int(leaf)) + 1 for name, leaf in found}


def picture_of_cover(running: Any, root: Path) -> bytes:
    """The first thing that a shelf of books shows."""
    about, (source,) = bookcache.config(root), figure(root).values()
    with browser.opened(running, COVER, device_scale_factor=2) as tab:
        browser.visit(tab, root / "_build/html", "search")
        tab.evaluate(
            "html => { document.body.innerHTML = html; }",
            COVERED.format(
                subtitle=SUBTITLE,
                title=html.escape(about["title"]),
                author=html.escape(about["author"]),
                figure=source,
            ),
        )
        tab.evaluate("() => document.images[0].decode()")
        return bytes(tab.screenshot())


if __name__ == "__main__":
    raise SystemExit(main())
