"""Short texts that many people rated: film reviews, tweets, product reviews, editorials.

All come with Hutto and Gilbert's VADER: one mean and the ratings of at least fifteen people a text,
from -4 (extremely negative) to 4. The source distribution of the package ``vaderSentiment`` has
them, which is fetched with pip; the texts are third parties' and are not passed on.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import tarfile
from pathlib import Path

import torch

from distill_lib.data.dataset import NO_LABEL
from distill_lib.data.packages import Package
from distill_lib.data.text import TextDataset

__all__ = ["PACKAGE", "SETS", "SPLITS", "load"]

ARCHIVE = "hutto_ICWSM_2014.tar.gz"

PACKAGE = Package(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    {ARCHIVE: f"vaderSentiment-3.3.2/additional_resources/{ARCHIVE}"},
    {ARCHIVE: "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"},
    "rated-snippets",
)

# The file's name, and where its ids begin: no two texts of all sets share one.
SETS = {
    "movie_reviews": ("movieReviewSnippets", 0),
    "tweets": ("tweets", 100_000),
    "amazon_reviews": ("amazonReviewSnippets", 200_000),
    "editorials": ("nytEditorialSnippets", 300_000),
}
SPLITS = ("train", "validation", "test", "ambiguous")
TEST, VALIDATION = 2_500, 700
CLEAR = 0.5  # how far from 0 the mean rating of a text with a label is
CLASSES = ("negative", "positive")


def load(name: str, split: str, root: str | Path | None = None) -> TextDataset:
    """One of the four sets.

    A text is labeled by the sign of its mean rating where that is more than 0.5 away from 0. Of
    the labeled film reviews the 2,500 with the smallest SHA-256 are the test set, the next 700 the
    validation set; those without a clear mean are the split ``"ambiguous"``. The other sets have
    one split, and label -100 where people are not clear. Texts that occur twice are dropped.
    """
    everything = _read(name, root)
    if name != "movie_reviews":
        return everything
    clear = everything.labels != NO_LABEL
    order = sorted(
        clear.nonzero()[:, 0].tolist(),
        key=lambda i: hashlib.sha256(everything.texts[i].encode()).digest(),
    )
    parts = {
        "test": sorted(order[:TEST]),
        "validation": sorted(order[TEST : TEST + VALIDATION]),
        "train": sorted(order[TEST + VALIDATION :]),
        "ambiguous": (~clear).nonzero()[:, 0].tolist(),
    }
    chosen = everything.subset(parts[split])
    object.__setattr__(chosen, "name", f"{name}/{split}")
    return chosen


def _read(name: str, root: str | Path | None) -> TextDataset:
    file, first = SETS[name]
    content = (PACKAGE.fetch(root) / ARCHIVE).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        texts, ratings = (
            _rows(archive, f"hutto_ICWSM_2014/{file}_{kind}.txt")
            for kind in ("GroundTruth", "anonDataRatings")
        )
    said = {key: json.loads(row[-1]) for key, *row in ratings}
    found: dict[str, tuple[int, list[int]]] = {}
    for number, (key, _, text) in enumerate(texts):
        how_many = [said[key].count(rating) for rating in range(-4, 5)]
        found.setdefault(html.unescape(text).strip(), (first + number, how_many))
    counts = torch.tensor([counts for _, counts in found.values()], dtype=torch.int16)
    mean = counts.double() @ torch.arange(-4.0, 5.0, dtype=torch.float64) / counts.sum(1)
    return TextDataset(
        tuple(found),
        torch.where(mean.abs() > CLEAR, (mean > 0).long(), NO_LABEL),
        CLASSES,
        torch.tensor([number for number, _ in found.values()]),
        counts,
        name=f"{name}/train",
        origin="Hutto and Gilbert, VADER, ICWSM 2014; in the package vaderSentiment 3.3.2",
        license="MIT for the package; the texts are third parties'",
    )


def _rows(archive: tarfile.TarFile, name: str) -> list[list[str]]:
    file = archive.extractfile(name)
    assert file is not None
    lines = file.read().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    return [line.split("\t") for line in lines if line.strip()]
