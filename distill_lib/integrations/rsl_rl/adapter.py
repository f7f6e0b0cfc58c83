"""Students that see other observations, or move other joints, than their teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked, told

__all__ = ["Adapter", "check_spaces"]


@checked
class Adapter(nn.Module):
    r"""A student of its own size between the environment's observations and the teacher's actions.

    .. math:: \pi(o) = S\, \pi_\text{student}(W o)

    The map :math:`W` of the observations is linear, begins as (part of) the identity and is trained
    with the student. The map :math:`S` of the actions only picks, and is never trained: a learned
    one would absorb the mismatch, so that the loss falls while the student's own actions mean
    nothing. The teacher is not touched; new layers inside it would destroy what it knows.

    Args:
        student: A policy that says ``mean`` [..., A], and ``gaussian`` [..., 2A] if it can.
        observations: Numbers in the observations that it will get; its own by default.
        takes: Numbers in the observations that the student takes.
        actions: For each of the student's actions, its place among those of the teacher. The
            objective then compares these places only: give the teacher to :meth:`of_teacher`.

    Raises:
        ValueError: one of ``observations`` and ``takes`` without the other, or less than 1; places
            that repeat or are below 0, or none.

    Example:
        >>> from distill_lib.zoo import Policy
        >>> small = Policy(2, 1, hidden=(8,), continuous=True)
        >>> Adapter(small, observations=3, takes=2)(torch.zeros(5, 3))["mean"].shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        student: nn.Module,
        observations: int | None = None,
        takes: int | None = None,
        actions: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if (observations is None) != (takes is None):
            raise ValueError(
                "say how many numbers the observations have and how many the student takes: "
                f"got observations={observations}, takes={takes}"
            )
        if actions is not None and len(set(actions)) < len(actions):
            raise ValueError(f"two of the student's actions have one place: {list(actions)}")
        if actions is not None and (not len(actions) or min(actions) < 0):
            raise ValueError(f"actions are places of the teacher's, from 0 on, got {list(actions)}")
        self.student = student
        self.project: nn.Linear | None = None
        if observations is not None and takes is not None:
            check_counts(observations=observations, takes=takes)
            self.project = nn.Linear(observations, takes, bias=False)
            with torch.no_grad():
                self.project.weight.copy_(torch.eye(takes, observations))
        self.actions: list[int] | None = None if actions is None else list(actions)

    def forward(self, observation: Tensor) -> Any:
        """What the student says of the projected observation."""
        if self.project is not None:
            observation = self.project(observation.to(self.project.weight.dtype))
        return self.student(observation)

    @checked
    def of_teacher(self, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a teacher says of the actions that the student has.

        Raises:
            KeyError: the teacher says no ``mean``.
            ValueError: the teacher has no action at one of the places, or its ``gaussian`` is not
                of those of its ``mean``.
        """
        if "mean" not in signals:
            raise KeyError(
                f"a teacher of real actions says 'mean'; this one says {', '.join(signals)}"
            )
        if self.actions is None:
            return dict(signals)
        size = signals["mean"].shape[-1]
        if signals.get("gaussian", torch.empty(2 * size)).shape[-1] != 2 * size:
            raise ValueError(
                f"a teacher of {size} actions says 'gaussian' [..., {2 * size}], got "
                f"{list(signals['gaussian'].shape)}"
            )
        if max(self.actions) >= size:
            raise ValueError(
                f"the student's actions are those at {self.actions} of the teacher, which has "
                f"{size}: from 0 to {size - 1}"
            )
        picked = {"mean": signals["mean"][..., self.actions]}
        if "gaussian" in signals:
            halves = signals["gaussian"].chunk(2, -1)
            picked["gaussian"] = torch.cat([half[..., self.actions] for half in halves], -1)
        return picked


@checked
def check_spaces(policy: nn.Module, env: Any, group: str | None = None) -> None:
    """Refuse a policy whose observations or actions are not those of an environment.

    Args:
        policy: One of the zoo, or any other with linear layers from observations to actions.
        env: A Gymnasium (vector) environment, or a :class:`GymVecEnv`.
        group: The group of a ``Dict`` of observations that the policy reads.

    Raises:
        ValueError: sizes that differ, with both sizes and what to do; a group that is not there; a
            policy without linear layers.
        TypeError: an environment that is none.
    """
    env = getattr(env, "env", env) if hasattr(env, "get_observations") else env
    if not (hasattr(env, "observation_space") and hasattr(env, "action_space")):
        raise TypeError(f"env expected an environment of Gymnasium, got {told(env)}")
    space = getattr(env, "single_observation_space", None) or env.observation_space
    acts = getattr(env, "single_action_space", None) or env.action_space
    if hasattr(space, "spaces"):
        if group not in space.spaces:
            raise ValueError(
                f"the environment has the observation groups {', '.join(space.spaces)}; "
                f"say which the policy reads with group=, got {group!r}"
            )
        space = space.spaces[group]
    linear = [m for m in getattr(policy, "net", policy).modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ValueError(f"the policy has no linear layers to read its sizes from: {told(policy)}")
    takes, says = linear[0].in_features, linear[-1].out_features
    gives = int(torch.tensor(space.shape).prod())
    wants = int(acts.n) if hasattr(acts, "n") else int(torch.tensor(acts.shape).prod())
    if takes != gives:
        raise ValueError(
            f"the policy takes {takes} numbers, the environment shows {gives}"
            f"{f' in {group!r}' if group else ''}. Different observations for teacher and student "
            "are named groups of a Dict; for a student of another size there is Adapter"
        )
    if says != wants:
        raise ValueError(
            f"the policy says {says} actions, the environment takes {wants}. A policy cannot be "
            "asked for joints that it does not know; a student with fewer picks some of the "
            "teacher's with Adapter(actions=…)"
        )
