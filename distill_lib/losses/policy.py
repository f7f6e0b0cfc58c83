r"""Losses on policies: what one actor would do against what another would, and policy gradients.

Discrete policies are logits [..., A]. Gaussian policies are [..., 2A]: the mean, then the logarithm
of the standard deviation of each coordinate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._common import check_logits, full_precision, log_probs

__all__ = [
    "entropy",
    "gaussian_entropy",
    "gaussian_kl",
    "gaussian_log_prob",
    "log_prob",
    "nll",
    "policy_kl",
    "surrogate",
    "whole",
]


def nll(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Negative log-likelihood of the teacher's best action: behavior cloning.

    .. math:: -\log q_{a^*}, \qquad a^* = \arg\max_a v_a

    Args:
        student: [..., A], logits.
        teacher: [..., A], logits.

    Returns:
        [...], in nats, at least 0.

    Raises:
        ValueError: shapes that do not fit.

    Reference:
        Rusu et al., *Policy distillation*, 2016.

    Example:
        >>> z = torch.zeros(1, 4)
        >>> nll(student=z, teacher=torch.tensor([[0.0, 3.0, 1.0, 2.0]]))
        tensor([1.3863])
    """
    check_logits("nll", student, teacher)
    log_q = log_probs(student, 1.0)
    best = teacher.argmax(-1, keepdim=True).expand(*log_q.shape[:-1], 1)
    values = -log_q.gather(-1, best).squeeze(-1)
    return values.masked_fill(teacher.isnan().any(-1), torch.nan)  # for argmax nan is the largest


def policy_kl(*, student: Tensor, teacher: Tensor, tau: float = 0.01) -> Tensor:
    r"""Divergence of the student from the sharpened teacher, who alone is divided by τ.

    .. math:: \mathrm{KL}\left(\mathrm{softmax}(v / \tau) \,\|\, \mathrm{softmax}(z)\right)

    Made for teachers whose outputs are action values, nearly equal for all actions: a small τ tells
    them apart. With τ → 0 it becomes :func:`nll`. For both sides at one temperature, as in
    classification, see :func:`distill_lib.losses.kl`.

    Args:
        student: [..., A], logits.
        teacher: [..., A], logits or action values.
        tau: τ > 0.

    Returns:
        [...], in nats, at least 0 up to rounding.

    Raises:
        ValueError: shapes that do not fit, a τ that is not positive.

    Reference:
        Rusu et al., *Policy distillation*, 2016.

    Example:
        >>> v = torch.tensor([[1.00, 1.02]])
        >>> policy_kl(student=torch.zeros(1, 2), teacher=v)
        tensor([0.3278])
    """
    check_logits("policy_kl", student, teacher)
    log_p, log_q = log_probs(teacher, tau), log_probs(student, 1.0)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _halves(name: str, gaussian: Tensor) -> tuple[Tensor, Tensor]:
    if gaussian.shape[-1] % 2:
        raise ValueError(
            f"{name} expected means and log standard deviations one after the other, an even "
            f"number on the last axis; got shape {list(gaussian.shape)}"
        )
    mean, log_std = full_precision(gaussian).chunk(2, -1)
    return mean, log_std


