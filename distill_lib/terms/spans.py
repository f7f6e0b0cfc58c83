"""A term for two tokenizers: what student and teacher say of spans of the same characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distill_lib import losses
from distill_lib.arguments import checked
from distill_lib.masks import IGNORE
from distill_lib.objective import Term, name_of
from distill_lib.signals import Signals, pick

__all__ = ["SpanKD"]

Loss = Callable[..., Tensor]


@checked
class SpanKD(Term):
    r"""A student and a teacher with different tokenizers, compared on spans of the same characters.

    .. math:: \ell_m = D\Bigl(\textstyle\sum_{t \in m} \log p(x_t \mid x_{<t}),\;
       \sum_{t \in m} \log q(y_t \mid y_{<t})\Bigr)

    The value of a span stands at the student's position that answers its last token, and the
    others are 0: the mean is in nats per token of the student, as that of ``CE``. With
    ``losses.uld`` the two distributions over the first token of each span are compared instead.

    The batch has, for the tokens that each position answers (shifted already): ``labels`` and
    ``spans`` [B, L] of the student (or [S, B, L] of several), ``teacher_labels`` and ``teacher_spans`` [B, L'] of the teacher
    (:func:`distill_lib.losses.align`), -100 where there is none. The teacher sees its own tokens
    with ``Teacher(model, preprocess=…)``.

    Args:
        loss: ``losses.span_kl`` or ``losses.uld``.
        **options: ``temperature`` of ``losses.uld``.

    Raises:
        ValueError: another loss; spans that the two sides do not share; labels beyond a vocabulary.
    """

    key = "span_kd"

    def __init__(self, loss: Loss = losses.span_kl, **options: Any) -> None:
        super().__init__()
        if loss not in (losses.span_kl, losses.uld):
            raise ValueError(
                f"SpanKD compares spans by losses.span_kl or losses.uld, got {name_of(loss)}: "
                "two vocabularies have no classes in common that another loss could sum over"
            )
        self.loss, self.options = loss, options
        self.reads: Mapping[str, tuple[str, ...]] = {"student": ("logits",), "teacher": ("logits",)}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[B, L] values, each at the end of its span, 0 elsewhere."""
        assert teacher is not None
        z, v = pick(student, "logits", "student"), pick(teacher, "logits", "teacher").detach()
        spans, theirs = (
            self._entry(batch, f"{who}spans", x) for who, x in (("", z), ("teacher_", v))
        )
        count = int(spans.max()) + 1 if spans.numel() else 0
        if count < 1:
            return z.flatten(-2)[..., :0].sum() + z.new_zeros(z.shape[:-1])
        first, last = _edges(spans, count)
        begin, _ = _edges(theirs, count)
        whole = (last >= 0) & (begin >= 0)
        if bool(((last >= 0) != (begin >= 0)).any()):
            raise ValueError(
                "SpanKD: student and teacher have other spans; number those of one text at a time "
                "with losses.align, and shift both by one"
            )
        if self.loss is losses.uld:
            z, v = (
                x.gather(-2, at.clamp_min(0).unsqueeze(-1).expand(*at.shape, x.shape[-1]))
                for x, at in ((z, first), (v, begin))
            )
            v = v.expand(*z.shape[:-1], v.shape[-1])
            found = losses.uld(student=z, teacher=v, **self.options)
        else:
            mine, known = (
                losses.span_sums(_said(x, self._entry(batch, key, x)), at, count)
                for x, key, at in ((z, "labels", spans), (v, "teacher_labels", theirs))
            )
            found = losses.span_kl(student=mine, teacher=known.to(mine.dtype).expand_as(mine))
        found = found.masked_fill(~whole, 0.0)
        values = found.new_zeros(spans.shape)
        return values.scatter_add(-1, last.clamp_min(0), found)

    def _entry(self, batch: Mapping[str, Any], key: str, logits: Tensor) -> Tensor:
        found = batch.get(key)
        items = logits.shape[:-1]
        if not isinstance(found, Tensor) or not found.ndim or found.shape != items[-found.ndim :]:
            shape = list(found.shape) if isinstance(found, Tensor) else found
            raise ValueError(
                f"SpanKD expected batch[{key!r}] {list(logits.shape[:-1])}, one a position that "
                f"answers, got {shape}"
            )
        return found.to(logits.device).expand(items)

    def text(self) -> str:
        """Such as ``spans(span_kl)``."""
        return f"spans({name_of(self.loss)})"

    def latex(self) -> str:
        """The typeset term."""
        name = name_of(self.loss).replace("_", r"\_")
        return rf"\mathrm{{{name}}}(\text{{spans}})"


def _said(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, L] log-probabilities of the labels; 0 where there is none."""
    if int(labels.max()) >= logits.shape[-1]:
        raise ValueError(
            f"SpanKD: a label {int(labels.max())} in a vocabulary of {logits.shape[-1]}; each side "
            "has labels of its own tokenizer"
        )
    log_p = losses.full_precision(logits).log_softmax(-1)
    found = log_p.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return found.masked_fill(labels == IGNORE, 0.0)


def _edges(spans: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[B, M] the first and the last position of each span, -1 where there is none."""
    length = spans.shape[-1]
    places = torch.arange(length, device=spans.device).expand(spans.shape)
    kept = spans >= 0
    at = torch.where(kept, spans, count)  # a column for those without
    empty = spans.new_full((*spans.shape[:-1], count + 1), -1)
    last = empty.scatter_reduce(-1, at, places, "amax")[..., :count]
    first = (length - 1) - empty.scatter_reduce(-1, at, length - 1 - places, "amax")[..., :count]
    return torch.where(last >= 0, first, -1), last
