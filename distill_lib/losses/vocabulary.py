r"""Losses for vocabularies that are large, or of which the teacher tells a part.

A *coarse* distribution keeps the classes of a list and counts all the others as one, the *tail*.
What tells two coarse distributions apart also tells the whole ones apart, so that a divergence of
the coarse ones is a divergence, at least 0, and at most that of the whole ones (the data processing
inequality). Without the tail neither holds.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import checked

from ._common import check_number, check_tensors, floor, full_precision, log_probs
from .response import kl, reverse_kl

__all__ = ["sparse_divergence", "top_k", "uld"]

Loss = Callable[..., Tensor]


@checked
def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""The k most probable classes, their log-probabilities, and that of all the others.

    .. math:: \log p_i \;(i \in S),\qquad \log \sum_{i \notin S} p_i

    Targets that take k numbers and k ids a position instead of one number a class. The tail is
    summed, not subtracted from 1, so that it is exact where the teacher is sure.

    Args:
        logits: [..., C]; a temperature is divided by before.
        k: How many, from 1 to C - 1.

    Returns:
        Ids [..., k], whole numbers; log-probabilities [..., k], falling; the tail's [...].

    Raises:
        ValueError: a ``k`` that leaves nothing out, or nothing in.
        TypeError: logits that are no real numbers.

    Reference:
        Tan et al., *Multilingual neural machine translation with knowledge distillation*, 2019.

    Example:
        >>> ids, log_p, rest = top_k(torch.tensor([2.0, 0.0, 1.0, -1.0]), 2)
        >>> ids, log_p.exp(), rest.exp()
        (tensor([0, 2]), tensor([0.6439, 0.2369]), tensor(0.1192))
    """
    check_tensors("top_k", logits, logits)
    classes = logits.shape[-1] if logits.ndim else 0
    if not isinstance(k, Integral) or isinstance(k, bool) or not 0 < k < classes:
        raise ValueError(
            f"top_k: k lies from 1 to {classes - 1} for {classes} classes, got {k!r}; to keep all "
            "of them keep the logits"
        )
    log_p = log_probs(logits, 1.0)
    kept, ids = log_p.topk(int(k), -1)
    return ids, kept, _outside(log_p, ids)


def _outside(logits: Tensor, ids: Tensor) -> Tensor:
    """[...] the logarithm of the summed exponentials of the classes that are not in a list."""
    return logits.scatter(-1, ids, floor(logits)).logsumexp(-1)


