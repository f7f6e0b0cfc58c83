"""Write _build/slides: each chapter as slides, a folder that needs neither network nor server.

Made from the built site, and so from the same run: title and question; of each section the figures
with their captions, the theorems, tables and claims, one a slide; of the prose only the summary,
and the first paragraph of a section that has none of these. A chapter is one file, through which
the arrow keys move (slides.js), with the font of the site's formulas beside it.

    python book/_tools/slides.py [--root FOLDER]
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import bookcache
from fragments import classed, element, words

PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,">
<style>{style}</style>
</head><body class="bd-article">
{slides}
<script>{script}</script>
</body></html>
"""
INDEX = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slides · {book}</title><link rel="icon" href="data:,">
<style>
body {{ color: #222832; font: 1.1rem/1.5 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 46rem; padding: 0 1rem; }}
li {{ margin: 0.7rem 0; }}
a {{ color: #1f5582; }}
</style>
</head><body>
<h1>{book}: slides</h1>
<p>The arrow keys turn the page.</p>
{parts}
</body></html>
"""
# What is shown, in the order of the page, and what is read at home, with all that is in it.
# A student that runs in the page needs the page: it is not on a slide.
PROOF = r'div class="proof (?!admonition)'
SHOWN = rf"""<(?:figure\b(?![^<>]*dl-run)|{PROOF}|ul class="dl-claims"|table\b)"""
HOME = r"""<(?:details\b|div class="(?:solution|proof admonition|dl-code-box|dl-before-box)\b)"""
NEXT = re.compile(f"(?P<shown>{SHOWN})|{HOME}")
LISTED = re.compile(r"<[uo]l class=\"[^\"]*\bsimple\b")
SECTION = re.compile(r'<section id="([^"]+)">\s*(?:<span id="[^"]*"></span>\s*)*<h2>')
LEFT_OUT = {"quiz", "exercises", "notes-and-references"}
LINK = re.compile(r'<a class="headerlink".*?</a>|</?a\b[^<>]*>', re.DOTALL)
FOLD = re.compile(r"<details><summary>(.*?)</summary>.*?</details>", re.DOTALL)
FONT, LICENSE = (f"_static/fonts/stix-two-math.{kind}" for kind in ("woff", "LICENSE.txt"))
FILE = re.compile(r'\b(src|href)="(?:\.\./)+((?:_static|_images)/[^"?#]+)[^"]*"')
ON_A_SLIDE = 6  # claims


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    root = parser.parse_args().root.resolve()
    target = root / "_build/slides"
    print(f"{len(write_all(root, target))} chapters as slides in {target}", flush=True)
    return 0


def write_all(root: Path, target: Path) -> list[Path]:
    site, written = root / "_build/html", []
    book, lines = bookcache.config(root)["title"], {}
    shutil.rmtree(target, ignore_errors=True)
    (target / FONT).parent.mkdir(parents=True)
    for name in (FONT, LICENSE):
        shutil.copyfile(site / name, target / name)
    for path in (root / page for page in bookcache.pages(root) if page.startswith("chapters/")):
        page = site / path.relative_to(root).with_suffix(".html")
        if not page.exists():
            raise SystemExit(f"{page} is missing: build the site first (python make.py book).")
        text = deck(page.read_text(encoding="utf-8"), book)
        for _, name in FILE.findall(text):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(site / name, target / name)
        written.append(target / f"{path.stem}.html")
        text = FILE.sub(r'\1="\2"', text)
        written[-1].write_text(text, encoding="utf-8", newline="\n")
        lines[path] = line(path.stem, text)
    parts = "".join(
        f"<h2>{caption}</h2>\n<ul>{''.join(lines[root / page] for page in part)}</ul>\n"
        for caption, pages in bookcache.parts(root)
        if (part := [page for page in pages if root / page in lines])
    )
    index = INDEX.format(book=book, parts=parts)
    (target / "index.html").write_text(index, encoding="utf-8", newline="\n")
    return written


def line(name: str, slides: str) -> str:
    """A chapter in the index: its title, its question, how many slides it has."""
    title = words(element(slides, slides.index("<h1>")))
    question = " ".join(words(found) for found in classed(slides, "p", "dl-question"))
    count = slides.count('<section class="slide">')
    return f'<li><a href="{name}.html">{title}</a> ({count} slides)<br>{question}</li>'


def deck(page: str, book: str) -> str:
    """The slides of a page of the site."""
    article = LINK.sub("", element(page, page.index('<article class="bd-article"')))
    title = element(article, article.index("<h1>"))
    question = "".join(classed(article, "p", "dl-question"))
    bodies = [f"{title}{question}<p>{book}</p>"]
    bodies += [f'{head}<div class="shown">{body}</div>' for head, body in shown(article, title)]
    slides = "\n".join(
        f'<section class="slide">{body}<footer>{words(title)} · {number}</footer></section>'
        for number, body in enumerate(bodies, 1)
    )
    style, script = (
        Path(__file__).with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    return PAGE.format(
        title=f"{words(title)} · {book}",
        style=style,
        script=script,
        slides=slides,
    )


def shown(article: str, title: str) -> Iterator[tuple[str, str]]:
    """The heading and the body of each slide."""
    found = list(SECTION.finditer(article))
    before = article[article.index(title) + len(title) : found[0].start()]
    for body in items(before):
        yield f"<h2>{title[4:-5]}</h2>", body
    for match in found:
        if match[1] in LEFT_OUT:
            continue
        section = element(article, match.start())
        head = element(section, section.index("<h2>"))
        bodies = list(items(section))
        if match[1] == "summary" or not bodies:
            lists = LISTED.search(section)
            bodies.insert(0, element(section, lists.start() if lists else section.index("<p>")))
        yield from ((head, body) for body in bodies)


def items(text: str) -> Iterator[str]:
    """What of a section is on slides, one each."""
    place = 0
    while match := NEXT.search(text, place):
        item = element(text, match.start())
        place = match.start() + len(item)
        if not match["shown"]:
            continue
        claims = classed(FOLD.sub(r"\1", item), "li", "dl-claim")
        size = math.ceil(len(claims) / max(1, math.ceil(len(claims) / ON_A_SLIDE)))
        for first in range(0, len(claims), max(1, size)):
            yield f'<ul class="dl-claims">{"".join(claims[first : first + size])}</ul>'
        if not claims:
            yield item


if __name__ == "__main__":
    raise SystemExit(main())
