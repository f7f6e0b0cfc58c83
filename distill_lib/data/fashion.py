"""Fashion-MNIST: 70,000 images of clothes, 28 x 28 pixels, ten classes."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill_lib.data import places, sources
from distill_lib.data.dataset import DataError, Dataset

__all__ = ["FILES", "MEAN", "STD", "load"]

CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

# Of the pixels of the training images, scaled to [0, 1].
MEAN, STD = 0.2860, 0.3530

# SHA-256 of the content after gunzip: Debian's files and the authors' differ in the gzip header,
# which holds a name and a date, and in nothing else.
FILES = {
    "train-images-idx3-ubyte.gz": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte.gz": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}

MOST = 16 + 60_000 * 28 * 28  # bytes that the largest of them unpacks to

SYSTEM = Path("/usr/share/datasets/fashion-mnist")


def load(split: str, root: str | Path | None = None) -> Dataset:
    """60,000 images for training, 10,000 to test, standardized by the training images."""
    images, labels = _files(split, root)
    pixels = _idx(images)[:, None].float()
    return Dataset(
        pixels.div_(255).sub_(MEAN).div_(STD),
        _idx(labels).long(),
        CLASSES,
        name=f"fashion_mnist/{split}",
        origin="Xiao, Rasul and Vollgraf, Fashion-MNIST, Zalando Research, 2017",
        license="MIT",
    )


def _files(split: str, root: str | Path | None) -> tuple[bytes, bytes]:
    """The verified contents of the image and the label file, from the first source that works."""
    prefix = "train" if split == "train" else "t10k"
    images, labels = (name for name in FILES if name.startswith(prefix))
    tried = []
    for folder in _folders(root):
        missing = [name for name in (images, labels) if not (folder / name).is_file()]
        if not missing:
            return _read(folder / images), _read(folder / labels)
        lack = f"lacks {', '.join(missing)}" if folder.is_dir() else "no such folder"
        tried.append(f"{folder}: {lack}")
    store = places.home(root) / "fashion-mnist"
    for name, fetch in sources.FETCHERS.items():
        try:
            fetch(store, split, list(FILES))
        except sources.Unavailable as error:
            tried.append(f"{name}: {error}")
        else:
            return _read(store / images), _read(store / labels)
    raise DataError(
        "Fashion-MNIST was not found. Tried\n"
        + "".join(f"  - {line}\n" for line in tried)
        + "Any of these helps: install Debian's package (apt-get install dataset-fashion-mnist); "
        f"put the four files {', '.join(FILES)} of github.com/zalandoresearch/fashion-mnist into "
        f"{store}; or set DISTILL_DATA to a folder that has them."
    )


def _folders(root: str | Path | None) -> Iterator[Path]:
    home = places.home(root)
    if root or os.environ.get("DISTILL_DATA"):
        yield home
    yield home / "fashion-mnist"
    yield SYSTEM


def _read(path: Path) -> bytes:
    """The content of a .gz file, if it is the published one."""
    try:
        with gzip.open(path) as file:
            content = places.read(file, MOST)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is broken ({error}). {_way_out(path)}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILES[path.name]:
        raise DataError(
            f"{path} is not the published file: its content has SHA-256 {digest[:16]}…, expected "
            f"{FILES[path.name][:16]}…. {_way_out(path)}"
        )
    return content


def _way_out(path: Path) -> str:
    if path.parent == SYSTEM:
        return "Install Debian's package dataset-fashion-mnist again."
    return "Delete it and load again: it is then fetched anew."


def _idx(content: bytes) -> Tensor:
    """A tensor of bytes from the idx format: two zeros, type, rank, sizes, then the values."""
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    return torch.from_numpy(values.reshape(shape).copy())
