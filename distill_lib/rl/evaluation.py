"""What a policy is worth where it has to act, and whether it may teach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from distill_lib.arguments import check_counts, checked
from distill_lib.progress import bar
from distill_lib.teachers.sb3 import adapted

from .acting import act, asking, check_actions, size_of
from .environments import Stage, seed_to_evaluate, single
from .spaces import Observation

__all__ = ["Returns", "evaluate", "group", "sanity"]


@dataclass
class Returns:
    """Undiscounted returns of whole episodes.

    Attributes:
        returns: [E], or [S, E] for S stacked policies.
        lengths: Steps of each episode, in the same shape.
    """

    returns: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        # of those who played themselves: lists, arrays, whole numbers
        self.returns, self.lengths = (
            x if isinstance(x, Tensor) and x.is_floating_point() else torch.as_tensor(x).float()
            for x in (self.returns, self.lengths)
        )

    @property
    def mean(self) -> float:
        """Over all episodes of all policies."""
        return self.returns.mean().item()

    @property
    def std(self) -> float:
        """Standard deviation over all episodes."""
        return self.returns.std().item()

    @property
    def each(self) -> Tensor:
        """[S] mean of each policy; [1] for a single one."""
        return self.returns.mean(-1).reshape(-1)

    @checked
    def share(self, at_least: float) -> float:
        """The share of episodes that reach a return.

        Raises:
            ValueError: a return, or ``at_least``, that is no number.
        """
        if math.isnan(at_least) or bool(self.returns.isnan().any()):
            raise ValueError(
                f"nan reaches no return and misses none; got at_least={at_least:g} and "
                f"{int(self.returns.isnan().sum())} of {self.returns.numel()} returns that are nan"
            )
        return (self.returns >= at_least).float().mean().item()

    @checked
    def interval(
        self, level: float = 0.95, draws: int | None = None, seed: int = 0
    ) -> tuple[float, float]:
        r"""Student's interval of the mean over all policies that might have been trained.

        .. math:: \bar r \pm t_{n-1}\, s / \sqrt n

        with the standard deviation :math:`s` of the n means of stacked policies; of one policy, of
        its n episodes. So five policies are five numbers, however many episodes each plays: what
        differs between them is what another training would change.

        Args:
            level: The share of such intervals that hold the mean, in (0, 1).
            draws: Of the bootstrap that stood here before, and covered too seldom. Not used.
            seed: Likewise.

        Returns:
            Its lower and upper end; infinite where n is 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level expected a number in (0, 1), got {level:g}")
        found = self.each if self.returns.shape[:-1].numel() > 1 else self.returns.flatten()
        n, middle = len(found), self.mean
        half = students_t(level, n - 1) * found.std().item() / n**0.5 if n > 1 else math.inf
        return middle - half, middle + half

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"{self.mean:.1f} (95 %: {low:.1f} to {high:.1f}; {self.returns.numel()} episodes)"


def students_t(level: float, freedom: int) -> float:
    """The quantile t of Student's distribution with ``P(-t < T < t) = level``.

    With T = √ν tan θ the density of θ is proportional to cos^(ν-1) θ.
    """
    angle = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    share = torch.cumulative_trapezoid(angle.cos() ** (freedom - 1), angle)
    at = int(torch.searchsorted(share, level * share[-1]))
    low, high = share[at - 1 : at + 1].tolist() if at else (0.0, share[0].item())
    part = (level * share[-1].item() - low) / (high - low)
    return float(freedom**0.5 * math.tan(angle[at].item() + part * angle[1].item()))


def group(observation: Observation, name: str) -> Tensor:
    """What teacher or student sees: its group, or all that there is."""
    return observation if isinstance(observation, Tensor) else observation[name]


def _rows(seen: Tensor, shape: tuple[int, ...]) -> Tensor:
    return seen.view(*shape, *seen.shape[1:])