def gaussian_kl(*, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Divergence between diagonal Gaussians, in closed form.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_i \left[ \log \frac{\sigma^q_i}{\sigma^p_i}
       + \frac{(\sigma^p_i)^2 + (\mu^p_i - \mu^q_i)^2}{2 (\sigma^q_i)^2} - \frac12 \right]

    With equal and constant σ it is the squared error of the means over 2σ². A softmax over means,
    seen in some code, is blind to a shift that all coordinates share.

    Args:
        student: [..., 2A], means and log standard deviations.
        teacher: [..., 2A], likewise.

    Returns:
        [...], in nats, at least 0 up to rounding.

    Raises:
        ValueError: shapes that do not fit, an odd last axis.

    Reference:
        Kullback, *Information theory and statistics*, 1959.

    Example:
        >>> p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> gaussian_kl(student=q, teacher=p)
        tensor([0.5000])
    """
    check_logits("gaussian_kl", student, teacher)
    mean_q, log_q = _halves("gaussian_kl", student)
    mean_p, log_p = _halves("gaussian_kl", teacher)
    ratio = 2 * (log_p - log_q)
    return 0.5 * (ratio.exp() - 1 - ratio + ((mean_p - mean_q) * (-log_q).exp()) ** 2).sum(-1)


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """Log-probability of discrete actions.

    Args:
        logits: [..., A].
        actions: [...], integers.

    Returns:
        [...], in nats.

    Example:
        >>> log_prob(torch.zeros(1, 4), torch.tensor([2]))
        tensor([-1.3863])
    """
    return log_probs(logits, 1.0).gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)


def gaussian_log_prob(gaussian: Tensor, actions: Tensor) -> Tensor:
    r"""Log-density of real actions.

    .. math:: \sum_i \left[ -\tfrac12 \left(\tfrac{a_i - \mu_i}{\sigma_i}\right)^2
       - \log \sigma_i - \tfrac12 \log 2\pi \right]

    Args:
        gaussian: [..., 2A].
        actions: [..., A].

    Returns:
        [...], in nats.

    Example:
        >>> gaussian_log_prob(torch.zeros(1, 2), torch.zeros(1, 1))
        tensor([-0.9189])
    """
    mean, log_std = _halves("gaussian_log_prob", gaussian)
    z = (actions - mean) * (-log_std).exp()
    return (-0.5 * z * z - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    r"""Entropy of a discrete policy.

    .. math:: H(q) = -\sum_a q_a \log q_a

    Args:
        logits: [..., A].

    Returns:
        [...], in nats.

    Example:
        >>> entropy(torch.zeros(1, 4))
        tensor([1.3863])
    """
    log_q = log_probs(logits, 1.0)
    return -(log_q.exp() * log_q).sum(-1)


def gaussian_entropy(gaussian: Tensor) -> Tensor:
    r"""Entropy of a Gaussian policy.

    .. math:: H = \sum_i \left[ \log \sigma_i + \tfrac12 \log 2 \pi e \right]

    Args:
        gaussian: [..., 2A].

    Returns:
        [...], in nats.

    Example:
        >>> gaussian_entropy(torch.zeros(1, 2))
        tensor([1.4189])
    """
    _, log_std = _halves("gaussian_entropy", gaussian)
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def whole(values: Tensor, items: Tensor) -> Tensor:
    r"""What independent heads say together, one number an item.

    .. math:: \log \pi(a \mid s) = \sum_i \log \pi_i(a_i \mid s), \qquad
       H(\pi) = \sum_i H(\pi_i)

    Args:
        values: [..., A], logarithmic probabilities or entropies of A heads, or [...] of one.
        items: [...], anything with one number an item.

    Returns:
        [...], the sum over the heads; what has one number an item already is left alone.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> whole(entropy(torch.zeros(1, 2, 4)), torch.zeros(1))
        tensor([2.7726])
    """
    if values.shape == items.shape:
        return values
    if values.ndim != items.ndim + 1 or values.shape[:-1] != items.shape:
        raise ValueError(
            f"values of shape {list(values.shape)} are neither one number for each of "
            f"{list(items.shape)} items nor one for each of their heads, [..., A]"
        )
    return values.sum(-1)


def surrogate(*, log_prob: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    r"""The clipped surrogate of proximal policy optimization, as a loss.

    .. math:: -\min\left(\rho A,\; \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon)\, A\right),
       \qquad \rho = \frac{\pi(a \mid s)}{\pi_{\text{old}}(a \mid s)}

    Args:
        log_prob: [...], of the actions under the policy that learns.
        old: [...], under the policy that acted.
        advantages: [...].
        clip: ε in (0, 1).

    Returns:
        [...].

    Raises:
        ValueError: an ε outside (0, 1).

    Reference:
        Schulman et al., *Proximal policy optimization algorithms*, 2017.

    Example:
        >>> one = torch.ones(1)
        >>> surrogate(log_prob=one, old=0 * one, advantages=one)
        tensor([-1.2000])
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip lies in (0, 1), got {clip}; 0.2 is usual")
    ratio = (full_precision(log_prob) - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
