"""Write what programs read: a Markdown file beside each page, llms.txt, sitemap.xml.

The Markdown is that of the clean notebooks: numbers filled in, references as text and links. It has
what the cells printed too, with claims and their bounds. llms.txt lists the pages with their
questions; a sitemap needs addresses, so there is one only where the book's address is known.
Called by notebooks.py, after the site was built and the chapters were executed.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import addresses
import bookcache
import chinese
import fragments
import marks
import plainmyst
import prerequisites
import scores
import symptoms
import yaml
from fragments import words
from ledger import kwh
from plainmyst import Context

FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
AUTO = re.compile(r"^\.\. auto\w+:: (\S+)", re.MULTILINE)
SUBTITLE = re.compile(r"^# .*\n+\*([^*\n]+)\*$", re.MULTILINE)
FENCED = re.compile(r"^(`{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
SENTENCE = re.compile(r"^(?![#*|`<>:\-\[])\S.*?[.?!](?=\s|$)", re.MULTILINE | re.DOTALL)


def write_page(
    root: Path, path: Path, context: Context, macros: Mapping[str, str], executed: Any = None
) -> str:
    """One page as Markdown, put beside its HTML."""
    # Links lead from this file to the pages beside it: they hold on a disk, too.
    context = replace(context, site="../" * context.page.count("/") or "./")
    text = FRONT.sub("", path.read_text(encoding="utf-8"))
    parts = list(ran(executed, context) if executed is not None else told(root, text, context))
    done = expand("\n\n".join(part for part in parts if part.strip()) + "\n", macros)
    target = root / "_build/html" / f"{context.page}.md"
    if target.parent.exists():
        target.write_text(done, encoding="utf-8", newline="\n")
    return done


def expand(text: str, macros: Mapping[str, str]) -> str:
    """Formulas without the macros that only the site defines."""
    for name, meaning in macros.items():
        text = re.sub(rf"\\{name}(?![A-Za-z])", meaning.replace("\\", r"\\"), text)
    return text


def ran(notebook: Any, context: Context) -> Iterator[str]:
    """The cells of an executed page, with what they printed and with what their figures show."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            yield plainmyst.convert(cell.source, context)
            continue
        yield f"```python\n{cell.source.strip()}\n```"
        said = "\n".join(filter(None, map(printed, cell.get("outputs", [])))).strip()
        if said:
            yield f"```text\n{said}\n```"
        shown = cell.metadata.get("mystnb", {})
        if caption := shown.get("figure", {}).get("caption"):
            number = context.numbers.get(shown["figure"].get("name", ""), "Figure")
            alt = shown.get("image", {}).get("alt", "")
            yield f"*{number}.* {plainmyst.convert(caption, context)}"
            yield f"(Picture: {alt})" if alt else ""


def printed(output: Any) -> str:
    """The words of an output; glued numbers and pictures have none of their own."""
    if output.get("name") == "stderr":  # not on the page either
        return ""
    if output.get("output_type") == "stream":
        return bookcache.plain(output.get("text", "")).rstrip()
    data = output.get("data", {})
    if any(kind.startswith(("image/", bookcache.GLUE)) for kind in data):
        return ""
    return str(data.get("text/plain", "")).rstrip()


def told(root: Path, text: str, context: Context) -> Iterator[str]:
    """A page without code, its lists that the build makes filled in."""
    place = 0
    for block in BLOCK.finditer(text):
        yield plainmyst.convert(text[place : block.start()], context)
        yield MADE[block["name"]](root, block["body"], context)
        place = block.end()
    yield plainmyst.convert(text[place:], context)


def library(root: Path, body: str, context: Context) -> str:
    """What a page of the library documents: read from the site, which has imported it already."""
    page = site_page(root, context)
    entries = []
    for name in AUTO.findall(body):
        place = page.find(f'id="{name}"')  # a module's is on its section, an object's in its list
        start = page.rfind('<dl class="py', 0, place) if place >= 0 else -1
        entries.append(documented(fragments.element(page, start)) if start >= 0 else f"`{name}`")
    return "\n\n".join(entries)


def documented(text: str) -> str:
    """Signatures as headings, code as code, and the other words."""
    text = re.sub(
        r"<a class=\"(?:headerlink|reference internal\" href=\"[^\"]*_modules).*?</a>", "", text
    )
    text = re.sub(
        r"<dt class=\"sig.*?</dt>", lambda m: f"\n### `{words(m[0])}`\n", text, flags=re.DOTALL
    )
    text = re.sub(r"<pre>(.*?)</pre>", r"\n```python\n\1```\n", text, flags=re.DOTALL)
    text = re.sub(r"</?(?:p|li|dd|dt|dl|ul|div)\b[^>]*>", "\n", text)
    plain = html.unescape(re.sub(r"<[^<>]+>", "", text))
    return re.sub(r"\n\s*\n", "\n\n", plain).strip()


def site_page(root: Path, context: Context) -> str:
    return (root / "_build/html" / f"{context.page}.html").read_text(encoding="utf-8")


def works(root: Path, body: str, context: Context) -> str:
    """The bibliography, as the site lists it."""
    found = fragments.classed(site_page(root, context), "div", "citation")
    return "\n".join(f"- {words(entry)}" for entry in found)


