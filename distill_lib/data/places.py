"""Where data lie on this machine, and how files get there whole."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import IO

from distill_lib.arguments import as_path
from distill_lib.checkpoints.files import sha256, whole_file
from distill_lib.data.dataset import DataError

__all__ = ["check", "gunzip", "home", "read", "said", "sha256", "write"]


def home(root: str | Path | None = None) -> Path:
    """``root``, else the folder in ``DISTILL_DATA``, else one in the user's cache."""
    if given := root or os.environ.get("DISTILL_DATA"):
        return as_path(given, "root").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distill_lib"


def check(path: Path, expected: str) -> None:
    """Compare a file with the published one.

    Raises:
        DataError: It has another SHA-256, or cannot be read.
    """
    try:
        found = sha256(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): mend that, or delete it, and load again"
        ) from error
    if found != expected:
        raise DataError(
            f"{path} is not the published file: its SHA-256 is {found[:16]}…, expected "
            f"{expected[:16]}…. Delete it and load again: it is then fetched anew."
        )


def read(file: IO[bytes] | gzip.GzipFile, most: int) -> bytes:
    """All of an open file, if it is at most ``most`` bytes: a small file may unpack to many.

    Raises:
        ValueError: It holds more.
    """
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")
    return content


def gunzip(content: bytes, most: int) -> bytes:
    """What gzip packed, if it is at most ``most`` bytes.

    Raises:
        ValueError: It holds more.
        OSError, EOFError, zlib.error: It is torn.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        return read(file, most)


def said(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: another process may be looking for it.

    Raises:
        OSError: The folder cannot be written to.
    """
    with whole_file(path) as file:
        file.write(content)
