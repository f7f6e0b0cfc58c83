"""MyST Markdown to the Markdown that every notebook viewer shows.

Colab, GitHub and VS Code know no directives, roles or labels. Theorems and exercises become
paragraphs with their numbers, references become text and links to the site, glued numbers are
filled in, code quoted from the library is copied in.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|:{3,}|~{3,})(?P<info>.*)$")
DIRECTIVE = re.compile(r"^\s*\{(?P<name>[\w:.-]+)\}\s*(?P<argument>.*)$")
ROLE = re.compile(r"\{(?P<name>[a-zA-Z][\w:.-]*)\}(?P<ticks>`+)(?P<body>.+?)(?P=ticks)", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)\)")
TITLE = re.compile(r"^(?P<title>.*?)\s*<(?P<target>[^<>]+)>$", re.DOTALL)
OPTION = re.compile(r"^\s*:(?P<name>[\w-]+):\s*(?P<value>.*)$")
EQUATION = re.compile(r"^\$\$\s*\((?P<label>[\w:-]+)\)\s*$")
LABEL = re.compile(r"^\([\w:.-]+\)=\s*$")

PROOFS = set(
    [
        "theorem",
        "lemma",
        "corollary",
        "proposition",
        "definition",
        "remark",
        "example",
        "algorithm",
        "assumption",
        "axiom",
        "conjecture",
        "criterion",
        "observation",
        "property",
        "notation",
    ]
)
BOXES = set(
    [
        "note",
        "tip",
        "warning",
        "important",
        "caution",
        "attention",
        "danger",
        "hint",
        "seealso",
        "error",
    ]
)
BODY_ONLY = set(
    [
        "tab-set",
        "grid",
        "card-carousel",
        "glossary",
        "margin",
        "sidebar",
        "epigraph",
        "div",
        "rubric",
    ]
)
MADE = {"challenge", "cost", "graded", "live", "prerequisites", "scoreboard", "status", "student"}
DROPPED = MADE | set(
    [
        "symptom-index",
        "tableofcontents",
        "contents",
        "nb-exec-table",
        "bibliography",
        "index",
        "toctree",
        "image",
        "code-cell",
        "eval-rst",
        "raw",
        "only",
    ]
)
LITERAL = set(["code-block", "code", "sourcecode", "code-cell"])


@dataclass
class Context:
    """What is known of the page that is being rewritten."""

    root: Path
    page: str  # chapters/foundations/divergences
    site: str  # with a slash at the end; empty where nobody knows the book's address
    references: dict[str, dict[str, str]] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    glue: Mapping[str, str] = field(default_factory=dict)
    repository: str = ""
    question: str = ""  # the description of the page


def convert(text: str, context: Context) -> str:
    """The text of one Markdown cell, rewritten."""
    out = "\n".join(blocks(text.splitlines(), context))
    return re.sub(r"\n{3,}", "\n\n", out).strip()


def blocks(lines: list[str], context: Context) -> list[str]:
    out: list[str] = []
    prose: list[str] = []
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if not fence:
            prose.append(lines[number])
            number += 1
            continue
        out += rewrite_prose(prose, context)
        prose = []
        end = closing(lines, number, fence["fence"])
        body = lines[number + 1 : end]
        directive = DIRECTIVE.match(fence["info"])
        if directive:
            text = rewrite_directive(directive["name"], directive["argument"], body, context)
            out += ["", *textwrap.indent(text, fence["indent"]).splitlines(), ""]
        else:
            out += lines[number : end + 1]
        number = end + 1
    return out + rewrite_prose(prose, context)


def closing(lines: list[str], start: int, fence: str) -> int:
    for number in range(start + 1, len(lines)):
        line = lines[number].strip()
        if len(line) >= len(fence) and set(line) == {fence[0]}:
            return number
    raise ValueError(f"a block opened by {lines[start]!r} is never closed")


def rewrite_directive(name: str, argument: str, body: list[str], context: Context) -> str:
    options, body = split_options(body)
    label = options.get("label") or options.get("name") or ""
    kind = name.rsplit(":", 1)[-1]
    argument = rewrite_inline(argument, context)
    if name in {"figure", "glue:figure"}:
        caption = convert("\n".join(body), context)
        uri = f"{context.page}.html#{label}"
        return f"*{linked(context.numbers.get(label, 'Figure'), uri, context)}: {caption}*"
    if name in DROPPED or kind in {"exercise-end", "solution-end"}:
        return ""
    if name == "literalinclude":
        return quoted(argument, options, context)
    if name in LITERAL:
        return "\n".join([f"```{argument}", *body, "```"])
    if name == "math":
        return equation("\n".join([argument, *body]).strip(), label, context)
    inner = convert("\n".join(body), context)
    if name == "symptoms":
        return f"*What one sees: {' · '.join(line for line in body if line.strip())}*"
    if name == "before":
        return f"**{context.question}**\n\n{inner}"
    if name.startswith("prf:") and kind in PROOFS:
        return headed(context.numbers.get(label, kind.title()), argument, inner)
    if name == "prf:proof":
        return f"*Proof.* {argument} {inner} ∎".replace("  ", " ")
    if kind in {"exercise", "exercise-start"}:
        return headed(context.numbers.get(label, "Exercise"), argument, inner)
    if kind in {"solution", "solution-start"}:
        title = f"Solution to {context.numbers.get(argument, 'the exercise')}"
        return folded(title, inner) if kind == "solution" else f"**{title}.**\n\n{inner}"
    if name in {"dropdown", "details"} or "dropdown" in options.get("class", ""):
        return folded(argument or name.title(), inner)
    if name in BOXES or name == "admonition":
        return headed(argument if name == "admonition" else name.title(), "", inner)
    if name in {"tab-item", "grid-item-card", "card", "table", "list-table", "csv-table"}:
        return f"**{argument}**\n\n{inner}"
    if name in BODY_ONLY:
        return inner
    raise ValueError(f"{context.page}: plainmyst.py does not know the directive {name!r}")


def split_options(body: list[str]) -> tuple[dict[str, str], list[str]]:
    """A directive's options, written as ``:key: value`` lines or between lines of ``---``."""
    if body and body[0].strip() == "---":
        end = next(i for i in range(1, len(body)) if body[i].strip() == "---")
        pairs = [line.partition(":") for line in body[1:end]]
        return {key.strip(): value.strip() for key, _, value in pairs}, body[end + 1 :]
    options = {}
    while body and (match := OPTION.match(body[0])):
        options[match["name"]] = match["value"].strip()
        body = body[1:]
    return options, body


