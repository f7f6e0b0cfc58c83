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

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

from distill_lib.arguments import checked
from distill_lib.data import cifar, digits, fashion, hub, snippets
from distill_lib.data.augment import flip_and_shift
from distill_lib.data.dataset import Batches, DataError, Dataset
from distill_lib.data.rewriting import neighbors, rewrite
from distill_lib.data.scene import Scenes, scenes
from distill_lib.data.text import TextBatches, TextDataset

__all__ = [
    "Batches",
    "DataError",
    "Dataset",
    "Scenes",
    "TextBatches",
    "TextDataset",
    "flip_and_shift",
    "load",
    "names",
    "neighbors",
    "rewrite",
    "scenes",
]


def __dir__() -> list[str]:
    return __all__


_IMAGES: dict[str, Callable[..., Dataset]] = {
    "digits": digits.load,
    "fashion_mnist": fashion.load,
    **{name: partial(cifar.load, name) for name in cifar.SETS},
}
_SPLITS = {
    **dict.fromkeys(cifar.SETS, ("train", "test")),
    "digits": ("train", "test"),
    "fashion_mnist": ("train", "test"),
    "sst2": ("train", "test"),
    **dict.fromkeys(snippets.SETS, ("train",)),
    "movie_reviews": snippets.SPLITS,
}


def names() -> list[str]:
    """The data sets that :func:`load` knows."""
    return sorted(_SPLITS)


@overload
def load(
    name: Literal["digits", "fashion_mnist", "cifar10", "cifar100"],
    split: str = ...,
    root: str | Path | None = ...,
) -> Dataset: ...


@overload
def load(
    name: Literal["movie_reviews", "tweets", "amazon_reviews", "editorials", "sst2"],
    split: str = ...,
    root: str | Path | None = ...,
) -> TextDataset: ...


@overload
def load(name: str, split: str = ..., root: str | Path | None = ...) -> Any: ...


@checked
def load(name: str, split: str = "train", root: str | Path | None = None) -> Any:
    """Load a data set, from a local copy where there is one.

    Files are looked for in ``root`` (or the folder in the environment variable ``DISTILL_DATA``, or
    the user's cache), and fetched where they are missing: ``fashion_mnist`` is Debian's package
    ``dataset-fashion-mnist`` (no root rights are needed) or the Hugging Face hub's; the rated texts
    ``movie_reviews``, ``tweets``, ``amazon_reviews`` and ``editorials`` are in the package
    ``vaderSentiment``, which pip downloads; ``sst2`` is the hub's; ``cifar10`` and ``cifar100`` are
    their authors' binary files. ``digits`` comes with scikit-learn.

    A file is compared with the SHA-256 of the published one before it is used, an archive also
    before it is unpacked. None may unpack to more than 256 MiB, a file of garments to more than
    47 MB, the hub's table of them to more than 128 MiB; reading takes at most three times as much
    memory, and what is returned comes on top: the 50,000 photographs of CIFAR are 614 MB.

    Args:
        name: One of :func:`names`.
        split: ``"train"`` or ``"test"``; film reviews also have ``"validation"`` and
            ``"ambiguous"``, the other rated texts ``"train"`` alone.
        root: Folder to look in first, and to store in what is fetched.

    Returns:
        A :class:`Dataset` of images or a :class:`TextDataset`.

    Raises:
        ValueError: The name or the split is unknown.
        DataError: No source works, or a file is not the published one.
    """
    if name not in _SPLITS:
        raise ValueError(f"no data set {name!r}; there are {', '.join(names())}")
    if split not in _SPLITS[name]:
        have = " and ".join(_SPLITS[name])
        raise ValueError(f"no split {split!r} of {name}; there are {have}")
    if name in _IMAGES:
        return _IMAGES[name](split, root)
    return hub.sst2(split) if name == "sst2" else snippets.load(name, split, root)