@checked
def sparse_divergence(
    *,
    student: Tensor,
    teacher: Tensor,
    ids: Tensor,
    rest: Tensor | None = None,
    loss: Loss = kl,
    tail: bool = True,
    **options: Any,
) -> Tensor:
    r"""A divergence from a teacher that is known on a list of classes and as one tail.

    .. math:: D(\bar p, \bar q), \qquad \bar p = \bigl(p_i\ (i \in S),\; 1 - \textstyle\sum_{i \in
       S} p_i\bigr), \quad \bar q \text{ likewise}

    With :func:`kl` or :func:`reverse_kl` it is at least 0 and at most the divergence of the whole
    distributions. The classes are often the teacher's k largest (:func:`top_k`); any others will
    do, such as those that two vocabularies share.

    ``tail=False`` leaves the tail out, as many programs do: :math:`\sum_{i \in S} p_i \log (p_i /
    q_i)`, or with :math:`q_i` in front. That is **no divergence**: the first is negative where the
    student has more mass in S than the teacher, the second is lowered by moving mass out of S.
    It is here to be compared with.

    Args:
        student: [..., C], logits of all classes; a temperature is divided by before.
        teacher: [..., k], log-probabilities of the classes ``ids`` (-inf: none) in the whole
            distribution, not renormalized. May lack leading axes of the student.
        ids: [..., k], whole numbers from 0 to C - 1, each once.
        rest: [...], the logarithm of the mass outside. By default what the others leave of 1, as
            precisely as that can be told; below rounding it is 0, and for a loss with the student
            in front the number's precision.
        loss: :func:`kl`, :func:`reverse_kl`, or any other loss of two distributions.
        tail: Whether the rest counts as one class.
        **options: More arguments of the loss, but no temperature: that of a coarse distribution is
            not the coarse one of a softened teacher.

    Returns:
        [...], in nats.

    Raises:
        ValueError: shapes that do not fit, ids outside the classes or twice, probabilities that sum
            to more than 1, or to less where all classes are listed, ``tail=False`` with another
            loss than the two.
        TypeError: what is no real numbers, ids that are no whole ones, a temperature.

    Reference:
        Cover and Thomas, *Elements of information theory*, 2006, section 2.8, for the inequality.

    Example:
        >>> z, v = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([2.0, 0.0, 1.0, -1.0])
        >>> ids, log_p, rest = top_k(v, 2)
        >>> sparse_divergence(student=z, teacher=log_p, ids=ids, rest=rest)
        tensor(0.1648)
        >>> kl(student=z, teacher=v)
        tensor(0.1781)
        >>> same = log_p.log_softmax(-1)  # renormalized: another distribution
        >>> sparse_divergence(student=z, teacher=same, ids=ids).item() > 0.2
        True
    """
    if "temperature" in options:
        raise TypeError(
            "sparse_divergence takes no temperature: divide the student's logits by it, and the "
            "teacher's before top_k, whose tail is then softened too"
        )
    _check_sparse(student, teacher, ids, rest)
    z, log_p = full_precision(student), full_precision(teacher)
    z, log_p = z.clamp_min(floor(z)), log_p.clamp_min(floor(log_p))
    at = ids.expand(*z.shape[:-1], ids.shape[-1]).long()
    if not tail:
        return _truncated(z.log_softmax(-1).gather(-1, at), log_p, loss, rest, options)
    inside = z.gather(-1, at)
    if ids.shape[-1] == z.shape[-1]:  # nothing is left for a tail
        return loss(student=inside, teacher=log_p, **options)
    coarse = torch.cat([inside, _outside(z, at).unsqueeze(-1)], -1)
    if rest is None:
        rest = _remainder(log_p, 0.0 if loss is kl else torch.finfo(log_p.dtype).eps)
    rest = full_precision(rest).to(log_p.dtype).clamp_min(floor(log_p))
    return loss(student=coarse, teacher=torch.cat([log_p, rest.unsqueeze(-1)], -1), **options)


def _remainder(log_p: Tensor, least: float) -> Tensor:
    """[...] the logarithm of what probabilities [..., k] leave of 1; ``least`` below rounding."""
    left = 1 - log_p.exp().sum(-1)
    noise = 2 * log_p.shape[-1] ** 0.5 * torch.finfo(log_p.dtype).eps
    return torch.where(left > noise, left, least).log()


def _truncated(
    log_q: Tensor, log_p: Tensor, loss: Loss, rest: Tensor | None, options: dict[str, Any]
) -> Tensor:
    if loss not in (kl, reverse_kl) or options or rest is not None:
        raise ValueError(
            "sparse_divergence: tail=False is the sum over the listed classes of kl or reverse_kl, "
            "without options and without rest; anything else wants the tail"
        )
    front, gap = (log_p, log_p - log_q) if loss is kl else (log_q, log_q - log_p)
    return (front.exp() * gap).sum(-1)


