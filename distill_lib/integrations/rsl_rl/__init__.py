"""RSL-RL, the trainer of Isaac Lab: its environments, its checkpoints, its runner.

- :class:`GymVecEnv` shows RSL-RL any Gymnasium vector environment.
- :func:`read_policy` and :func:`load_teacher` read the checkpoints of RSL-RL 2 to 5;
  :func:`read_env` tells what such a policy saw and commanded in Isaac Lab;
  :func:`write_policy` writes a student for RSL-RL's own runner, and so for Isaac Lab's ``play.py``.
- :class:`Distillation` is a drop-in for RSL-RL's algorithm of that name that minimizes an
  :class:`~distill_lib.Objective`; :class:`Kickstarting` adds one to its PPO.
- :class:`Adapter` lets a student meet a teacher with other observations or actions.

Reading checkpoints needs torch only; the environment and the algorithm need ``rsl-rl-lib`` 5.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOMES = {
    "ActionTerm": "envterms",
    "Adapter": "adapter",
    "Command": "envterms",
    "Distillation": "algorithm",
    "EnvSettings": "envfile",
    "GymVecEnv": "env",
    "Kickstarting": "kickstart",
    "ObservationTerm": "envterms",
    "Pendula": "pendula",
    "SavedPolicy": "layouts",
    "check_spaces": "adapter",
    "fill": "models",
    "give_teacher": "models",
    "load_model": "models",
    "load_teacher": "layouts",
    "play": "models",
    "read_env": "envfile",
    "read_policy": "layouts",
    "upgrade": "layouts",
    "write_policy": "models",
}

__all__ = [
    "ActionTerm",
    "Adapter",
    "Command",
    "Distillation",
    "EnvSettings",
    "GymVecEnv",
    "Kickstarting",
    "ObservationTerm",
    "Pendula",
    "SavedPolicy",
    "check_spaces",
    "fill",
    "give_teacher",
    "load_model",
    "load_teacher",
    "play",
    "read_env",
    "read_policy",
    "upgrade",
    "write_policy",
]


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from .adapter import Adapter, check_spaces
    from .algorithm import Distillation
    from .env import GymVecEnv
    from .envfile import EnvSettings, read_env
    from .envterms import ActionTerm, Command, ObservationTerm
    from .kickstart import Kickstarting
    from .layouts import SavedPolicy, load_teacher, read_policy, upgrade
    from .models import fill, give_teacher, load_model, play, write_policy
    from .pendula import Pendula


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"{__name__} has no {name!r}; it has {', '.join(__all__)}")
