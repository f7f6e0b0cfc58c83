"""Segments of experience for learning by reinforcement, as batches for the one loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked, told
from distill_lib.losses import full_precision
from distill_lib.losses import policy as policies

from .acting import Say, act, asking, check_actions, signal_of, size_of
from .environments import make, seed_to_learn, single
from .evaluation import group
from .spaces import Reader, check_action_space, check_rewards, legal

__all__ = ["OnPolicy", "advantages"]


@checked
def advantages(
    rewards: Tensor,
    values: Tensor,
    following: Tensor,
    done: Tensor,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> Tensor:
    r"""Generalized advantage estimation.

    .. math:: A_t = \delta_t + \gamma \lambda (1 - d_t) A_{t+1}, \qquad
       \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)

    An episode that ended has :math:`V(s_{t+1}) = 0`; one that was cut off by a time limit goes on
    in truth, and has the value of the state in which it was cut.

    Args:
        rewards: [T, ...].
        values: [T, ...], :math:`V(s_t)`.
        following: [T, ...], :math:`V(s_{t+1})`, as said above.
        done: [T, ...], whether the episode ended or was cut after step t.
        gamma: γ.
        lam: λ.

    Returns:
        [T, ...], half precision as float32.

    Raises:
        TypeError: flags that are no booleans, or numbers that are not real.
        ValueError: shapes that differ.

    Reference:
        Schulman et al., *High-dimensional continuous control using generalized advantage
        estimation*, 2016.

    Example:
        >>> one, zero = torch.ones(2), torch.zeros(2)
        >>> advantages(one, zero, zero, torch.tensor([False, True]), gamma=0.5, lam=1.0)
        tensor([1.5000, 1.0000])
    """
    named = {"rewards": rewards, "values": values, "following": following, "done": done}
    for name, one in named.items():
        if one.shape != rewards.shape or not one.ndim or not len(one):
            raise ValueError(
                f"{name} of shape {list(one.shape)} beside rewards {list(rewards.shape)}: all are "
                "[T, ...] of the same steps, one at least"
            )
        if one.is_complex() or (name == "done") != (one.dtype == torch.bool):
            kind = "True and False" if name == "done" else "real numbers"
            raise TypeError(f"{name} expected {kind}, got {told(one)}")
    rewards, values, following = (full_precision(x) for x in (rewards, values, following))
    delta = rewards + gamma * following - values
    found = torch.empty_like(delta)
    last = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        last = delta[t] + gamma * lam * torch.where(done[t], 0.0, last)
        found[t] = last
    return found


class _Own(gym.ObservationWrapper[Any, Any, Any]):
    """Observations of their own: an environment may write each into the array of the one before.

    The vector copies what is seen, but not what was seen last before a reset.
    """

    def observation(self, observation: Any) -> Any:
        return copy.deepcopy(observation)


@checked
class OnPolicy:
    """What the student just did, with advantages: batches for :func:`distill_lib.PPO`.

    One walk plays one segment of ``steps`` steps in every environment, with the student's own
    exploration, and then goes through it ``epochs`` times in shuffled batches. Environments go on
    from segment to segment; only after a resume do they begin anew. Observations are normalized by
    the student's own statistics, which do not change: take them from the teacher.

    Batches have ``inputs`` (what :class:`distill_lib.rl.Rollouts` would show), ``actions``,
    ``log_prob``, ``advantages`` (mean 0 and standard deviation 1 over the segment), ``returns``,
    ``index``, and ``privileged`` where the teacher has a group of its own. S stacked students have
    their own environments, and batches [S, B, ...]. In a MultiDiscrete of A heads the student says
    ``logits`` [B, A, n], with -inf where a head has fewer actions or some are forbidden; its
    ``actions`` are [B, A], and ``log_prob`` [B] is that of all heads together, their sum.

    Args:
        env: An id, or a function that makes one environment.
        student: A policy with a ``value``, such as ``Policy(..., critic=True)``.
        envs: Environments (of each student).
        steps: Length of a segment.
        epochs: How often a segment is gone through.
        batch_size: Steps in a batch (of each student).
        gamma: Discount.
        lam: λ of the advantages.
        probe: ``probe(student)`` before every ``every``-th segment; what it returns is in ``log``.
        every: See ``probe``.
        seed: Of the environments, the exploration and the order.

    Attributes:
        log: A row a segment: ``steps`` played before it (by each student), ``return`` (mean over
            the episodes that ended in it, one a student), ``probe``.

    Raises:
        ValueError: a student without a value, spaces that differ or that no policy can read or act
            in, numbers out of range.
        KeyError: an observation with groups, but none for student or teacher.

    Reference:
        Schulman et al., *Proximal policy optimization algorithms*, 2017.
    """

    batch_size: int
    epochs: int
    every: int
    gamma: float
    lam: float
    probe: Callable[[Any], Any] | None
    steps: int
    student: nn.Module
    students: int | None

    midway = True

    def __init__(
        self,
        env: Any,
        student: nn.Module,
        *,
        envs: int = 8,
        steps: int = 128,
        epochs: int = 4,
        batch_size: int = 256,
        gamma: float = 0.99,
        lam: float = 0.95,
        probe: Callable[[Any], Any] | None = None,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        counts = {"envs": envs, "steps": steps, "epochs": epochs, "batch_size": batch_size,
                  "every": every}  # fmt: skip
        for name, number in counts.items():
            if number < 1:
                raise ValueError(f"{name} is at least 1, got {number}")
        check_counts(0, seed=seed)
        seed = int(seed)  # generators and environments take no numbers of NumPy
        if envs * steps < 2:
            raise ValueError("a segment of one step has no standard deviation: more envs or steps")
        if batch_size > envs * steps:
            raise ValueError(f"a segment has {envs * steps} steps, a batch wants {batch_size}")
        for name, share in {"gamma": gamma, "lam": lam}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {share}")
        self.student, self.students = student, size_of(student)
        self.steps, self.epochs, self.batch_size = steps, epochs, batch_size
        self.gamma, self.lam, self.probe, self.every = gamma, lam, probe, every
        self.number: int = envs * (self.students or 1)
        self.shape: tuple[int, ...] = (self.students, envs) if self.students else (envs,)
        self.envs: Any = make(lambda: _Own(single(env)), self.number)
        self.space: Any = self.envs.single_action_space
        check_action_space(self.space)
        self.reader: Reader = Reader(self.envs.single_observation_space)
        self.checked: bool = False
        self.seed = seed
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)
        self.segments: int = 0
        self.seen: Any = None
        self.running: Tensor = torch.zeros(self.number, dtype=torch.float64)
        self.flat: dict[str, Tensor] = {}
        self.order: Tensor = torch.empty(0, dtype=torch.long)
        self.position: int = len(self)
        self.log: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return self.epochs * (self.steps * self.shape[-1] // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.position >= len(self):
            self.collect()
            self.position = 0
        size, a_walk = self.batch_size, self.steps * self.shape[-1] // self.batch_size
        while self.position < len(self):
            if self.position % a_walk == 0:
                rows = self.students or 1
                draws = torch.rand(rows, self.steps * self.shape[-1], generator=self.generator)
                self.order = draws.argsort(-1)
            at = self.position % a_walk
            self.position += 1
            index = self.order[:, at * size : (at + 1) * size]
            if self.students:
                rows_of = torch.arange(self.students).unsqueeze(-1)
                yield {**{k: v[rows_of, index] for k, v in self.flat.items()}, "index": index}
            else:
                yield {**{k: v[index[0]] for k, v in self.flat.items()}, "index": index[0]}

    def collect(self) -> None:
        """Play one segment.

        Raises:
            ValueError: observations or rewards that are not finite.
        """
        row: dict[str, Any] = {"steps": self.segments * self.steps * self.shape[-1]}
        if self.probe is not None and self.segments % self.every == 0:
            row["probe"] = self.probe(self.student)
        if self.seen is None:
            first = self.seed * 1_000_003 + self.segments
            self.seen, _ = self.envs.reset(seed=seed_to_learn(first))
        ended: list[list[float]] = [[] for _ in range(self.students or 1)]
        with asking(self.student) as say:
            played = [self._step(say, ended) for _ in range(self.steps)]
        track = {k: torch.stack([step[k] for step in played]) for k in played[0]}
        done, following = track.pop("done"), track.pop("following")
        rewards, values = track.pop("rewards"), track.pop("value")
        found = advantages(rewards, values, following, done, self.gamma, self.lam)
        track["returns"] = found + values
        # each student's own segment is standardized
        axes = (0, -1)
        track["advantages"] = (found - found.mean(axes, keepdim=True)) / (
            found.std(axes, keepdim=True) + 1e-8
        )
        self.flat = {k: self._flatten(v) for k, v in track.items()}
        self.segments += 1
        means = [sum(r) / len(r) if r else float("nan") for r in ended]
        self.log.append({**row, "return": means if self.students else means[0]})

    def _flatten(self, values: Tensor) -> Tensor:
        """[T, (S,) n, ...] to [(S,) T·n, ...]."""
        return values.transpose(0, 1).flatten(1, 2) if self.students else values.flatten(0, 1)

    def _step(self, say: Say, ended: list[list[float]]) -> dict[str, Tensor]:
        """One step in every environment, in the students' shape."""
        mine, grouped = self._see(self.seen), isinstance(self.seen, dict)
        theirs = {"privileged": self._see(self.seen, "teacher")} if grouped else {}
        said = say(mine, None)
        if not self.checked:
            self._check(said)
        name = signal_of(said)
        actions = act(said, 1.0, self.generator)
        of = policies.gaussian_log_prob if name == "gaussian" else policies.log_prob
        flat = actions.flatten(0, 1) if self.students else actions
        self.seen, reward, ended_now, cut, info = self.envs.step(legal(flat, self.space))
        stopped = torch.as_tensor(ended_now)
        done = stopped | torch.as_tensor(cut)
        rewards = torch.as_tensor(reward, dtype=torch.float32)
        self._count(rewards, done, ended)
        after = say(self._see(self.seen), None)["value"]
        if bool(done.any()):
            # the state in which an episode was cut, not the one that begins the next
            last = say(self._see(self._final(info, done)), None)["value"]
            after = torch.where(done.view(self.shape), last, after)
        step = {
            "inputs": mine, "actions": actions, "value": said["value"],
            "log_prob": policies.whole(of(said[name], actions), said["value"]),
            "rewards": rewards.view(self.shape),
            "following": torch.where(stopped.view(self.shape), 0.0, after),
            "done": done.view(self.shape),
        }  # fmt: skip
        return {**step, **theirs}

    def _check(self, said: Mapping[str, Any]) -> None:
        """Before the first step."""
        if "value" not in said:
            raise ValueError(
                f"the student says {', '.join(said)}, but no 'value': give it a critic, "
                "Policy(..., critic=True)"
            )
        check_actions(said, self.space, "student", self.shape)
        if said["value"].shape != self.shape:
            raise ValueError(
                f"the student says 'value' of shape {list(said['value'].shape)} for "
                f"{list(self.shape)} observations, expected one number each: value.squeeze(-1)"
            )
        self.checked = True

    def _final(self, info: Mapping[str, Any], done: Tensor) -> Any:
        """What was seen last before the reset, for those that are done; what is seen for others."""
        finals, over = info["final_obs"], done.tolist()
        if not isinstance(self.seen, dict):
            return [finals[i] if over[i] else one for i, one in enumerate(self.seen)]
        now = {k: list(self.seen[k]) for k in self.reader.groups or ()}
        for i in done.nonzero().squeeze(-1).tolist():
            for k in now:
                now[k][i] = finals[k][i] if isinstance(finals, dict) else finals[i][k]
        return now

    def _see(self, raw: Any, who: str = "student") -> Tensor:
        seen = group(self.reader.read(raw), who)
        return seen.view(*self.shape, *seen.shape[1:])

    def _count(self, rewards: Tensor, done: Tensor, ended: list[list[float]]) -> None:
        self.running += rewards
        check_rewards(self.running.float().numpy())
        for i in done.nonzero().squeeze(-1).tolist():
            ended[i // self.shape[-1]].append(self.running[i].item())
            self.running[i] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """All but the environments, which begin anew after a resume."""
        return {"segments": self.segments, "position": self.position, "flat": self.flat,
                "order": self.order, "log": list(self.log),
                "generator": self.generator.get_state()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another left off, with new episodes."""
        self.segments, self.position = state["segments"], state["position"]
        self.flat, self.order = dict(state["flat"]), state["order"]
        self.log = list(state["log"])
        self.generator.set_state(state["generator"])
        self.seen, self.running = None, torch.zeros(self.number, dtype=torch.float64)
