r"""Losses on the structure of an answer, not on its probabilities as they are.

Notation as in ``response.py``: teacher logits :math:`v` with :math:`p = \mathrm{softmax}(v / T)`,
student logits :math:`z` with :math:`q = \mathrm{softmax}(z / T)`, :math:`C` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import (
    check_logits,
    check_number,
    correlation,
    differences,
    floor,
    full_precision,
    log_probs,
)

__all__ = ["dist", "dkd", "mse_logits", "standardize"]


def dkd(
    *,
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float | Tensor = 4.0,
) -> Tensor:
    r"""Decoupled distillation: the label against the rest, and the rest among themselves.

    .. math:: \alpha\, \mathrm{KL}(b_p \,\|\, b_q) + \beta\, \mathrm{KL}(\hat p \,\|\, \hat q),
       \qquad b_p = (p_y, 1 - p_y),\quad \hat p_i = p_i / (1 - p_y),\ i \ne y

    The plain :func:`kl` is the same sum with weights 1 and :math:`1 - p_y`, so that a confident
    teacher switches its second part off; here the weight is free.

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        labels: [...], integers from 0 to C - 1.
        alpha: Weight of the first part (target class).
        beta: Weight of the second part (other classes).
        temperature: :math:`T > 0`, a number or a tensor [..., 1].

    Returns:
        [...], at least 0 for weights of at least 0.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive, fewer than three
            classes (the second part is then 0).
        TypeError: an argument that is not a tensor, labels that are not integers.

    Reference:
        Zhao et al., *Decoupled knowledge distillation*, 2022.

    Example:
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[4.0, 1.0, 0.0]])
        >>> dkd(student=student, teacher=teacher, labels=torch.tensor([0]), temperature=1.0)
        tensor([1.7048])
    """
    check_logits("dkd", student, teacher)
    _check_labels(student, labels)
    check_number("alpha", alpha)
    check_number("beta", beta)
    log_q, log_p = log_probs(student, temperature), log_probs(teacher, temperature)
    y = labels.expand(log_q.shape[:-1]).unsqueeze(-1)
    try:
        student_label, student_rest, log_q = _decouple(log_q, y)
    except (IndexError, RuntimeError) as error:  # asked before, a GPU would have to wait
        raise ValueError(
            f"dkd expected labels from 0 to {log_q.shape[-1] - 1}, got others: {error}; leave out "
            "first what has no label, or use DKD(), which does"
        ) from error
    teacher_label, teacher_rest, log_p = _decouple(log_p.expand(log_q.shape), y)
    target = teacher_label.exp() * (teacher_label - student_label)
    target = target + teacher_rest.exp() * (teacher_rest - student_rest)
    others = (log_p.exp() * (log_p - log_q)).sum(-1)
    return alpha * target + beta * others


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"dkd expected labels as a tensor of int64, got {got}; try labels.long()")
    if logits.ndim < 1 or logits.shape[-1] < 3:
        raise ValueError(
            f"dkd needs at least 3 classes, got {logits.shape[-1] if logits.ndim else 0} in "
            f"{list(logits.shape)}: with two, nothing is left to compare among the other classes; "
            "use kl"
        )
    shape = logits.shape[:-1]
    if labels.ndim > len(shape) or labels.shape != shape[len(shape) - labels.ndim :]:
        raise ValueError(
            f"dkd: logits {list(logits.shape)} expect labels {list(shape)}, "
            f"got {list(labels.shape)}"
        )


def _decouple(log_p: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For labels y [..., 1]: log p_y [...], log of the others' mass [...], log p̂ [..., C]."""
    others = log_p.scatter(-1, y, floor(log_p))
    # the mass is not log(1 - p_y): that is log 0 as soon as the teacher is sure
    return log_p.gather(-1, y).squeeze(-1), others.logsumexp(-1), others.log_softmax(-1)


