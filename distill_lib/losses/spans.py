r"""Two tokenizations of one text: the spans between places where both have a boundary.

A span is a few tokens of either side that spell the same characters. By the chain rule the
log-probability of a span is the sum of its tokens', on each side with its own:

.. math:: \log p(s) = \sum_{t \in s} \log p(x_t \mid x_{<t})
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill_lib.arguments import checked

from ._common import check_same, full_precision

__all__ = ["align", "span_kl", "span_sums"]

IGNORE = -100  # of a token without a span, as of one without a label


@checked
def align(student: Sequence[int], teacher: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""Which tokens of two tokenizations of a text spell the same span.

    .. math:: \mathrm{span}(t) = \bigl|\{\text{places where both end a token, before the end of }
       t\}\bigr|

    Args:
        student: [L], where each token ends in the text, in characters or in bytes: the second
            number of each pair in ``offset_mapping``. (0, 0), as special tokens have, is no place.
        teacher: [L'], of the other tokenizer.

    Returns:
        [L] and [L'], the number of each token's span, counted from 0; -100 for special tokens, and
        for those behind the last place where both end a token (a text that was cut on one side).

    Raises:
        ValueError: places that go back: offsets of several texts, or starts instead of ends.
        TypeError: what is no sequence of whole numbers.

    Reference:
        Minixhofer, Vulić and Ponti, *Universal cross-tokenizer distillation via approximate
        likelihood matching*, 2025.

    Example:
        >>> align([3, 5, 9], [1, 5, 6, 9])  # "the| c|ats " and "t|he c|a|ts "
        (tensor([0, 0, 1]), tensor([0, 0, 1, 1]))
    """
    ends = [
        _boundaries(who, places) for who, places in (("student", student), ("teacher", teacher))
    ]
    shared = sorted(place for place in {*ends[0]} & {*ends[1]} if place is not None)
    number = {place: n for n, place in enumerate(shared)}
    found = []
    for boundaries, places in zip(ends, (student, teacher), strict=True):
        spans, here = [IGNORE] * len(places), IGNORE
        for t in reversed(range(len(places))):
            place = boundaries[t]
            here = here if place is None else number.get(place, here)
            spans[t] = here if places[t] > 0 else IGNORE
        found.append(torch.tensor(spans, dtype=torch.int64))
    return found[0], found[1]


def _boundaries(who: str, places: Sequence[int]) -> list[int | None]:
    """Where each token ends a character; None inside one that several tokens spell, in bytes."""
    last, found = -1, []
    for t in reversed(range(len(places))):
        place = int(places[t])
        if place > 0 and 0 <= last < place:
            raise ValueError(
                f"align expected the ends of the {who}'s tokens in order, got {place} before "
                f"{last}; give one text at a time, and end, not start, of each offset"
            )
        found.append(None if place in (0, last) else place)
        last = place if place > 0 else last
    return found[::-1]


@checked
def span_sums(values: Tensor, spans: Tensor, count: int) -> Tensor:
    r"""The sum of the tokens' values in each span.

    .. math:: s_m = \sum_{t :\, \mathrm{span}(t) = m} x_t

    Args:
        values: [..., L], such as log-probabilities of the tokens that follow.
        spans: [..., L], the span of each, -100 where it has none; may lack leading axes.
        count: M, the number of spans.

    Returns:
        [..., M], full precision; 0 for a span without tokens.

    Raises:
        ValueError: other shapes, a span beyond ``count``.
        TypeError: values that are no real numbers, spans that are no whole ones.

    Reference:
        The chain rule of probability: Cover and Thomas, *Elements of information theory*, 2006.

    Example:
        >>> span_sums(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 0, 1]), 2)
        tensor([-3., -4.])
    """
    if spans.dtype not in (torch.int64, torch.int32) or not values.is_floating_point():
        raise TypeError(
            "span_sums expected real values and whole numbers of spans, got values of "
            f"{values.dtype} and spans of {spans.dtype}"
        )
    values = full_precision(values)
    back = values.ndim - spans.ndim
    if back < 0 or values.shape[back:] != spans.shape or not values.ndim:
        raise ValueError(
            f"span_sums expected a span for each value, got {list(values.shape)} values and "
            f"{list(spans.shape)} spans"
        )
    if spans.numel() and int(spans.max()) >= count:
        raise ValueError(
            f"span_sums: spans {list(spans.shape)} run to {int(spans.max())}, and count={count} "
            "lets them run to one less"
        )
    if not count:
        return values[..., :0]
    kept = (spans >= 0).expand(values.shape)
    at = spans.long().clamp_min(0).expand(values.shape)
    sums = values.new_zeros(*values.shape[:-1], count)
    return sums.scatter_add(-1, at, values.masked_fill(~kept, 0.0))


@checked
def span_kl(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""The divergence of "this span follows" against "another one does".

    .. math:: p \log \frac{p}{q} + (1 - p) \log \frac{1 - p}{1 - q}

    with the teacher's probability :math:`p` of the span and the student's :math:`q`. Of all that
    the teacher knows of a position it uses one number, so that it is at most the divergence of the
    whole distributions over spans. Two tokenizers spell a span in their own ways: the two
    probabilities are of the same characters, up to what the boundary behind them says.

    Args:
        student: [...], log-probabilities of spans (:func:`span_sums`).
        teacher: [...], of the same spans.

    Returns:
        [...], in nats, at least 0 up to rounding.

    Raises:
        ValueError: other shapes, probabilities above 1.
        TypeError: what is no real numbers.

    Reference:
        Minixhofer, Vulić and Ponti, *Universal cross-tokenizer distillation via approximate
        likelihood matching*, 2025.

    Example:
        >>> half, sure = torch.tensor([0.5]).log(), torch.tensor([0.9]).log()
        >>> span_kl(student=half, teacher=sure)
        tensor([0.3681])
    """
    check_same("span_kl", student, teacher)
    log_q, log_p = full_precision(student), full_precision(teacher)
    most = max((x.max().item() for x in (log_q, log_p) if x.numel()), default=0.0)
    if most > 1e-3:
        raise ValueError(f"span_kl expected log-probabilities, at most 0, got {most:g}")
    log_q, other_q = _both(log_q)
    log_p, other_p = _both(log_p)
    return log_p.exp() * (log_p - log_q) + other_p.exp() * (other_p - other_q)


def _both(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p), finite: what rounding cannot tell from 0 or 1 is as far as it goes."""
    eps = torch.finfo(log_p.dtype).eps
    log_p = log_p.clamp(torch.finfo(log_p.dtype).min / 2, -eps)
    return log_p, torch.where(
        log_p > -0.7, (-torch.expm1(log_p.clamp_min(-0.7))).log(), torch.log1p(-log_p.exp())
    )
