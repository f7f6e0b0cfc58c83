"""One place through which every seed of a page goes, so that all of them can be shifted at once.

With the environment variable ``DISTILL_SEED_SHIFT`` set to ``n``, :func:`shift_seeds` makes each
generator that is seeded afterwards (of torch, NumPy, ``random``, Gymnasium and what seeds through
them) begin as if its seed were larger by ``n``. A page stays as it is, ``torch.manual_seed(0)``,
and can be run under other seeds; ``make stress`` does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

__all__ = ["shift_seeds"]

VARIABLE = "DISTILL_SEED_SHIFT"
_shifted = False


def shift_seeds() -> int:
    """Shift the seeds of this process by ``DISTILL_SEED_SHIFT``, once; returns the shift.

    Raises:
        ValueError: The variable holds something else than a whole number that is not negative.
    """
    text = os.environ.get(VARIABLE, "").strip() or "0"
    if not text.isdecimal():
        raise ValueError(f"{VARIABLE}={text!r}: expected a whole number, 0 or larger.")
    shift = int(text)
    global _shifted
    if shift and not _shifted:
        _shifted = True
        _patch(shift)
    return shift


def _patch(by: int) -> None:
    import numpy as np
    import torch

    def moved(seed: Any) -> Any:
        return seed + by if isinstance(seed, int | np.integer) else seed

    def first(seeded: Callable[..., Any]) -> Callable[..., Any]:
        def call(seed: Any = None, *args: Any, **kwargs: Any) -> Any:
            return seeded(moved(seed), *args, **kwargs)

        return call

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(moved(seed))

    class SeedSequence(np.random.SeedSequence):
        def __init__(self, entropy: Any = None, **kwargs: Any) -> None:
            super().__init__(moved(entropy), **kwargs)

    class RandomState(np.random.RandomState):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(moved(seed))

    seed_all, default_rng, legacy, standard = (
        torch.manual_seed,
        np.random.default_rng,
        np.random.seed,
        random.seed,
    )
    torch.manual_seed = torch.random.manual_seed = first(seed_all)
    torch.Generator = Generator  # type: ignore[misc]
    np.random.default_rng = first(default_rng)
    np.random.seed = first(legacy)
    np.random.SeedSequence = SeedSequence  # type: ignore[misc]
    np.random.RandomState = RandomState  # type: ignore[misc]
    random.seed = first(standard)
