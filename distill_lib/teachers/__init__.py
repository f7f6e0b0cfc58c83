"""Where targets come from: live models, answers on disk, answers in memory; one interface."""

from __future__ import annotations

from .cache import Cache, CacheError
from .live import EMA, Ensemble, Peers, Source, Teacher, fingerprint
from .recorded import Recorded

__all__ = [
    "EMA",
    "Cache",
    "CacheError",
    "Ensemble",
    "Peers",
    "Recorded",
    "Source",
    "Teacher",
    "fingerprint",
]
