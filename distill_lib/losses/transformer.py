r"""Losses on the inside of a transformer: where its heads look, and how its tokens relate.

All return one value a token, [B, L], so that padded tokens are left out by the objective, which
also passes ``batch["attention_mask"]`` as ``mask``: tokens that are padding are no keys either.
Hidden states and embeddings need no loss of their own: they are features, for
:func:`distill_lib.losses.hint` and a projector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import check_number, check_tensors, full_precision, products

__all__ = ["attention", "attention_kl", "attention_scores", "minilm_relation"]


def attention(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of the attention maps.

    .. math:: \ell_i = \frac{1}{H |K|} \sum_h \sum_{j \in K} (A^s_{hij} - A^t_{hij})^2

    with the heads :math:`h`, and the keys :math:`K` that are no padding.

    Args:
        student: [B, H, L, L] probabilities, as models return them.
        teacher: The same shape.
        mask: [B, L], true where a token is no padding; by default everywhere.

    Returns:
        [B, L], from 0 to 2 divided by the number of keys.

    Raises:
        ValueError: maps of different shapes, such as other numbers of heads.

    Reference:
        Jiao et al., *TinyBERT: distilling BERT for natural language understanding*, 2020; there
        on the scores before the softmax, see :func:`attention_scores`.

    Example:
        >>> eye, mean = torch.eye(2).view(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)
        >>> attention(student=mean, teacher=eye)
        tensor([[0.2500, 0.2500]])
    """
    keys = _keys("attention", student, teacher, mask)
    gap = (full_precision(student) - full_precision(teacher)).square()
    return _mean_over(gap, keys).mean(1)


