"""A term for two tokenizers: what student and teacher say of spans of the same characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distill_lib import losses
from distill_lib.arguments import checked, told
from distill_lib.masks import IGNORE
from distill_lib.objective import Term, name_of
from distill_lib.signals import Signals

from .given import both, check_call, takes

__all__ = ["SpanKD"]

Loss = Callable[..., Tensor]


@checked
class SpanKD(Term):
    r"""A student and a teacher with different tokenizers, compared on spans of the same characters.

    .. math:: \ell_m = D\Bigl(\textstyle\sum_{t \in m} \log p(x_t \mid x_{<t}),\;
       \sum_{t \in m} \log q(y_t \mid y_{<t})\Bigr)

    The value of a span stands at the student's position that answers its last token, and the
    others are 0: the mean is in nats per token of the student, as that of ``CE``. A span of which
    a token has no label, on either side, is left out, and so 0: a part of its sum is none.

    With another loss the two distributions over the first token of each span are compared, where
    the student answers it: as they are by ``losses.uld``; by ``losses.kl`` and the like once the
    teacher's is told in the student's tokens. For that ``pieces`` says with which token of the
    student each of the teacher's begins, and tokens that begin alike are added up.

    The batch is that of :func:`distill_lib.integrations.transformers.two_tokenizers`: for the
    tokens that each position answers, ``labels`` and ``spans`` [B, L] of the student (or [S, B, L]
    of several) and ``teacher_labels`` and ``teacher_spans`` [B, L'] of the teacher, -100 where
    there is none. The teacher sees its own tokens with ``Teacher(model, preprocess=…)``.

    Args:
        loss: ``losses.span_kl``, ``losses.uld``, or with ``pieces`` a loss of two distributions.
        pieces: [C'], a token of the student for each of the teacher's, -1 for those left out
            (:func:`distill_lib.integrations.transformers.first_pieces`).
        **options: More arguments of the loss.

    Raises:
        ValueError: another loss; spans that the two sides do not share; labels or pieces beyond a
            vocabulary.
        TypeError: an option that the loss does not take; spans or labels that are no whole numbers.
    """

    key = "span_kd"

    def __init__(
        self, loss: Loss = losses.span_kl, pieces: Tensor | None = None, **options: Any
    ) -> None:
        super().__init__()
        alone = loss in (losses.span_kl, losses.uld)
        if alone != (pieces is None) or not (takes(loss, "student") and takes(loss, "teacher")):
            raise ValueError(
                f"SpanKD compares spans by losses.span_kl or losses.uld, or with pieces= by a loss "
                f"of two distributions, got {name_of(loss)} and pieces={told(pieces)}: without "
                "pieces two vocabularies have no classes in common"
            )
        if pieces is not None and (pieces.ndim != 1 or pieces.dtype != torch.int64):
            raise ValueError(f"pieces are whole numbers [C'], got {told(pieces)}")
        check_call(loss, "SpanKD", "student", "teacher", *options)
        self.loss, self.options = loss, options
        self.pieces: Tensor | None
        self.register_buffer("pieces", pieces, persistent=False)
        self.reads: Mapping[str, tuple[str, ...]] = {"student": ("logits",), "teacher": ("logits",)}

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[B, L] values, each at the end of its span, 0 elsewhere."""
        z, v = both(student, teacher, "logits", "logits")
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
        place = last
        if self.loss is not losses.span_kl:
            place = first
            z, v = (
                x.gather(-2, at.clamp_min(0).unsqueeze(-1).expand(*at.shape, x.shape[-1]))
                for x, at in ((z, first), (v, begin))
            )
            if self.pieces is not None:
                v = _begun(v, self.pieces, z.shape[-1]).to(z.dtype)
            found = self.loss(student=z, teacher=v, **self.options)
        else:
            sides = ((z, "labels", spans), (v, "teacher_labels", theirs))
            told_by = [(x, self._entry(batch, key, x), at) for x, key, at in sides]
            mine, known = (losses.span_sums(_said(x, y), at, count) for x, y, at in told_by)
            for x, y, at in told_by:
                whole = whole & (losses.span_sums((y == IGNORE).to(x.dtype), at, count) == 0)
            found = losses.span_kl(student=mine, teacher=known.to(mine.dtype).expand_as(mine))
        found = found.masked_fill(~whole, 0.0)
        values = found.new_zeros(spans.shape)
        return values.scatter_add(-1, place.clamp_min(0), found)

    def _entry(self, batch: Mapping[str, Any], key: str, logits: Tensor) -> Tensor:
        found = batch.get(key)
        items = logits.shape[:-1]
        if not isinstance(found, Tensor) or not found.ndim or found.shape != items[-found.ndim :]:
            shape = list(found.shape) if isinstance(found, Tensor) else found
            raise ValueError(
                f"SpanKD expected batch[{key!r}] {list(logits.shape[:-1])}, one a position that "
                f"answers, got {shape}"
            )
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            raise TypeError(f"SpanKD expected batch[{key!r}] as whole numbers, got {told(found)}")
        return found.to(logits.device).long().expand(items)

    def text(self) -> str:
        """Such as ``spans(span_kl)``."""
        return f"spans({name_of(self.loss)})"

    def latex(self) -> str:
        """The typeset term."""
        name = name_of(self.loss).replace("_", r"\_")
        return rf"\mathrm{{{name}}}(\text{{spans}})"


def _begun(logits: Tensor, pieces: Tensor, classes: int) -> Tensor:
    """[..., C] log-probabilities of the first piece, from logits [..., C'] of whole tokens."""
    if len(pieces) != logits.shape[-1] or int(pieces.max()) >= classes:
        raise ValueError(
            f"SpanKD: {len(pieces)} pieces up to {int(pieces.max())} for a teacher of "
            f"{logits.shape[-1]} tokens and a student of {classes}; tokens that only fill a matrix "
            f"begin with none: torch.nn.functional.pad(pieces, (0, n), value=-1)"
        )
    kept = pieces >= 0
    p = losses.full_precision(logits)[..., kept].softmax(-1)
    return p.new_zeros(*p.shape[:-1], classes).index_add(-1, pieces[kept], p).log()


def _said(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, L] log-probabilities of the labels; 0 where there is none."""
    known = (labels >= 0) & (labels < logits.shape[-1]) | (labels == IGNORE)
    if not bool(known.all()):
        raise ValueError(
            f"SpanKD: a label {int(labels[~known][0])} in a vocabulary of {logits.shape[-1]}; "
            f"each side has labels of its own tokenizer, and {IGNORE} where "
            "there is none"
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
