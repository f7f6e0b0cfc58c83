"""CIFAR-10 and CIFAR-100: 60,000 photographs, 32 x 32 pixels in three colors."""

from __future__ import annotations

import tarfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_lib.checkpoints.files import whole_file
from distill_lib.data import places
from distill_lib.data.dataset import DataError, Dataset
from distill_lib.progress import bar

__all__ = ["SETS", "load"]

# The authors also offer pickles, which run code when they are opened; these are plain bytes.
HOST = "https://www.cs.toronto.edu/~kriz/"
SIDE = 32
PIXELS = 3 * SIDE * SIDE
MOST = 2**28  # bytes that a member of an archive may unpack to; the published ones have 154 MB


@dataclass(frozen=True)
class Archive:
    """A published file: its name and sum, and what is in it."""

    file: str
    size: int
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: int  # bytes before the pixels of an image, of which the last is its class


SETS = {
    "cifar10": Archive(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        1,
    ),
    "cifar100": Archive(
        "cifar-100-binary.tar.gz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        "fine_label_names.txt",
        2,
    ),
}


def load(name: str, split: str, root: str | Path | None = None) -> Dataset:
    """50,000 images for training, 10,000 to test, each color standardized by the training images.

    As float32 the training images take 614 MB.
    """
    archive = SETS[name]
    path = _found(archive, root)
    places.check(path, archive.sha256)  # before anything is unpacked
    try:
        members = _members(archive, path)
        train, _ = _images(archive, members, archive.train)
        files = archive.train if split == "train" else archive.test
        pixels, labels = _images(archive, members, files)
        classes = tuple(members[archive.names].decode().split())
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise DataError(
            f"{path} is broken ({places.said(error)}). Delete it and load again."
        ) from error
    mean, std = _moments(train)
    return Dataset(
        torch.from_numpy(pixels.astype(np.float32)).sub_(mean).div_(std),
        torch.from_numpy(labels.astype(np.int64)),
        classes,
        name=f"{name}/{split}",
        origin="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        license="none stated; the authors ask to be cited",
    )


def _found(archive: Archive, root: str | Path | None) -> Path:
    """Where the archive lies; fetched if it lies nowhere."""
    store = places.home(root) / "cifar" / archive.file
    for path in (places.home(root) / archive.file, store):
        if path.is_file():
            return path
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        answer = urllib.request.urlopen(HOST + archive.file, timeout=30)
        with answer, whole_file(store) as file:
            _copy(answer, file, archive)
    except (OSError, ValueError) as error:  # of the network, of the folder, a length
        raise DataError(
            f"{archive.file} was not found in {store.parent} and could not be had from its authors "
            f"({places.said(error)}). With a network, put the file of {HOST}cifar.html into that "
            "folder, or set DISTILL_DATA to one that has it. The data set fashion_mnist needs no "
            "such file."
        ) from error
    return store


def _copy(answer: IO[bytes], file: IO[bytes], archive: Archive) -> None:
    left = archive.size
    for _ in bar(range(0, archive.size, 2**20), archive.file, -(-archive.size // 2**20)):
        left -= file.write(answer.read(min(2**20, left)))
    if left or answer.read(1):
        raise ValueError(f"expected {archive.size:,} bytes")


def _members(archive: Archive, path: Path) -> dict[str, bytes]:
    """The files that are read, by name; nothing is written to a disk."""
    wanted = {*archive.train, *archive.test, archive.names}
    found = {}
    with tarfile.open(path, "r|gz") as file:
        for member in file:
            folder, _, name = member.name.rpartition("/")
            content = file.extractfile(member) if member.isfile() else None
            if content is not None and folder == archive.folder and name in wanted:
                found[name] = places.read(content, MOST)
    return found


def _images(
    archive: Archive, members: dict[str, bytes], files: tuple[str, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels ``[N, 3, 32, 32]`` and classes ``[N]``, a byte each."""
    rows = np.frombuffer(b"".join(members[name] for name in files), np.uint8)
    rows = rows.reshape(-1, archive.labels + PIXELS)
    return rows[:, archive.labels :].reshape(-1, 3, SIDE, SIDE), rows[:, archive.labels - 1]


def _moments(pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[3, 1, 1]`` of each color, from how often each byte occurs."""
    values = np.arange(256)
    counts = np.stack([np.bincount(pixels[:, color].ravel(), minlength=256) for color in range(3)])
    mean = counts @ values / counts.sum(1)
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    both = torch.tensor(np.stack([mean, variance**0.5]), dtype=torch.float32)[..., None, None]
    return both[0], both[1]
