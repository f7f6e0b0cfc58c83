"""What the tools of the book share: its chapters, the cache of their execution, its outputs.

A chapter is run once, by ``execute.py``. The site, the ledgers and the clean notebooks are all
made from the record that this leaves in the cache of jupyter-cache.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.executors.utils import single_nb_execution
from jupyter_cache.readers import get_reader
from myst_nb.core.read import is_myst_markdown_notebook

ROOT = Path(__file__).resolve().parents[2]
CLAIM = "application/vnd.distill.claim+json"
ENV = "application/vnd.distill.env+json"
GLUE = "application/papermill.record/"
# Asked in the kernel of a page after its last cell.
# Displayed, which is one message: what is printed comes in pieces when a machine is busy.
ASK = """
import sys as _sys
from IPython.display import display as _display
_files = sorted(m.__file__ for n, m in list(_sys.modules.items())
    if n.partition(".")[0] == "distill_lib" and getattr(m, "__file__", None))
_torch = _sys.modules.get("torch")
_display({"application/json": {
    "files": _files,
    "torch": _torch and _torch.__version__,
    "capability": _torch and _torch.backends.cpu.get_cpu_capability(),
}}, raw=True)
"""
PARSER = threading.Lock()
PROCESSES = re.compile(r"\b(subprocess|multiprocessing|sys\.executable)\b")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LIBRARY_FILES = {".py", ".js", ".json", ".jsonl", ".safetensors", ".cache", ".packed"}


def config(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))


def pages(root: Path) -> list[str]:
    """Every file of the table of contents, in reading order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *_files(toc)]


def parts(root: Path) -> list[tuple[str, list[str]]]:
    """Each part's caption, and the files in it."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [(part.get("caption", "Pages"), list(_files(part))) for part in toc.get("parts", [toc])]


def title(path: Path) -> str:
    """A page's first heading."""
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else path.stem


def _files(entry: Any) -> Iterator[str]:
    if isinstance(entry, list):
        for item in entry:
            yield from _files(item)
    elif isinstance(entry, dict):
        if "file" in entry:
            yield entry["file"]
        for key in ("parts", "chapters", "sections"):
            yield from _files(entry.get(key, []))


def chapters(root: Path) -> list[Path]:
    """The pages that hold code to run."""
    paths = [root / page for page in pages(root)]
    return [path for path in paths if is_myst_markdown_notebook(path.read_text(encoding="utf-8"))]


def read(path: Path) -> Any:
    """The chapter as a notebook without outputs, read as the site's build reads it."""
    return get_reader({"type": "plugin", "name": "myst_nb_md"})(str(path))


def open_cache(root: Path) -> Any:
    cache = get_cache(root / config(root)["execute"]["cache"])
    cache.list_cache_records()  # makes the database while only one process looks
    return cache


def library(root: Path) -> dict[str, str]:
    """The digest of every file of the library; of a program without comments and docstrings."""
    paths = [p for p in (root / "distill_lib").rglob("*") if p.suffix in LIBRARY_FILES]
    return {path.relative_to(root).as_posix(): digest(path) for path in sorted(paths)}


def digest(path: Path) -> str:
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


def parse(source: str | bytes) -> ast.Module:
    """Python's syntax tree, for one thread at a time.

    Python 3.11 counts the depth of its recursion for all threads at once, and refuses a good
    program where two of them parse (``AST constructor recursion depth mismatch``).
    """
    with PARSER:
        return ast.parse(source)


@cache
def _digest(path: Path, changed: int, size: int) -> str:
    data = path.read_bytes()
    if path.suffix == ".py":
        tree = parse(data)
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        data = ast.dump(tree).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def fingerprint(
    root: Path, files: list[str] | None = None, of: dict[str, str] | None = None
) -> str:
    """What a chapter's numbers depend on, besides its own code cells, which jupyter-cache keys.

    The programs of the library that its kernel imported, and the tables of recorded runs and the
    scripts that it names (``files``; None: all), all other weights and data that the library
    ships, the versions of all installed packages, the profile. ``of`` is a :func:`library` of an
    earlier moment.
    """
    found = library(root) if of is None else of
    used = {
        name: value
        for name, value in found.items()
        if files is None or not (name.endswith(".py") or is_table(name)) or name in files
    }
    gone = sorted(set(files or ()) - set(found))
    profile = os.environ.get("DISTILL_PROFILE", "laptop")
    return hashlib.sha256(repr((used, gone, versions(), profile)).encode()).hexdigest()


