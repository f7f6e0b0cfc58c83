"""What Isaac Lab writes beside a checkpoint of RSL-RL and its weights do not tell."""

from __future__ import annotations

import re
from pathlib import Path

from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations.settings import agree, inside, settings_of

__all__ = ["activation_of", "distribution_of", "require_deviation", "require_one_each"]

PLAIN = "GaussianDistribution"  # the one whose network says a number for each action
DRAWN = ("actor", "student")  # RSL-RL draws their actions, so that they have a deviation
WAY_OUT = (
    "A policy of the zoo cannot say that. Give the teacher of a runner the distribution_cfg of its "
    "training, and load it with give_teacher(runner, path) or teacher_file"
)


def activation_of(path: str | Path, role: str, given: str | None) -> str:
    """The activation of a network: as given, or from ``params/agent.yaml`` beside the checkpoint.

    Raises:
        CheckpointError: nothing says it, or two say two things.
    """
    file, written = settings_of(path, given)
    # since RSL-RL 4 a section for each network, before that one for all
    said = (inside(written, place, "activation") for place in (role, "policy"))
    told = next((name.lower() for name in said if isinstance(name, str)), None)
    return agree(path, file, role, told, given)


def distribution_of(path: str | Path, role: str) -> str | None:
    """The class of a network's distribution in ``params/agent.yaml``, where that names one."""
    if not Path(path).is_file():  # what others have read
        return None
    written = settings_of(path, "given")[1]
    for place in (role, "policy"):
        name = inside(written, place, "distribution_cfg", "class_name")
        if isinstance(name, str):
            return re.split("[.:]", name)[-1]
        if str(inside(written, place, "state_dependent_std")).lower() == "true":  # RSL-RL 3 and 4
            return "HeteroscedasticGaussianDistribution"
    return None


def require_one_each(path: str | Path, role: str, outputs: int) -> None:
    """Refuse a network without a deviation where its settings name a distribution that makes one.

    Raises:
        CheckpointError: the network says more than a number for each action.
    """
    if (name := distribution_of(path, role)) not in (None, PLAIN):
        raise CheckpointError(
            f"params/agent.yaml says that the {role} has a {name}, so that its {outputs} outputs "
            f"are not {outputs} actions but the parameters of that for fewer. {WAY_OUT}"
        )


def require_deviation(kind: str, role: str, outputs: int, std: float | None) -> None:
    """Refuse a network that was saved without a deviation, unless ``std`` can be it.

    Raises:
        CheckpointError: it says two numbers for each action, or there is no ``std``.
    """
    words = f"the {role} of this {kind} checkpoint has no standard deviation"
    if role in DRAWN and outputs % 2 == 0:
        raise CheckpointError(
            f"{words}, and RSL-RL draws the actions of every {role}: its {outputs} outputs are two "
            f"numbers for each of {outputs // 2} actions, mean and deviation "
            "(HeteroscedasticGaussianDistribution) or the parameters of a BetaDistribution. "
            f"{WAY_OUT}. If somebody took its deviation away, set that of read_policy(path): "
            "saved.std"
        )
    if std is None:
        raise CheckpointError(
            f"{words}. If it is deterministic, its {outputs} outputs are the actions: pass std=0.1 "
            "or the like. If its deviation depends on the state, the outputs are mean and "
            f"deviation. {WAY_OUT}"
        )
