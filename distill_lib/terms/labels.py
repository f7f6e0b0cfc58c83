"""Terms on labels: one class of many, soft labels, independent labels, numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.losses._common import check_values, floor
from distill_lib.masks import IGNORE
from distill_lib.objective import Term, name_of
from distill_lib.signals import Signals, accepts

from .classes import (
    answers_of,
    as_labels,
    class_axis,
    class_numbers,
    classes_last,
    distributions,
    find_labels,
    is_soft,
    needs_classes,
    same_shape,
    view_of,
)
from .given import ALIKE, along, check_name, check_pair, ignored, reduces, unfit, weights, whole

__all__ = ["BCE", "CE", "Label"]


class Label(Term):
    r"""Any loss of the student's answer and the labels.

    .. math:: \ell = \mathrm{loss}(z, y)

    ``Label(F.mse_loss)`` is regression. Where labels and answer have one shape (a last axis of
    length 1 may be missing on either side), the labels are numbers and get the type of the answer.

    Args:
        loss: ``loss(answer, labels)``, one value an item or more; ``reduction="none"`` is set by
            itself for functions that take it, and expected of modules.
        on: The student's signal.
        labels: Their name in the batch.
        ignore_index: Labels equal to it are left out, ``nan`` included. By default that of the
            loss, such as ``nn.CrossEntropyLoss(ignore_index=255)``, or -100; of real labels none.
        **options: More arguments of the loss.

    Raises:
        TypeError: a loss that compares two models, or an option that it does not take.
        ValueError: a loss that averages by itself; no labels; shapes that do not fit; labels that
            are none of the classes.

    Example:
        >>> z, y = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0])
        >>> Label(F.mse_loss)(z, batch={"labels": y})[0].item()
        2.5
    """

    labels: str
    on: str

    key = "label"
    labeled = True

    def __init__(
        self,
        loss: Callable[..., Tensor],
        on: str = "logits",
        labels: str = "labels",
        ignore_index: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not callable(loss) or isinstance(loss, type):
            raise TypeError(
                f"{type(self).__name__} expected a loss of (answer, labels), got {loss!r}; "
                "for example Label(F.mse_loss)"
            )
        if accepts(loss, "student") and accepts(loss, "teacher"):
            raise TypeError(
                f"{name_of(loss)} compares a student with a teacher, so use KD(losses."
                f"{name_of(loss)}); Label takes a loss of (answer, labels), such as F.mse_loss"
            )
        own = {"reduction": "none"} if reduces(loss) else {}
        if options.get("reduction", getattr(loss, "reduction", "none")) != "none":
            check_values(name_of(loss), torch.zeros(()))
        check_pair(loss, type(self).__name__, options)
        for what, name in (("on", on), ("labels", labels)):
            check_name(what, name, type(self).__name__)
        self.loss = loss
        self.on, self.labels = on, labels
        self.ignore_index = ignored(ignore_index, loss)
        self.options: dict[str, Any] = {**own, **options}
        self.reads: Mapping[str, tuple[str, ...]] = {"student": (on,), "teacher": ()}

    def view(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with these labels, and -100 where they are left out."""
        return view_of(batch, self.labels, self.ignore_index)

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """The values of the loss."""
        z = answers_of(student, self.on, self.text())
        y = find_labels(batch, self.labels, self.text(), z.device)
        kept = self.view({self.labels: y})["labels"]
        y = y.masked_fill(kept == IGNORE, 0)  # a gradient of nan would survive the mask
        pair = same_shape(z, y)
        if pair is None and name_of(self.loss) in ALIKE:
            raise ValueError(
                f"{self.text()}: answers {list(z.shape)} expect labels of the same shape, got "
                f"{list(y.shape)}"
            )
        z, y = (z, y) if pair is None else (pair[0], pair[1].to(z.dtype))
        try:
            values = self.loss(z, y, **self.options)
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError) as error:
            raise unfit(self.text(), z, y, error) from error
        check_values(self, values)
        if pair is None and values.numel() > y.numel():
            raise ValueError(
                f"{self.text()}: answers {list(z.shape)} and labels {list(y.shape)} were broadcast "
                f"to values {list(values.shape)}; give the labels the shape of the answers, or "
                "return one value a label"
            )
        return values

    def text(self) -> str:
        """Such as ``mse_loss`` or ``CE(start_positions)``."""
        about = [] if self.labels == "labels" else [self.labels]
        inside = ", ".join([*about, *self._settings()])
        return f"{self._symbol()}({inside})" if inside else self._symbol()

    def _symbol(self) -> str:
        return name_of(self.loss)

    def _settings(self) -> list[str]:
        return [f"{k}={v}" for k, v in self.options.items() if k != "reduction"]

    def latex(self) -> str:
        """The typeset term."""
        return rf"\mathrm{{{self._symbol()}}}(y, z)".replace("_", r"\_")


