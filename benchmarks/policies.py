"""Rollouts of policies: ours against Stable-Baselines3's collector, and DAgger against a loop.

imitation, whose collectors one would like to see here as well, is left out: its release 1.0.1 asks
for Gymnasium 0.29 and a Stable-Baselines3 that goes with it, and cannot be installed beside the
versions that everything else here uses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F

from distill_lib import KD, distill, rl, zoo
from distill_lib.schedules import Schedule

from .side_by_side import Result, compare

ENV, ENVS, STEPS = "LunarLander-v3", 16, 256


def _learner() -> zoo.Policy:
    """Actor and critic of Stable-Baselines3's default size."""
    torch.manual_seed(0)
    return zoo.Policy(8, 4, (64, 64), critic=True)


def our_segments(steps: int = STEPS) -> Callable[[], None]:
    """One segment of :class:`distill_lib.rl.OnPolicy`, with its advantages."""
    return rl.OnPolicy(ENV, _learner(), envs=ENVS, steps=steps, batch_size=256).collect


def their_segments(steps: int = STEPS) -> Callable[[], None]:
    """``collect_rollouts`` of a PPO with the same network in as many environments.

    They are made as its documentation makes them, with its monitor of returns, which ours counts
    too.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import CallbackList
    from stable_baselines3.common.env_util import make_vec_env

    envs = make_vec_env(ENV, ENVS, seed=0)
    model = PPO("MlpPolicy", envs, n_steps=steps, batch_size=256, device="cpu", seed=0)
    _, callback = model._setup_learn(10**9, callback=CallbackList([]))

    def run() -> None:
        if not model.collect_rollouts(envs, callback, model.rollout_buffer, steps):
            raise RuntimeError("the collector stopped before its segment was full")

    return run


def against_sb3() -> Result:
    """Environment steps per second: our segments against Stable-Baselines3's."""
    found = compare(
        f"{ENV}, steps per second against SB3's collect_rollouts",
        our_segments(),
        their_segments(),
        version=f"stable-baselines3 {version('stable-baselines3')}",
        rounds=5,
        bound=1.0,
    )
    played = ENVS * STEPS
    found.ours, found.peer, found.unit = played / found.ours, played / found.peer, "steps/s"
    return found


# ---- DAgger ----

ROUNDS, EPISODES, UPDATES, BATCH = 3, 16, 200, 64


def _pair() -> tuple[zoo.Policy, zoo.Policy]:
    teacher = zoo.load_teacher("cartpole_ppo")
    assert isinstance(teacher, zoo.Policy)
    torch.manual_seed(0)
    return zoo.Policy(4, 2, (32, 32)).normalize_as(teacher), teacher


def our_dagger() -> tuple[Callable[[], None], zoo.Policy]:
    """:class:`distill_lib.rl.Rollouts`: the teacher drives first, then the student."""
    student, teacher = _pair()
    fresh = copy.deepcopy(student.state_dict())

    def run() -> None:
        student.load_state_dict(fresh)
        rollouts = rl.Rollouts(
            "CartPole-v1", teacher, student, beta=Schedule(_first_round, "1, then 0"),
            rounds=ROUNDS, episodes=EPISODES, updates=UPDATES, batch_size=BATCH,
        )  # fmt: skip
        distill(student, rollouts.teacher, rollouts, KD(), epochs=ROUNDS, lr=3e-3)

    return run, student


def _first_round(progress: float) -> float:
    return 1.0 if progress == 0 else 0.0


def dagger_by_hand() -> tuple[Callable[[], None], zoo.Policy]:
    """The loop that one writes: play, ask, aggregate, train."""
    student, teacher = _pair()
    fresh = copy.deepcopy(student.state_dict())

    def play(policy: zoo.Policy, envs: Any, seed: int) -> torch.Tensor:
        seen, _ = envs.reset(seed=seed)
        alive, states = np.ones(EPISODES, bool), []
        while alive.any():
            inputs = torch.as_tensor(seen)
            states.append(inputs[torch.from_numpy(alive)])
            with torch.no_grad():
                actions = policy(inputs)["logits"].argmax(-1)
            seen, _, ended, cut, _ = envs.step(actions.numpy())
            alive &= ~(ended | cut)
        return torch.cat(states)

    def run() -> None:
        student.load_state_dict(fresh)
        # as ours takes its steps, so that the loops are compared and not the optimizers
        optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3, fused=True)
        generator = torch.Generator().manual_seed(0)
        envs = gym.make_vec("CartPole-v1", num_envs=EPISODES, vectorization_mode="sync")
        states, answers = torch.empty(0, 4), torch.empty(0, 2)
        for i in range(ROUNDS):
            found = play(teacher if i == 0 else student, envs, 100 * i)
            with torch.no_grad():
                said = teacher(found)["logits"]
            states, answers = torch.cat([states, found]), torch.cat([answers, said])
            for _ in range(UPDATES):
                at = torch.randint(len(states), (BATCH,), generator=generator)
                log_q = F.log_softmax(student(states[at])["logits"], -1)
                log_p = F.log_softmax(answers[at], -1)
                loss = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        envs.close()

    return run, student


def dagger() -> Result:
    """DAgger with our loop against DAgger by hand, both to a student that balances."""
    (run, a), (hand, b) = our_dagger(), dagger_by_hand()
    run(), hand()
    for name, student in (("our", a), ("their", b)):
        reached = rl.evaluate(student, "CartPole-v1", 20).mean
        if reached < 450:
            raise AssertionError(f"{name} student reaches {reached:.0f}: not the same work")
    name = f"torch {version('torch')}"
    return compare(
        "DAgger on CartPole against a loop by hand", run, hand, version=name, rounds=21, bound=0.9
    )
