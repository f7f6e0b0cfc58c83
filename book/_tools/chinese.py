"""The Chinese pages: made beside the English site, from its reading and its execution.

A Chinese page is the English one with the paragraphs of a catalog in the place of its own; its
code, outputs and numbers are those of the same execution. What has no translation, or has changed
in English since, is shown in English, and the page says at its top of how many paragraphs.

    python book/_tools/chinese.py              write the pages into _build/html/zh
    python book/_tools/chinese.py --refresh    bring the catalogs up to the English pages before
"""

from __future__ import annotations

import argparse
import gc
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import bookcache
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from docutils.nodes import math_block
from sphinx.util.nodes import extract_messages

LANGUAGE, LOCALES, FOLDER = "zh_CN", "book/locale", "zh"
TITLES = ("Exercise", "Solution to")  # which sphinx-exercise translates by itself
FIRST = '<meta http-equiv="Refresh" content="0; url={}" />\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    parser.add_argument("--refresh", action="store_true")
    options = parser.parse_args()
    root = options.root.resolve()
    for page in pages(root) if options.refresh else []:
        print("".join(f"{line}\n" for line in refresh(root, page)), end="", flush=True)
    return build(root) if pages(root) else 0


def pages(root: Path) -> list[str]:
    """The pages that have a catalog, in reading order."""
    named = (page.removesuffix(".md") for page in bookcache.pages(root))
    return [page for page in named if catalog_of(root, page).exists()]


def catalog_of(root: Path, page: str) -> Path:
    return root / LOCALES / LANGUAGE / "LC_MESSAGES" / f"{page}.po"


def catalog(root: Path, page: str) -> Catalog:
    path = catalog_of(root, page)
    data = path.read_bytes() if path.exists() else b""
    return read_po(io.BytesIO(data)) if data else Catalog(locale=LANGUAGE, fuzzy=False)


def translations(root: Path, page: str) -> dict[str, str]:
    """What is shown: paragraphs whose translation is there and is one of the present text."""
    return {
        str(m.id): str(m.string) for m in catalog(root, page) if m.id and m.string and not m.fuzzy
    }


def english(root: Path, page: str) -> Any:
    """The page as Sphinx has read it for the English site."""
    return pickle.loads((root / f"_build/.doctrees/{page}.doctree").read_bytes())


def messages(doctree: Any) -> list[str]:
    """The paragraphs of a page that are to be translated, in its order, each once."""
    found = (text for node, text in extract_messages(doctree) if not isinstance(node, math_block))
    return [text for text in dict.fromkeys(found) if text not in TITLES]


def refresh(root: Path, page: str) -> list[str]:
    """Bring a catalog up to the English page; what is to be done in it.

    A paragraph that has changed keeps its translation, marked as fuzzy, which is not shown, and a
    comment with the English that was translated.
    """
    path, found, wanted = catalog_of(root, page), catalog(root, page), Catalog()
    for text in messages(english(root, page)):
        wanted.add(text, locations=[(f"{page}.md", 0)])
    gone = set(found.obsolete)
    found.update(wanted, update_creation_date=False)
    todo = []
    for message in (m for m in found if m.id and (m.fuzzy or not m.string)):
        todo.append(f"{'changed' if message.fuzzy else 'new'}: {message.id}")
        message.user_comments += [f"English was: {old}" for old in message.previous_id]
    todo += [f"gone: {old}" for old in found.obsolete if old not in gone]
    made = io.BytesIO()
    write_po(made, found, width=0, include_lineno=False)
    if made.getvalue() != path.read_bytes():
        path.write_bytes(made.getvalue())
    return [f"{path.relative_to(root)}: {line}" for line in todo]


def build(root: Path) -> int:
    """Write the Chinese pages into the site; nothing is executed, no other page is read again."""
    from jupyter_book.sphinx import build_sphinx

    gc.disable()  # there is little to be let go of, and looking for it takes most of the time
    trees = root / "_build/.doctrees-zh"
    shutil.rmtree(trees, ignore_errors=True)
    shutil.copytree(root / "_build/.doctrees", trees)
    title = bookcache.config(root)["title"]
    result = build_sphinx(
        str(root),
        str(root / "_build/html"),
        noconfig=True,
        path_config=root / "_config.yml",
        confoverrides={
            "external_toc_path": (root / "_toc.yml").as_posix(),
            "gettext_compact": False,
            "html_title": translations(root, pages(root)[0]).get(title, title),
            "language": LANGUAGE,
            "latex_individualpages": False,
            "locale_dirs": [LOCALES],
            "nitpicky": True,
            "numfig_format": {"figure": "图 %s", "table": "表 %s", "code-block": "代码 %s"},
            "togglebutton_hint": "点击显示",
            "togglebutton_hint_hide": "点击隐藏",
        },
        doctreedir=str(trees),
        filenames=[str(root / f"{page}.md") for page in pages(root)],
        warningiserror=True,
        keep_going=True,
    )
    shutil.rmtree(trees)
    first = root / "_build/html" / FOLDER / "index.html"
    first.parent.mkdir(exist_ok=True)
    first.write_text(FIRST.format(f"{pages(root)[0]}.html"), encoding="utf-8")
    return int(bool(result))


if __name__ == "__main__":
    raise SystemExit(main())