class CE(Label):
    r"""Cross-entropy with the labels: one class of many.

    .. math:: \ell = -\log q_y, \qquad q = \mathrm{softmax}(z)

    Soft labels, of mixup or of several annotators, are distributions over the classes in the shape
    of the logits: :math:`\ell = -\sum_i y_i \log q_i`. Labels of ``ignore_index`` are left out.
    With ``weight``, the sum is divided by :math:`\sum w_y`, as torch does, over the whole step
    however it was cut; under soft labels by the number of items, again as torch does.

    Args:
        label_smoothing: :math:`\varepsilon`: the target becomes
            :math:`(1 - \varepsilon)\,\mathbf 1_y + \varepsilon / C`.
        on: The student's signal.
        labels: Their name in the batch, such as ``"start_positions"``.
        weight: [C], one number a class, for classes of unlike frequency.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last; where the
            shapes leave a doubt, it has to be said.
        ignore_index: The label of what has no label.

    Raises:
        ValueError: no labels, labels outside the classes, shapes that do not fit, one class.
        TypeError: labels that are no class numbers; a setting of another kind.

    Example:
        >>> loss, parts = CE()(torch.zeros(2, 4), batch={"labels": torch.tensor([1, -100])})
        >>> round(loss.item(), 4)
        1.3863
    """

    key = "ce"

    def __init__(
        self,
        label_smoothing: float = 0.0,
        on: str = "logits",
        labels: str = "labels",
        weight: Tensor | None = None,
        axis: int | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(F.cross_entropy, on, labels)
        number = isinstance(label_smoothing, Real) and not isinstance(label_smoothing, bool)
        if not number or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing lies in [0, 1), got {label_smoothing!r}")
        self.label_smoothing = float(label_smoothing)
        self.ignore_index: int = whole("ignore_index", ignore_index, "-100 is usual")
        self.axis = None if axis is None else whole("axis", axis, "the last is -1")
        self.weight: Tensor | None
        self.register_buffer("weight", weights("weight", weight), persistent=False)

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] cross-entropies; 0 where there is no label."""
        logits = answers_of(student, self.on, "CE")
        labels = find_labels(batch, self.labels, "CE", logits.device)
        axis = class_axis(logits.shape, self.axis, labels, "CE", batch)
        soft = is_soft(labels, logits.shape, axis)
        logits = classes_last(logits, axis)
        needs_classes("CE", logits)
        if soft:
            labels = distributions(classes_last(labels, axis), "CE").to(logits).expand_as(logits)
            logits = logits.clamp_min(floor(logits))  # 0 · log 0 is 0
        elif logits.device.type == "cpu":  # there torch finds a wrong number by itself
            labels = class_numbers(labels, logits.shape, self.ignore_index, "CE", look=False)
        else:
            labels = class_numbers(labels, logits.shape, self.ignore_index, "CE")
        weight = self.weight
        if weight is not None and len(weight) != logits.shape[-1]:
            raise ValueError(
                f"CE has {len(weight)} weights for {logits.shape[-1]} classes; give one a class"
            )
        try:
            flat = F.cross_entropy(
                logits.reshape(-1, logits.shape[-1]),
                labels.reshape(-1, logits.shape[-1]) if soft else labels.reshape(-1),
                weight=None if weight is None else weight.to(logits),
                ignore_index=self.ignore_index,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
        except IndexError:
            class_numbers(labels, logits.shape, self.ignore_index, "CE")
            raise
        return flat.view(logits.shape[:-1])

    def counts(
        self, values: Tensor, batch: Mapping[str, Any], other: Mapping[str, Any]
    ) -> Tensor | None:
        """The weight of each class number, and 1 for each distribution, where there are weights."""
        if self.weight is None:
            return None
        mine, labels = (as_labels(b[self.labels], "CE") for b in (batch, other))
        sizes = list(values.shape)
        axis = -1 if self.axis is None else self.axis
        sizes.insert(axis if axis >= 0 else len(sizes) + 1 + axis, len(self.weight))
        axis = axis - len(sizes) if axis >= 0 else axis
        alike = labels.ndim == mine.ndim and is_soft(mine, torch.Size(sizes), axis)
        if alike or labels.ndim > values.ndim or labels.is_floating_point():
            return torch.ones_like(labels.select(axis, 0), dtype=self.weight.dtype)
        shape = torch.Size([*labels.shape, len(self.weight)])
        labels = class_numbers(labels, shape, self.ignore_index, "CE")
        kept = torch.as_tensor(labels != self.ignore_index)
        return self.weight.to(labels.device)[labels * kept] * kept

    def _symbol(self) -> str:
        return "CE"

    def _settings(self) -> list[str]:
        inside = [f"ε={self.label_smoothing:g}"] if self.label_smoothing else []
        inside += ["weighted"] if self.weight is not None else []
        return inside + ([] if self.axis is None else [f"axis={self.axis}"])

    def latex(self) -> str:
        """The typeset term."""
        return r"\mathrm{CE}(y, q)"


class BCE(Label):
    r"""Binary cross-entropy: labels that do not exclude each other, or a single yes or no.

    .. math:: \ell = -y \log \sigma(z) - (1 - y) \log (1 - \sigma(z))

    A value for every label, so that the mean is torch's. The teacher's side is
    ``KD(losses.bernoulli_kl)``, also a mean over the labels: the two mix at equal scale.

    Args:
        on: The student's signal: [B, C], one logit a label; [B, 1] or [B] for a binary model.
        labels: Their name in the batch: numbers in [0, 1] in the shape of the logits.
        pos_weight: [C], how much more a positive label counts.
        ignore_index: The label of what is not known; the other labels of an item count on.
        axis: The axis of the labels that ``pos_weight`` is of, 1 for images [B, C, H, W]. By
            default the last; of more than three axes it has to be said.

    Raises:
        ValueError: no labels, labels outside [0, 1], shapes that do not fit.
        TypeError: a setting of another kind.

    Example:
        >>> y = torch.tensor([[1, 0, -100]])
        >>> round(BCE()(torch.zeros(1, 3), batch={"labels": y})[0].item(), 4)
        0.6931
    """

    key = "bce"

    def __init__(
        self,
        on: str = "logits",
        labels: str = "labels",
        pos_weight: Tensor | None = None,
        ignore_index: float = IGNORE,
        axis: int | None = None,
    ) -> None:
        super().__init__(F.binary_cross_entropy_with_logits, on, labels, ignore_index)
        self.axis = None if axis is None else whole("axis", axis, "the last is -1")
        self.pos_weight: Tensor | None
        self.register_buffer("pos_weight", weights("pos_weight", pos_weight), persistent=False)

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[..., C] cross-entropies, one a label."""
        z = answers_of(student, self.on, "BCE")
        y = find_labels(batch, self.labels, "BCE", z.device)
        pair = same_shape(z, y, students=True)
        if pair is None:
            raise ValueError(
                f"BCE: logits {list(z.shape)} expect a label for each of them, got labels "
                f"{list(y.shape)}; for one class of many use CE, or F.one_hot(labels, classes)"
            )
        z, y = pair
        kept = self.view({self.labels: y})["labels"] != IGNORE
        y = torch.where(kept, y, 0).to(z.dtype)
        if not bool(((y >= 0) & (y <= 1)).all()):
            raise ValueError(
                f"BCE: labels lie in [0, 1], got {y.min().item():g} to {y.max().item():g}; leave "
                "out what is not known with ignore_index=, and for class numbers use CE"
            )
        z = z.clamp(floor(z), -floor(z))  # an infinite logit is a sure answer: 0 · log 0 is 0
        weight = self.pos_weight
        if weight is not None:
            weight = along(weight.to(z), z.shape, self.axis, "BCE: pos_weight")
        return F.binary_cross_entropy_with_logits(z, y, reduction="none", pos_weight=weight)

    def _symbol(self) -> str:
        return "BCE"

    def _settings(self) -> list[str]:
        inside = ["weighted"] if self.pos_weight is not None else []
        return inside + ([] if self.axis is None else [f"axis={self.axis}"])

    def latex(self) -> str:
        """The typeset term."""
        return r"\mathrm{BCE}(y, \sigma(z))"