def _check_sparse(student: Tensor, teacher: Tensor, ids: Tensor, rest: Tensor | None) -> None:
    check_tensors("sparse_divergence", student, teacher)
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(
            "sparse_divergence expected ids as a tensor of whole numbers, got "
            f"{ids.dtype if isinstance(ids, Tensor) else type(ids).__name__}"
        )
    shape, items = tuple(teacher.shape), tuple(student.shape[:-1])
    lead = len(items) - len(shape) + 1
    if (
        not shape
        or ids.shape != teacher.shape
        or lead < 0
        or items[lead:] != shape[:-1]
        or (rest is not None and tuple(rest.shape) != shape[:-1])
        or not 0 < shape[-1] <= student.shape[-1]
    ):
        raise ValueError(
            "sparse_divergence expected student logits [..., C], log-probabilities and ids "
            f"[..., k] of the same items with k ≤ C, and rest [...], got {list(student.shape)}, "
            f"{list(shape)}, {list(ids.shape)} and {rest if rest is None else list(rest.shape)}"
        )
    if not ids.numel():
        return
    classes = student.shape[-1]
    sums, ordered = full_precision(teacher).exp().sum(-1), ids.sort(-1).values
    if rest is not None:
        sums = sums + full_precision(rest).exp()
    outside = (ordered[..., 0] < 0) | (ordered[..., -1] >= classes)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(-1)
    noise = 1e-2 if teacher.itemsize < 4 else 1e-3
    over = ~(sums <= 1 + noise)
    if shape[-1] == classes:  # nothing is left for what they leave of 1
        listed = full_precision(teacher).exp().sum(-1)
        over = over | ~(listed >= 1 - noise)
    if not bool((outside | twice | over).any()):  # one question: a GPU waits for each
        return
    if bool(outside.any()):
        raise ValueError(
            f"sparse_divergence: ids run from {int(ids.min())} to {int(ids.max())}, the student "
            f"has classes 0 to {classes - 1}: is it the same vocabulary?"
        )
    if bool(twice.any()):
        raise ValueError("sparse_divergence: a class is listed twice; its mass would count twice")
    beside = "" if rest is None else f" with rest {list(rest.shape)}"
    if shape[-1] == classes and bool((sums <= 1 + noise).all()):
        raise ValueError(
            f"sparse_divergence: all {classes} classes are listed, and some have {listed.min():g} "
            "of the mass together: the teacher has classes that the student does not know. Give "
            "the mass of those that both know: logits[..., :C].log_softmax(-1)"
        )
    raise ValueError(
        f"sparse_divergence expected log-probabilities, got some that sum to {sums.max():g}{beside}"
        ": take logits.log_softmax(-1) over all classes, then the listed ones, and rest=None or "
        "the logarithm of what they leave"
    )


@checked
def uld(*, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Universal logit distillation: the sorted probabilities, whatever the classes are called.

    .. math:: \sum_i \left| p_{(i)} - q_{(i)} \right|, \qquad p_{(1)} \ge p_{(2)} \ge \dots

    For two vocabularies: the shorter list is filled up with 0. It sees how sure the teacher is and
    not of what, so that a student that is as sure of another word pays nothing.

    Args:
        student: [..., C], logits.
        teacher: [..., C'], logits of the same items; may lack leading axes of the student.
        temperature: :math:`T > 0`.

    Returns:
        [...], from 0 to 2.

    Raises:
        ValueError: other items, a temperature that is not positive.
        TypeError: what is no real numbers.

    Reference:
        Boizard et al., *Towards cross-tokenizer distillation: the universal logit distillation loss
        for LLMs*, 2025.

    Example:
        >>> uld(student=torch.tensor([0.0, 2.0]), teacher=torch.tensor([2.0, 0.0]))
        tensor(0.)
        >>> uld(student=torch.zeros(2), teacher=torch.zeros(4))
        tensor(1.)
    """
    check_tensors("uld", student, teacher)
    check_number("uld: temperature", temperature, "a number > 0", lambda number: number > 0)
    items, theirs = tuple(student.shape[:-1]), tuple(teacher.shape[:-1])
    if not teacher.ndim or len(theirs) > len(items) or items[len(items) - len(theirs) :] != theirs:
        raise ValueError(
            f"uld: student logits {list(student.shape)} and teacher logits {list(teacher.shape)} "
            "are not of the same items; pick the positions where both begin a word first (align)"
        )
    q, p = (
        log_probs(x, temperature).exp().sort(-1, descending=True)[0] for x in (student, teacher)
    )
    shared = min(q.shape[-1], p.shape[-1])
    left = q[..., shared:].sum(-1) + p[..., shared:].sum(-1)
    return (q[..., :shared] - p[..., :shared]).abs().sum(-1) + left
