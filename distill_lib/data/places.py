"""Where data lie on this machine, and how files get there whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["home", "sha256", "write"]


def home(root: str | Path | None = None) -> Path:
    """``root``, else the folder in ``DISTILL_DATA``, else one in the user's cache."""
    if given := root or os.environ.get("DISTILL_DATA"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distill_lib"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: another process may be looking for it.

    Raises:
        OSError: The folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)
