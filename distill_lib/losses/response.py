r"""Losses on answers: logits of the student against logits of the teacher.

Notation: teacher logits :math:`v` with :math:`p = \mathrm{softmax}(v / T)`, student logits
:math:`z` with :math:`q = \mathrm{softmax}(z / T)`, :math:`C` classes. All are computed in log
space. A class that is masked with ``-inf`` on both sides has probability 0 and costs nothing; one
that the student alone excludes costs about as much as a float can hold, or more. The teacher may
lack leading axes of the student, so that one answer serves several students.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_logits, check_number, floor, full_precision, log_probs, soften

__all__ = [
    "bernoulli_kl",
    "channel_kl",
    "jsd",
    "kl",
    "reverse_kl",
    "soft_cross_entropy",
    "tvd",
]


def kl(*, student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Kullback–Leibler divergence of the softened student from the softened teacher.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_i p_i \log \frac{p_i}{q_i}

    It covers: where the teacher has mass, the student must have some. The factor :math:`T^2` is
    not in it; :class:`distill_lib.KD` multiplies by it.

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        temperature: :math:`T > 0`, a number or a tensor [..., 1] with one an item.

    Returns:
        [...], in nats, at least 0 up to rounding.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.
        TypeError: an argument that is not a tensor.

    Reference:
        Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> kl(student=student, teacher=teacher)
        tensor([0.3278])
    """
    check_logits("kl", student, teacher)
    log_q, log_p = log_probs(student, temperature), log_probs(teacher, temperature)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(*, student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Kullback–Leibler divergence of the softened teacher from the softened student.

    .. math:: \mathrm{KL}(q \,\|\, p) = \sum_i q_i \log \frac{q_i}{p_i}

    It seeks: the student keeps away from where the teacher has no mass, and may settle on a part.

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        temperature: :math:`T > 0`, a number or a tensor [..., 1].

    Returns:
        [...], in nats, at least 0 up to rounding.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.
        TypeError: an argument that is not a tensor.

    Reference:
        Gu et al., *MiniLLM: knowledge distillation of large language models*, 2024.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> reverse_kl(student=student, teacher=teacher)
        tensor([0.4338])
    """
    check_logits("reverse_kl", student, teacher)
    log_q, log_p = log_probs(student, temperature), log_probs(teacher, temperature)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def jsd(
    *,
    student: Tensor,
    teacher: Tensor,
    beta: float = 0.5,
    temperature: float | Tensor = 1.0,
    normalized: bool = False,
) -> Tensor:
    r"""Generalized Jensen–Shannon divergence.

    .. math:: D_\beta = \beta\, \mathrm{KL}(p \,\|\, m) + (1 - \beta)\, \mathrm{KL}(q \,\|\, m),
       \qquad m = \beta p + (1 - \beta) q

    It is 0 at both ends, :math:`\beta \in \{0, 1\}`: near them :math:`\beta` sets the size of the
    gradient more than its direction. ``normalized=True`` divides by :math:`\beta (1 - \beta)`, and
    the value goes continuously from :math:`\mathrm{KL}(p \,\|\, q)` at 0 to
    :math:`\mathrm{KL}(q \,\|\, p)` at 1. Rounding is divided too: in float32, about
    :math:`10^{-7} / \beta` remains of it near 0; nearer to an end than the precision of the numbers
    it is the end itself.

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        beta: Weight of the teacher in the mixture: in (0, 1), with ``normalized`` in [0, 1].
        temperature: :math:`T > 0`, a number or a tensor [..., 1].
        normalized: Whether to divide by :math:`\beta (1 - \beta)`.

    Returns:
        [...], in nats, from 0 to :math:`\log 2` for the plain form with :math:`\beta = 1/2`.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive, a ``beta`` at an
            end where the plain form is 0 whatever the student says.
        TypeError: an argument that is not a tensor.

    Reference:
        Agarwal et al., *On-policy distillation of language models*, 2024, equation 1.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> jsd(student=student, teacher=teacher, beta=0.1)
        tensor([0.0299])
        >>> jsd(student=student, teacher=teacher, beta=0.0, normalized=True)
        tensor([0.3278])
    """
    check_logits("jsd", student, teacher)
    hint = "0.5 is Jensen and Shannon's; kl and reverse_kl are the ends"
    check_number("jsd: beta", beta, "a number in [0, 1]", lambda number: 0 <= number <= 1, hint)
    if normalized and (end := end_of(beta, full_precision(student).dtype)) is not None:
        beta = end
    if beta in (0, 1):
        limit = kl if beta == 0 else reverse_kl
        if not normalized:
            raise ValueError(
                f"jsd: at beta={beta:g} the divergence is 0 for every student, and so is its "
                f"gradient; use {limit.__name__}, or normalized=True, which tends to it"
            )
        return limit(student=student, teacher=teacher, temperature=temperature)
    log_q, log_p = log_probs(student, temperature), log_probs(teacher, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    from_teacher = (log_p.exp() * (log_p - log_m)).sum(-1)
    from_student = (log_q.exp() * (log_q - log_m)).sum(-1)
    if normalized:
        return from_teacher / (1 - beta) + from_student / beta
    return beta * from_teacher + (1 - beta) * from_student


def end_of(beta: float, dtype: torch.dtype) -> float | None:
    """The end that a beta cannot be told from in a type's precision; None where it can."""
    eps = torch.finfo(dtype).eps
    return 0.0 if beta < eps else 1.0 if 1 - beta < eps else None


def soft_cross_entropy(
    *, student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0
) -> Tensor:
    r"""Cross-entropy of the softened student under the softened teacher.

    .. math:: H(p, q) = -\sum_i p_i \log q_i = H(p) + \mathrm{KL}(p \,\|\, q)

    The student's gradient is that of :func:`kl`. The floor is the teacher's entropy :math:`H(p)`,
    not 0.

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        temperature: :math:`T > 0`, a number or a tensor [..., 1].

    Returns:
        [...], in nats, at least :math:`H(p)`.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.
        TypeError: an argument that is not a tensor.

    Reference:
        Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015.

    Example:
        >>> soft_cross_entropy(student=torch.zeros(1, 2), teacher=torch.tensor([[2.0, 0.0]]))
        tensor([0.6931])
    """
    check_logits("soft_cross_entropy", student, teacher)
    log_q, log_p = log_probs(student, temperature), log_probs(teacher, temperature)
    return -(log_p.exp() * log_q).sum(-1)


def tvd(*, student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Total variation distance of the softened answers.

    .. math:: \mathrm{TV}(p, q) = \tfrac12 \sum_i |p_i - q_i|

    The largest difference that the two can show on any event. It is symmetric and bounded, and its
    gradient fades for a student that is confidently wrong.

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        temperature: :math:`T > 0`, a number or a tensor [..., 1].

    Returns:
        [...], from 0 to 1.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.
        TypeError: an argument that is not a tensor.

    Reference:
        Wen et al., *f-divergence minimization for sequence-level knowledge distillation*, 2023.

    Example:
        >>> tvd(student=torch.zeros(1, 2), teacher=torch.tensor([[2.0, 0.0]]))
        tensor([0.3808])
    """
    check_logits("tvd", student, teacher)
    q, p = log_probs(student, temperature).exp(), log_probs(teacher, temperature).exp()
    return (p - q).abs().sum(-1) / 2


def bernoulli_kl(*, student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Divergence of independent yes-or-no answers: a sigmoid for each label, no softmax.

    .. math:: \frac1C \sum_i \left[ p_i \log \frac{p_i}{q_i}
       + (1 - p_i) \log \frac{1 - p_i}{1 - q_i} \right],
       \qquad p_i = \sigma(v_i / T),\; q_i = \sigma(z_i / T)

    For models with several labels an item, and with :math:`C = 1` for binary ones. Unlike
    :func:`kl` it sees a shift that all logits share. The mean over the labels is that of torch's
    binary cross-entropy; :math:`C` times it is the divergence of the joint answers. For
    :math:`T \to \infty`, :math:`T^2` times it tends to an eighth of :func:`mse_logits`.

    Args:
        student: [..., C], logits, one a label.
        teacher: [..., C], logits.
        temperature: :math:`T > 0`, a number or a tensor [..., 1].

    Returns:
        [...], in nats a label, at least 0 up to rounding.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.
        TypeError: an argument that is not a tensor.

    Reference:
        Yang et al., *Multi-label knowledge distillation*, 2023.

    Example:
        >>> bernoulli_kl(student=torch.tensor([[-4.0]]), teacher=torch.tensor([[4.0]]))
        tensor([3.8561])
    """
    check_logits("bernoulli_kl", student, teacher)
    z, v = (soften(x, temperature) for x in (student, teacher))
    # an infinite logit is a sure answer: finite, so that 0 · log 0 is 0
    z, v = (x.clamp(floor(x), -floor(x)) for x in (z, v))
    yes = v.sigmoid() * (F.logsigmoid(v) - F.logsigmoid(z))
    no = (-v).sigmoid() * (F.logsigmoid(-v) - F.logsigmoid(-z))
    return (yes + no).mean(-1)


def channel_kl(*, student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Where each channel looks: a softmax over the positions of a map, channel by channel.

    .. math:: \frac1C \sum_c \mathrm{KL}(p_c \,\|\, q_c),
       \qquad p_c = \mathrm{softmax}_{hw}(v_{c,hw} / T)

    For dense outputs: a region outweighs the many pixels of the background, and a shift of a whole
    channel is free. :class:`distill_lib.KD` multiplies by :math:`T^2`, as the paper does.

    Args:
        student: [B, C, H, W], or with any number of axes of positions.
        teacher: Of the same shape.
        temperature: :math:`T > 0`.

    Returns:
        [B], in nats a channel, at least 0 up to rounding.

    Raises:
        ValueError: shapes that differ or have no positions, a temperature that is not positive.
        TypeError: an argument that is not a tensor.

    Reference:
        Shu et al., *Channel-wise knowledge distillation for dense prediction*, 2021.

    Example:
        >>> x = torch.randn(2, 3, 4, 4)
        >>> channel_kl(student=x, teacher=x + 1).abs().max() < 1e-6
        tensor(True)
    """
    check_logits("channel_kl", student, teacher)
    if student.ndim < 3 or student.shape != teacher.shape or math.prod(student.shape[2:]) < 2:
        raise ValueError(
            "channel_kl expected maps [B, C, H, W] of one shape with at least two positions, got "
            f"student {list(student.shape)} and teacher {list(teacher.shape)}"
        )
    maps = {"student": student.flatten(2), "teacher": teacher.flatten(2)}
    return kl(**maps, temperature=temperature).mean(-1)
