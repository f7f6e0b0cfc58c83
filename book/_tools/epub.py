"""Write a book of XHTML pages as EPUB 3, and check such pages.

An EPUB is a zip of pages with a list of them (OPF) and a table of contents (nav). Sphinx's own
builder would write formulas as pictures, or leave them to scripts, and needs a second build; the
pages that a browser has drawn are well-formed and have MathML, so that what is left is this file.
"""

from __future__ import annotations

import base64
import re
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname
from xml.etree import ElementTree
from xml.sax.saxutils import escape

X, M = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/1998/Math/MathML}"
KINDS = {
    ".css": "text/css",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".xhtml": "application/xhtml+xml",
}
RAW = re.compile(r"\\(?:frac|sum|mathbf|operatorname|begin|text|left|[(\[])|\$\$")
LIGHT = re.compile(r'^html\[data-theme="light"\] ', re.MULTILINE)
DARK = re.compile(r'^html\[data-theme="dark"\].*\n?', re.MULTILINE)
PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en"
 xml:lang="en"><head><title>{title}</title>
<link rel="stylesheet" type="text/css" href="style.css"/></head><body>{body}</body></html>
"""
CONTAINER = """<?xml version="1.0" encoding="UTF-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="book/book.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""
OPF = """<?xml version="1.0" encoding="UTF-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">urn:uuid:{id}</dc:identifier><dc:title>{title}</dc:title>
<dc:language>en</dc:language><dc:creator>{author}</dc:creator>
<dc:rights>Text: CC BY 4.0. Code: MIT.</dc:rights>
<meta property="dcterms:modified">{now}</meta><meta name="cover" content="cover-picture"/>
</metadata>
<manifest>
{items}
</manifest>
<spine>
{spine}
</spine>
</package>
"""


def write(target: Path, book: Any, cover: bytes, author: str, style: str) -> None:
    """The file.

    Args:
        book: It has a ``title``, ``pages`` by name, and ``parts``, captions with names of pages.
        cover: A PNG.
    """
    about = {"title": escape(book.title), "author": escape(author)}
    image = f'<img src="images/cover.png" alt="{about["title"]}"/>'
    files: dict[str, str | bytes] = {
        "cover.xhtml": PAGE.format(title="Cover", body=f'<section class="cover">{image}</section>'),
        "nav.xhtml": PAGE.format(title="Contents", body=nav(book)),
    }
    for page in book.pages.values():
        files[f"{page.name}.xhtml"] = PAGE.format(title=escape(page.title), body=page.xhtml)
    read = [f'<itemref idref="{key(name)}"/>' for name in files]
    files |= {"style.css": style, "images/cover.png": cover}
    for page in book.pages.values():
        files |= {f"images/{name}": picture(source) for name, source in page.images.items()}
    lists = {"items": "\n".join(item(*file) for file in files.items()), "spine": "\n".join(read)}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    code = uuid.uuid5(uuid.NAMESPACE_URL, book.title)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        # first and not compressed: so a reader knows the kind of file
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("book/book.opf", OPF.format(id=code, now=now, **about, **lists))
        for name, content in files.items():
            archive.writestr(f"book/{name}", content)


def key(name: str) -> str:
    return "f-" + re.sub(r"\W", "-", name)


def item(name: str, content: str | bytes) -> str:
    """A file's line in the list of files."""
    has = " ".join(properties(name, content))
    more = f' properties="{has}"' if has else ""
    kind = KINDS[Path(name).suffix]
    return f'<item id="{key(name)}" href="{name}" media-type="{kind}"{more}/>'


def properties(name: str, content: str | bytes) -> Iterator[str]:
    """What the list has to say of a file."""
    if name == "nav.xhtml":
        yield "nav"
    if name == "images/cover.png":
        yield "cover-image"
    if isinstance(content, str) and name.endswith(".xhtml"):
        yield from (has for tag, has in (("<math", "mathml"), ("<svg", "svg")) if tag in content)


def nav(book: Any) -> str:
    parts = []
    for caption, names in book.parts:
        own = [book.pages[name] for name in names]
        rows = "".join(f'<li><a href="{p.name}.xhtml">{escape(p.title)}</a></li>' for p in own)
        parts.append(f"<li><span>{escape(caption)}</span><ol>{rows}</ol></li>")
    inside = f"<h1>Contents</h1><ol>{''.join(parts)}</ol>"
    return f'<nav epub:type="toc" id="toc">{inside}</nav>'


def picture(source: str) -> bytes:
    """A picture of the site, or one that a page carried in its address."""
    if source.startswith("data:"):
        return base64.b64decode(unquote(source.partition(",")[2]))
    data = Path(url2pathname(urlparse(source).path)).read_bytes()
    if not source.endswith(".svg"):
        return data
    # matplotlib names a picture by what it shows; the same one twice is a name given twice
    seen: set[bytes] = set()

    def once(found: re.Match[bytes]) -> bytes:
        again = found[0] in seen
        seen.add(found[0])
        return b"" if again else found[0]

    return re.sub(rb' id="[^"]*"', once, data)


def light(pygments: str) -> str:
    """The colors of code on paper, from the style that the site has for both of its themes."""
    return LIGHT.sub("", DARK.sub("", pygments))


def check(pages: Mapping[str, Any]) -> list[str]:
    """What is wrong with pages: each line begins with the name of the page."""
    problems, places, trees = [], {}, {}
    for name, page in pages.items():
        try:
            trees[name] = tree = ElementTree.fromstring(page.xhtml)
        except ElementTree.ParseError as error:
            problems.append(f"{name}: not well-formed: {error}")
            continue
        ids = [e.get("id") for e in tree.iter() if e.get("id")]
        problems += [f"{name}: the id {i} twice" for i in {i for i in ids if ids.count(i) > 1}]
        places[page.name] = {"", *ids}
    for name, tree in trees.items():
        problems += [f"{name}: {said}" for said in wrong(pages[name], tree, places)]
    return problems


def wrong(page: Any, tree: Any, places: Mapping[str, set[Any]]) -> Iterator[str]:
    for tag in ("script", "style", "video", "canvas", "iframe", "button", "input"):
        if tree.find(f".//{X}{tag}") is not None:
            yield f"has <{tag}>"
    if tree.find(f".//{M}merror") is not None:
        yield "a formula with an error"
    for box in tree.iter():
        if "math" in box.get("class", "").split() and box.find(f".//{M}math") is None:
            yield f"a formula that is no MathML: {''.join(box.itertext())[:60]}"
    for link in tree.iter(f"{X}a"):
        to = link.get("href", "")
        file, _, place = to.partition("#")
        there = file.removesuffix(".xhtml") or page.name
        if not re.match(r"https?:|mailto:", to) and unquote(place) not in places.get(there, ()):
            yield f"a link to nowhere: {to}"
    for image in tree.iter(f"{X}img"):
        if image.get("src", "").removeprefix("images/") not in page.images:
            yield f"a picture that is not there: {image.get('src', '')[:80]}"
    if found := RAW.search("".join(prose(tree))):
        yield f"raw TeX: {found[0]}"


def prose(node: Any) -> Iterator[str]:
    """The words of a page, without its code and formulas."""
    if node.tag not in {f"{X}pre", f"{X}code", f"{M}math"}:
        yield node.text or ""
        for child in node:
            yield from prose(child)
            yield child.tail or ""
