"""Train the zoo's teacher in RSL-RL's own format: its PPO on Pendulum-v1, on one CPU thread.

    python teachers/rsl_rl_pendulum.py      # pendulum_rsl_rl, a few minutes

The file is what RSL-RL's runner saves, except that the moments of the optimizer are left out: they
are two thirds of it, and only the next step of this very training would want them. RSL-RL's runners
load it as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from cards import WORK, ZOO, parameters, trained, write_card
from cards import returns as score_of
from gymnasium.vector import AutoresetMode
from rsl_rl.runners import OnPolicyRunner

from distill_lib.integrations.rsl_rl import GymVecEnv, load_teacher, read_policy

NAME, ENV = "pendulum_rsl_rl", "Pendulum-v1"
ENVS, STEPS, ITERATIONS, ROUND = 16, 128, 100, 10
HIDDEN = [128, 128]

MODEL: dict[str, Any] = {
    "class_name": "MLPModel", "hidden_dims": HIDDEN, "activation": "elu", "obs_normalization": True,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "num_steps_per_env": STEPS,
    "save_interval": 1000,
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {**MODEL, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
    "critic": MODEL,
    "algorithm": {
        "class_name": "PPO", "num_learning_epochs": 6, "num_mini_batches": 8,
        "learning_rate": 3e-4, "schedule": "adaptive", "desired_kl": 0.006, "gamma": 0.95,
        "lam": 0.95, "entropy_coef": 0.0, "max_grad_norm": 0.5,
    },
}  # fmt: skip


def envs(n: int) -> Any:
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gym.make_vec(ENV, num_envs=n, vectorization_mode="sync", vector_kwargs=mode)


@torch.inference_mode()
def returns(path: Path, episodes: int, seed: int) -> np.ndarray:
    """Undiscounted returns of the greedy policy: the first episode of each environment."""
    policy, env = load_teacher(path, "elu"), GymVecEnv(envs(episodes), seed=seed)
    total, alive = torch.zeros(episodes), torch.ones(episodes)
    while alive.any():
        seen = env.get_observations()["policy"]
        _, reward, done, _ = env.step(policy(seen)["mean"])
        total += alive * reward
        alive *= 1 - done
    env.close()
    return total.numpy()


def save(runner: OnPolicyRunner, file: Path) -> None:
    """As the runner saves it, with an optimizer that has not begun."""
    runner.save(str(file))
    state = torch.load(file, weights_only=True)
    state["optimizer_state_dict"]["state"] = {}
    torch.save(state, file)


def train(iterations: int, work: Path) -> tuple[OnPolicyRunner, dict[str, Any]]:
    """The runner, and what happened; the best of its evaluations is left in ``work``."""
    torch.manual_seed(0)
    seconds, best, history = 0.0, -1e9, []
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        runner = OnPolicyRunner(GymVecEnv(envs(ENVS), seed=0), RECIPE)
    for done in range(ROUND, iterations + 1, ROUND):
        with contextlib.redirect_stdout(io.StringIO()):
            runner.learn(ROUND)
        runner.current_learning_iteration += 1
        save(runner, work / "now.pt")
        found = returns(work / "now.pt", 50, seed=10_000)
        seconds, steps = time.perf_counter() - begun, done * ENVS * STEPS
        history.append([steps, round(float(found.mean()), 1), round(float(found.std()), 1)])
        print(f"{steps:,} steps  return {found.mean():.1f} ± {found.std():.1f}  "
              f"{seconds / 60:.1f} min", flush=True)  # fmt: skip
        if found.mean() > best:
            best, best_steps = found.mean(), steps
            (work / "best.pt").write_bytes((work / "now.pt").read_bytes())
    return runner, {"minutes": seconds / 60, "steps": best_steps, "history": history}


def describe(file: Path, did: dict[str, Any], final: np.ndarray) -> None:
    """What this teacher is, beside its weights."""
    observations, *hidden, actions = read_policy(file).sizes
    write_card(
        file,
        task=f"control, {ENV}",
        env=ENV,
        architecture={
            "class": "distill_lib.models.control.Policy",
            "kwargs": {
                "observations": observations, "actions": actions, "hidden": hidden,
                "activation": "elu", "continuous": True,
            },
        },
        params=parameters(load_teacher(file, "elu")),
        score=score_of(final),
        trained=trained(
            __file__, did["minutes"], "rsl-rl-lib", "gymnasium", steps=did["steps"],
            recipe=f"RSL-RL's PPO, {ENVS} environments, normalized observations, "
            + ", ".join(f"{k} {v}" for k, v in RECIPE["algorithm"].items() if k != "class_name")
            + "; the best of its evaluations over 50 episodes",
            history=did["history"],
        ),
        data={"name": ENV, "steps": did["steps"]},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="fewer, to try it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = WORK / NAME
    work.mkdir(parents=True, exist_ok=True)
    _, did = train(max(args.iterations, ROUND), work)
    file = ZOO / f"{NAME}.pt"
    file.write_bytes((work / "best.pt").read_bytes())
    final = returns(file, 200, seed=20_000)
    print(f"{NAME}: return {final.mean():.1f} ± {final.std():.1f} over 200 episodes")
    describe(file, did, final)


if __name__ == "__main__":
    main()
