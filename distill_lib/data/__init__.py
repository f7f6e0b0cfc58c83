"""Real data sets behind one ``load(name)``: origin, license, checksums, an offline copy.

Example:
    >>> from distill_lib import data
    >>> digits = data.load("digits", split="test")
    >>> digits
    Dataset(digits/test: 355 items of 1x8x8, 10 classes)
    >>> batch = next(iter(digits.batches(32, seed=0)))
    >>> batch["inputs"].shape, batch["labels"].shape
    (torch.Size([32, 1, 8, 8]), torch.Size([32]))
"""

from __future__ import annotations

from pathlib import Path

from distill_lib.data import digits, fashion
from distill_lib.data.augment import flip_and_shift
from distill_lib.data.dataset import Batches, DataError, Dataset

__all__ = ["Batches", "DataError", "Dataset", "flip_and_shift", "load", "names"]

_LOADERS = {"digits": digits.load, "fashion_mnist": fashion.load}


def names() -> list[str]:
    """The data sets that :func:`load` knows."""
    return sorted(_LOADERS)


def load(name: str, split: str = "train", root: str | Path | None = None) -> Dataset:
    """Load a data set, from a local copy where there is one.

    ``fashion_mnist`` is looked for in ``root`` (or the folder in the environment variable
    ``DISTILL_DATA``, or the user's cache), then where Debian's package ``dataset-fashion-mnist``
    installs it; else that package is fetched without root rights, or the Hugging Face hub is asked.
    ``digits`` comes with scikit-learn.

    Args:
        name: ``"fashion_mnist"`` or ``"digits"``.
        split: ``"train"`` or ``"test"``.
        root: Folder to look in first, and to store in what is fetched.

    Raises:
        ValueError: The name or the split is unknown.
        DataError: No source works, or a file is not the published one.
    """
    if name not in _LOADERS:
        raise ValueError(f"no data set {name!r}; there are {', '.join(names())}")
    if split not in ("train", "test"):
        raise ValueError(f"no split {split!r} of {name}; there are train and test")
    return _LOADERS[name](split, root)
