"""Handwritten digits of 8 x 8 pixels, as they come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import torch

from distill_lib.data.dataset import DataError, Dataset

__all__ = ["load"]


def load(split: str, root: str | Path | None = None) -> Dataset:
    """1,442 images for training, 355 to test: every fifth of each class is a test image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    pixels, targets = load_digits(return_X_y=True)
    inputs = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.as_tensor(targets, dtype=torch.int64)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[(labels == label).nonzero()[4::5, 0]] = True
    inputs = (inputs - inputs[~test].mean()) / inputs[~test].std()
    whole = Dataset(
        inputs,
        labels,
        tuple(str(label) for label in range(10)),
        name=f"digits/{split}",
        origin="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; the "
        "1,797 images of the UCI test set that scikit-learn ships",
        license="CC BY 4.0",
    )
    return whole.subset(test if split == "test" else ~test)
