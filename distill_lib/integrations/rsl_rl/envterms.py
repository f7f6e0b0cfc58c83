"""The terms of observations and actions in Isaac Lab's ``params/env.yaml``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations.settings import inside

__all__ = ["ActionTerm", "Command", "ObservationTerm", "acted", "observed"]

MOST = 1000  # terms of a group; actions
NONE = ("null", "none", "~", "")
WAY_OUT = "write down yourself what the training observed and commanded"
# by the end of their classes' names, as Isaac Lab has them: what they command, and their default
KINDS = {
    "JointPositionAction": ("position", "joint_pos"),
    "JointVelocityAction": ("velocity", "joint_vel"),
    "JointEffortAction": ("effort", "joint_pos"),
}
REPEATS = re.compile(r"[*+{]|(?<![(*+}])\?")


class Command(NamedTuple):
    """What one term of the actions asks of the robot.

    Attributes:
        term: Its name.
        kind: ``position``, ``velocity`` or ``effort``.
        joints: Names, in the order of the values.
        values: [..., J], in the simulator's units.
    """

    term: str
    kind: str
    joints: list[str]
    values: Tensor


@dataclass(frozen=True)
class ObservationTerm:
    """One part of what a policy saw, after which its numbers are named.

    Attributes:
        group: The observation group that it stands in.
        name: Its name there.
        function: What computed it, such as ``isaaclab.envs.mdp.observations:joint_pos_rel``.
        clip: Bounds of the raw value, or None.
        scale: Factor after the bounds, a number or one for each of its numbers.
        history: How many steps were seen at once, 1 for the present alone.
    """

    group: str
    name: str
    function: str
    clip: tuple[float, float] | None
    scale: float | tuple[float, ...]
    history: int


@dataclass(frozen=True)
class ActionTerm:
    """One part of what a policy did.

    Attributes:
        name: Its name.
        kind: Class of the term, such as ``JointPositionAction``.
        patterns: Regular expressions of its joints' names.
        ordered: Whether the joints follow the patterns; else they follow the robot.
        scale: A number, or one for each pattern.
        offset: Likewise, added after the scale.
        clip: Bounds of the result by pattern, or None.
        default: The robot's own positions or velocities by pattern, where they are the offset.
    """

    name: str
    kind: str
    patterns: tuple[str, ...]
    ordered: bool
    scale: float | dict[str, float]
    offset: float | dict[str, float]
    clip: dict[str, tuple[float, float]] | None
    default: float | dict[str, float] | None

    def joints_of(self, robot: Sequence[str]) -> list[str]:
        """Its joints, among those of the robot.

        Raises:
            CheckpointError: a pattern that fits none of them, or a joint that two patterns fit.
        """
        found = [(p, j) for j in robot for p in self.patterns if fits(p, j)]
        if len({j for _, j in found}) < len(found) or {p for p, _ in found} != {*self.patterns}:
            raise CheckpointError(
                f"the joints of {self.name!r}, {', '.join(self.patterns)[:200]}, do not fit those "
                f"of the robot, {', '.join(robot)[:200]}, one by one: give all its joints by their "
                "names in the simulator, in its order"
            )
        if self.ordered:
            found.sort(key=lambda one: self.patterns.index(one[0]))
        return [j for _, j in found]


def observed(env: Mapping[str, Any], groups: list[str], file: Path) -> list[ObservationTerm]:
    """The terms that a network sees, in order; none in the direct workflow."""
    told = env.get("observations")
    if not isinstance(told, Mapping):  # of the direct workflow
        return []
    terms: list[ObservationTerm] = []
    for group in groups:
        named = told.get(group)
        if not isinstance(named, Mapping):
            raise CheckpointError(
                f"{file} has no observation group {group[:40]!r}, which the network sees; it has "
                f"{', '.join(map(str, told))[:200]}: pass role=, or {WAY_OUT}"
            )
        if str(named.get("concatenate_terms", "true")).lower() != "true":
            raise CheckpointError(
                f"the group {group[:40]!r} in {file} does not concatenate its terms, so that it "
                f"has no order: {WAY_OUT}"
            )
        whole = number(named.get("history_length"), file)  # for all terms, where it is told
        for name, term in named.items():
            if not isinstance(term, Mapping):  # a setting of the group, or a term that was removed
                continue
            if not isinstance(function := term.get("func"), str):
                raise CheckpointError(
                    f"observations.{group[:40]}.{str(name)[:40]} in {file} has no func: {WAY_OUT}"
                )
            history = number(term.get("history_length"), file) if whole is None else whole
            terms.append(
                ObservationTerm(
                    group, str(name), function, _bounds(term.get("clip"), file),
                    _numbers(term.get("scale"), file), max(int(history or 0), 1),
                )
            )  # fmt: skip
    if len(terms) > MOST:
        raise CheckpointError(
            f"{file} has {len(terms)} observation terms, and no policy needs them"
        )
    return terms


def acted(env: Mapping[str, Any], file: Path) -> list[ActionTerm]:
    """The terms of the actions, in order; none in the direct workflow."""
    told = env.get("actions")
    terms = []
    for name, term in told.items() if isinstance(told, Mapping) else ():
        if not isinstance(term, Mapping):
            continue
        kind = re.split("[.:]", str(term.get("class_type")))[-1]
        patterns = term.get("joint_names")
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(patterns, list) or len(patterns) > MOST:
            patterns = []
        default = None
        if str(term.get("use_default_offset")).lower() == "true":
            state = KINDS.get(kind, ("", "joint_pos"))[1]
            asset = str(term.get("asset_name", "robot"))
            said = inside(env, "scene", asset, "init_state", state)
            default = _factor(said if isinstance(said, Mapping) else {}, 0.0, file)
        clip = term.get("clip")
        bounds = None
        if isinstance(clip, Mapping):
            pairs = {_pattern(p, file): _bounds(b, file) for p, b in clip.items()}
            bounds = {p: pair for p, pair in pairs.items() if pair is not None}
        terms.append(
            ActionTerm(
                str(name), kind, tuple(_pattern(p, file) for p in patterns),
                str(term.get("preserve_order")).lower() == "true",
                _factor(term.get("scale"), 1.0, file), _factor(term.get("offset"), 0.0, file),
                bounds, default,
            )
        )  # fmt: skip
    return terms


# ---- their values ----


def number(said: Any, file: Path, finite: bool = True) -> float | None:
    """A number, or None where the file says none.

    Raises:
        CheckpointError: something else, or a number that is not finite where it has to be.
    """
    if said is None or (isinstance(said, str) and said.lower() in NONE):
        return None
    try:
        found = float(re.sub(r"^([+-]?)\.(?=[in])", r"\1", said, flags=re.IGNORECASE))  # .inf
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found) or (finite and math.isinf(found)):
        raise CheckpointError(f"{file} says {str(said)[:40]!r} where a number stands: {WAY_OUT}")
    return found


def _given(said: Any, file: Path) -> float:
    """A number that has to be there."""
    if (found := number(said, file)) is None:
        raise CheckpointError(f"{file} says nothing where a number stands: {WAY_OUT}")
    return found


def _numbers(said: Any, file: Path) -> float | tuple[float, ...]:
    """A factor, or one for each of the term's numbers; 1 where the file says none."""
    if isinstance(said, list):
        return tuple(_given(one, file) for one in said)
    found = number(said, file)
    return 1.0 if found is None else found