def headed(head: str, title: str, body: str) -> str:
    return f"**{head}{f' ({title})' if title else ''}.** {body}"


def folded(title: str, body: str) -> str:
    return f"<details>\n<summary>{html.escape(title)}</summary>\n\n{body}\n\n</details>"


def equation(formula: str, label: str, context: Context) -> str:
    number = context.numbers.get(label, "").strip("()")
    tag = f"\n\\tag{{{number}}}" if number else ""
    return f"$$\n{formula}{tag}\n$$"


def quoted(argument: str, options: dict[str, str], context: Context) -> str:
    """The lines that a ``literalinclude`` shows."""
    folder = "" if argument.startswith("/") else posixpath.dirname(context.page)
    path = context.root / posixpath.normpath(posixpath.join(folder, argument.lstrip("/")))
    lines = path.read_text(encoding="utf-8").splitlines()
    if name := options.get("pyobject"):
        first, last = python_object(lines, name, path)
        lines = lines[first:last]
    if spec := options.get("lines"):
        start, _, end = spec.partition("-")
        lines = lines[int(start) - 1 : int(end or (len(lines) if "-" in spec else start))]
    for option, shift in (("start-at", 0), ("start-after", 1)):
        if mark := options.get(option):
            lines = lines[find(lines, mark, path) + shift :]
    for option, shift in (("end-at", 1), ("end-before", 0)):
        if mark := options.get(option):
            lines = lines[: find(lines, mark, path) + shift]
    language = options.get("language", "python" if path.suffix == ".py" else "")
    body = textwrap.dedent("\n".join(lines)).strip("\n")
    if "nodoc" in options:
        body = re.sub(r'\n[ ]*r?""".*?"""', "", body, count=1, flags=re.DOTALL)
    return f"```{language}\n{body}\n```"


def find(lines: list[str], mark: str, path: Path) -> int:
    found = [i for i, line in enumerate(lines) if mark in line]
    if not found:
        raise ValueError(f"{path}: no line with {mark!r}")
    return found[0]