def attention_scores(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of the scores before the softmax, each row centered.

    .. math:: \ell_i = \frac{1}{H |K|} \sum_h \sum_{j \in K} (c^s_{hij} - c^t_{hij})^2, \qquad
       c_{hij} = \log A_{hij} - \frac{1}{|K|} \sum_{k \in K} \log A_{hik}

    The logarithm of a row of the map is the row of scores :math:`QK^\top / \sqrt d` up to a
    constant, which the softmax does not see and centering removes: so this is TinyBERT's loss on
    un-normalized scores, without what carries no information, and needs no hook. Keys of weight 0
    do not count: dropout puts them there, whose factor the centering removes too.

    Args:
        student: [B, H, L, L] probabilities, as models return them.
        teacher: The same shape.
        mask: [B, L], true where a token is no padding; by default everywhere.

    Returns:
        [B, L], at least 0.

    Raises:
        ValueError: maps of different shapes, such as other numbers of heads.

    Reference:
        Jiao et al., *TinyBERT: distilling BERT for natural language understanding*, 2020.

    Example:
        >>> scores = torch.tensor([[2.0, 0.0]]).expand(2, 2).view(1, 1, 2, 2)
        >>> attention_scores(student=(scores + 5).softmax(-1), teacher=(2 * scores).softmax(-1))
        tensor([[1.0000, 1.0000]])
    """
    keys = _keys("attention_scores", student, teacher, mask)
    keys = keys & ~((student <= 0) | (teacher <= 0))  # nan is neither, and stays
    # centering is linear, so the difference is centered once: the variance of the log-ratio
    ratio = _log(full_precision(student)) - _log(full_precision(teacher))
    gap = ratio - _mean_over(ratio, keys)[..., None]
    return _mean_over(gap.square(), keys).mean(1)


def attention_kl(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Divergence of where the heads look: each row of a map is a distribution over tokens.

    .. math:: \ell_i = \frac1H \sum_h \mathrm{KL}\bigl(A^t_{hi\cdot} \,\big\|\, A^s_{hi\cdot}\bigr)

    Args:
        student: [B, H, L, L] probabilities, as models return them.
        teacher: The same shape.
        mask: [B, L], true where a token is no padding; by default everywhere.

    Returns:
        [B, L], at least 0.

    Raises:
        ValueError: maps of different shapes, such as other numbers of heads.

    Reference:
        Wang et al., *MiniLM: deep self-attention distillation*, 2020.

    Example:
        >>> eye, mean = torch.eye(2).view(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)
        >>> attention_kl(student=mean, teacher=eye)
        tensor([[0.6931, 0.6931]])
    """
    keys = _keys("attention_kl", student, teacher, mask)
    p, q = (full_precision(x).masked_fill(~keys, 0) for x in (teacher, student))
    return (p * (_log(p) - _log(q))).sum(-1).mean(1)


def minilm_relation(
    *, student: Tensor, teacher: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    r"""Divergence of how the tokens relate to each other, for vectors of any width.

    .. math:: \ell_i = \frac1R \sum_r \mathrm{KL}\bigl(\rho(t_r)_i \,\big\|\, \rho(s_r)_i\bigr),
       \qquad \rho(x) = \mathrm{softmax}\bigl(x x^\top / \sqrt{d_r}\bigr)

    with the vectors cut into :math:`R` relation heads of width :math:`d_r = D / R`. Queries, keys
    or values go in. The number of relation heads is free: neither the widths nor the attention
    heads of student and teacher have to agree.

    Args:
        student: [B, L, D].
        teacher: [B, L, D'].
        heads: :math:`R`, a divisor of both widths.
        mask: [B, L], true where a token is no padding; by default everywhere.

    Returns:
        [B, L], at least 0.

    Raises:
        ValueError: other texts, or widths that cannot be cut into so many heads.

    Reference:
        Wang et al., *MiniLMv2: multi-head self-attention relation distillation*, 2021.

    Example:
        >>> x = torch.randn(2, 5, 12)
        >>> minilm_relation(student=x, teacher=x, heads=3).abs().max() < 1e-6
        tensor(True)
    """
    check_tensors("minilm_relation", student, teacher)
    check_number("heads", heads, "a divisor of both widths", float.is_integer)
    heads = int(heads)
    for who, x in (("student", student), ("teacher", teacher)):
        if x.ndim != 3:
            raise ValueError(
                f"minilm_relation expected vectors [B, L, D], got {who} {list(x.shape)}"
            )
        if heads < 1 or x.shape[-1] % heads:
            raise ValueError(
                f"minilm_relation: the {who}'s width {x.shape[-1]} cannot be cut into {heads} "
                "relation heads; take a divisor of both widths"
            )
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"minilm_relation expected the same texts, got student {list(student.shape)} and "
            f"teacher {list(teacher.shape)}; both must read one tokenization"
        )
    keep = _key_mask("minilm_relation", student.shape[:2], mask, student.device)
    log_q, log_p = _relations(student, heads, keep), _relations(teacher, heads, keep)
    terms = log_p.exp() * (log_p - log_q).masked_fill(~keep, 0)
    return terms.sum(-1).mean(1)


def _relations(x: Tensor, heads: int, keys: Tensor) -> Tensor:
    """[B, R, L, L] log-probabilities of one token's relation to the others."""
    cut = full_precision(x).reshape(*x.shape[:2], heads, -1).transpose(1, 2)
    scores: Tensor = products(cut) / cut.shape[-1] ** 0.5
    return scores.masked_fill(~keys, torch.finfo(scores.dtype).min / 2).log_softmax(-1)


def _keys(name: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """[B, 1, 1, L] which keys count, after the shapes were checked."""
    check_tensors(name, student, teacher)
    if student.shape != teacher.shape or student.ndim != 4 or student.shape[2] != student.shape[3]:
        have = f"student {list(student.shape)} and teacher {list(teacher.shape)}"
        heads = ""
        if student.ndim == teacher.ndim == 4 and student.shape[1] != teacher.shape[1]:
            heads = (
                f": {student.shape[1]} heads cannot be compared with {teacher.shape[1]}. Give the "
                "student as many (they cost no parameters), or compare relations between tokens, "
                "which need no equal heads: losses.minilm_relation"
            )
        raise ValueError(f"{name} expected maps [B, H, L, L] of one shape, got {have}{heads}")
    return _key_mask(name, torch.Size((student.shape[0], student.shape[2])), mask, student.device)


def _key_mask(name: str, shape: torch.Size, mask: Tensor | None, device: torch.device) -> Tensor:
    if mask is None:
        mask = torch.ones(shape, dtype=torch.bool, device=device)
    if not isinstance(mask, Tensor) or mask.shape != shape:
        came = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise (ValueError if isinstance(mask, Tensor) else TypeError)(
            f"{name} expected a mask [B, L] = {list(shape)}, true for tokens that are no padding, "
            f"got {came}"
        )
    if mask.is_floating_point() and bool((mask < 0).any()):
        raise ValueError(
            f"{name}: a mask with negative numbers is one that is added to scores; give one that "
            "is 1 for tokens that are no padding, and 0 for padding"
        )
    return mask.bool()[:, None, None, :]


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _mean_over(values: Tensor, keys: Tensor) -> Tensor:
    """Mean over the keys that count, of values [B, H, L, L]."""
    return values.masked_fill(~keys, 0).sum(-1) / keys.sum(-1).clamp_min(1)
