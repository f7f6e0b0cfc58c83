"""Where targets come from: live models, answers on disk, answers in memory; one interface."""

from __future__ import annotations

from .cache import Cache, CacheError
from .live import EMA, Ensemble, Source, Teacher, fingerprint
from .peers import Peers
from .recorded import Recorded
from .sb3 import SB3Policy

__all__ = [
    "EMA",
    "Cache",
    "CacheError",
    "Ensemble",
    "Peers",
    "Recorded",
    "SB3Policy",
    "Source",
    "Teacher",
    "fingerprint",
]
