"""What answers are worth beside labels: sums over batches, one class a task."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.masks import IGNORE

from .classes import (
    class_axis,
    class_numbers,
    classes_last,
    distributions,
    is_soft,
    needs_classes,
    same_shape,
    view_of,
)

__all__ = ["TASKS", "calibration_error", "number"]


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    r"""Expected calibration error: how far confidence is from accuracy.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over bins of equal width of the largest probability, at temperature 1.

    Args:
        logits: [N, C].
        labels: [N].
        bins: Number of bins.

    Returns:
        A scalar in [0, 1].

    Reference:
        Guo et al., *On calibration of modern neural networks*, 2017.

    Example:
        >>> round(calibration_error(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])).item(), 4)
        0.0
    """
    confidence, answer = logits.softmax(-1).max(-1)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gap = (answer == labels).to(confidence) - confidence
    return torch.zeros(bins, dtype=gap.dtype).index_add(0, bin_of, gap).abs().sum() / len(labels)


def number(value: Tensor) -> Any:
    """A tensor as a number, or as a list of them."""
    return value.tolist()


class Score:
    """Sums over batches, of one number of labels or of each."""

    ignore: float | None = IGNORE

    def __init__(self, axis: int | None, ignore: float | None) -> None:
        self.axis = axis
        self.ignore = self.ignore if ignore is None else ignore
        self.sums: dict[str, Tensor] = {}

    def sum(self, **found: Tensor) -> None:
        for name, value in found.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def kept(self, labels: Tensor) -> Tensor:
        found: Tensor = view_of({"y": labels}, "y", self.ignore)["labels"] != IGNORE
        return found

    def total(self, name: str) -> Tensor:
        """The sum, once there is something to divide it by."""
        if not self.sums["n"].sum():
            raise ValueError(f"every label is {self.ignore}: there is nothing to evaluate on")
        return self.sums[name] / self.sums["n"]


class _Classes(Score):
    """One class an item: whole logits are kept, as calibration looks at all of them at once."""

    def __init__(self, axis: int | None, ignore: float | None) -> None:
        super().__init__(axis, ignore)
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        at = class_axis(logits.shape, self.axis, labels, "evaluate")
        soft = is_soft(labels, logits.shape, at)
        dense = labels.ndim > 1 and not soft
        if dense and at == -1 and logits.ndim < 4:
            raise ValueError(
                f"expected one label an item, got labels of shape {tuple(labels.shape)}; for "
                "tokens, flatten logits and labels in forward= and in the batch; for independent "
                'labels say task="labels", for numbers task="regression"'
            )
        logits = classes_last(logits, at)
        needs_classes("evaluate", logits)
        if dense:
            return self.add_dense(logits, labels)
        if soft:
            labels = distributions(classes_last(labels, at), "evaluate")
            if labels.ndim > 2:
                logits, labels = logits.flatten(0, -2), labels.flatten(0, -2)
        elif labels.shape != logits.shape[-2:-1]:
            class_numbers(labels, logits.shape[-2:], self.ignore, "evaluate")
        self.logits.append(logits)
        self.labels.append(labels)

    def add_dense(self, logits: Tensor, labels: Tensor) -> None:
        """A label a pixel: too many to keep their logits."""
        labels = class_numbers(labels, logits.shape, self.ignore, "evaluate")
        kept, classes = self.kept(labels), logits.shape[-1]
        logits, labels = logits[kept], labels[kept]
        nll = F.cross_entropy(logits, labels, reduction="none").double().sum()
        pairs = (labels * classes + logits.argmax(-1)).bincount(minlength=classes**2)
        self.sum(n=kept.sum(), nll=nll, confusion=pairs.view(classes, classes))

    def result(self) -> dict[str, Any]:
        if self.sums:
            return self.dense_result()
        logits, labels = torch.cat(self.logits, dim=-2), torch.cat(self.labels)
        if labels.ndim > 1:
            soft, labels = labels, labels.argmax(-1)
            nll = -(soft * logits.log_softmax(-1)).sum(-1)
        else:
            kept = self.kept(labels)
            logits, labels = logits[..., kept, :], labels[kept]
            if not len(labels):
                raise ValueError(f"every label is {self.ignore}: there is nothing to evaluate on")
            nll = self.nll(logits, labels)
        right = (logits.argmax(-1) == labels).float()
        flat = logits.reshape(-1, *logits.shape[-2:])
        ece = torch.stack([calibration_error(one, labels) for one in flat]).view(logits.shape[:-2])
        return {
            "accuracy": number(right.mean(-1)),
            "nll": number(nll.mean(-1)),
            "ece": number(ece),
            "n": len(labels),
        }

    def nll(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[-1]
        if labels.is_floating_point():
            class_numbers(labels, logits.shape, self.ignore, "evaluate")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, "
                f"the model has classes 0 to {classes - 1}; leave one out with ignore_index="
            )
        logp = logits.log_softmax(-1)
        return -logp.gather(-1, labels.expand(logp.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def dense_result(self) -> dict[str, Any]:
        nll, confusion = self.total("nll"), self.sums["confusion"].double()
        both = confusion.diagonal()
        iou = both / (confusion.sum(0) + confusion.sum(1) - both)
        return {
            "accuracy": number(both.sum() / confusion.sum()),
            "nll": number(nll),
            "iou": number(iou),
            "miou": number(iou.nanmean()),
            "n": int(self.sums["n"]),
        }


class _Labels(Score):
    """Yes or no, label by label."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        whole = logits.ndim
        logits, labels = _pair(logits, labels)
        lone = logits.ndim < max(2, whole)  # one label: no axis is left for it
        if not lone and logits.ndim > 2 and self.axis is None:
            raise ValueError(
                f"which axis of the logits {list(logits.shape)} is the labels? Say axis=1 for "
                "images [B, C, H, W], axis=-1 for labels last"
            )
        kept = self.kept(labels)
        labels = torch.where(kept, labels, 0).float()
        if labels.min() < 0 or labels.max() > 1:
            raise ValueError(
                f"labels lie in [0, 1], got {labels.min():g} to {labels.max():g}; leave out what "
                'is not known with ignore_index=, for class numbers use task="classes"'
            )
        nll = F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * kept
        right = ((logits > 0) == (labels > 0.5)) & kept
        columns = [self.columns(x, lone) for x in (kept, right, nll)]
        self.sum(**{k: v.sum(0) for k, v in zip(("n", "right", "nll"), columns, strict=True)})

    def columns(self, x: Tensor, lone: bool) -> Tensor:
        """[N, C] items and their labels."""
        x = x.double()
        if lone:
            return x.reshape(-1, 1)
        return x.movedim(-1 if self.axis is None else self.axis, -1).flatten(0, -2)

    def result(self) -> dict[str, Any]:
        each, n = self.total("right"), self.sums["n"].sum()
        return {
            "accuracy": number(self.sums["right"].sum() / n),
            "label_accuracy": number(each),
            "nll": number(self.sums["nll"].sum() / n),
            "n": int(n),
        }


class _Regression(Score):
    """Numbers against numbers."""

    ignore = None

    def add(self, answers: Tensor, labels: Tensor) -> None:
        answers, labels = _pair(answers, labels)
        kept = self.kept(labels)
        gap = (answers.double() - labels)[kept]
        self.sum(n=kept.sum(), mae=gap.abs().sum(), mse=gap.square().sum())

    def result(self) -> dict[str, Any]:
        means = {name: number(self.total(name)) for name in ("mae", "mse")}
        return {**means, "n": int(self.sums["n"])}


TASKS: dict[str, Any] = {"classes": _Classes, "labels": _Labels, "regression": _Regression}


def _pair(answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    pair = same_shape(answers, labels)
    if pair is None:
        raise ValueError(
            f"answers {list(answers.shape)} expect labels of the same shape, got "
            f"{list(labels.shape)}; of several networks in one, evaluate each: model.unstack()"
        )
    return pair
