"""The tools of the book on the path, the tiny book, and what runs in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).parent / "tiny"
# The commands of `make book`, without making an environment: the tests run in one.
MAKE = "import sys; sys.path.insert(0, '.'); import make; make.setup = lambda: None; make.{}()"
sys.path[:0] = [str(ROOT / "book/_tools"), str(ROOT / "book/_ext")]

Make = Callable[..., subprocess.CompletedProcess[str]]


def missing(reason: str) -> None:
    """Skip on a reader's machine; on the server, where everything has to be there, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def copy_tiny(root: Path) -> Path:
    """The tiny book with the real configuration, extension and tools, in a folder of its own."""
    shutil.copytree(TINY, root)
    for name in ("_config.yml", "make.py"):
        shutil.copy(ROOT / name, root)
    for name in ("_ext", "_static", "_tools"):
        shutil.copytree(ROOT / "book" / name, root / "book" / name)
    return root


def run_in(root: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run in the tiny book, whose stand-in for the library comes first."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST_"))}
    own = {"PYTHONPATH": str(root), "DISTILL_VENV": sys.prefix, "DISTILL_JOBS": "1"}
    environment |= own | more
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done


def make(root: Path, command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run_in(root, "-c", MAKE.format(command), **more)
