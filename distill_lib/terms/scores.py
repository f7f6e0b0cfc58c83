"""What answers are worth beside labels: sums over batches, one class a task."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.arguments import check_counts, checked
from distill_lib.losses._common import floor
from distill_lib.masks import IGNORE

from .classes import as_labels, class_axis, classes_last, is_soft, same_shape, view_of
from .items import (
    UNSTACK,
    Said,
    check_classes,
    check_finite,
    check_fit,
    check_real,
    numbers_of,
    soft_of,
    way,
)

__all__ = ["TASKS", "calibration_error", "number"]


@checked
def calibration_error(logits: Tensor, labels: Any, bins: int = 15) -> Tensor:
    r"""Expected calibration error: how far confidence is from accuracy.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over bins of equal width of the largest probability, at temperature 1.

    Args:
        logits: [N, C] real numbers; half precision is computed in full.
        labels: [N] class numbers, of which -100 is left out, or [N, C] distributions, which are
            judged by their likeliest class.
        bins: Number of bins.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: other shapes, one class, labels outside the classes, no item, no bin, logits
            that are not finite.
        TypeError: logits that are no real numbers, or labels that are no class numbers.

    Reference:
        Guo et al., *On calibration of modern neural networks*, 2017.

    Example:
        >>> round(calibration_error(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])).item(), 4)
        0.0
    """
    who = "calibration_error"
    check_counts(bins=bins)
    z, y = check_real(who, "the logits", logits), as_labels(labels, who).to(logits.device)
    check_classes(who, z.shape)
    if z.ndim > 2:
        raise ValueError(
            f"{who} expected logits [N, C], got {list(z.shape)}; give one network's at a time, and "
            "of places each as an item: logits.flatten(0, -2), labels.flatten()"
        )
    soft = is_soft(y, z.shape, -1)
    check_fit(who, y, z.shape if soft else z.shape[:-1])
    kept = torch.ones_like(y, dtype=torch.bool)[:, 0] if soft else y != IGNORE
    z, y = z[kept], y[kept]
    y = soft_of(y, who).argmax(-1) if soft else numbers_of(y, z.shape[-1], who)
    if not len(y):
        raise ValueError(f"{who}: there are no items, or every label is {IGNORE}")
    check_finite(z, "the logits")
    return _calibration(z, y, bins)


def _calibration(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    confidence, answer = logits.softmax(-1).max(-1)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gap = ((answer == labels).to(confidence) - confidence).double()
    return gap.new_zeros(bins).index_add(0, bin_of, gap).abs().sum() / len(labels)


def number(value: Tensor) -> Any:
    """A tensor as a number, or as a list of them."""
    return value.tolist()


class Score:
    """Sums over batches, of one number of labels or of each."""

    ignore: float | None = IGNORE

    def __init__(self, who: str, axis: int | None, ignore: float | None) -> None:
        self.who = who
        self.axis = axis
        self.ignore = self.ignore if ignore is None else ignore
        self.sums: dict[str, Tensor] = {}
        self.first: dict[str, Any] = {}

    def add(self, said: Said, labels: Tensor) -> None:
        """One batch.

        Raises:
            ValueError: answers that are not finite, labels that do not fit them.
            TypeError: labels of another kind.
        """
        raise NotImplementedError

    def result(self) -> dict[str, Any]:
        """The numbers of all batches."""
        raise NotImplementedError

    def habits(self) -> tuple[Tensor, Tensor]:
        """[L, C] how often each of L labels has each value, and how often the model says it."""
        raise NotImplementedError

    def alike(self, **found: Any) -> None:
        """What is the same in every batch.

        Raises:
            ValueError: it is not.
        """
        self.first = self.first or found
        if self.first != found:
            first, this = (
                ", ".join(f"{k} {v}" for k, v in one.items()) for one in (self.first, found)
            )
            raise ValueError(
                f"{self.who}: batches expected to be of one kind; the first has {first}, another "
                f"{this}"
            )

    def sum(self, **found: Tensor) -> None:
        for name, value in found.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def kept(self, labels: Tensor) -> Tensor:
        found: Tensor = view_of({"y": labels}, "y", self.ignore)["labels"] != IGNORE
        return found

    def total(self, name: str) -> Tensor:
        """The sum, once there is something to divide it by."""
        self.some(int(self.sums["n"].sum()))
        return self.sums[name] / self.sums["n"]

    def some(self, n: int) -> None:
        if not n:
            labels = "" if self.ignore is None else f"every label is {self.ignore:g}, or "
            raise ValueError(
                f"{self.who}: {labels}masks leave out all there is, or the batches have no items: "
                "there is nothing to evaluate on"
            )


class _Classes(Score):
    """One class an item: whole logits are kept, as calibration looks at all of them at once."""

    def __init__(self, who: str, axis: int | None, ignore: float | None) -> None:
        super().__init__(who, axis, ignore)
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, said: Said, labels: Tensor) -> None:
        logits, at = said.classes(self.axis, labels)
        k, classes = said.networks, logits.shape[-1]
        items = logits.shape[k:-1]
        soft = is_soft(labels, said.answers.shape[k:], at)
        of_text = said.of_text(items)
        places = len(items) > 1 and not soft and not of_text
        if k and (places or labels.shape == logits.shape[:-1]):
            raise ValueError(f"{self.who}: labels {list(labels.shape)} beside answers {UNSTACK}")
        if self.axis is None and labels.ndim > 1 and not (soft or of_text or len(items) > 2):
            raise ValueError(
                f"{self.who} expected one label an item, got labels of shape "
                f"{tuple(labels.shape)}; for a label a place say axis=1 for logits [B, C, L], "
                f"axis=-1 for [B, L, C]; {way(self.who)}"
            )
        labels = classes_last(labels, at) if soft else labels
        check_fit(self.who, labels, logits.shape[k:] if soft else items)
        kept = said.kept(items, of_text, labels)
        if kept.ndim > len(items):
            raise ValueError(f"{self.who}: a mask {list(kept.shape)} {UNSTACK}")
        kept = (kept if soft else kept & self.kept(labels)).flatten()
        logits = logits.flatten(k, -2)[..., kept, :]
        labels = labels.flatten(0, -2)[kept] if soft else labels.flatten()[kept]
        check_finite(logits, said.whose)
        labels = soft_of(labels, self.who) if soft else numbers_of(labels, classes, self.who)
        kind = "distributions" if soft else "a class a place" if places else "a class an item"
        self.alike(classes=classes, labels=kind, networks=[*logits.shape[:k]])
        if places:  # too many to keep their logits
            nll = F.cross_entropy(logits, labels, reduction="none").double().sum()
            pairs = (labels * classes + logits.argmax(-1)).bincount(minlength=classes**2)
            confusion = pairs.view(classes, classes)
            self.sum(n=kept.sum(), nll=nll, confusion=confusion)
        else:
            self.logits.append(logits)
            self.labels.append(labels)

    def result(self) -> dict[str, Any]:
        if self.sums:
            return self.dense_result()
        logits, labels = torch.cat(self.logits, dim=-2), torch.cat(self.labels)
        self.some(len(labels))
        logp = logits.log_softmax(-1)
        if labels.ndim > 1:
            # a class that is neither expected nor ever said (-inf) costs nothing
            nll = -torch.where(labels > 0, labels * logp, 0).sum(-1)
            labels = labels.argmax(-1)
        else:
            nll = -logp.gather(-1, labels.expand(logp.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        right = (logits.argmax(-1) == labels).double()
        flat = logits.reshape(-1, *logits.shape[-2:])
        ece = torch.stack([_calibration(one, labels) for one in flat]).view(logits.shape[:-2])
        return {
            "accuracy": number(right.mean(-1)),
            "nll": number(nll.mean(-1)),
            "ece": number(ece),
            "n": len(labels),
        }

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

    def habits(self) -> tuple[Tensor, Tensor]:
        if self.sums:
            confusion = self.sums["confusion"]
            return confusion.sum(1, keepdim=True).mT, confusion.sum(0, keepdim=True)
        labels = torch.cat(self.labels)
        named = labels.argmax(-1) if labels.ndim > 1 else labels
        answers = torch.cat(self.logits, dim=-2).argmax(-1)
        classes = self.logits[0].shape[-1]
        true, told = (x.bincount(minlength=classes).unsqueeze(0) for x in (named, answers))
        return true, told


class _Labels(Score):
    """Yes or no, label by label."""

    def add(self, said: Said, labels: Tensor) -> None:
        whole = said.answers.shape
        if self.axis is not None:
            class_axis(whole, self.axis, None, self.who)
        logits, labels = _pair(said, labels)
        of_text = said.of_text(whole[:-1])
        lone = logits.ndim < max(2, len(whole))  # one label: no axis is left for it
        if not lone and logits.ndim > 2 and self.axis is None and not of_text:
            raise ValueError(
                f"which axis of the logits {list(logits.shape)} is the labels? Say axis=1 for "
                "images [B, C, H, W], axis=-1 for labels last"
            )
        kept = self.kept(labels)
        kept = kept & said.kept(logits.shape, of_text, None if of_text else labels)
        logits = torch.where(kept, logits, 0)
        labels = torch.where(kept, labels, 0).to(logits.dtype)
        check_finite(logits, said.whose, "labels")
        if not bool(((labels >= 0) & (labels <= 1)).all()):
            raise ValueError(
                f"{self.who}: labels lie in [0, 1], got {labels.min():g} to {labels.max():g}; "
                "leave out what is not known with ignore_index=, for class numbers use "
                'task="classes"'
            )
        # 0 times -inf would be nan
        nll = F.binary_cross_entropy_with_logits(
            logits.clamp_min(floor(logits)), labels, reduction="none"
        )
        says, true = logits > 0, labels > 0.5
        found = {"n": kept, "right": (says == true) & kept, "nll": nll * kept}
        columns = {
            k: self.columns(x, lone) for k, x in {**found, "yes": true, "says": says}.items()
        }
        self.alike(labels=columns["n"].shape[-1])
        self.sum(**{k: v.sum(0) for k, v in columns.items()})

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

    def habits(self) -> tuple[Tensor, Tensor]:
        n = self.sums["n"]
        true, told = (torch.stack([n - x, x], -1) for x in (self.sums["yes"], self.sums["says"]))
        return true, told


class _Regression(Score):
    """Numbers against numbers."""

    ignore = None

    def add(self, said: Said, labels: Tensor) -> None:
        answers, labels = _pair(said, labels)
        of_text = said.of_text(said.answers.shape[:-1])
        kept = self.kept(labels)
        kept = kept & said.kept(answers.shape, of_text, None if of_text else labels)
        answers, labels = answers[kept].double(), labels[kept].double()
        check_finite(answers, said.whose, "regression")
        if not bool(labels.isfinite().all()):
            raise ValueError(
                f"{self.who}: labels hold numbers that are not finite; leave out what is not "
                'known with ignore_index=, such as ignore_index=float("nan")'
            )
        gap = answers - labels
        self.sum(n=kept.sum(), mae=gap.abs().sum(), mse=gap.square().sum())

    def result(self) -> dict[str, Any]:
        means = {name: number(self.total(name)) for name in ("mae", "mse")}
        return {**means, "n": int(self.sums["n"])}


TASKS: dict[str, type[Score]] = {
    "classes": _Classes,
    "labels": _Labels,
    "regression": _Regression,
}


def _pair(said: Said, labels: Tensor) -> tuple[Tensor, Tensor]:
    pair = None if said.networks else same_shape(said.answers, labels)
    if pair is None:
        raise ValueError(
            f"{said.who}: answers {list(said.answers.shape)} expect labels of the same shape, got "
            f"{list(labels.shape)}; {UNSTACK}"
        )
    return pair
