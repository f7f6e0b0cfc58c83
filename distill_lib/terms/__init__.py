"""Terms of an objective, a file a family."""

from __future__ import annotations

from .adversarial import Adversarial
from .answers import DKD, KD
from .contrast import CRD
from .features import Match, Relation
from .labels import BCE, CE, Label
from .policy import PPO, Consistency, Entropy, Surrogate, Value
from .projectors import fit_projectors
from .sequences import LogRatio
from .spans import SpanKD
from .transformer import initialize, layer_map, tinybert
from .vocabulary import FusedKD, SparseKD, hidden_and_head

__all__ = [
    "BCE",
    "CE",
    "CRD",
    "DKD",
    "KD",
    "PPO",
    "Adversarial",
    "Consistency",
    "Entropy",
    "FusedKD",
    "Label",
    "LogRatio",
    "Match",
    "Relation",
    "SpanKD",
    "SparseKD",
    "Surrogate",
    "Value",
    "fit_projectors",
    "hidden_and_head",
    "initialize",
    "layer_map",
    "tinybert",
]


def __dir__() -> list[str]:
    return __all__
