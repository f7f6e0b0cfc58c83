"""A hopper whose friction, mass and motors change: teachers, students, rivals; to the zoo.

    python teachers/locomotion_grid.py

Three ways by reinforcement (RSL-RL's PPO, equal steps): a privileged teacher; an actor that sees
the robot's last frames, with a critic that is told everything; the same with a critic that sees no
more than its actor. Four kinds of students of the first teacher, all with as many labels and
updates, on states of their own: one frame, a window of frames, a memory, and RMA's adaptation
module. Two other teachers each teach the window, too. All play their exam in the simulation of the
lessons and in another one. A run that is killed goes on from its last row.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from typing import Any

import gymnasium as gym
import torch
from cards import WORK, ZOO
from locomotion_world import LESSON, REAL, Body, Encoded, Views
from rsl_rl.models import MLPModel
from rsl_rl.runners import OnPolicyRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill_lib import rl
from distill_lib.integrations import rsl_rl as rsl

FILE = ZOO / "locomotion_grid.jsonl"
FRAMES, ROBOT, HIDDEN, CODE = 16, 11, 7, 6
STEPS, ITERATIONS = 500, 200  # of an episode; of PPO, 2,048 steps each
ROUNDS, ENVS, CHUNKS, LENGTH, UPDATES = 15, 16, 10, 25, 100
SEEDS, EPISODES = 5, 40


# ---- by reinforcement ----


class EncodedModel(MLPModel):
    """:class:`Encoded` as an actor of RSL-RL, which does the normalizing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inner = Encoded()
        self.mlp = _Mean(self.inner)


class _Mean(nn.Module):
    def __init__(self, inner: Encoded) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)["mean"]


GROUPS = {  # who sees what
    "teacher": {"actor": ["teacher"], "critic": ["teacher"]},
    "asymmetric": {"actor": ["student"], "critic": ["teacher"]},
    "symmetric": {"actor": ["student"], "critic": ["student"]},
}


def lessons(**kwargs: Any) -> gym.Env[Any, Any]:
    return Views(Body(LESSON, **kwargs))


def real(**kwargs: Any) -> gym.Env[Any, Any]:
    return Views(Body(REAL, real=True, **kwargs))


