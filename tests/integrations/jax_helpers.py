"""JAX and what lies on it; tests that import this are skipped where it is not installed."""

from __future__ import annotations

from typing import Any

import pytest

REASON = "JAX is not installed; it is in the extra jax: python make.py setup"

jax: Any = pytest.importorskip("jax", reason=REASON)
jnp: Any = pytest.importorskip("jax.numpy", reason=REASON)
optax: Any = pytest.importorskip("optax", reason=REASON)
nn: Any = pytest.importorskip("flax.linen", reason=REASON)
nj: Any = pytest.importorskip("ninjax", reason=REASON)