def _bounds(said: Any, file: Path) -> tuple[float, float] | None:
    if not isinstance(said, list):
        if number(said, file) is not None:
            raise CheckpointError(f"{file} says {str(said)[:40]!r} where two bounds stand")
        return None
    found = [number(one, file, finite=False) for one in said]
    if len(found) != 2 or None in found or not found[0] <= found[1]:  # type: ignore[operator]
        raise CheckpointError(f"{file} says {str(said)[:40]} where two bounds stand: {WAY_OUT}")
    return found[0], found[1]  # type: ignore[return-value]


def _factor(said: Any, otherwise: float, file: Path) -> float | dict[str, float]:
    """A number, or one for each pattern."""
    if isinstance(said, Mapping):
        return {_pattern(p, file): _given(x, file) for p, x in said.items()}
    found = number(said, file)
    return otherwise if found is None else found


def _pattern(said: Any, file: Path) -> str:
    """A regular expression that is quickly decided, whoever wrote it.

    Raises:
        CheckpointError: it is none, is long, repeats a group, has four groups, or five repetitions.
    """
    try:
        re.compile(said)
        quick = len(said) <= 200 and len(REPEATS.findall(said)) <= 4
        quick = quick and said.count("(") <= 3 and not re.search(r"\)[*+{?]", said)
    except (TypeError, re.error, RecursionError, OverflowError):
        quick = False
    if not quick:
        raise CheckpointError(
            f"{file} has the pattern {str(said)[:60]!r} of joints' names, which is none or could "
            f"take long: {WAY_OUT}"
        )
    return str(said)


def fits(pattern: str, joint: str) -> bool:
    """Whether the whole name fits."""
    return re.fullmatch(pattern, joint[:200]) is not None


def of_each(said: float | dict[str, float], joints: Sequence[str], otherwise: float) -> Tensor:
    """[J], a number for each joint, by the one pattern that fits it.

    Raises:
        CheckpointError: two patterns fit one joint.
    """
    if not isinstance(said, dict):
        return torch.full((len(joints),), said)
    values = []
    for joint in joints:
        found = [value for pattern, value in said.items() if fits(pattern, joint)]
        if len(found) > 1:
            raise CheckpointError(f"the joint {joint!r} fits several of {', '.join(said)[:200]}")
        values.append(found[0] if found else otherwise)
    return torch.tensor(values)
