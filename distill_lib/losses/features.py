r"""Losses on features: what a layer says, and how the items of a batch lie to each other.

Feature-wise losses (:func:`hint`, :func:`cosine`) take the last axis of [B, D] and [B, L, D], and
all but the first of feature maps [B, C, H, W], as one vector. Relational losses
(:func:`similarity`, :func:`pkt`, :func:`rkd_distance`, :func:`rkd_angle`) flatten all but the first
axis and compare items only, so that student and teacher may differ in width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_items, check_number, check_same, full_precision, products, unit

__all__ = [
    "attention_transfer",
    "cosine",
    "hint",
    "pkt",
    "rkd_angle",
    "rkd_distance",
    "similarity",
]


def hint(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of two features.

    .. math:: \frac1D \sum_i (s_i - t_i)^2

    Args:
        student: [B, D], [B, L, D] or [B, C, H, W].
        teacher: The same shape.

    Returns:
        [B], or [B, L] for sequences; at least 0.

    Raises:
        ValueError: shapes that differ.
        TypeError: an argument that is not a tensor.

    Reference:
        Romero et al., *FitNets: hints for thin deep nets*, 2015.

    Example:
        >>> hint(student=torch.zeros(1, 2), teacher=torch.tensor([[3.0, 1.0]]))
        tensor([5.])
    """
    _check_vectors("hint", student, teacher)
    return (_vectors(student) - _vectors(teacher)).square().mean(-1)


def cosine(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""One minus the cosine of the angle between two features.

    .. math:: 1 - \frac{\langle s, t \rangle}{\lVert s \rVert\, \lVert t \rVert}

    Args:
        student: [B, D], [B, L, D] or [B, C, H, W].
        teacher: The same shape.

    Returns:
        [B], or [B, L] for sequences; from 0 to 2, and 1 where a feature is all zeros.

    Raises:
        ValueError: shapes that differ.
        TypeError: an argument that is not a tensor.

    Reference:
        Sanh et al., *DistilBERT, a distilled version of BERT*, 2019.

    Example:
        >>> cosine(student=torch.tensor([[0.0, 2.0]]), teacher=torch.tensor([[3.0, 0.0]]))
        tensor([1.])
    """
    _check_vectors("cosine", student, teacher)
    return 1 - (unit(_vectors(student)) * unit(_vectors(teacher))).sum(-1)


def attention_transfer(*, student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    r"""Squared distance of the two maps of where a layer is active.

    .. math:: \Bigl\lVert \frac{a(s)}{\lVert a(s) \rVert} - \frac{a(t)}{\lVert a(t) \rVert}
       \Bigr\rVert^2, \qquad a(s)_{hw} = \sum_c |s_{chw}|^\rho

    Channels are summed over, so that widths may differ. The authors' code takes the mean over the
    positions instead of the sum: divide by H·W for its weights.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        power: The exponent :math:`\rho`.

    Returns:
        [B], from 0 to 2.

    Raises:
        ValueError: features that are no maps, other items, maps of different sizes.
        TypeError: an argument that is not a tensor.

    Reference:
        Zagoruyko and Komodakis, *Paying more attention to attention*, 2017.

    Example:
        >>> student, teacher = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
        >>> attention_transfer(student=student.view(1, 1, 1, 2), teacher=teacher.view(1, 1, 1, 2))
        tensor([2.])
    """
    check_items("attention_transfer", student, teacher)
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            "attention_transfer expected feature maps [B, C, H, W] of one height and width, got "
            f"student {list(student.shape)} and teacher {list(teacher.shape)}; bring both to one "
            "size first, for example with nn.AdaptiveAvgPool2d, or match layers of one size"
        )
    check_number("power", power, "a number > 0, such as 2", lambda p: 0 < p < math.inf)
    return (_activity(student, power) - _activity(teacher, power)).square().sum(-1)


def similarity(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared distance of the two tables of who is similar to whom.

    .. math:: \ell_b = \frac1B \sum_j \left( \tilde G^s_{bj} - \tilde G^t_{bj} \right)^2, \qquad
       G = F F^\top,\quad \tilde G_{b,:} = G_{b,:} / \lVert G_{b,:} \rVert

    with one flattened feature a row of :math:`F`. The mean over items is the paper's sum over
    :math:`B^2`.

    Args:
        student: [B, ...].
        teacher: [B, ...], of any width.

    Returns:
        [B], from 0 to 4 / B.

    Raises:
        ValueError: features of different batches.
        TypeError: an argument that is not a tensor.

    Reference:
        Tung and Mori, *Similarity-preserving knowledge distillation*, 2019.

    Example:
        >>> student, teacher = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> similarity(student=student, teacher=teacher)
        tensor([0.2929, 0.2929])
    """
    check_items("similarity", student, teacher)
    return (_gram(student) - _gram(teacher)).square().mean(-1)


def pkt(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Divergence of the two distributions over who is near to an item.

    .. math:: \ell_b = \sum_j p_{j|b} \log \frac{p_{j|b}}{q_{j|b}}, \qquad
       p_{j|b} = \frac{K(t_b, t_j)}{\sum_k K(t_b, t_k)},\quad
       K(x, y) = \tfrac12 \Bigl( 1 + \frac{\langle x, y \rangle}
       {\lVert x \rVert\, \lVert y \rVert} \Bigr)

    with the same :math:`q` of the student. The sums include the item itself, as in the authors'
    code, whose mean over :math:`B^2` is this divided by :math:`B`. Invariant to rotations and to
    the length of each feature, not to shifts.

    Args:
        student: [B, ...].
        teacher: [B, ...], of any width.

    Returns:
        [B], in nats, at least 0 up to rounding.

    Raises:
        ValueError: features of different batches.
        TypeError: an argument that is not a tensor.

    Reference:
        Passalis and Tefas, *Learning deep representations with probabilistic knowledge transfer*,
        2018.

    Example:
        >>> student, teacher = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [-1.0]])
        >>> pkt(student=student, teacher=teacher)  # log 2: two who are one, two who are opposite
        tensor([0.6931, 0.6931])
    """
    check_items("pkt", student, teacher)
    log_q, log_p = _log_neighbors(student), _log_neighbors(teacher)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def rkd_distance(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Difference of the distances between items, each in units of its mean.

    .. math:: \ell_b = \frac1B \sum_j h\!\left( \frac{\lVert s_b - s_j \rVert}{\mu_s},
       \frac{\lVert t_b - t_j \rVert}{\mu_t} \right)

    with Huber's :math:`h` and the mean distance :math:`\mu` over all pairs of different items.
    Invariant to shifts, rotations and scale of either side.

    Args:
        student: [B, ...].
        teacher: [B, ...], of any width.

    Returns:
        [B], at least 0.

    Raises:
        ValueError: features of different batches.
        TypeError: an argument that is not a tensor.

    Reference:
        Park et al., *Relational knowledge distillation*, 2019.

    Example:
        >>> student = torch.tensor([[0.0], [1.0], [2.0]])
        >>> rkd_distance(student=student, teacher=3 * student + 1)
        tensor([0., 0., 0.])
    """
    check_items("rkd_distance", student, teacher)
    return F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="none").mean(-1)