def dist(
    *,
    student: Tensor,
    teacher: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    r"""Correlation of the answers: the order of the classes in an item, of the items in a class.

    .. math:: \ell_b = \beta\, \bigl(1 - \rho(p_{b,:},\, q_{b,:})\bigr)
       + \frac{\gamma}{C} \sum_c \bigl(1 - \rho(p_{:,c},\, q_{:,c})\bigr)

    with Pearson's :math:`\rho`. The second part is of the whole batch, the same for every item of
    it, so that the mean over items is the paper's loss. Shift and scale of the probabilities are
    free: a weaker student need not copy the teacher's confidence. A class or item whose
    probabilities do not vary at all correlates with nothing, :math:`\rho = 0`.

    Args:
        student: [..., B, C], logits; the axis before the classes is the batch.
        teacher: [..., B, C], logits.
        beta: Weight of the part within items.
        gamma: Weight of the part within classes.
        temperature: :math:`T > 0`, a number or a tensor [..., 1].

    Returns:
        [..., B], from 0 to :math:`2 (\beta + \gamma)`.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive, a batch of fewer
            than two items (unless ``gamma`` is 0).
        TypeError: an argument that is not a tensor.

    Reference:
        Huang et al., *Knowledge distillation from a stronger teacher*, 2022.

    Example:
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
        >>> dist(student=teacher, teacher=teacher).abs().max() < 1e-6
        tensor(True)
    """
    check_logits("dist", student, teacher)
    check_number("beta", beta)
    check_number("gamma", gamma)
    if gamma != 0 and (teacher.ndim < 2 or teacher.shape[-2] < 2):
        raise ValueError(
            f"dist: logits {list(teacher.shape)} hold one item, and a class cannot vary over one; "
            "give at least two, for example with drop_last=True in the loader, or set gamma=0"
        )
    q, p = log_probs(student, temperature).exp(), log_probs(teacher, temperature).exp()
    values = beta * (1 - correlation(q, p))
    if gamma == 0:
        return values
    within_classes = 1 - correlation(q.transpose(-1, -2), p.transpose(-1, -2))
    return values + gamma * within_classes.mean(-1, keepdim=True)


def mse_logits(*, student: Tensor, teacher: Tensor, center: bool = False) -> Tensor:
    r"""Mean squared difference of the logits.

    .. math:: \frac1C \sum_i (z_i - v_i)^2

    With ``center=True`` both lose their mean first, as softmax does not see it; half of that value
    is the limit of :math:`T^2\, \mathrm{KL}(p \,\|\, q)` for :math:`T \to \infty`. The :math:`C`
    classes are those that are not ``-inf`` on both sides.

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        center: Whether to subtract the mean over the classes.

    Returns:
        [...], at least 0.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: an argument that is not a tensor.

    Reference:
        Ba and Caruana, *Do deep nets really need to be deep?*, 2014.

    Example:
        >>> mse_logits(student=torch.zeros(1, 2), teacher=torch.tensor([[3.0, 1.0]]))
        tensor([5.])
        >>> mse_logits(student=torch.zeros(1, 2), teacher=torch.tensor([[3.0, 1.0]]), center=True)
        tensor([1.])
    """
    check_logits("mse_logits", student, teacher)
    gap, known, count = differences(student, teacher)
    if center:
        gap = torch.where(known, gap - gap.sum(-1, keepdim=True) / count, 0.0)
    return gap.square().sum(-1) / count.squeeze(-1)


def standardize(logits: Tensor) -> Tensor:
    r"""Logits with mean 0 and standard deviation 1 over the classes.

    .. math:: z \mapsto \frac{z - \bar z}{s}, \qquad s^2 = \frac{1}{C - 1} \sum_i (z_i - \bar z)^2

    Invariant to :math:`a z + b` with :math:`a > 0`: the student then has to match the shape of the
    teacher's logits, not their scale. Constant logits become 0, and classes that are excluded with
    ``-inf`` stay so: :math:`C` counts the others.

    Args:
        logits: [..., C].

    Returns:
        [..., C].

    Raises:
        ValueError: fewer than two classes.

    Reference:
        Sun et al., *Logit standardization in knowledge distillation*, 2024 (with the
        :math:`C - 1` of the authors' code).

    Example:
        >>> standardize(torch.tensor([10.0, 20.0, 30.0]))
        tensor([-1.,  0.,  1.])
    """
    logits = full_precision(logits)
    if not logits.is_floating_point():
        raise TypeError(f"standardize expected logits, got {logits.dtype}; call .float() first")
    if not logits.ndim or logits.shape[-1] < 2:
        raise ValueError(
            f"standardize expected [..., C] with C at least 2, got {list(logits.shape)}"
        )
    out = logits.isneginf()
    count = (~out).sum(-1, keepdim=True).clamp_min(1)
    # at the mean of the others, those that are excluded add nothing to a sum of squares
    logits = torch.where(out, torch.where(out, 0.0, logits).sum(-1, keepdim=True) / count, logits)
    centered = logits - logits.mean(-1, keepdim=True)
    spread = logits.std(-1, keepdim=True) if logits.numel() else logits[..., :1]
    spread = spread * ((logits.shape[-1] - 1) / (count - 1).clamp_min(1)).sqrt()
    # constant logits leave rounding noise, which must not be blown up to a standard deviation of 1
    noise = 4 * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(-1, keepdim=True)
    return (centered / torch.where(spread > noise, spread, 1.0)).masked_fill(out, -torch.inf)
