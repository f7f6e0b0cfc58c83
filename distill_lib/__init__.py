"""distill_lib: knowledge distillation for vision, language and control, one notion of an objective.

The public names are listed in ``__all__``. They are imported on first use, so that
``import distill_lib`` costs what ``import torch`` costs, and nothing more.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = ("losses", "schedules", "signals", "teachers", "checkpoints", "data", "fusion", "zoo")
# these need packages of an extra, so that `from distill_lib import *` leaves them out
_EXTRAS = ("rl", "compress")
_HOMES = {
    "linear": "schedules",
    "cosine": "schedules",
    "exp": "schedules",
    "steps": "schedules",
    "Schedule": "schedules",
    "capture": "signals",
    "Teacher": "teachers",
    "Ensemble": "teachers",
    "EMA": "teachers",
    "Peers": "teachers",
    "Cache": "cache",
    "Recorded": "recorded",
    "Stacked": "stacked",
    "Objective": "objective",
    "Term": "objective",
    "CE": "terms",
    "KD": "terms",
    "DKD": "terms",
    "Match": "terms",
    "Relation": "terms",
    "PPO": "policy_terms",
    "Consistency": "policy_terms",
    "fit_projectors": "transformer_terms",
    "initialize": "transformer_terms",
    "layer_map": "transformer_terms",
    "tinybert": "transformer_terms",
    "distill": "training",
    "History": "training",
    "evaluate": "evaluation",
    "agreement": "evaluation",
    "sanity": "evaluation",
}

__all__ = [
    "CE",
    "DKD",
    "EMA",
    "KD",
    "PPO",
    "Cache",
    "Consistency",
    "Ensemble",
    "History",
    "Match",
    "Objective",
    "Peers",
    "Recorded",
    "Relation",
    "Schedule",
    "Stacked",
    "Teacher",
    "Term",
    "agreement",
    "capture",
    "checkpoints",
    "cosine",
    "data",
    "distill",
    "evaluate",
    "exp",
    "fit_projectors",
    "fusion",
    "initialize",
    "layer_map",
    "linear",
    "losses",
    "sanity",
    "schedules",
    "signals",
    "steps",
    "teachers",
    "tinybert",
    "zoo",
]

if TYPE_CHECKING:
    from . import checkpoints, data, fusion, losses, schedules, signals, teachers, zoo
    from .cache import Cache
    from .evaluation import agreement, evaluate, sanity
    from .objective import Objective, Term
    from .policy_terms import PPO, Consistency
    from .recorded import Recorded
    from .schedules import Schedule, cosine, exp, linear, steps
    from .signals import capture
    from .stacked import Stacked
    from .teachers import EMA, Ensemble, Peers, Teacher
    from .terms import CE, DKD, KD, Match, Relation
    from .training import History, distill
    from .transformer_terms import fit_projectors, initialize, layer_map, tinybert


def __getattr__(name: str) -> object:
    if name in (*_MODULES, *_EXTRAS):
        return importlib.import_module(f".{name}", __name__)
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(
        f"distill_lib has no {name!r}; it has {', '.join(sorted([*_MODULES, *_EXTRAS, *_HOMES]))}"
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_EXTRAS, *_HOMES})
