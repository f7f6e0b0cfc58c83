"""Rollouts as batches: who drives is a schedule, and the teacher is asked once a state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill_lib.progress import bar
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.signals import Signals, as_batch
from distill_lib.teachers.live import Source, Teacher

from .acting import act, ask, check_actions, size_of
from .environments import Stage
from .evaluation import group

__all__ = ["Rollouts"]


class Rollouts:
    r"""States that teacher and student visit, with the teacher's answers, as batches.

    In round :math:`i` each step is driven by

    .. math:: \pi_i = \beta_i\, \pi_{\text{teacher}} + (1 - \beta_i)\, \pi_{\text{student}}

    and every visited state is labeled by the greedy teacher, whoever drove. β = 1 is behavior
    cloning, β = 0 leaves the student alone with its own states, a schedule from 1 to 0 is DAgger
    with its aggregated data set.

    One walk is one round: whole episodes are played, all begun anew, their states join the buffer,
    and ``updates`` batches are drawn from it. After ``rounds`` rounds nothing more is played, and
    walks only draw. So ``distill(student, rollouts.teacher, rollouts, KD(), epochs=rounds)``.

    Batches have ``inputs`` [B, D] (what the student sees), ``index``, ``actions`` (what was done),
    ``privileged`` (what the teacher sees, where that is another group), and ``weight`` with
    ``priority``. For S stacked students each drives its own environments and learns from its own
    states: [S, B, D].

    Args:
        env: An id, or a function that makes one environment; its observation may have the groups
            ``student`` and ``teacher`` (:class:`distill_lib.rl.Privileged`).
        teacher: A policy: a module or a teacher.
        student: The module that is trained; needed where β < 1.
        beta: β, the share of steps that the teacher drives: a number, or a schedule over rounds.
        rounds: How often to play.
        episodes: Episodes a round (of each student).
        batch_size: States in a batch (of each student).
        updates: Batches a walk.
        keep: How many rounds stay in the buffer: all by default, 1 forgets at once.
        noise: Of the teacher at the wheel, see :func:`distill_lib.rl.act`; several values take
            turns over the episodes.
        student_noise: Of the student at the wheel.
        labels: At most so many states a round are labeled and kept (of each student), drawn at
            random from all that were visited.
        priority: From the episodes' ``return``, ``length`` and ``round`` [E] to positive weights
            [E]: states of heavy episodes are drawn more often, and ``weight`` in the batch corrects
            for it.
        augment: ``augment(inputs, generator)``: changed states; the teacher is asked anew about
            them.
        seeds: Without a student, give so many stacked students a batch each from the same states.
        seed: Of everything random here.

    Raises:
        ValueError: numbers out of range, no student where one drives, an augmentation where the
            teacher sees something else, policies for other spaces.

    Reference:
        Ross, Gordon and Bagnell, *A reduction of imitation learning and structured prediction to
        no-regret online learning*, 2011.
    """

    midway = True  # tells distill that its state is that of this moment, not of the epoch's start

    def __init__(
        self,
        env: Any,
        teacher: nn.Module | Source,
        student: nn.Module | None = None,
        *,
        beta: Schedule | float = 1.0,
        rounds: int = 1,
        episodes: int = 16,
        batch_size: int = 256,
        updates: int = 100,
        keep: int | None = None,
        noise: float | Sequence[float] = 0.0,
        student_noise: float = 0.0,
        labels: int | None = None,
        priority: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        seeds: int | None = None,
        seed: int = 0,
    ) -> None:
        counts = {"rounds": rounds, "episodes": episodes, "batch_size": batch_size,
                  "updates": updates, "keep": keep, "labels": labels, "seeds": seeds}  # fmt: skip
        for name, number in counts.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} is at least 1, got {number}")
        self.beta = as_schedule(beta)
        shares = [self.beta(r / max(rounds - 1, 1)) for r in range(rounds)]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"beta is a share of steps, in [0, 1]; it runs through {shares}")
        if student is None and min(shares) < 1:
            raise ValueError(f"beta falls to {min(shares):g}: pass the student that drives then")
        self.env, self.student = env, student
        self.policy = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        self.rounds, self.episodes, self.updates = rounds, episodes, updates
        self.batch_size, self.keep, self.labels = batch_size, keep, labels
        self.noise = [noise] if isinstance(noise, (int, float)) else list(noise)
        self.student_noise, self.priority, self.augment = student_noise, priority, augment
        self.students = size_of(student) if student is not None else None
        self.rows = self.students or seeds  # how many students a batch is for
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.teacher = _Answers(self)
        self.round, self.position = 0, updates
        self.buffer: dict[str, Tensor] = {}
        self.owned: dict[int, Tensor] = {}
        self.played: dict[str, Tensor] = {}
        self.log: list[dict[str, float]] = []

    # ---- walking ----

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.position >= self.updates:
            if self.round < self.rounds:
                self.collect()
            self.position = 0
        while self.position < self.updates:
            self.position += 1
            yield self.draw()

    def draw(self) -> dict[str, Tensor]:
        """One batch from the buffer."""
        if not self.buffer:
            raise ValueError("nothing was played yet: call collect(), or walk the rollouts")
        owners: Sequence[int] = range(self.students) if self.students else [0] * (self.rows or 1)
        drawn = [self._rows_of(owner) for owner in owners]
        index = torch.stack([rows for rows, _ in drawn])
        index = index if self.rows else index[0]
        shown = [k for k in ("inputs", "privileged", "actions") if k in self.buffer]
        batch: dict[str, Tensor] = {k: self.buffer[k][index] for k in shown}
        batch["index"] = index
        if self.augment is not None:
            if "privileged" in batch:
                raise ValueError(
                    "the teacher sees a group of its own, which augment does not change: its "
                    "answer would be for another state; change what the environment tells instead"
                )
            batch["inputs"] = self.augment(batch["inputs"], self.generator)
        if self.priority is not None:
            weight = torch.stack([w for _, w in drawn])
            batch["weight"] = weight if self.rows else weight[0]
        return batch

    def _rows_of(self, owner: int) -> tuple[Tensor, Tensor]:
        """Positions in the buffer for one student, and what corrects for drawing unevenly."""
        if owner not in self.owned:  # looked for once a round, not once a batch
            self.owned[owner] = (self.buffer["owner"] == owner).nonzero().squeeze(-1)
        mine = self.owned[owner]
        if self.priority is None:
            at = torch.randint(len(mine), (self.batch_size,), generator=self.generator)
            return mine[at], torch.ones(self.batch_size)
        heavy = torch.as_tensor(self.priority(self.played)).double()
        if heavy.shape != self.played["return"].shape or not bool((heavy > 0).all()):
            raise ValueError(
                f"priority gives a positive weight to each of {len(self.played['return'])} "
                f"episodes, got {list(heavy.shape)}, the least {heavy.min().item():g}"
            )
        p = heavy[self.buffer["episode"][mine]]
        p = p / p.sum()
        at = torch.multinomial(p, self.batch_size, replacement=True, generator=self.generator)
        return mine[at], (1 / (len(mine) * p[at])).float()

    # ---- playing ----

    def collect(self) -> None:
        """Play one round and add it to the buffer.

        Raises:
            ValueError: an empty rollout, observations that are not finite, other spaces.
        """
        found = self._play(self.beta(self.round / max(self.rounds - 1, 1)))
        rows = self._labeled(found.pop("owner_of_row"))
        if not len(rows):
            raise ValueError("the rollout is empty: no environment took a step")
        found = {k: v[rows] for k, v in found.items()}
        answers = ask(self.policy, found.get("privileged", found["inputs"]), found["index"])
        found |= {f"answer/{k}": v.cpu() for k, v in answers.items() if isinstance(v, Tensor)}
        found["round"] = torch.full((len(rows),), self.round)
        old = self.buffer
        if self.keep is not None and old:
            kept = old["round"] > self.round - self.keep
            old = {k: v[kept] for k, v in old.items()}
        self.buffer = {k: torch.cat([old[k], v]) for k, v in found.items()} if old else found
        self.owned = {}
        self.round += 1

    def _play(self, beta: float) -> dict[str, Tensor]:
        """All steps of one round, [steps, ...] each."""
        many = self.students or 1
        stage = Stage(self.env, self.episodes * many)
        begun = len(self.played.get("return", ()))
        owner = torch.arange(many).repeat_interleave(self.episodes)
        noise = torch.tensor(self.noise).repeat(stage.size)[: stage.size]
        steps: list[dict[str, Tensor]] = []
        total, lengths = torch.zeros(2, stage.size)
        try:
            seen = stage.begin(self.seed * 1_000_003 + self.round * stage.size)
            with bar(iter(int, 1), f"round {self.round + 1}", None) as shown:
                while stage.alive.any():
                    mine, theirs = group(seen, "student"), group(seen, "teacher")
                    actions = self._drive(stage, mine, theirs, beta, noise, bool(steps))
                    alive = torch.from_numpy(stage.alive.copy())
                    at = alive.nonzero().squeeze(-1)
                    step = {"inputs": mine[at], "actions": actions[at], "owner": owner[at],
                            "episode": begun + at}  # fmt: skip
                    if isinstance(seen, dict):
                        step["privileged"] = theirs[at]
                    steps.append(step)
                    reward, _, _ = stage.step(actions)
                    total, lengths = total + reward, lengths + alive
                    seen = stage.observation()
                    shown.update()
        finally:
            if stage.envs is not self.env:
                stage.close()
        self._note(total, lengths, beta)
        found = {k: torch.cat([step[k] for step in steps]) for k in steps[0]}
        found["index"] = torch.arange(len(found["inputs"]))
        return {**found, "owner_of_row": found["owner"]}

    def _drive(
        self,
        stage: Stage,
        mine: Tensor,
        theirs: Tensor,
        beta: float,
        noise: Tensor,
        begun: bool,
    ) -> Tensor:
        """[N] or [N, A] actions: each environment tosses a coin for who drives."""
        actions: Tensor | None = None
        if beta > 0:
            said = ask(self.policy, theirs, torch.arange(len(theirs)))
            if not begun:
                check_actions(said, stage.space, "teacher")
            actions = act(said, noise, self.generator).cpu()
        if beta < 1:
            shape = (self.students, -1) if self.students else (-1,)
            said = ask(self.student, mine.view(*shape, *mine.shape[1:]))
            if not begun:
                check_actions(said, stage.space, "student")
            own = act(said, self.student_noise, self.generator).cpu()
            own = own.flatten(0, 1) if self.students else own
            if actions is None:
                return own
            coin = torch.rand(stage.size, generator=self.generator) < beta
            actions = torch.where(coin.view(-1, *[1] * (own.ndim - 1)), actions, own)
        assert actions is not None
        return actions

    def _labeled(self, owner: Tensor) -> Tensor:
        """Which of the visited states are kept."""
        if self.labels is None:
            return torch.arange(len(owner))
        kept = []
        for one in range(self.students or 1):
            mine = (owner == one).nonzero().squeeze(-1)
            order = torch.randperm(len(mine), generator=self.generator)
            kept.append(mine[order[: self.labels]])
        return torch.cat(kept)

    def _note(self, total: Tensor, lengths: Tensor, beta: float) -> None:
        new = {"return": total, "length": lengths, "round": torch.full_like(total, self.round)}
        self.played = {k: torch.cat([self.played[k], v]) if self.played else v
                       for k, v in new.items()}  # fmt: skip
        self.log.append({"round": self.round, "beta": beta, "steps": lengths.sum().item(),
                         "return": total.mean().item()})  # fmt: skip

    @property
    def labels_used(self) -> int:
        """How many states the teacher has labeled for each student, all rounds together."""
        return len(self.buffer.get("owner", ())) // (self.students or 1)

    # ---- keeping ----

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly here."""
        return {"round": self.round, "position": self.position, "buffer": self.buffer,
                "played": self.played, "log": self.log,
                "generator": self.generator.get_state()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another left off."""
        self.round, self.position = state["round"], state["position"]
        self.buffer, self.played = dict(state["buffer"]), dict(state["played"])
        self.log, self.owned = list(state["log"]), {}
        self.generator.set_state(state["generator"])


class _Answers:
    """The teacher of the rollouts: what it said of each state when the state was visited."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    def __call__(self, batch: Any) -> Signals:
        named, home = as_batch(batch), self.rollouts
        if home.augment is not None:
            # a changed state has another answer
            shape = named["inputs"].shape[:-1]
            said = ask(home.policy, named["inputs"].flatten(0, -2), named["index"].flatten())
            return {k: v.unflatten(0, shape) for k, v in said.items()}
        at = cast(Tensor, named["index"])
        rows = at.to(home.buffer["inputs"].device)
        return {
            k.removeprefix("answer/"): v[rows].to(at.device)
            for k, v in home.buffer.items()
            if k.startswith("answer/")
        }

    def fingerprint(self) -> str:
        name = f"rollouts of {self.rollouts.policy.fingerprint()}"
        return hashlib.sha256(name.encode()).hexdigest()

    def models(self) -> Iterator[nn.Module]:
        yield from getattr(self.rollouts.policy, "models", lambda: ())()
