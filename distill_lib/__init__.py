"""distill_lib: knowledge distillation for vision, language and control, one notion of an objective.

The public names are listed in ``__all__``. They are imported on first use, so that
``import distill_lib`` costs what ``import torch`` costs, and nothing more.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = (
    *("losses", "schedules", "signals", "teachers", "checkpoints", "data", "fusion", "models"),
    *("sequences", "zoo"),
)
# these need packages of an extra, so that `from distill_lib import *` leaves them out
_EXTRAS = ("rl", "compress")
_HOMES = {
    "linear": "schedules",
    "cosine": "schedules",
    "exp": "schedules",
    "steps": "schedules",
    "piecewise": "schedules",
    "warmup": "schedules",
    "Schedule": "schedules",
    "capture": "signals",
    "Teacher": "teachers.live",
    "Ensemble": "teachers.ensemble",
    "EMA": "teachers.live",
    "BaseOf": "teachers.adapters",
    "Peers": "teachers.peers",
    "Cache": "teachers.cache",
    "Recorded": "teachers.recorded",
    "Stacked": "stacked",
    "Objective": "objective",
    "Term": "objective",
    "BCE": "terms.labels",
    "CE": "terms.labels",
    "Label": "terms.labels",
    "KD": "terms.answers",
    "DKD": "terms.answers",
    "Adversarial": "terms.adversarial",
    "LogRatio": "terms.sequences",
    "Match": "terms.features",
    "Relation": "terms.features",
    "PPO": "terms.policy",
    "Consistency": "terms.policy",
    "fit_projectors": "terms.transformer",
    "initialize": "terms.transformer",
    "layer_map": "terms.transformer",
    "tinybert": "terms.transformer",
    "distill": "training.loop",
    "History": "training.history",
    "evaluate": "evaluation",
    "agreement": "evaluation",
    "sanity": "evaluation",
    "aligned": "masks.tokens",
}

__all__ = [
    "BCE",
    "CE",
    "DKD",
    "EMA",
    "KD",
    "PPO",
    "Adversarial",
    "BaseOf",
    "Cache",
    "Consistency",
    "Ensemble",
    "History",
    "Label",
    "LogRatio",
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
    "aligned",
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
    "models",
    "piecewise",
    "sanity",
    "schedules",
    "sequences",
    "signals",
    "steps",
    "teachers",
    "tinybert",
    "warmup",
    "zoo",
]

if TYPE_CHECKING:
    from . import checkpoints, data, losses, schedules, sequences, signals, zoo
    from .evaluation import agreement, evaluate, sanity
    from .fusion import combine as fusion
    from .objective import Objective, Term
    from .schedules import Schedule, cosine, exp, linear, piecewise, steps, warmup
    from .signals import capture
    from .stacked import Stacked
    from .teachers import live as teachers
    from .teachers.adapters import BaseOf
    from .teachers.cache import Cache
    from .teachers.ensemble import Ensemble
    from .teachers.live import EMA, Teacher
    from .teachers.peers import Peers
    from .teachers.recorded import Recorded
    from .terms.adversarial import Adversarial
    from .terms.answers import DKD, KD
    from .terms.features import Match, Relation
    from .terms.labels import BCE, CE, Label
    from .terms.policy import PPO, Consistency
    from .terms.sequences import LogRatio
    from .terms.transformer import fit_projectors, initialize, layer_map, tinybert
    from .training.loop import History, distill


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
    return sorted([*__all__, *_EXTRAS])