def claims(root: Path, body: str, context: Context) -> str:
    kind = "machine" if ":machine:" in body else "claim"
    lines = []
    for row in ledger(root, "claims"):
        if row["kind"] == kind:
            state = {True: "holds", False: "DOES NOT HOLD", None: "measured"}[row["holds"]]
            bound = f"; {row['value']} {row['relation']} {row['bound']}" if row["relation"] else ""
            lines.append(f"- {row['chapter']}: {row['text']} ({state}{bound})")
    return "\n".join(lines)


def costs(root: Path, body: str, context: Context) -> str:
    rows = ledger(root, "costs")
    spent = [f"{row['seconds']:.0f} s, {kwh(row['seconds']):.5f} kWh" for row in rows]
    lines = [
        f"- {row['chapter']}: {cost}, {row['device']}"
        for row, cost in zip(rows, spent, strict=True)
    ]
    seconds = sum(row["seconds"] for row in rows)
    return "\n".join([*lines, f"- in all: {seconds:.0f} s, {kwh(seconds):.4f} kWh"] if rows else [])


def ledger(root: Path, name: str) -> list[dict[str, Any]]:
    path = root / f"_build/{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def terms(root: Path, body: str, context: Context) -> str:
    """A glossary: terms are lines of their own, definitions are indented under them."""
    entries = re.sub(r"^(\S.*)\n[ ]+(?=\S)", r"- **\1**: ", body, flags=re.MULTILINE)
    return plainmyst.convert(entries, context)


def needs(root: Path, body: str, context: Context) -> str:
    return plainmyst.convert(prerequisites.outline(root, f"{context.page}.md"), context)


def entries(root: Path, body: str, context: Context) -> str:
    """The tasks or the entries of the challenge."""
    return listed(scores.rows(root, body.strip()))


def graded(root: Path, body: str, context: Context) -> str:
    """The marks of known answers, a line a chapter."""
    return f"{marks.said(root)}\n\n{listed(marks.rows(root))}"


def listed(table: list[list[str]]) -> str:
    """A table as a list, its head in each line."""
    head, *rows = table
    lines = ["; ".join(map(": ".join, zip(head, row, strict=True))) for row in rows]
    # what strangers wrote is text here, too
    return "\n".join("- " + re.sub(r"([\\`*_\[\]<>])", r"\\\1", line) for line in lines)


def seen(root: Path, body: str, context: Context) -> str:
    """Symptoms, with the exhibits that cause them."""
    folder = posixpath.dirname(context.page) or "."
    lines = []
    for symptom, causes in symptoms.grouped(symptoms.read(root)).items():
        pages = [posixpath.relpath(one.page.removesuffix(".html"), folder) for one in causes]
        links = [f"[{one.title}]({page}.md)" for one, page in zip(causes, pages, strict=True)]
        lines.append(f"- {symptom}: {', '.join(links)}")
    return "\n".join(lines)


MADE = {
    "challenge": entries,
    "graded": graded,
    "prerequisites": needs,
    "eval-rst": library,
    "bibliography": works,
    "scoreboard": claims,
    "status": costs,
    "symptom-index": seen,
    "glossary": terms,
}
BLOCK = re.compile(
    rf"^(?P<fence>`{{3,}})\{{(?P<name>{'|'.join(MADE)})\}}(?P<body>[^\n]*\n.*?)^(?P=fence)\s*$",
    re.DOTALL | re.MULTILINE,
)


def write_lists(root: Path, titles: Mapping[str, str], pages: Mapping[str, str]) -> None:
    """llms.txt and, where the site's address is known, sitemap.xml.

    Args:
        titles: The title of each page, by its name.
        pages: The Markdown of each page.
    """
    site, folder = addresses.find(root).site, root / "_build/html"
    lines = [f"# {bookcache.config(root)['title']}", ""]
    cover = next(iter(pages.values()), "")
    intro = said[1] if (said := SUBTITLE.search(cover)) else first_sentence(cover)
    lines += [f"> {intro}", ""] if intro else []
    lines.append("Each page is a Markdown file beside its HTML: all numbers and references in it.")
    for caption, names in contents(root):
        lines += ["", f"## {caption}", ""]
        for name in names:
            about = f": {question(root, name, pages[name])}".removesuffix(": ")
            about = "" if about.endswith(f": {intro}") else about
            lines.append(f"- [{titles[name]}]({site}{name}.md){about}")
    (folder / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    if site:
        names = [*pages, *(f"{chinese.FOLDER}/{name}" for name in chinese.pages(root))]
        urls = "".join(f"<url><loc>{escape(site + name)}.html</loc></url>\n" for name in names)
        (folder / "sitemap.xml").write_text(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n',
            encoding="utf-8",
        )


def contents(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The cover and each part: captions, and the names of their pages."""
    for caption, files in [("Start", bookcache.pages(root)[:1]), *bookcache.parts(root)]:
        yield caption, [posixpath.splitext(file)[0] for file in files]


def question(root: Path, name: str, text: str) -> str:
    """The question that a page answers, else its first sentence."""
    front = FRONT.match((root / f"{name}.md").read_text(encoding="utf-8"))
    said = (yaml.safe_load(front[1]) or {}).get("description") if front else None
    return " ".join(str(said or first_sentence(text)).split())


def first_sentence(text: str) -> str:
    """What a page without a question begins with, its links as words."""
    prose = plainmyst.LINK.sub(r"\g<text>", FENCED.sub("", text))
    found = SENTENCE.search(prose)
    return " ".join(found[0].split()) if found else ""