def rkd_angle(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Difference of the angles of all triangles that the items form.

    .. math:: \ell_b = \frac{1}{B^2} \sum_{i, j} h\bigl( \cos \angle(s_i, s_b, s_j),\,
       \cos \angle(t_i, t_b, t_j) \bigr)

    with Huber's :math:`h` and the angle at item :math:`b`. Invariant to shifts, rotations and scale
    of either side. Memory grows like :math:`B^2 (B + D)`.

    Args:
        student: [B, ...].
        teacher: [B, ...], of any width.

    Returns:
        [B], from 0 to 3/2.

    Raises:
        ValueError: features of different batches.
        TypeError: an argument that is not a tensor.

    Reference:
        Park et al., *Relational knowledge distillation*, 2019.

    Example:
        >>> student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle(student=student, teacher=5 * student + 1).max() < 1e-6
        tensor(True)
    """
    check_items("rkd_angle", student, teacher)
    return F.smooth_l1_loss(_angles(student), _angles(teacher), reduction="none").mean((-1, -2))


def _check_vectors(name: str, student: Tensor, teacher: Tensor) -> None:
    check_same(name, student, teacher)
    if student.ndim < 2:
        raise ValueError(
            f"{name} expected features [B, D], [B, L, D] or [B, C, H, W], got {list(student.shape)}"
            ", which would be one vector: for one number an item, as of a value head, use "
            'KD(losses.mse_logits, on="value"), or make it [B, 1] with unsqueeze(-1) in forward='
        )


def _vectors(x: Tensor) -> Tensor:
    return full_precision(x.flatten(1) if x.ndim > 3 else x)


def _activity(x: Tensor, power: float) -> Tensor:
    size = full_precision(x).abs()
    if power < 1:  # where the slope at 0 is infinite: what a ReLU shuts stays shut
        size = torch.where(size > 0, size, 1.0).pow(power) * (size > 0)
    else:
        size = size.pow(power)
    return unit(size.sum(1).flatten(1))


def _gram(x: Tensor) -> Tensor:
    rows = full_precision(x.flatten(1))
    return unit(products(rows))


def _log_neighbors(x: Tensor) -> Tensor:
    rows = unit(full_precision(x.flatten(1)))
    kernel = (1 + products(rows)) / 2
    kernel = kernel.clamp_min(torch.finfo(rows.dtype).eps)  # opposite features: 0 up to rounding
    return (kernel / kernel.sum(-1, keepdim=True)).log()


def _distances(x: Tensor) -> Tensor:
    rows = full_precision(x.flatten(1))
    # the form by differences: the one by products cancels, and its root has no gradient at 0
    table = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    mean = table.sum() / max(table.numel() - len(table), 1)
    return table / torch.where(mean > 0, mean, 1.0)


def _angles(x: Tensor) -> Tensor:
    rows = full_precision(x.flatten(1))
    sides = unit(rows - rows.unsqueeze(1))
    return products(sides)
