"""Links to tests and scripts lead to pages of the site itself, which show these files.

``{src}`tests/test_x.py``` names a file or a folder of the repository; ``{src}`a test
<tests/test_x.py::test_a>``` a function in it. ``{repository}`issue <issues>``` is a link where it
is known where the repository lives, and plain text where it is not.
"""

from __future__ import annotations

import ast
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distill_chinese
from docutils import nodes
from sphinx.application import Sphinx

SHOWN = {".py", ".sh", ".txt", ".toml", ".json"}


def src(name: str, rawtext: str, text: str, lineno: int, inliner: Any, *more: Any) -> Any:
    env = inliner.document.settings.env
    title, _, target = text.rstrip(">").rpartition(" <")
    file, _, function = target.partition("::")
    if problem := missing(Path(env.srcdir), file, function):
        message = inliner.reporter.warning(f"{{src}}`{text}`: {problem}", line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    uri = distill_chinese.way(env, f"{page_of(Path(env.srcdir), file)}.html")
    node = nodes.reference(rawtext, "", refuri=f"{uri}#{function}" if function else uri)
    node["source_file"] = file
    node += nodes.literal("", title or Path(file).name if "/" in file else title or file)
    return [node], []


def missing(root: Path, file: str, function: str) -> str:
    path = root / file
    if not path.exists():
        return f"there is no {file}"
    if function and f"def {function}" not in path.read_text(encoding="utf-8"):
        return f"{file} has no {function}"
    return ""


def repository(name: str, rawtext: str, text: str, lineno: int, inliner: Any, *more: Any) -> Any:
    home = inliner.document.settings.env.config.distill_repository
    title, _, path = text.rstrip(">").rpartition(" <")
    title = title or path
    if not home:
        return [nodes.Text(title)], []
    return [nodes.reference(rawtext, title, refuri=f"{home}/{path}" if title != path else home)], []


def page_of(root: Path, file: str) -> str:
    return f"sources/{file}/index" if (root / file).is_dir() else f"sources/{file}"


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that is named somewhere, and for those of each folder that is."""
    if app.builder.format != "html":
        return
    root, named = Path(app.srcdir), set()
    for docname in app.env.found_docs:
        tree = app.env.get_doctree(docname)
        named |= {n["source_file"] for n in tree.findall(nodes.reference) if "source_file" in n}
    for file in sorted(named):
        path = root / file
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SHOWN)
            rows = "".join(
                f'<li><a href="{p.name}.html"><code>{html.escape(p.name)}</code></a></li>'
                for p in inside
            )
            yield page(page_of(root, file), file, f"<ul>{rows}</ul>")
            named |= {p.relative_to(root).as_posix() for p in inside}
    for file in sorted(named):
        if (root / file).is_file():
            yield page(page_of(root, file), file, listing(app, root / file))


def page(name: str, title: str, body: str) -> tuple[str, dict[str, Any], str]:
    # a table of contents and the other parts of the theme are for documents only
    return name, {"title": title, "parents": [], "body": f"<h1>{title}</h1>{body}"}, "page.html"


def listing(app: Sphinx, path: Path) -> str:
    """The file as the site shows code, each function with an anchor of its name."""
    text = path.read_text(encoding="utf-8")
    kind = "python" if path.suffix == ".py" else "text"
    lines = app.builder.highlighter.highlight_block(text, kind).split("\n")  # type: ignore[attr-defined]
    if kind == "python":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
                mark = f'<span id="{node.name}"></span>'
                if first:
                    lines[first] = mark + lines[first]
                else:  # before the code's first line stands the box around it
                    lines[0] = lines[0].replace("<pre>", f"<pre>{mark}", 1)
    return "\n".join(lines)


def setup(app: Sphinx) -> None:
    app.add_role("src", src)
    app.add_role("repository", repository)
    app.connect("html-collect-pages", pages)
