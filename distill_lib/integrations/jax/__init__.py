"""JAX: our divergences as functions of arrays, and teachers and students across frameworks.

Needs ``jax``, which is imported with this package and not before. Tried with 0.4.33,
which DreamerV3 pins, and 0.10.
"""

from __future__ import annotations

from importlib.util import find_spec

from distill_lib.extras import missing

if find_spec("jax") is None:
    raise missing(__name__, "jax")

from .across import JaxTeacher, targets
from .divergences import (
    bernoulli_kl,
    channel_kl,
    gaussian_kl,
    jsd,
    kl,
    mse_logits,
    policy_kl,
    reverse_kl,
    soft_cross_entropy,
    tvd,
)
from .writes import check_frozen, written

__all__ = [
    "JaxTeacher",
    "bernoulli_kl",
    "channel_kl",
    "check_frozen",
    "gaussian_kl",
    "jsd",
    "kl",
    "mse_logits",
    "policy_kl",
    "reverse_kl",
    "soft_cross_entropy",
    "targets",
    "tvd",
    "written",
]


def __dir__() -> list[str]:
    return __all__
