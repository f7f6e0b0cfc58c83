"""The exhibits of the errata museums by what a reader sees: read from the sources of the pages.

An exhibit is a section with a label and, under its title, a block of symptoms, a line each::

    (err-raw-logits)=
    ### Raw logits in `kl_div`

    :::{symptoms}
    My loss is NaN
    :::

Its repair and its tests are what the text names after the words *The repair*, so that they are
written once. Where the text names none, the options ``:repair:`` and ``:test:`` of the block do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

MUSEUMS = ("book/errata_museum", "book/errata_policies", "book/errata_language")
FILE = "errata.json"  # in the root of the site

HEAD = re.compile(r"^(?:\((?P<anchor>[\w-]+)\)=\n)?(?P<level>##{1,2}) (?P<title>.+)$", re.MULTILINE)
BLOCK = re.compile(r"^:::\{symptoms\}\n(?P<body>.*?)^:::$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^:(repair|test): *(.+)$", re.MULTILINE)
CODE = re.compile(r"^```\{code-cell\}.*?^```$", re.MULTILINE | re.DOTALL)
REPAIR = re.compile(r"\{py:\w+\}`[~.]?(?P<name>[\w.]+)`")
TEST = re.compile(r"\{src\}`(?P<name>test_\w+) <(?P<file>tests/[\w/]+\.py)>`")


@dataclass(frozen=True)
class Exhibit:
    """One mistake: what one sees of it, where it hangs, what repairs it, what holds the repair."""

    id: str
    title: str
    symptoms: tuple[str, ...]
    page: str
    anchor: str
    repair: tuple[str, ...]
    test: tuple[str, ...]


def read(root: Path) -> list[Exhibit]:
    """The exhibits of all museums that the book in ``root`` has, in their order."""
    paths = [(page, root / f"{page}.md") for page in MUSEUMS]
    return [exhibit for page, path in paths if path.exists() for exhibit in of_page(page, path)]


def of_page(page: str, path: Path) -> Iterator[Exhibit]:
    for anchor, title, text in sections(path.read_text(encoding="utf-8")):
        block = BLOCK.search(text)
        body = block["body"] if block else ""
        asked = dict(OPTION.findall(body))
        said = text.partition("*The repair*")[2]
        repair = names(asked["repair"]) if "repair" in asked else REPAIR.findall(said)
        tests = [f"{file}::{name}" for name, file in TEST.findall(text)]
        if "test" in asked:
            tests = names(asked["test"])
        yield Exhibit(
            id=anchor.removeprefix("err-"),
            title=title.replace("`", ""),
            symptoms=tuple(lines(body)),
            page=f"{page}.html",
            anchor=anchor,
            repair=tuple(dict.fromkeys(repair)),
            test=tuple(dict.fromkeys(tests)),
        )


def sections(text: str) -> Iterator[tuple[str, str, str]]:
    """Label, title and prose of each section of the third level."""
    text = CODE.sub("", text)
    heads = list(HEAD.finditer(text))
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        if head["level"] == "###":
            end = after.start() if after else len(text)
            yield head["anchor"] or "", head["title"], text[head.end() : end]


def lines(body: str) -> list[str]:
    """The symptoms of a block: its lines without its options."""
    found = (line.strip() for line in body.splitlines())
    return [line for line in found if line and not OPTION.match(line)]


def names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def grouped(exhibits: list[Exhibit]) -> dict[str, list[Exhibit]]:
    """Each symptom with the exhibits that cause it, in the order of the alphabet."""
    causes: dict[str, list[Exhibit]] = {}
    for exhibit in exhibits:
        for symptom in exhibit.symptoms:
            causes.setdefault(symptom, []).append(exhibit)
    return dict(sorted(causes.items(), key=lambda item: item[0].lower()))


def write(root: Path, site: Path) -> Path | None:
    """Write the exhibits beside the pages, for programs; nothing where there is no museum."""
    exhibits = read(root)
    if not exhibits:
        return None
    text = json.dumps([asdict(exhibit) for exhibit in exhibits], indent=1, ensure_ascii=False)
    target = site / FILE
    target.write_text(text + "\n", encoding="utf-8")
    return target
