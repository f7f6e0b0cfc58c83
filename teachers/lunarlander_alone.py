"""Train the control of the chapter on policy distillation: a small student with no teacher.

    python teachers/lunarlander_alone.py      # lunarlander_alone, five students of 580 parameters

Each of the five learns by reward alone, with the library's PPO and the settings by which the
teacher of LunarLander was trained, for at least as many steps. The file has the weights of all
five, without their critics, and its metadata say how they were made. It is no teacher, and has no
card among the teachers'.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from safetensors.torch import save_file

from distill_lib import PPO, Stacked, distill, linear, rl, zoo

ZOO = Path(__file__).resolve().parents[1] / "distill_lib" / "zoo"
NAME, ENV, HIDDEN, SEEDS = "lunarlander_alone", "LunarLander-v3", (18, 18), 5
ENVS, SEGMENT, SEGMENTS = 16, 256, 245
# about one over the spread of the discounted return, by which the teacher's rewards were divided
SCALE, RATE = 0.02, 7e-4


def scaled(**kwargs: Any) -> gym.Env[Any, Any]:
    env = gym.make(ENV, disable_env_checker=True, **kwargs)
    return gym.wrappers.TransformReward(env, lambda reward: SCALE * reward)


def described(steps: int, minutes: str) -> dict[str, str]:
    """What the file says of itself."""
    return {
        "env": ENV,
        "hidden": " ".join(map(str, HIDDEN)),
        "steps": str(steps),
        "minutes": minutes,
        "command": "python teachers/lunarlander_alone.py",
        "recipe": f"PPO of the library, {ENVS} environments, rewards times {SCALE:g}, rate "
        f"{RATE:g} falling to 0, {SEGMENT} steps, 6 epochs, batches of 256, lambda 0.97, entropy "
        "0.005, critics of the same widths, statistics of observations from the teacher",
        "versions": f"torch {version('torch')}, gymnasium {version('gymnasium')}",
        "license": "MIT",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=SEGMENTS, help="fewer, to try the script")
    parser.add_argument("--out", type=Path, default=ZOO / f"{NAME}.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = zoo.load_teacher("lunarlander_ppo")
    nets = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        # the statistics of the observations are all that these students get from a teacher
        nets.append(zoo.Policy(8, 4, HIDDEN, critic=True).normalize_as(teacher))
    students, begun = Stacked(nets, ndim=2), time.perf_counter()

    def look(policy: Any) -> None:
        each = rl.evaluate(policy, ENV, 20, seed=500_000).each.tolist()
        steps = segments.segments * SEGMENT * ENVS
        print(f"{steps:,} steps  {[round(r) for r in each]}", flush=True)

    segments = rl.OnPolicy(
        scaled, students, envs=ENVS, steps=SEGMENT, epochs=6, batch_size=256, gamma=0.99,
        lam=0.97, probe=look, every=24, seed=1,
    )  # fmt: skip
    distill(students, None, segments, PPO(entropy=0.005), epochs=args.segments, lr=linear(RATE, 0))
    look(students)
    tensors = {
        f"seed{i}.{name}": value.contiguous()
        for i, net in enumerate(students.unstack())
        for name, value in net.state_dict().items()
        if not name.startswith("critic")
    }
    minutes = (time.perf_counter() - begun) / 60
    save_file(
        tensors, args.out, metadata=described(args.segments * SEGMENT * ENVS, f"{minutes:.0f}")
    )


if __name__ == "__main__":
    main()
