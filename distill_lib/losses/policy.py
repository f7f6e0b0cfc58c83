r"""Losses on policies: what one actor would do against what another would, and policy gradients.

Discrete policies are logits [..., A]. Gaussian policies are [..., 2A]: the mean, then the logarithm
of the standard deviation of each coordinate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import told

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
    gaussian = full_precision(gaussian)
    if not gaussian.ndim or gaussian.shape[-1] % 2:
        raise ValueError(
            f"{name} expected means and log standard deviations one after the other, an even "
            f"number on the last axis; got shape {list(gaussian.shape)}"
        )
    mean, log_std = gaussian.chunk(2, -1)
    return mean, log_std


def _logits(name: str, logits: Tensor) -> Tensor:
    """Logarithmic probabilities [..., A] of what is looked at first."""
    if not full_precision(logits).is_floating_point() or not logits.ndim:
        raise TypeError(f"{name} expected logits [..., A] of real numbers, got {told(logits)}")
    return log_probs(logits, 1.0)


def _of_shape(name: str, actions: Any, shape: torch.Size, said: Tensor) -> Tensor:
    """Actions as a tensor, one for each that the policy speaks of; nothing is broadcast or cut."""
    try:
        found = torch.as_tensor(actions, device=said.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} expected a tensor of actions, got {told(actions)}") from error
    if found.shape != shape:
        raise ValueError(
            f"{name} expected actions {list(shape)} of a policy that says {list(said.shape)}, got "
            f"{list(found.shape)}: show both the same items; an axis of one is taken off by "
            "squeeze(-1) and added by unsqueeze(-1)"
        )
    return found


def like(name: str, values: Any, said: Tensor) -> Tensor:
    """Numbers of a batch beside what a policy says of it: one an item, in the same axes.

    Args:
        name: For the message.
        values: A tensor, an array or a list; it may lack leading axes, as one batch of several
            students does.
        said: [...].

    Raises:
        TypeError: no numbers.
        ValueError: another shape, such as [B, 1] beside [B], of which [B, B] would be made.

    Example:
        >>> like("returns", [1.0, 2.0], torch.zeros(2))
        tensor([1., 2.])
    """
    try:
        found = torch.as_tensor(values, device=said.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} expected one number an item, got {told(values)}") from error
    if found.shape != said.shape[max(said.ndim - found.ndim, 0) :]:
        raise ValueError(
            f"{name} {list(found.shape)} beside {list(said.shape)} of the student: both are one "
            "number an item, in the same axes; a last axis of one is taken off by squeeze(-1)"
        )
    return found


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
        actions: [...], integers from 0 to A - 1.

    Returns:
        [...], in nats.

    Raises:
        TypeError: logits that are no real numbers.
        ValueError: actions of another shape, that are not whole, or that are not there.

    Example:
        >>> log_prob(torch.zeros(1, 4), torch.tensor([2]))
        tensor([-1.3863])
    """
    log_q = _logits("log_prob", logits)
    found = _of_shape("log_prob", actions, log_q.shape[:-1], log_q)
    if found.is_floating_point() and bool((found != found.round()).any()):  # nan too
        raise ValueError(
            f"log_prob expected whole numbers of discrete actions, got {told(found)}; real actions "
            "have gaussian_log_prob"
        )
    try:
        return log_q.gather(-1, found.long().unsqueeze(-1)).squeeze(-1)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"log_prob expected actions from 0 to {log_q.shape[-1] - 1}, got some from "
            f"{int(found.min())} to {int(found.max())}; take off the start of the action space"
        ) from error


def gaussian_log_prob(gaussian: Tensor, actions: Tensor) -> Tensor:
    r"""Log-density of real actions.

    .. math:: \sum_i \left[ -\tfrac12 \left(\tfrac{a_i - \mu_i}{\sigma_i}\right)^2
       - \log \sigma_i - \tfrac12 \log 2\pi \right]

    Args:
        gaussian: [..., 2A].
        actions: [..., A].

    Returns:
        [...], in nats.

    Raises:
        ValueError: an odd last axis, or actions of another shape.

    Example:
        >>> gaussian_log_prob(torch.zeros(1, 2), torch.zeros(1, 1))
        tensor([-0.9189])
    """
    mean, log_std = _halves("gaussian_log_prob", gaussian)
    z = (_of_shape("gaussian_log_prob", actions, mean.shape, gaussian) - mean) * (-log_std).exp()
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
    log_q = _logits("entropy", logits)
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
        ValueError: an ε outside (0, 1), or shapes that differ.

    Reference:
        Schulman et al., *Proximal policy optimization algorithms*, 2017.

    Example:
        >>> one = torch.ones(1)
        >>> surrogate(log_prob=one, old=0 * one, advantages=one)
        tensor([-1.2000])
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip lies in (0, 1), got {clip}; 0.2 is usual")
    old, advantages = like("old", old, log_prob), like("advantages", advantages, log_prob)
    change = full_precision(log_prob) - old
    # what is cut is not computed: e¹ > 1 + ε, and of an infinite ratio the gradient would be nan
    ratio = torch.where(advantages < 0, change, change.clamp_max(1.0)).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
