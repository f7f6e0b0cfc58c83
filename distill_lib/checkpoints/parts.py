"""Files under a name of their own until they are whole, and what dead writers left of them."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["part_of"]

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
# the locks of another machine cannot be seen everywhere, so its parts are left alone
HOST = f"{zlib.crc32(platform.node().encode()):08x}"


@contextlib.contextmanager
def part_of(place: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside ``place``, and its path: rename it while it is open, or it is removed.

    Its writer holds a lock on it, which the system drops when the writer dies. So parts of this
    machine that nobody holds were left by a kill, and are removed first.

    Raises:
        OSError: nothing can be written there.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    start = f"{place.name[:40]}.{HOST}-"
    _sweep(place.parent, start)
    file, part = _locked(place, start)
    try:
        with file:
            yield file, part
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _locked(place: Path, start: str) -> tuple[BinaryIO, Path]:
    while True:
        part = place.with_name(f"{start}{uuid.uuid4().hex}.part")
        file = part.open("xb")
        # between the two, another writer may have swept it away
        if not _lock(file, wait=True) or part.exists():
            return file, part
        file.close()


def _lock(file: BinaryIO, wait: bool) -> bool:
    """Whether this process now has the lock; not every disk knows locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (AttributeError, OSError):
        return False
    return True


def _sweep(folder: Path, start: str) -> None:
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if not (entry.name.startswith(start) and entry.name.endswith(".part")):
                continue
            if entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError), open(entry.path, "r+b") as file:
                    if _lock(file, wait=False):
                        os.unlink(entry.path)
