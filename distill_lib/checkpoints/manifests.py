"""A folder's files and their SHA-256, for formats that cannot tell a flipped bit themselves."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from distill_lib.arguments import as_path, checked

from .files import sha256, whole_file

__all__ = ["MANIFEST", "sums_of", "verify", "write_manifest"]

MANIFEST = "SHA256SUMS"
LINE = re.compile(rb"([0-9a-f]{64})  ([^\n\\]+)\n")
MOST = 64 << 20  # bytes of a manifest: some hundred thousand names


def sums_of(folder: Path) -> dict[bytes, str]:
    """The SHA-256 of each file below a folder, by its path from there; links are followed."""
    found = {}
    for path in _files(folder, ()) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        # what a writer left, or is writing, is no part of what was saved
        if name != MANIFEST and not name.endswith(".part"):
            found[os.fsencode(name)] = sha256(path)
    return found


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files below a folder, also through links to folders that do not lead back above it."""
    place = folder.resolve()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif path.is_dir():
            inside = path.resolve()
            if any(one.is_relative_to(inside) for one in (*above, place)):
                raise ValueError(
                    f"{path} is a link to {inside}, a folder that it lies in itself, and has no "
                    "end: take it away"
                )
            yield from _files(path, (*above, place))


@checked
def write_manifest(folder: str | Path) -> str:
    """Write down the SHA-256 of every file in a folder, as ``SHA256SUMS`` in it.

    A flipped bit in a safetensors file, and in weights of before torch 1.6, gives other numbers
    without an error: these formats have no checksum. So write a manifest once a folder is complete
    and call :func:`distill_lib.checkpoints.verify` before it is used. The file is that of the
    program ``sha256sum``: ``sha256sum -c SHA256SUMS`` reads it too.

    Args:
        folder: With the weights; folders in it count as well, and those that it has links to.

    Returns:
        The SHA-256 of the manifest. Whoever keeps it elsewhere finds not only accidents but also
        files that somebody exchanged.

    Raises:
        ValueError: no folder, one without files, a name with a line break or backslash, or a link
            that leads back above itself.
        OSError: a file cannot be read, or the manifest not be written; an older one is whole.
    """
    folder = as_path(folder, "folder")
    lines = [f"{digest}  ".encode() + name + b"\n" for name, digest in sums_of(folder).items()]
    if not lines:
        raise ValueError(f"{folder} is no folder with files, so there is nothing to write down")
    if odd := [line for line in lines if not LINE.fullmatch(line)]:
        raise ValueError(f"a name with a line break or backslash, {odd[0][66:]!r}: rename the file")
    content = b"".join(lines)
    with whole_file(folder / MANIFEST) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


@checked
def verify(folder: str | Path, digest: str | None = None) -> None:
    """Compare every file in a folder with its manifest.

    Each file is read once, a piece at a time; a manifest of more than 64 MiB is refused.

    Args:
        folder: One for which :func:`write_manifest` was called.
        digest: What it returned, to know that the manifest is that one.

    Raises:
        CheckpointError: no manifest or another one, or files that changed, are missing, or are not
            in it, each by name.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from distill_lib.checkpoints import CheckpointError
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "model.safetensors").write_bytes(b"weights")
        ...     digest = write_manifest(folder)
        ...     verify(folder, digest)
        ...     _ = Path(folder, "model.safetensors").write_bytes(b"weighty")
        ...     try:
        ...         verify(folder)
        ...     except CheckpointError as error:
        ...         print(str(error).partition("says. ")[2].partition(". Get")[0])
        changed: model.safetensors
    """
    from . import CheckpointError

    folder = as_path(folder, "folder")
    try:
        with (folder / MANIFEST).open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise CheckpointError(
            f"{folder} has no {MANIFEST} that can be read ({error.strerror}): call "
            "checkpoints.write_manifest where the files are known to be right"
        ) from error
    known = {name: found.decode() for found, name in LINE.findall(content)}
    lines = [f"{found}  ".encode() + name + b"\n" for name, found in known.items()]
    if len(content) > MOST or b"".join(lines) != content or not lines:
        raise CheckpointError(f"{folder / MANIFEST} is torn, or no manifest of SHA-256 sums")
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{folder / MANIFEST} is not the manifest with SHA-256 {digest}")
    try:
        found = sums_of(folder)
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    faults = {
        "changed": [name for name in known.keys() & found.keys() if known[name] != found[name]],
        "missing": known.keys() - found.keys(),
        "not in the manifest": found.keys() - known.keys(),
    }
    if words := [
        f"{what}: {', '.join(sorted(map(os.fsdecode, names))[:8])}"
        for what, names in faults.items()
        if names
    ]:
        raise CheckpointError(
            f"{folder} is not what its {MANIFEST} says. {'; '.join(words)}. Get the files anew; "
            "or, if the change was meant, call checkpoints.write_manifest again"
        )