def python_object(lines: list[str], name: str, path: Path) -> tuple[int, int]:
    scope: Any = ast.parse("\n".join(lines))
    for part in name.split("."):
        named = [node for node in scope.body if getattr(node, "name", None) == part]
        if not named:
            raise ValueError(f"{path}: no {name!r}")
        scope = named[0]
    first = min([scope.lineno, *(d.lineno for d in scope.decorator_list)])
    return first - 1, scope.end_lineno


def rewrite_prose(lines: list[str], context: Context) -> list[str]:
    """Prose without labels, its equations numbered, its roles and links resolved."""
    out: list[str] = []
    for line in lines:
        if LABEL.match(line):
            continue
        if match := EQUATION.match(line):
            number = context.numbers.get(match["label"], "").strip("()")
            out += [f"\\tag{{{number}}}"] if number else []
            line = "$$"
        out.append(line)
    return rewrite_inline("\n".join(out), context).split("\n") if out else []


def rewrite_inline(text: str, context: Context) -> str:
    text = ROLE.sub(lambda m: rewrite_role(m["name"], m["body"], context), text)
    text = IMAGE.sub(lambda m: f"*(picture on the site: {m['alt']})*", text)
    return LINK.sub(lambda m: rewrite_link(m["text"], m["target"], context), text)


def rewrite_role(name: str, body: str, context: Context) -> str:
    kind = name.rsplit(":", 1)[-1]
    if name.startswith("glue"):
        return glue_value(body, context)
    if kind == "math" and name == "math":
        return f"${body}$"
    if kind in {"code", "kbd", "file", "command", "samp", "literal"}:
        return f"`{body}`"
    if kind in {"abbr", "sub", "sup", "raw-file", "download"}:
        return body
    match = TITLE.match(body)
    title, target = (match["title"], match["target"]) if match else ("", body)
    if kind == "repository":
        home = f"{context.repository}/{target}" if match else context.repository
        return f"[{title or target}]({home})" if context.repository else title or target
    if kind == "src":
        text = f"`{title or posixpath.basename(target)}`"
        return linked(text, source_page(target, context), context)
    reference = look_up("p" if name == "cite" else kind, target, title, context)
    if reference is None:
        raise ValueError(f"{context.page}: {{{name}}}`{body}` is not in _build/xrefs.json")
    text = f"`{reference['text']}`" if name.startswith("py:") else reference["text"]
    return linked(text, reference["uri"], context)


def look_up(kind: str, target: str, title: str, context: Context) -> dict[str, str] | None:
    plain = " ".join(target.lstrip("~").lower().split())
    return context.references.get(f"{kind}|{plain}|{' '.join(title.split())}")


def source_page(target: str, context: Context) -> str:
    """Where the site shows a file of the repository."""
    file, _, function = target.partition("::")
    inside = "/index" if (context.root / file).is_dir() else ""
    return f"sources/{file}{inside}.html{f'#{function}' if function else ''}"


def linked(text: str, uri: str, context: Context) -> str:
    if not uri or not (context.site or "://" in uri):
        return text
    return f"[{text}]({uri if '://' in uri else context.site + uri})"


def glue_value(body: str, context: Context) -> str:
    name, _, form = body.partition(":")
    try:
        value = context.glue[name]
    except KeyError:
        raise ValueError(f"{context.page}: no cell glues {name!r}") from None
    try:
        if not form:
            return value
        number = float(value.replace("\u2212", "-").replace(",", ""))
        return format(number, form).replace("-", "\u2212")
    except ValueError:  # a page that failed: its numbers are not known
        return value


def rewrite_link(text: str, target: str, context: Context) -> str:
    """Links inside the book lead to the site."""
    if re.match(r"^[a-z]+:", target):
        return f"[{text}]({target})"
    path, _, anchor = target.partition("#")
    if not path:
        reference = look_up("myst", anchor, text, context) or look_up("myst", anchor, "", context)
        uri = reference["uri"] if reference else f"{context.page}.html#{anchor}"
        return linked(text or (reference or {}).get("text", anchor), uri, context)
    folder = "" if path.startswith("/") else posixpath.dirname(context.page)
    joined = posixpath.normpath(posixpath.join(folder, path.lstrip("/")))
    page = re.sub(r"\.(md|ipynb)$", ".html", joined)
    return linked(text or posixpath.basename(path), f"{page}#{anchor}".rstrip("#"), context)
