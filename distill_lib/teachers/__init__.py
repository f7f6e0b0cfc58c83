"""Where targets come from: live models, answers on disk, answers in memory; one interface."""

from __future__ import annotations

from .adapters import BaseOf
from .cache import Cache, CacheError
from .ensemble import Ensemble
from .live import EMA, Source, Teacher, fingerprint
from .peers import Peers
from .recorded import Recorded
from .sb3 import SB3Policy
from .served import Served, ServedError
from .sparse import TopK

__all__ = [
    "EMA",
    "BaseOf",
    "Cache",
    "CacheError",
    "Ensemble",
    "Peers",
    "Recorded",
    "SB3Policy",
    "Served",
    "ServedError",
    "Source",
    "Teacher",
    "TopK",
    "fingerprint",
]


def __dir__() -> list[str]:
    return __all__
