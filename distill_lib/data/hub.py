"""SST-2 from the Hugging Face hub, for machines with a network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from distill_lib.data import places
from distill_lib.data.dataset import DataError
from distill_lib.data.text import TextDataset

__all__ = ["sst2"]

REPOSITORY = "stanfordnlp/sst2"
REVISION = "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb"
SUMS = {
    "train": "c7921283b75a42e685f50edecb96798607ea0fcbfd0739ee8975f22c12d55f09",
    "validation": "fb00fe008f6828f86ba2beda8415a4cf5da0c884f21c5f238c87131b5aa19529",
}


def sst2(split: str) -> TextDataset:
    """The Stanford sentiment treebank, two classes: 67,349 phrases, 872 sentences for the test.

    The public test set of the benchmark has no labels, so that ``"test"`` is its validation set, as
    in all published comparisons.

    Raises:
        DataError: A package is missing, the hub cannot be reached and has left no copy, or the
            file is not the published one.
    """
    theirs = "train" if split == "train" else "validation"
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise DataError(
            f"{error.name} is not installed: pip install huggingface_hub pyarrow"
        ) from error
    file = f"data/{theirs}-00000-of-00001.parquet"
    try:
        path = hf_hub_download(REPOSITORY, file, repo_type="dataset", revision=REVISION)
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        raise DataError(
            f"SST-2 could not be had from the hub ({places.said(error)}). With a network: hf "
            f"download --repo-type dataset --revision {REVISION} {REPOSITORY}; the file then lies "
            "in the hub's cache (HF_HOME, or ~/.cache/huggingface), where it is found offline too. "
            "The data set movie_reviews needs no hub."
        ) from error
    places.check(Path(path), SUMS[theirs])  # before anything is unpacked
    try:
        table = parquet.read_table(path)
        texts = tuple(text.strip() for text in table.column("sentence").to_pylist())
        labels, index = (
            torch.tensor(table.column(n).to_pylist(), dtype=torch.int64) for n in ("label", "idx")
        )
    except Exception as error:  # PyArrow's own errors, of many kinds
        raise DataError(
            f"{path} cannot be read by this PyArrow ({places.said(error)}): pip install -U pyarrow"
        ) from error
    return TextDataset(
        texts,
        labels,
        ("negative", "positive"),
        index,
        name=f"sst2/{split}",
        origin="Socher et al., Recursive deep models over a sentiment treebank, 2013",
        license="see the data set's card on the hub",
    )
