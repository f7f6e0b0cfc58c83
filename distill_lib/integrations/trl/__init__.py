"""TRL: its trainers that let the student write, with an objective and any teacher of ours.

- :class:`DistillationTrainer` is TRL's stable one: always on the student's own words.
- :class:`GKDTrainer` is the experimental one: a mixture of the corpus', the student's and, with
  ``seq_kd``, the teacher's words.

What TRL lacks are expressions here. Each is run by ``tests/integrations/test_trl_recipes.py``:

====================  ==========================================================================
classes, regression   ``0.5 * CE() + 0.5 * KD(temperature=2)`` in the ``DistillationTrainer`` of
                      :mod:`distill_lib.integrations.transformers`, which needs no TRL
sequence level        ``CE()`` with ``GKDConfig(seq_kd=True, lmbda=0)``, where TRL has a JSD
several teachers      ``teacher=Ensemble([one, other])``
hidden layers         ``KD() + Match("hidden_states/1", project=nn.LazyLinear(width))``
adversarial           ``KD() + 0.1 * Adversarial(discriminator, on="hidden_states/-1")``
====================  ==========================================================================

Messages are rendered with the student's chat template, and the teacher reads the result:
:func:`check_templates` says whether it is what the teacher was trained with.

Needs ``trl``, which is imported with the first of the trainers and not before. Tried with 1.16.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOMES = {"DistillationTrainer": "stable", "GKDTrainer": "gkd", "check_templates": "templates"}

__all__ = ["DistillationTrainer", "GKDTrainer", "check_templates"]


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from .gkd import GKDTrainer
    from .stable import DistillationTrainer
    from .templates import check_templates


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"{__name__} has no {name!r}; it has {', '.join(__all__)}")
