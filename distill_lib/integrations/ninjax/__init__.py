"""Ninjax: a pretrained vision transformer as a frozen encoder, in three ways.

Needs ``jax``, ``flax`` and ``ninjax`` (3.0 or later), which are imported with this package and not
before. Tried with jax 0.4.33 and 0.10, flax 0.10 and 0.12, ninjax 3.6, and with DreamerV3 3.3.
Whether the encoder stays as it is, is asked with
:func:`distill_lib.integrations.jax.check_frozen`.
"""

from __future__ import annotations

from importlib.util import find_spec

from distill_lib.extras import missing

if lacking := [name for name in ("jax", "flax", "ninjax") if find_spec(name) is None]:
    raise missing(__name__, *lacking)

from .modules import constructed, injected, postinit, put
from .vit import ViT, read_vit

__all__ = ["ViT", "constructed", "injected", "postinit", "put", "read_vit"]


def __dir__() -> list[str]:
    return __all__
