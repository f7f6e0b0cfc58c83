"""Ways to get the files of Fashion-MNIST: Debian's package, or the Hugging Face hub.

Each takes the folder to store in, the split that is wanted, and the names of the files; it
stores the files of at least that split, or raises :class:`Unavailable` with the reason. The
caller checks what was stored.
"""

from __future__ import annotations

import gzip
import importlib
import io
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill_lib.data import places

__all__ = ["FETCHERS", "Unavailable"]

PACKAGE = "dataset-fashion-mnist"
HUB = "zalando-datasets/fashion_mnist"
ROWS, SIDE = 60_000, 28
MOST = 2**27  # bytes that the hub's file may unpack to; the published one has a quarter


class Unavailable(Exception):
    """This source does not work here; the message says why."""


def from_debian(store: Path, split: str, files: Sequence[str]) -> None:
    """Download Debian's package and unpack it: needs no root rights and installs nothing."""
    if shutil.which("apt-get") is None:
        raise Unavailable("there is no apt-get")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            _apt(work, "download", PACKAGE)
        except Unavailable:
            # No package lists here, or old ones: fetch our own, which leaves the system's alone.
            (work / "lists" / "partial").mkdir(parents=True)
            (work / "cache" / "archives" / "partial").mkdir(parents=True)
            own = [f"Dir::State::Lists={work}/lists", f"Dir::Cache={work}/cache"]
            options = [part for option in own for part in ("-o", option)]
            _apt(work, *options, "update")
            _apt(work, *options, "download", PACKAGE)
        package = next(work.glob(f"{PACKAGE}_*.deb"), None)
        if package is None:
            raise Unavailable(f"apt-get download {PACKAGE} left no package")
        _run(work, "dpkg", "-x", str(package), "unpacked")
        found = work / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"
        for name in files:
            if not (found / name).is_file():
                raise Unavailable(f"{package.name} has no {name}")
            _store(store / name, (found / name).read_bytes())


def from_hub(store: Path, split: str, files: Sequence[str]) -> None:
    """Download the split from the Hugging Face hub, and write it in the original format."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        from huggingface_hub import hf_hub_download
        from PIL import Image
    except ImportError as error:
        raise Unavailable(
            f"{error.name} is not installed (pip install huggingface_hub pyarrow pillow)"
        ) from error
    try:
        path = hf_hub_download(
            HUB, f"fashion_mnist/{split}-00000-of-00001.parquet", repo_type="dataset"
        )
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        raise Unavailable(places.said(error)) from error
    try:
        pixels, labels = _images(parquet, Image, path)
    except Exception as error:  # PyArrow's and Pillow's own errors, of many kinds
        raise Unavailable(
            f"{path} is broken ({places.said(error)}); delete it and load again"
        ) from error
    prefix = "train" if split == "train" else "t10k"
    contents = {
        f"{prefix}-images-idx3-ubyte.gz": struct.pack(">4I", 0x803, len(labels), SIDE, SIDE)
        + pixels,
        f"{prefix}-labels-idx1-ubyte.gz": struct.pack(">2I", 0x801, len(labels)) + labels,
    }
    for name, content in contents.items():
        _store(store / name, gzip.compress(content, 6, mtime=0))


def _images(parquet: Any, image: Any, path: str) -> tuple[bytes, bytes]:
    """Pixels and labels of the hub's file, a byte each; no more than the published file has."""
    pixels, labels = bytearray(), bytearray()
    # as a dictionary: a value that is there once may be meant a million times
    with parquet.ParquetFile(path, read_dictionary=["image.bytes"]) as file:
        about = file.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if about.num_rows > ROWS or size > MOST:
            raise ValueError(f"{about.num_rows} rows of {size:,} bytes")
        for batch in file.iter_batches(batch_size=500, columns=["image", "label"]):
            labels += bytes(batch.column("label").to_pylist())
            if len(labels) > ROWS:
                raise ValueError(f"more than {ROWS} rows")
            for item in batch.column("image"):
                one = image.open(io.BytesIO(item.as_py()["bytes"]), formats=["PNG"])
                if one.mode != "L" or one.size != (SIDE, SIDE):
                    raise ValueError(f"an image of {one.size} pixels {one.mode}")
                pixels += one.tobytes()
    return bytes(pixels), bytes(labels)


FETCHERS: dict[str, Callable[[Path, str, Sequence[str]], None]] = {
    f"Debian's package {PACKAGE}": from_debian,
    f"the hub's data set {HUB}": from_hub,
}


def _apt(work: Path, *arguments: str) -> None:
    _run(work, "apt-get", "-q", "-o", "APT::Sandbox::User=root", *arguments)


def _run(work: Path, *command: str) -> None:
    quiet: dict[str, Any] = {"capture_output": True, "text": True, "cwd": work, "timeout": 600}
    try:
        subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C"}, **quiet)
    except subprocess.CalledProcessError as error:
        complaints = [line for line in error.stderr.splitlines() if line.startswith(("E:", "dpkg"))]
        reason = complaints[0] if complaints else f"exit status {error.returncode}"
        raise Unavailable(f"{command[0]} {command[-1]}: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error


def _store(path: Path, content: bytes) -> None:
    try:
        places.write(path, content)
    except OSError as error:
        raise Unavailable(
            f"cannot write {path} ({error}); set DISTILL_DATA to another folder"
        ) from error
