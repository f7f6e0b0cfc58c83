r"""The losses of :mod:`distill_lib.losses` on arrays of JAX: the same values and gradients.

Keyword-only ``student=`` and ``teacher=``, a value per item, in log space; a class that is masked
with ``-inf`` on both sides costs nothing; half precision is computed in float32; the teacher may
lack leading axes of the student. They run under ``jit``, ``vmap`` and ``grad``. As there, they are
differentiable in both arguments: pass ``jax.lax.stop_gradient(teacher)``, or targets from a cache.
Each is the function of the same name in PyTorch, where formula and source are; the tests hold
values and gradients equal.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from torch import Tensor

from distill_lib.arguments import told
from distill_lib.losses._common import check_number

__all__ = [
    "bernoulli_kl",
    "channel_kl",
    "gaussian_kl",
    "jsd",
    "kl",
    "mse_logits",
    "policy_kl",
    "reverse_kl",
    "soft_cross_entropy",
    "tvd",
]

Rows = Array | np.ndarray[Any, Any]
Temperature = float | Array


def kl(*, student: Rows, teacher: Rows, temperature: Temperature = 1.0) -> Array:
    r"""Divergence of the softened student from the softened teacher; :func:`distill_lib.losses.kl`.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_i p_i \log \frac{p_i}{q_i}

    Args:
        student: [..., C], logits.
        teacher: [..., C], logits.
        temperature: :math:`T > 0`, a number or an array [..., 1].

    Returns:
        [...], in nats, at least 0 up to rounding.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive (a traced one is not
            looked at).
        TypeError: an argument that is no array of real numbers.

    Example:
        >>> float(kl(student=jnp.zeros(2), teacher=jnp.array([2.0, 0.0])).round(4))
        0.3278000056743622
    """
    log_q, log_p = _both("kl", student, teacher, temperature)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def reverse_kl(*, student: Rows, teacher: Rows, temperature: Temperature = 1.0) -> Array:
    r"""Divergence of the softened teacher from the softened student.

    .. math:: \mathrm{KL}(q \,\|\, p) = \sum_i q_i \log \frac{q_i}{p_i}

    Arguments, result and errors are those of :func:`kl`; source:
    :func:`distill_lib.losses.reverse_kl`.
    """
    log_q, log_p = _both("reverse_kl", student, teacher, temperature)
    return (jnp.exp(log_q) * (log_q - log_p)).sum(-1)


def jsd(
    *,
    student: Rows,
    teacher: Rows,
    beta: float = 0.5,
    temperature: Temperature = 1.0,
    normalized: bool = False,
) -> Array:
    r"""Generalized Jensen–Shannon divergence.

    .. math:: D_\beta = \beta\, \mathrm{KL}(p \,\|\, m) + (1 - \beta)\, \mathrm{KL}(q \,\|\, m),
       \qquad m = \beta p + (1 - \beta) q

    Arguments, result and errors are those of :func:`distill_lib.losses.jsd`, which says what
    ``beta`` at an end and ``normalized`` mean.
    """
    _check_flag("jsd: normalized", normalized)
    hint = "0.5 is Jensen and Shannon's; kl and reverse_kl are the ends"
    check_number("jsd: beta", beta, "a number in [0, 1]", lambda number: 0 <= number <= 1, hint)
    if beta in (0, 1):
        limit = kl if beta == 0 else reverse_kl
        if not normalized:
            raise ValueError(
                f"jsd: at beta={beta:g} the divergence is 0 for every student, and so is its "
                f"gradient; use {limit.__name__}, or normalized=True, which tends to it"
            )
        return limit(student=student, teacher=teacher, temperature=temperature)
    log_q, log_p = _both("jsd", student, teacher, temperature)
    eps = float(np.finfo(log_q.dtype).eps)
    if normalized and not eps <= beta <= 1 - eps:  # nothing but rounding would be divided
        limit = kl if beta < eps else reverse_kl
        return limit(student=student, teacher=teacher, temperature=temperature)
    log_m = jnp.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    from_teacher = (jnp.exp(log_p) * (log_p - log_m)).sum(-1)
    from_student = (jnp.exp(log_q) * (log_q - log_m)).sum(-1)
    if normalized:
        return from_teacher / (1 - beta) + from_student / beta
    return beta * from_teacher + (1 - beta) * from_student


def soft_cross_entropy(*, student: Rows, teacher: Rows, temperature: Temperature = 1.0) -> Array:
    r"""Cross-entropy of the softened student under the softened teacher.

    .. math:: H(p, q) = -\sum_i p_i \log q_i

    Arguments, result and errors are those of :func:`kl`; source:
    :func:`distill_lib.losses.soft_cross_entropy`.
    """
    log_q, log_p = _both("soft_cross_entropy", student, teacher, temperature)
    return -(jnp.exp(log_p) * log_q).sum(-1)


def tvd(*, student: Rows, teacher: Rows, temperature: Temperature = 1.0) -> Array:
    r"""Total variation distance of the softened answers.

    .. math:: \mathrm{TV}(p, q) = \tfrac12 \sum_i |p_i - q_i|

    Arguments and errors are those of :func:`kl`, the result lies in [0, 1]; source:
    :func:`distill_lib.losses.tvd`.
    """
    log_q, log_p = _both("tvd", student, teacher, temperature)
    return jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)).sum(-1) / 2


def mse_logits(*, student: Rows, teacher: Rows, center: bool = False) -> Array:
    r"""Mean squared difference of the logits, without their means if ``center``.

    .. math:: \frac1C \sum_i (z_i - v_i)^2

    Errors are those of :func:`kl`; source: :func:`distill_lib.losses.mse_logits`.
    """
    _check_flag("mse_logits: center", center)
    z, v = _arrays("mse_logits", student, teacher)
    known = ~(jnp.isneginf(z) & jnp.isneginf(v))  # what both exclude costs nothing
    count = jnp.maximum(known.sum(-1, keepdims=True), 1)
    gap = jnp.where(known, z, 0.0) - jnp.where(known, v, 0.0)
    if center:
        gap = jnp.where(known, gap - gap.sum(-1, keepdims=True) / count, 0.0)
    return (jnp.square(gap) / count).sum(-1)


def bernoulli_kl(*, student: Rows, teacher: Rows, temperature: Temperature = 1.0) -> Array:
    r"""Divergence of independent yes-or-no answers, a mean over the labels.

    .. math:: \frac1C \sum_i \left[ p_i \log \frac{p_i}{q_i}
       + (1 - p_i) \log \frac{1 - p_i}{1 - q_i} \right],
       \qquad p_i = \sigma(v_i / T),\; q_i = \sigma(z_i / T)

    Arguments, result and errors are those of :func:`kl`; source:
    :func:`distill_lib.losses.bernoulli_kl`.
    """
    arrays = _arrays("bernoulli_kl", student, teacher)
    z, v = (_soften(x, temperature) for x in arrays)
    # an infinite logit is a sure answer: finite, so that 0 · log 0 is 0
    z, v = (jnp.clip(x, _floor(x), -_floor(x)) for x in (z, v))
    yes = jax.nn.sigmoid(v) * (jax.nn.log_sigmoid(v) - jax.nn.log_sigmoid(z))
    no = jax.nn.sigmoid(-v) * (jax.nn.log_sigmoid(-v) - jax.nn.log_sigmoid(-z))
    return (yes + no).mean(-1)


def channel_kl(*, student: Rows, teacher: Rows, temperature: Temperature = 1.0) -> Array:
    r"""A softmax over the positions of each channel, channels *first*, as in PyTorch.

    .. math:: \frac1C \sum_c \mathrm{KL}(p_c \,\|\, q_c)

    Args:
        student: [B, C, H, W], or with any number of axes of positions; of channels-last maps pass
            ``jnp.moveaxis(x, -1, 1)``.
        teacher: Of the same shape.
        temperature: :math:`T > 0`.

    Returns:
        [B], in nats a channel. See :func:`distill_lib.losses.channel_kl`.

    Raises:
        ValueError: shapes that differ or have no positions.
    """
    z, v = _arrays("channel_kl", student, teacher)
    if z.ndim < 3 or z.shape != v.shape or math.prod(z.shape[2:]) < 2:
        raise ValueError(
            "channel_kl expected maps [B, C, H, W] of one shape with at least two positions, got "
            f"student {list(z.shape)} and teacher {list(v.shape)}"
        )
    z, v = (x.reshape(*x.shape[:2], -1) for x in (z, v))
    return kl(student=z, teacher=v, temperature=temperature).mean(-1)


def policy_kl(*, student: Rows, teacher: Rows, tau: Temperature = 0.01) -> Array:
    r"""Divergence of the student from the sharpened teacher, who alone is divided by τ.

    .. math:: \mathrm{KL}\left(\mathrm{softmax}(v / \tau) \,\|\, \mathrm{softmax}(z)\right)

    Arguments, result and errors are those of :func:`kl`; source:
    :func:`distill_lib.losses.policy_kl`.
    """
    z, v = _arrays("policy_kl", student, teacher)
    log_p, log_q = _log_probs(v, tau), _log_probs(z, 1.0)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def gaussian_kl(*, student: Rows, teacher: Rows) -> Array:
    r"""Divergence between diagonal Gaussians [..., 2A]: means, then log standard deviations.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_i \left[ \log \frac{\sigma^q_i}{\sigma^p_i}
       + \frac{(\sigma^p_i)^2 + (\mu^p_i - \mu^q_i)^2}{2 (\sigma^q_i)^2} - \frac12 \right]

    Result and errors are those of :func:`kl`; source: :func:`distill_lib.losses.gaussian_kl`.

    Raises:
        ValueError: an odd last axis.
    """
    q, p = _arrays("gaussian_kl", student, teacher)
    if q.shape[-1] % 2:
        raise ValueError(
            "gaussian_kl expected means and log standard deviations one after the other, an even "
            f"number on the last axis; got shape {list(q.shape)}"
        )
    (mean_q, log_q), (mean_p, log_p) = (jnp.split(x, 2, -1) for x in (q, p))
    ratio = 2 * (log_p - log_q)
    return 0.5 * (jnp.exp(ratio) - 1 - ratio + ((mean_p - mean_q) * jnp.exp(-log_q)) ** 2).sum(-1)


# ---- checks, and safe arithmetic ----


def _both(name: str, student: Rows, teacher: Rows, temperature: Temperature) -> tuple[Array, Array]:
    z, v = _arrays(name, student, teacher)
    return _log_probs(z, temperature), _log_probs(v, temperature)


def _arrays(name: str, student: Any, teacher: Any) -> tuple[Array, Array]:
    """Student and teacher as arrays in full precision, once their shapes fit."""
    for who, x in (("student", student), ("teacher", teacher)):
        if isinstance(x, Tensor):
            raise TypeError(
                f"{name} expected arrays, got a torch tensor as {who}; pass {who}.detach().numpy(),"
                " or ask a teacher through distill_lib.integrations.jax.targets"
            )
        if not isinstance(x, (jax.Array, np.ndarray)):
            raise TypeError(f"{name} expected arrays, got {told(x)} as {who}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{name} expected real numbers, got {list(x.shape)} of {x.dtype} as {who}; if they "
                "are labels, use a cross-entropy, else call .astype(float)"
            )
    mine, theirs = student.shape, teacher.shape
    lacking = 0 < len(theirs) < len(mine) and mine[-len(theirs) :] == theirs
    if not mine or not (mine == theirs or lacking):
        raise ValueError(
            f"{name}: student logits {list(mine)} and teacher logits {list(theirs)} do not fit; "
            "show both the same batch and the same classes (nothing is padded, cut or broadcast). "
            "If one teacher answer serves several students, leave out its leading axes only"
        )
    return _full(student), _full(teacher)


def _full(x: Rows) -> Array:
    array = jnp.asarray(x)
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array


def _floor(x: Array) -> float:
    """Stands for log 0: finite, so that 0 · log 0 is 0."""
    return float(np.finfo(x.dtype).min) / 2


def _log_probs(logits: Array, temperature: Temperature) -> Array:
    logits = _soften(logits, temperature)
    return jax.nn.log_softmax(jnp.maximum(logits, _floor(logits)), -1)


def _soften(logits: Array, temperature: Any) -> Array:
    shape = np.shape(temperature)
    pairs = zip(reversed(shape), reversed(logits.shape), strict=False)
    broadcast = len(shape) > logits.ndim or any(mine not in (1, n) for mine, n in pairs)
    if shape and (shape[-1] != 1 or broadcast):
        raise ValueError(
            f"temperature of shape {list(shape)} does not fit logits {list(logits.shape)}; give a "
            "number, or one an item, of shape [..., 1]"
        )
    if isinstance(temperature, jax.core.Tracer):
        return logits / temperature  # its value is known only when the program runs
    if isinstance(temperature, (jax.Array, np.ndarray)):
        for number in np.unique(np.asarray(temperature, float)).tolist():
            _check_temperature(number)
        return logits / jnp.asarray(temperature, logits.dtype)
    _check_temperature(temperature)
    return logits if temperature == 1 else logits / temperature


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is True or False, got {told(value)}")


def _check_temperature(value: Any) -> None:
    wanted, hint = "a number > 0", "1 leaves logits alone"
    check_number("temperature", value, wanted, lambda number: 0 < number < math.inf, hint)