def small_rewards(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.wrappers.TransformReward(lessons(**kwargs), lambda r: r / 10)


def reinforced(way: str, seed: int, iterations: int = ITERATIONS) -> tuple[Any, list[float]]:
    """A policy that RSL-RL's PPO trained, and its exam every fifty iterations."""
    net = {"hidden_dims": [64, 64], "activation": "elu", "obs_normalization": True}
    gaussian = {"class_name": "GaussianDistribution", "init_std": 0.6}
    actor = EncodedModel if way == "teacher" else MLPModel
    recipe = {
        "num_steps_per_env": 64, "save_interval": 10**6, "obs_groups": GROUPS[way],
        "actor": {"class_name": actor, "distribution_cfg": gaussian, **net},
        "critic": {"class_name": MLPModel, **net},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 6, "num_mini_batches": 4,
                      "learning_rate": 1e-3, "schedule": "adaptive", "desired_kl": 0.01,
                      "gamma": 0.99, "lam": 0.95, "entropy_coef": 0.0, "max_grad_norm": 0.5,
                      "value_loss_coef": 1.0, "use_clipped_value_loss": False,
                      "clip_param": 0.2}}  # fmt: skip
    torch.manual_seed(seed)
    world = rsl.GymVecEnv(rl.make(small_rewards, 32), seed=2**30 + 1000 * seed,
                          max_episode_length=STEPS)  # fmt: skip
    curve = []
    with contextlib.redirect_stdout(io.StringIO()):
        runner = OnPolicyRunner(world, recipe)
    for _ in range(max(iterations // 50, 1)):
        with contextlib.redirect_stdout(io.StringIO()):
            runner.learn(min(50, iterations))
        policy = exported(runner.alg.get_policy(), way)
        curve.append(round(exam(policy, lessons, 16, way).mean, 1))
        print(f"  {way} {seed}: {curve[-1]}", flush=True)
    return policy, curve


def exported(model: Any, way: str) -> nn.Module:
    """The actor outside of RSL-RL."""
    norm = model.obs_normalizer
    policy = Encoded() if way == "teacher" else Window()
    if way == "teacher":
        policy.load_state_dict(model.inner.state_dict())
    else:
        policy.net.load_state_dict(dict(model.mlp.state_dict()))
    policy.mean, policy.std = norm._mean[0].clone(), norm._std[0].clone() + norm.eps
    return policy.eval()


def exam(policy: nn.Module, world: Any, episodes: int, way: str = "") -> rl.Returns:
    if hasattr(policy, "forget"):
        policy.forget()
    return rl.evaluate(policy, world, episodes, sees="teacher" if way == "teacher" else "student")


# ---- students ----


class Window(nn.Module):
    """A multilayer perceptron of the last frames."""

    def __init__(self, frames: int = FRAMES, outputs: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(ROBOT * frames))
        self.register_buffer("std", torch.ones(ROBOT * frames))
        self.net = nn.Sequential(nn.Linear(ROBOT * frames, 64), nn.ELU(), nn.Linear(64, 64),
                                 nn.ELU(), nn.Linear(64, outputs))  # fmt: skip

    def forward(self, seen: Tensor, *_: Any) -> dict[str, Tensor]:
        seen = seen[..., -len(self.mean) :]
        return {"mean": self.net((seen - self.mean) / self.std)}


class Adaptation(Window):
    """RMA: the code from the last frames, then the teacher's own head."""

    def __init__(self, teacher: Encoded) -> None:
        super().__init__(FRAMES, CODE)
        self.teacher = [teacher]  # is not trained

    def forward(self, seen: Tensor, *_: Any) -> dict[str, Tensor]:
        code = super().forward(seen)["mean"].tanh()
        own = (seen[..., -ROBOT:] - self.teacher[0].mean[:ROBOT]) / self.teacher[0].std[:ROBOT]
        return {"mean": self.teacher[0].head(torch.cat([own, code], -1)), "code": code}


class Memory(nn.Module):
    """A gated recurrent unit that sees one frame at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(ROBOT))
        self.register_buffer("std", torch.ones(ROBOT))
        self.inner, self.cell = nn.Linear(ROBOT, 64), nn.GRUCell(64, 64)
        self.outer = nn.Sequential(nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 3))
        self.forget()

    def forget(self, rows: Tensor | None = None) -> None:
        if rows is None:
            self.state: Tensor | None = None
        elif self.state is not None:
            self.state = self.state * ~rows[:, None]

    def forward(self, seen: Tensor, state: Tensor | None = None,
                fresh: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
        """[N, F] one step, with the state that is kept here; or [T, N, F] a chunk."""
        x = nn.functional.elu(self.inner((seen[..., -ROBOT:] - self.mean) / self.std))
        if state is None:
            self.state = self.cell(x, self.state)
            return {"mean": self.outer(self.state)}
        found = []
        for now, first in zip(x, fresh, strict=True):
            state = self.cell(now, state * ~first[:, None])
            found.append(state)
        return {"mean": self.outer(torch.stack(found))}


def student(kind: str, teacher: Encoded) -> nn.Module:
    if kind == "RMA":
        return Adaptation(teacher)
    return {"one frame": lambda: Window(1), "history": Window, "memory": Memory}[kind]()


def taught(kind: str, seed: int, teacher: Encoded) -> nn.Module:
    """A student that drives itself after a first round of the teacher's."""
    torch.manual_seed(seed)
    made = student(kind, teacher)
    steps = CHUNKS * LENGTH
    world = rsl.GymVecEnv(rl.make(lessons, ENVS), seed=2**30 + 100_000 + 1000 * seed,
                          max_episode_length=STEPS)  # fmt: skip
    optimizer = torch.optim.Adam(made.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS * UPDATES)
    store: dict[str, list[Tensor]] = {k: [] for k in ("seen", "want", "state", "fresh")}
    fresh = torch.ones(ENVS, dtype=torch.bool)
    for turn in range(ROUNDS):
        rows: dict[str, list[Tensor]] = {k: [] for k in store}
        for _ in range(steps):
            look = world.get_observations()
            with torch.no_grad():
                state = getattr(made, "state", None)
                state = torch.zeros(ENVS, 64) if state is None else state
                said, own = teacher(look["teacher"]), made(look["student"])["mean"]
            want = said["code"] if kind == "RMA" else said["mean"].clamp(-1.5, 1.5)
            for name, value in zip(rows, (look["student"], want, state, fresh), strict=True):
                rows[name].append(value.clone())
            _, _, done, _ = world.step(said["mean"] if turn == 0 else own)
            fresh = done.bool()
            if kind == "memory":
                made.forget(fresh)
        for name, values in rows.items():  # [steps, N, ...] to [T, chunks * N, ...]
            x = torch.stack(values).unflatten(0, (CHUNKS, LENGTH)).transpose(0, 1)
            store[name].append(x.flatten(1, 2))
        every = {k: torch.cat(v, 1) for k, v in store.items()}
        if turn == 0:
            flat = every["seen"][..., -len(made.mean) :].flatten(0, 1)
            made.mean, made.std = flat.mean(0), flat.std(0) + 0.01
        for _ in range(UPDATES):
            at = torch.randint(every["seen"].shape[1], (40,))
            batch = {k: v[:, at] for k, v in every.items()}
            said = made(batch["seen"], batch["state"][0], batch["fresh"])
            loss = (said["code" if kind == "RMA" else "mean"] - batch["want"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(made.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    world.close()
    return made.eval()


# ---- the table ----


def played(policy: nn.Module, way: str = "") -> dict[str, Any]:
    found = {}
    for name, world in {"lessons": lessons, "real": real}.items():
        result = exam(policy, world, EPISODES, way)
        found[name] = round(result.mean, 1)
        found[f"{name} fell"] = round((result.lengths < STEPS).float().mean().item(), 3)
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    kept = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    rows = [row for row in map(json.loads, kept) if row["part"] != "made"]
    have = {(row["way"], row["seed"]) for row in rows}
    begun = time.process_time()
    spent = sum(row["seconds"] for row in rows)

    def add(way: str, seed: int, policy: nn.Module, since: float, **more: Any) -> None:
        took = time.process_time() - since
        label = "teacher" if way == "teacher" else ""
        rows.append({"part": "grid", "way": way, "seed": seed, **played(policy, label), **more,
                     "seconds": round(took, 1)})  # fmt: skip
        FILE.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        print(rows[-1], flush=True)

    def by_reward(way: str, seed: int) -> None:
        if (way, seed) in have:
            return
        since = time.process_time()
        policy, curve = reinforced(way, seed)
        save_file(policy.state_dict(), WORK / f"locomotion_{way}_{seed}.safetensors")
        add(way, seed, policy, since, curve=curve)

    def loaded(seed: int) -> Encoded:
        by_reward("teacher", seed)
        teacher = Encoded()
        teacher.load_state_dict(load_file(WORK / f"locomotion_teacher_{seed}.safetensors"))
        return teacher.requires_grad_(False).eval()

    teacher = loaded(0)
    save_file(teacher.state_dict(), ZOO / "locomotion_grid.safetensors")
    for seed in range(SEEDS):
        for kind in ("one frame", "history", "memory", "RMA"):
            if (kind, seed) not in have:
                since = time.process_time()
                add(kind, seed, taught(kind, seed, teacher), since)
    for seed in range(SEEDS):
        for way in ("asymmetric", "symmetric"):
            by_reward(way, seed)
    for number in (1, 2):
        other = loaded(number)
        for seed in range(SEEDS):
            if (f"history of teacher {number}", seed) not in have:
                since = time.process_time()
                made = taught("history", seed, other)
                add(f"history of teacher {number}", seed, made, since)
    said = {"part": "made", "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "cpu_seconds": round(spent + time.process_time() - begun)}  # fmt: skip
    FILE.write_text("".join(json.dumps(r) + "\n" for r in [*rows, said]), encoding="utf-8")


if __name__ == "__main__":
    main()
