"""Rollouts as batches: who drives is a schedule, and the teacher is asked once a state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from gymnasium.spaces import MultiDiscrete
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked, told
from distill_lib.progress import bar
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.teachers.live import Teacher
from distill_lib.teachers.sb3 import adapted

from .acting import act, ask, asking, check_actions, size_of
from .answers import Answers, rows_at
from .environments import Stage, seed_to_learn
from .evaluation import group
from .priorities import labeled, weights_of_states

__all__ = ["Rollouts"]


@checked
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

    Batches have ``inputs`` [B, D] (what the student sees), ``index``, ``actions`` (what was done;
    discrete ones count from 0), ``privileged`` (what the teacher sees, where that is another
    group), and ``weight`` with ``priority``. For S stacked students each drives its own
    environments and learns from its own states: [S, B, D].

    Inputs are the observations: [B, …] of a Box or of MultiBinary and MultiDiscrete, [B] of
    Discrete, as numbers of the environment's type, unscaled. Only real numbers of other widths are
    read as float32. Networks that want real numbers for integers get them from
    ``gym.wrappers.DtypeObservation``, one-hot vectors from ``gym.wrappers.FlattenObservation``.

    Args:
        env: An id, or a function that makes one environment; its observation may have the groups
            ``student`` and ``teacher`` (:class:`distill_lib.rl.Privileged`).
        teacher: A policy: a module, a teacher, or a model of Stable-Baselines3.
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
        priority: Draws some states more often than others: a function from what was played to
            positive weights, either [E], of the episodes by their ``return``, ``length`` and
            ``round`` [E], or [N], of the states by their ``inputs``, ``episode``, ``owner``, and
            the teacher's answers, ``answer/logits`` and so on [N, …]. It is asked once a round.
        correction: Exponent κ of the batch's ``weight`` :math:`(N p_i)^{-κ}`, which corrects for
            drawing state i with probability :math:`p_i`: wholly at 1, not at all at 0.
        augment: ``augment(inputs, generator)``: changed states; the teacher is asked anew about
            them.
        seeds: Without a student, give so many stacked students a batch each from the same states.
        max_steps: An episode of more steps is an error. By default 10,000, or the environment's own
            time limit where that is longer.
        seed: Of everything random here.

    Raises:
        ValueError: numbers out of range, no student where one drives, an augmentation where the
            teacher sees something else, policies for other spaces, an episode that does not end.

    Reference:
        Ross, Gordon and Bagnell, *A reduction of imitation learning and structured prediction to
        no-regret online learning*, 2011.
    """

    augment: Any
    batch_size: int
    env: Any
    episodes: int
    keep: int | None
    labels: int | None
    max_steps: int | None
    position: int
    correction: float
    priority: Any
    round: int
    rounds: int
    student: Any
    student_noise: float
    updates: int

    midway = True  # tells distill that its state is that of this moment, not of the epoch's start

    def __init__(
        self,
        env: Any,
        teacher: Any,  # models of Stable-Baselines3 too
        student: Any = None,
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
        correction: float = 1.0,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        seeds: int | None = None,
        max_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        counts = {"rounds": rounds, "episodes": episodes, "batch_size": batch_size,
                  "updates": updates, "keep": keep, "labels": labels, "seeds": seeds,
                  "max_steps": max_steps}  # fmt: skip
        for name, number in counts.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} is at least 1, got {number}")
        check_counts(0, seed=seed)
        seed = int(seed)  # generators and environments take no numbers of NumPy
        if not 0 <= correction <= 1:
            raise ValueError(f"correction is from 0 to 1, got {correction}")
        self.beta: Schedule = as_schedule(beta)
        shares = [self.beta(r / max(rounds - 1, 1)) for r in range(rounds)]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"beta is a share of steps, in [0, 1]; it runs through {shares}")
        if student is None and min(shares) < 1:
            raise ValueError(f"beta falls to {min(shares):g}: pass the student that drives then")
        self.env, self.student, self.max_steps = env, adapted(student), max_steps
        teacher = adapted(teacher)
        self.policy: Any = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        self.driver = teacher  # at the wheel no batch is made for it
        self.rounds, self.episodes, self.updates = rounds, episodes, updates
        self.batch_size, self.keep, self.labels = batch_size, keep, labels
        several = isinstance(noise, Collection) and not isinstance(noise, Tensor)
        self.noise: list[float] = [float(n) for n in noise] if several else [float(noise)]  # type: ignore[union-attr, arg-type]
        if not self.noise:
            raise ValueError("noise expected one number or several, got none; 0 is greedy")
        self.student_noise, self.priority, self.augment = student_noise, priority, augment
        self.correction = correction
        self.students: int | None = size_of(student) if student is not None else None
        if self.students is not None and seeds not in (None, self.students):
            raise ValueError(f"seeds={seeds} beside {self.students} stacked students: leave it out")
        self.rows: int | None = self.students or seeds  # how many students a batch is for
        self.seed = seed
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)
        self.teacher: Answers = Answers(self)
        self.round, self.position = 0, updates
        self.buffer: dict[str, Tensor] = {}
        self.owned: dict[int, Tensor] = {}
        self.heavy: Tensor = torch.zeros(0)
        self.played: dict[str, Tensor] = {}
        self.log: list[dict[str, float]] = []
        self.labeled: int = 0
        self.dropped: int = 0  # states that are no longer in the buffer

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
        """One batch from the buffer; ``index`` counts the states of all rounds."""
        if not self.buffer:
            raise ValueError("nothing was played yet: call collect(), or walk the rollouts")
        owners: Sequence[int] = range(self.students) if self.students else [0] * (self.rows or 1)
        drawn = [self._rows_of(owner) for owner in owners]
        index = torch.stack([rows for rows, _ in drawn]) if self.rows else drawn[0][0]
        shown = [k for k in ("inputs", "privileged", "actions") if k in self.buffer]
        batch: dict[str, Tensor] = {k: rows_at(self.buffer[k], index) for k in shown}
        batch["index"] = index + self.dropped if self.dropped else index
        if self.augment is not None:
            if "privileged" in batch:
                raise ValueError(
                    "the teacher sees a group of its own, which augment does not change: its "
                    "answer would be for another state; change what the environment tells instead"
                )
            changed = batch["inputs"] = self.augment(batch["inputs"], self.generator)
            if not isinstance(changed, Tensor) or changed.shape[: index.ndim] != index.shape:
                raise ValueError(f"augment gives {list(index.shape)} states, got {told(changed)}")
        if self.priority is not None:
            weights = [weight for _, weight in drawn if weight is not None]
            batch["weight"] = torch.stack(weights) if self.rows else weights[0]
        return batch

    def _rows_of(self, owner: int) -> tuple[Tensor, Tensor | None]:
        """Positions in the buffer for one student, and what corrects for drawing unevenly."""
        if owner not in self.owned:  # looked for once a round, not once a batch
            self.owned[owner] = (self.buffer["owner"] == owner).nonzero().squeeze(-1)
        mine = self.owned[owner]
        if self.priority is None:
            at = torch.randint(len(mine), (self.batch_size,), generator=self.generator)
            return at if len(mine) == len(self.buffer["owner"]) else mine[at], None
        if not len(self.heavy):
            self.heavy = weights_of_states(self.priority, self.buffer, self.played)
        p = self.heavy[mine]
        p = p / p.sum()
        at = torch.multinomial(p, self.batch_size, replacement=True, generator=self.generator)
        return mine[at], ((len(mine) * p[at]) ** -self.correction).float()

    # ---- playing ----

    def collect(self) -> None:
        """Play one round and add it to the buffer.

        Raises:
            ValueError: an empty rollout, other spaces, observations or rewards not finite.
        """
        found = self._play(self.beta(self.round / max(self.rounds - 1, 1)))
        rows = labeled(found["owner"], self.students or 1, self.labels, self.generator)
        if not len(rows):
            raise ValueError("the rollout is empty: no environment took a step")
        found = {k: v[rows] for k, v in found.items()}
        answers = ask(self.policy, found.get("privileged", found["inputs"]), found["index"])
        found |= {f"answer/{k}": v.cpu() for k, v in answers.items() if isinstance(v, Tensor)}
        found["round"] = torch.full((len(rows),), self.round)
        self.labeled += len(rows)
        old = self.buffer
        if self.keep is not None and old:
            kept = old["round"] > self.round - self.keep
            self.dropped += int((~kept).sum())
            old = {k: v[kept] for k, v in old.items()}
        self.buffer = {k: torch.cat([old[k], v]) for k, v in found.items()} if old else found
        self.owned, self.heavy = {}, torch.zeros(0)
        self.round += 1

    def _play(self, beta: float) -> dict[str, Tensor]:
        """All steps of one round, [steps, ...] each."""
        stage = Stage(self.env, self.episodes * (self.students or 1), max_steps=self.max_steps)
        begun, everyone = len(self.played.get("return", ())), torch.arange(stage.size)
        steps: list[dict[str, Tensor]] = []
        try:
            first = self.seed * 1_000_003 + self.round * stage.size
            seen = stage.begin(seed_to_learn(first))
            with bar(iter(int, 1), f"round {self.round + 1}", None) as shown, ExitStack() as walk:
                drive, grouped = self._driver(stage, beta, walk), isinstance(seen, dict)
                while stage.alive.any():
                    mine, theirs = group(seen, "student"), group(seen, "teacher")
                    actions = drive(mine, theirs)
                    step = {"inputs": mine, **({"privileged": theirs} if grouped else {})}
                    alive = torch.from_numpy(stage.alive)
                    if not stage.alive.all():  # what is seen may be large: of those who play
                        step = {k: v[alive] for k, v in step.items()}
                    steps.append({**step, "actions": actions, "alive": alive})
                    stage.step(actions)
                    seen = stage.observation()
                    shown.update()
        finally:
            if stage.envs is not self.env:
                stage.close()
        total, lengths = (torch.from_numpy(v).float() for v in (stage.returns, stage.lengths))
        self._note(total, lengths, beta)
        found = {k: torch.cat([step[k] for step in steps]) for k in steps[0]}
        alive = found.pop("alive")
        found["actions"] = found["actions"][alive]
        at = everyone.repeat(len(steps))[alive]
        owner, index = at // self.episodes, torch.arange(len(at))
        return {**found, "owner": owner, "episode": begun + at, "index": index}

    def _driver(
        self, stage: Stage, beta: float, walk: ExitStack
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """From what student and teacher see to actions [N] or [N, A]; coins say who drives."""
        teach = walk.enter_context(asking(self.driver)) if beta > 0 else None
        study = walk.enter_context(asking(self.student)) if beta < 1 else None
        everyone = torch.arange(stage.size)
        noise = (
            torch.tensor(self.noise).repeat(stage.size)[: stage.size] if any(self.noise) else 0.0
        )
        if isinstance(noise, Tensor) and isinstance(stage.space, MultiDiscrete):
            noise = noise.unsqueeze(-1).expand(-1, len(stage.space.nvec))
        shape = (self.students, self.episodes) if self.students else (stage.size,)

        def drive(mine: Tensor, theirs: Tensor) -> Tensor:
            if teach is not None:
                said = teach(theirs, everyone)
                if not stage.taken:
                    check_actions(said, stage.space, "teacher", (stage.size,))
                actions = act(said, noise, self.generator)
            if study is None:
                return actions
            said = study(mine.view(*shape, *mine.shape[1:]), None)
            if not stage.taken:
                check_actions(said, stage.space, "student", shape)
            own = act(said, self.student_noise, self.generator)
            own = own.flatten(0, 1) if self.students else own
            if teach is None:
                return own
            coin = torch.rand(stage.size, generator=self.generator) < beta
            return torch.where(coin.view(-1, *[1] * (own.ndim - 1)), actions, own)

        return drive

    def _note(self, total: Tensor, lengths: Tensor, beta: float) -> None:
        new = {"return": total, "length": lengths, "round": torch.full_like(total, self.round)}
        self.played = {k: torch.cat([self.played[k], v]) if self.played else v
                       for k, v in new.items()}  # fmt: skip
        self.log.append({"round": self.round, "beta": beta, "steps": lengths.sum().item(),
                         "return": total.mean().item()})  # fmt: skip

    @property
    def labels_used(self) -> int:
        """How many states the teacher has labeled for each student, all rounds together."""
        return self.labeled // (self.students or 1)

    # ---- keeping ----

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly here."""
        return {"round": self.round, "position": self.position, "buffer": self.buffer,
                "played": self.played, "log": list(self.log), "labeled": self.labeled,
                "dropped": self.dropped, "heavy": self.heavy,
                "generator": self.generator.get_state()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another left off."""
        self.round, self.position = state["round"], state["position"]
        self.buffer, self.played = dict(state["buffer"]), dict(state["played"])
        self.labeled = state.get("labeled", len(self.buffer.get("owner", ())))
        self.log, self.owned = list(state["log"]), {}
        self.heavy, self.dropped = state.get("heavy", torch.zeros(0)), state.get("dropped", 0)
        self.generator.set_state(state["generator"])
