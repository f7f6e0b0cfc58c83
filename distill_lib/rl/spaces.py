"""What environments say and take, as tensors: the one place that knows their spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

__all__ = ["Reader", "check_action_space", "check_rewards", "legal"]

Observation = Tensor | dict[str, Tensor]

# PyTorch calculates with few unsigned types; these hold the same numbers
WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}


class Reader:
    """Reads observations of an environment, or refuses their space before the first step.

    The space decides the type of a tensor, and nothing is scaled: a Box of real numbers is read as
    float32 (64 bits are rounded), and integers stay integers, so that an image of uint8 is 0 to 255
    in uint8. Unsigned integers of 16 bits and more, which PyTorch hardly knows, become the next
    wider signed ones.

    Args:
        space: Of one environment's observations.
        sees: The groups to read where the space is a Dict.

    Raises:
        ValueError: a space whose observations are no arrays, or integers beyond 63 bits.
        KeyError: a Dict without one of the groups.
    """

    def __init__(self, space: gym.Space[Any], sees: Sequence[str] = ("student", "teacher")) -> None:
        if isinstance(space, gym.spaces.Dict):
            for name in sees:
                if name not in space.spaces:
                    raise KeyError(
                        f"the environment's observation has no group {name!r}; it has: "
                        f"{', '.join(space)}. gym.wrappers.FlattenObservation makes one vector of "
                        "them all; name a group with sees=, or make groups as rl.Privileged does"
                    )
            self.groups: dict[str, np.dtype[Any]] | None = {
                name: _dtype(space[name], f"observation group {name!r}") for name in sees
            }
        else:
            self.groups = None
            self.dtype: np.dtype[Any] = _dtype(space, "observation")

    def read(self, raw: Any, alive: np.ndarray | None = None) -> Observation:
        """Tensors of their own [N, ...], by group where there are groups.

        Args:
            raw: What a vector environment says, or a list of what N environments say.
            alive: [N], whose observations have to be finite; all by default.

        Raises:
            ValueError: observations that are not finite, or not of their space's type.
        """
        if self.groups is None:
            return _tensor(raw, self.dtype, alive, "")
        if isinstance(raw, list):
            raw = {name: [one[name] for one in raw] for name in self.groups}
        return {k: _tensor(raw[k], dtype, alive, f" {k!r}") for k, dtype in self.groups.items()}


def _dtype(space: gym.Space[Any], what: str) -> np.dtype[Any]:
    if not isinstance(space, (Box, Discrete, MultiDiscrete, MultiBinary)):
        way = (
            "wrap the environment in gym.wrappers.FlattenObservation, and in "
            "gym.wrappers.DtypeObservation(env, np.float32) for a network of real numbers"
            if space.is_np_flattenable
            else "it has no fixed size; turn it into a Box with gym.wrappers.TransformObservation"
        )
        raise ValueError(f"the {what} is no array but of the space {space}: {way}")
    found = np.dtype(space.dtype)
    if found.kind == "f":
        return np.dtype(np.float32)
    if found == np.uint64 and int(np.max(getattr(space, "high", 0))) >= 2**63:
        raise ValueError(
            f"the {what} has integers of 64 bits without sign, which no tensor holds: change it "
            "with gym.wrappers.TransformObservation"
        )
    return np.dtype(WIDER.get(found.name, found))


def _tensor(raw: Any, dtype: np.dtype[Any], alive: np.ndarray | None, group: str) -> Tensor:
    try:
        found = np.array(raw)  # a copy
        read = found
        if found.dtype != dtype:
            with np.errstate(over="ignore", invalid="ignore"):  # looked at below
                read = found.astype(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"observations{group} are no arrays of one shape: {error}") from error
    if dtype.kind == "f":
        if not np.isfinite(read).all():
            _refuse(read, alive, group)
    elif found.dtype != dtype and not np.array_equal(read, found):
        raise ValueError(
            f"an environment gave an observation{group} of type {found.dtype} where its space says "
            f"{dtype}, which does not hold the same numbers; mend the space, or name its type with "
            "gym.wrappers.DtypeObservation"
        )
    return torch.from_numpy(read)


def _refuse(read: np.ndarray, alive: np.ndarray | None, group: str) -> None:
    bad = ~np.isfinite(read).reshape(len(read), -1).all(-1)
    bad = bad if alive is None else bad & alive
    if bad.any():
        raise ValueError(
            f"environment {int(bad.argmax())} gave an observation{group} that is not finite (nan, "
            "inf, or beyond float32): a simulation that blew up, or a broken wrapper; nothing can "
            "be learned from it"
        )


def check_rewards(rewards: np.ndarray) -> None:
    """Whether rewards, or their sums so far, are numbers.

    Args:
        rewards: [N], of one environment each, in float32.

    Raises:
        ValueError: one is not finite.
    """
    finite = np.isfinite(rewards)
    if not finite.all():
        raise ValueError(
            f"environment {int(finite.argmin())} gave a reward that is not finite (nan, inf, or a "
            "sum beyond float32): a simulation that blew up, or a broken wrapper; nothing can be "
            "learned from it"
        )


def check_action_space(space: gym.Space[Any]) -> None:
    """Whether a policy of this library can act in it.

    Raises:
        ValueError: another space than Discrete, MultiDiscrete of one axis or a Box of real numbers,
            with the way out.
    """
    if isinstance(space, Discrete):
        return
    if isinstance(space, MultiDiscrete) and len(space.shape) == 1:
        return
    if isinstance(space, Box):
        if np.dtype(space.dtype).kind == "f":
            return
        way = (
            "real actions would be cut to integers: take them with gym.wrappers.TransformAction(env"
            ", lambda a: np.rint(a).astype(...), a Box of float32)"
        )
    elif isinstance(space, (MultiDiscrete, MultiBinary)):
        counts = space.nvec if isinstance(space, MultiDiscrete) else np.full(space.shape, 2)
        total = int(np.prod(np.ravel(counts).astype(object)))
        listed = f"np.array(np.unravel_index(a, {tuple(np.ravel(counts).tolist())}))"
        listed += f".reshape{space.shape}" if len(space.shape) > 1 else ""
        start = np.asarray(getattr(space, "start", 0))
        listed += f" + np.array({start.tolist()})" if start.any() else ""
        way = (
            f"list its {total} combinations: gym.wrappers.TransformAction(env, lambda a: {listed}, "
            f"gym.spaces.Discrete({total}))"
            if total <= 1024
            else f"it has {total} combinations; choose some and list them with "
            "gym.wrappers.TransformAction(env, lambda a: chosen[a], gym.spaces.Discrete(...))"
        )
    else:
        way = "map one of them to it with a gym.ActionWrapper"
    raise ValueError(
        "actions are Discrete, MultiDiscrete of one axis or Box of real numbers, got the space "
        f"{space}; {way}"
    )


def legal(actions: Tensor, space: gym.Space[Any]) -> np.ndarray:
    """[N] or [N, A] actions as environments take them.

    Those of several heads are [N, A] too. Discrete ones are counted from the space's start; real
    ones get its shape and are clipped to its bounds.
    """
    found = actions.detach().cpu().numpy()
    if isinstance(space, Box):
        found = found.reshape(len(found), *space.shape)
        found = np.clip(found, space.low, space.high)
    else:
        found = found + getattr(space, "start", 0)
    return np.asarray(found, space.dtype)
