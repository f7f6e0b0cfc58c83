"""What one answer costs against another: pure functions, a value per item.

Every function takes ``student=`` and ``teacher=`` by keyword, so that nobody can swap them, and
reduces over the class or feature axes only: means over a batch, masks, weights and the factor
:math:`T^2` belong to :class:`distill_lib.Objective`. The functions are differentiable in both
arguments; that no gradient reaches a teacher is the promise of :class:`distill_lib.Teacher` and of
the terms, not theirs. Half precision is computed in float32; float64 stays float64.
"""

from __future__ import annotations

from . import policy as policy
from ._common import full_precision
from .features import (
    attention_transfer,
    cosine,
    hint,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity,
)
from .fused import fused_divergence
from .policy import gaussian_kl, nll, policy_kl
from .response import (
    bernoulli_kl,
    channel_kl,
    jsd,
    kl,
    reverse_kl,
    soft_cross_entropy,
    tvd,
)
from .spans import align, span_kl, span_sums
from .structure import dist, dkd, mse_logits, standardize
from .transformer import attention, attention_kl, attention_scores, minilm_relation
from .vocabulary import sparse_divergence, top_k, uld

__all__ = [
    "align",
    "attention",
    "attention_kl",
    "attention_scores",
    "attention_transfer",
    "bernoulli_kl",
    "channel_kl",
    "cosine",
    "dist",
    "dkd",
    "full_precision",
    "fused_divergence",
    "gaussian_kl",
    "hint",
    "jsd",
    "kl",
    "minilm_relation",
    "mse_logits",
    "nll",
    "pkt",
    "policy_kl",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "similarity",
    "soft_cross_entropy",
    "span_kl",
    "span_sums",
    "sparse_divergence",
    "standardize",
    "top_k",
    "tvd",
    "uld",
]


def __dir__() -> list[str]:
    return __all__