@checked
def evaluate(
    policy: Any,
    env: Any,
    episodes: int | None = None,
    *,
    seed: int = 1_000_000,
    noise: float = 0.0,
    sees: str = "student",
    max_steps: int | None = None,
) -> Returns:
    """Play whole episodes and sum their rewards.

    Each environment plays one episode, so that short episodes count no more than long ones.
    Environment i is seeded with ``seed + i``: policies that are compared with one seed meet the
    same beginnings. They are none that :class:`~distill_lib.rl.Rollouts` or
    :class:`~distill_lib.rl.OnPolicy` learned from, whose seeds begin at :math:`2^{30}`. Of S
    stacked policies, policy s plays in the environments from ``s * episodes`` on; a single policy
    meets all of them with S times the episodes.

    Args:
        policy: A module or a teacher, also of Stable-Baselines3; for S stacked policies each plays
            ``episodes``. It is asked about observations as :class:`distill_lib.rl.Rollouts` says.
        env: An id, a function that makes an environment, or a vector environment.
        episodes: How many: 100, or one in each environment of a vector.
        seed: Of the first environment; one of :math:`2^{30} - 2^{20}` or more begins again at 0.
        noise: 0 plays greedily, 1 as the policy was trained.
        sees: The group of the observation that the policy sees, where there are several.
        max_steps: An episode of more steps is an error. By default 10,000, or the environment's own
            time limit where that is longer.

    Raises:
        ValueError: spaces that differ or that no policy can read or act in, observations or
            rewards that are not finite, an episode that does not end.
        KeyError: a group that is not there.

    Example:
        >>> from distill_lib.zoo import Policy
        >>> evaluate(Policy(4, 2), "CartPole-v1", episodes=3).returns.shape
        torch.Size([3])
    """
    check_counts(0, seed=seed)
    policy = adapted(policy)
    stacked = size_of(policy)
    vector = isinstance(env, gym.vector.VectorEnv)
    if episodes is not None or not vector:
        episodes = (100 if episodes is None else episodes) * (stacked or 1)
    stage = Stage(env, episodes, [sees], max_steps)
    if stage.size % (stacked or 1):
        raise ValueError(f"{stacked} policies cannot share {stage.size} environments evenly")
    generator = torch.Generator().manual_seed(int(seed))
    shape = (stacked, stage.size // stacked) if stacked else (stage.size,)
    try:
        seen, begun = stage.begin(seed_to_evaluate(seed)), False
        with bar(iter(int, 1), "evaluate", None) as shown, asking(policy) as say:
            while stage.alive.any():
                said = say(_rows(group(seen, sees), shape), None)
                if not begun:
                    check_actions(said, stage.space, "policy", shape)
                    begun = True
                actions = act(said, noise, generator)
                stage.step(actions.flatten(0, 1) if stacked else actions)
                seen = stage.observation()
                shown.update()
    finally:
        if stage.envs is not env:
            stage.close()
    played = (torch.from_numpy(v).float().view(shape) for v in (stage.returns, stage.lengths))
    return Returns(*played)


def _chance(env: Any) -> Callable[[Any], dict[str, Tensor]]:
    """A policy that knows nothing: all actions alike, or standard normal ones."""
    if isinstance(env, gym.vector.VectorEnv):
        space = env.single_action_space
    else:
        made = single(env)
        space = made.action_space
        made.close()
    if isinstance(space, gym.spaces.MultiDiscrete):
        there = torch.arange(int(space.nvec.max())) < torch.as_tensor(space.nvec).unsqueeze(-1)
        alike = torch.where(there, 0.0, -math.inf)
        return lambda batch: {"logits": alike.expand(len(batch["inputs"]), *alike.shape)}
    if isinstance(space, gym.spaces.Discrete):
        name, width = "logits", int(space.n)
    else:
        name, width = "gaussian", 2 * torch.Size(space.shape or ()).numel()
    return lambda batch: {name: torch.zeros(len(batch["inputs"]), width)}


@checked
def sanity(
    teacher: Any,
    env: Any,
    *,
    at_least: float | None = None,
    episodes: int | None = None,
    sees: str = "teacher",
    max_steps: int | None = None,
) -> Returns:
    """Catch a failing teacher before it teaches: let it play.

    Args:
        teacher: A module or a teacher.
        env: An id, a function that makes an environment, or a vector environment.
        at_least: The mean return that it must reach, such as that on its card less a margin.
        episodes: How many it plays: 20, or one in each environment of a vector.
        sees: The group of the observation that it sees, where there are several.
        max_steps: See :func:`evaluate`.

    Raises:
        ValueError: what is wrong, and what it usually means.

    Example:
        >>> from distill_lib.zoo import Policy
        >>> sanity(Policy(4, 2), "CartPole-v1", at_least=400)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the teacher reaches a return of ... over 20 episodes, expected at least 400...
    """
    if episodes is None and not isinstance(env, gym.vector.VectorEnv):
        episodes = 20
    found = evaluate(teacher, env, episodes, sees=sees, max_steps=max_steps)
    chance = evaluate(_chance(env), env, episodes, noise=1.0, sees=sees, max_steps=max_steps)
    if at_least is not None and not found.mean >= at_least:
        raise ValueError(
            f"the teacher reaches a return of {found.mean:.1f} over {found.returns.numel()} "
            f"episodes, expected at least {at_least:g} (chance: {chance.mean:.1f}). Usual reasons: "
            "its observation normalizer was not loaded, another version of the environment, other "
            "action bounds, or weights of another run"
        )
    if not found.mean > chance.mean:
        raise ValueError(
            f"the teacher's return {found.mean:.1f} is not above that of chance "
            f"({chance.mean:.1f}): it fails its own environment, and cannot teach it"
        )
    return found
