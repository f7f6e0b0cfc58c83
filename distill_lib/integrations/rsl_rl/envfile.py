"""Where a policy was trained, as Isaac Lab writes it beside a checkpoint: ``params/env.yaml``."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import checked
from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations.settings import file_beside, inside, read_settings

from .envterms import (
    KINDS,
    WAY_OUT,
    ActionTerm,
    Command,
    ObservationTerm,
    acted,
    fits,
    number,
    observed,
    of_each,
)

__all__ = ["EnvSettings", "read_env", "require_sizes"]


@dataclass(frozen=True)
class EnvSettings:
    """What Isaac Lab's settings say of the place in which a policy was trained.

    Attributes:
        observations: In the order of the inputs of its first layer.
        actions: In the order of its outputs; empty for an environment of the direct workflow.
        step: Seconds from one action to the next, or None where it is not said.
        episode: Seconds of the longest episode, or None.
        clip_actions: Bound that RSL-RL's wrapper put on raw actions, or None.
        sizes: Numbers of ``observations`` and ``actions`` where the file tells them.
    """

    observations: list[ObservationTerm]
    actions: list[ActionTerm]
    step: float | None
    episode: float | None
    clip_actions: float | None
    sizes: dict[str, int]

    @checked
    def commands(self, actions: Tensor, joints: Sequence[str]) -> list[Command]:
        r"""What the robot was asked to do where the policy said ``actions``.

        .. math:: u = \mathrm{clip}(s \odot \mathrm{clip}(a, -c, c) + o)

        with the scale :math:`s`, the offset :math:`o` (the joint's default where the training used
        that), and both bounds where there are some.

        Args:
            actions: [..., A], as the policy says them.
            joints: Names of all joints of the robot, in the order of the training's simulator,
                which the file does not hold.

        Returns:
            One command a term, in the order of the actions.

        Raises:
            CheckpointError: an environment without terms, a term of a kind that is not known here,
                joints that do not fit, or another number of actions.
        """
        if not self.actions:
            raise CheckpointError(
                "an environment of Isaac Lab's direct workflow applies its actions in its own "
                "code: look into its _apply_action"
            )
        if self.clip_actions is not None:
            actions = actions.clamp(-self.clip_actions, self.clip_actions)
        chosen = [(term, term.joints_of(joints)) for term in self.actions]
        for term, _ in chosen:
            if term.kind not in KINDS:
                raise CheckpointError(
                    f"the action term {term.name!r} is a {term.kind}, and known are "
                    f"{', '.join(KINDS)}: apply it as its class does"
                )
        widths = [len(found) for _, found in chosen]
        if actions.ndim == 0 or actions.shape[-1] != sum(widths):
            raise CheckpointError(
                f"the terms have {sum(widths)} joints, the actions are {list(actions.shape)}: give "
                "the joints of the robot that the policy was trained on"
            )
        said = []
        for (term, found), part in zip(chosen, torch.split(actions, widths, -1), strict=True):
            scale = of_each(term.scale, found, 1.0)
            offset = of_each(term.offset, found, 0.0)
            if term.default is not None:
                offset = of_each(term.default, found, 0.0)
            values = part * scale.to(part) + offset.to(part)
            for i, joint in enumerate(found):
                for pattern, (low, high) in (term.clip or {}).items():
                    if fits(pattern, joint):
                        values[..., i] = values[..., i].clamp(low, high)
            said.append(Command(term.name, KINDS[term.kind][0], found, values))
        return said


@checked
def read_env(path: str | Path, role: str = "actor") -> EnvSettings:
    """What a policy saw and commanded in Isaac Lab, from the settings beside its checkpoint.

    ``params/env.yaml`` tells terms of observations and actions, in order, and the time between two
    actions; ``params/agent.yaml`` tells which observation groups a network sees. Both are read as
    text whatever their tags say, so that nothing in them is run. What no policy needs elsewhere,
    such as rewards and the scene, is passed over.

    Args:
        path: A ``model_*.pt`` of Isaac Lab; the weights themselves are not read.
        role: ``actor``, ``critic``, ``student`` or ``teacher``: whose observations.

    Raises:
        CheckpointError: there is no such file, or it is too large or cannot be read; terms that
            are not concatenated, or keys in alphabetical order, so that the order of the training
            is lost; a number, a bound or a pattern that is none.
    """
    file = file_beside(path, "env.yaml")
    if not file.is_file():
        raise CheckpointError(
            f"there is no {file}, which Isaac Lab writes beside {path}: {WAY_OUT}"
        )
    env = read_settings(file, WAY_OUT)
    agent: Mapping[str, Any] = {}
    if (other := file_beside(path)).is_file():
        agent = read_settings(other, "move it away")
    seen = observed(env, _groups(agent, role), file)
    keys = list(env)
    if seen and len(keys) > 3 and keys == sorted(keys):
        raise CheckpointError(
            f"the keys in {file} are in alphabetical order, so that somebody has sorted them and "
            f"the order of the observations is lost: {WAY_OUT}"
        )
    dt, times = (number(inside(env, *at), file) for at in (("sim", "dt"), ("decimation",)))
    return EnvSettings(
        seen,
        acted(env, file),
        None if dt is None or times is None else dt * times,
        number(env.get("episode_length_s"), file),
        number(agent.get("clip_actions"), other),
        _sizes(env, _groups(agent, role)),
    )


def require_sizes(path: str | Path, role: str, inputs: int, outputs: int) -> None:
    """Compare a network with the settings beside it, as far as these are there and tell.

    Raises:
        CheckpointError: the settings are those of a training with other observations or actions.

    Warns:
        UserWarning: in the training, RSL-RL's wrapper put bounds on the actions.
    """
    if not Path(path).is_file() or role == "critic":
        return
    env, agent = (_written(path, name) for name in ("env.yaml", "agent.yaml"))
    sizes = _sizes(env, _groups(agent, role))
    for what, has in (("observations", inputs), ("actions", outputs)):
        if sizes.get(what, has) != has:
            raise CheckpointError(
                f"params/env.yaml beside {path} says {sizes[what]} {what}, and the {role} has "
                f"{has}: the file is of another training; move the checkpoint"
            )
    bound = None
    with contextlib.suppress(CheckpointError):
        bound = number(agent.get("clip_actions"), file_beside(path))
    if bound is not None:
        warnings.warn(
            f"params/agent.yaml beside {path} says clip_actions: {bound:g}: the training cut "
            "actions at that, before they were applied. If your environment does not, cut them for "
            "this policy",
            stacklevel=4,
        )


def _written(path: str | Path, name: str) -> Mapping[str, Any]:
    """One of the files beside the weights, which tell enough where there is none to be read."""
    file = file_beside(path, name)
    try:
        return read_settings(file) if file.is_file() else {}
    except CheckpointError:
        return {}


def _groups(agent: Mapping[str, Any], role: str) -> list[str]:
    """The observation groups that a network sees; releases before 3 have one name for each."""
    told = agent.get("obs_groups")
    own = {"actor": "policy", "student": "policy"}.get(role, role)  # the actor's set in RSL-RL 3
    for name in (role, own):
        groups = inside(told, name)
        if isinstance(groups, list) and groups and all(isinstance(g, str) for g in groups):
            return groups
    return [own]


def _sizes(env: Mapping[str, Any], groups: list[str]) -> dict[str, int]:
    """Those that an environment of the direct workflow tells."""
    found = {}
    names = {"observations": ("observation_space", "num_observations"),
             "actions": ("action_space", "num_actions")}  # fmt: skip
    for what, keys in names.items():
        for key in keys:
            said = env.get(key)
            if isinstance(said, str) and re.fullmatch(r"[0-9]{1,6}", said):
                found[what] = int(said)
    if groups != ["policy"]:
        found.pop("observations", None)
    return found
