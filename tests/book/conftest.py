"""What the tests of the book share: the tools on the path, the tiny book, the built site."""

from __future__ import annotations

import os
import shutil
import venv
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from making import ROOT, copy_tiny, make, missing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The tiny book after `make book`, and what that printed. Not to be changed by a test."""
    base = tmp_path_factory.getbasetemp()
    # One for all processes that run tests side by side.
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, printed = folder / "tiny/book", folder / "tiny-printed.txt"
    with FileLock(folder / "tiny.lock"):
        if not printed.exists():
            shutil.rmtree(root, ignore_errors=True)
            done = make(copy_tiny(root), "book")
            assert done.returncode == 0, done.stdout
            printed.write_text(done.stdout, encoding="utf-8")
    return root, printed.read_text(encoding="utf-8")


@pytest.fixture
def changed(built: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the built tiny book that a test may change."""
    root = tmp_path / "book"
    shutil.copytree(built[0], root)
    return root


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site, if it is there and not older than its sources."""
    stamp = ROOT / "_build/xrefs.json"
    if not (ROOT / "_build/html/index.html").exists() or not stamp.exists():
        missing("the site is not built: run `make book` first")
    sources = [p for f in ("chapters", "book") for p in (ROOT / f).rglob("*") if p.is_file()]
    read = {".md", ".css", ".js"}
    sources = [p for p in sources if p.suffix in read and "_tools" not in p.parts]
    newer = [p.name for p in sources if p.stat().st_mtime > stamp.stat().st_mtime]
    if newer:
        missing(f"the site is older than {', '.join(newer[:3])}: run `make book` first")
    return ROOT / "_build/html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browsing import launched

    yield from launched()


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    from browsing import WIDE, opened

    with opened(browser, WIDE) as page:
        yield page


# What torch brings, and what a kernel needs that is driven from another environment.
BASE = ("torch", "ipykernel")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with torch, a kernel, and nothing else of this environment: links, not copies."""
    folder = tmp_path_factory.mktemp("base")
    todo, seen = [Requirement(name) for name in BASE], set()
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if name in seen or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of a GPU, or of another platform
            continue
        for file in found.files or []:
            top = folder / file.parts[0]
            if file.parts[0] != ".." and not top.exists():
                top.symlink_to(Path(str(found.locate_file(file.parts[0]))).resolve())
        todo += [Requirement(text) for text in found.requires or []]
    return folder


@pytest.fixture
def fresh(base: Path, tmp_path: Path) -> Path:
    """The Python of an environment that has torch and a kernel alone."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=os.name != "nt", with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "base.pth").write_text(f"{base}\n")
    return folder / "bin/python"