@cache
def versions() -> list[tuple[str, str]]:
    """All installed packages: half a second, which each page's fingerprint needs."""
    return sorted({(d.name.lower(), d.version) for d in distributions() if d.name})


def is_fresh(root: Path, record: Any, of: dict[str, str] | None = None) -> bool:
    """Whether what a record of the cache depends on is as it was."""
    return record.data.get("fingerprint") == fingerprint(root, record.data.get("files"), of)


def imported(root: Path, program: str, paths: list[str]) -> list[str] | None:
    """Files of the library that a page uses; None, which is all, if its kernel starts others."""
    inside = [Path(p).resolve() for p in paths]
    names = [p.relative_to(root).as_posix() for p in inside if p.is_relative_to(root)]
    if not names or PROCESSES.search(program) or any("/processes/" in name for name in names):
        return None
    sources = [program, *((root / name).read_text(encoding="utf-8") for name in names)]
    tables = [path for path in (root / "distill_lib").rglob("*") if is_table(path.name)]
    used = [p for p in tables if any(called(p) in source for source in sources)]
    return sorted([*names, *(p.relative_to(root).as_posix() for p in used)])


def is_table(name: str) -> bool:
    """What is there for a few pages, which name it: recorded runs, the scripts of live figures."""
    path = Path(name)
    live = path.suffix == ".js" or path.stem.startswith("live_")
    return live or path.suffix == ".jsonl" or path.stem.endswith("_grid")


def called(path: Path) -> str:
    """How a page names such a file; the name of a script without its end is often a word."""
    return path.name if path.suffix == ".js" else path.stem


def executed(cache: Any, path: Path) -> tuple[Any, Any]:
    """The cached record of a chapter and its notebook with outputs; KeyError when never run."""
    notebook = read(path)
    record = cache.match_cache_notebook(notebook)
    return record, cache.merge_match_into_notebook(notebook)[1]


def run(path: Path, timeout: int) -> tuple[Any, dict[str, Any] | None]:
    """Execute a page in a kernel of its own.

    nbclient waits four seconds for the output of a cell that has ended, and goes on without it:
    a claim was lost so on a machine that stood still for a moment. Here all of it is waited for.

    Returns:
        The execution (``nb``, ``err``, ``time``), and what the kernel answered to :data:`ASK`;
        None where the page ended before it.
    """
    notebook = read(path)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    result = single_nb_execution(
        notebook,
        cwd=str(path.parent),
        timeout=timeout,
        allow_errors=False,
        iopub_timeout=timeout,
        raise_on_iopub_timeout=True,
    )
    shown = (output.get("data", {}) for output in result.nb.cells.pop().outputs)
    answers = (data["application/json"] for data in shown if "application/json" in data)
    return result, next(answers, None)


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from cell.get("outputs", [])


def bundles(notebook: Any, mime: str) -> Iterator[dict[str, Any]]:
    """The JSON data of one MIME type, in the order in which it was displayed."""
    for output in outputs(notebook):
        data = output.get("data", {})
        if mime in data:
            yield json.loads(data[mime]) if isinstance(data[mime], str) else dict(data[mime])


def claims(notebook: Any) -> Iterator[dict[str, Any]]:
    """Claims and measurements, in the order in which they were stated."""
    for bundle in bundles(notebook, CLAIM):
        yield from bundle.get("claims", [bundle])


def glued(notebook: Any) -> dict[str, str]:
    """The values that the text quotes, by name."""
    values = {}
    for output in outputs(notebook):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if name is not None:
            values[name] = str(output["data"].get(GLUE + "text/plain", "")).strip("'\"")
    return values


def plain(text: str) -> str:
    """Without the color codes of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
