"""Train the small students that run in the page, and record flights of the lander; to the zoo.

    python teachers/live_students.py      # live_students, live_flights; under two minutes

On Acrobot and on Pendulum: students that were cloned (the teacher drives) and students of DAgger
(from the second round on, the student drives), with as many labels, as many batches, and the same
networks at the start. Ten of each kind are trained and tested, so that a difference can be told
from luck; the page shows the first of them, whichever it is. On the lander: cloned students beside
those of ``lunarlander_alone.py``, and recorded flights of Box2D from starts that were not chosen.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import torch
from cards import ZOO, digest, parameters, write_table
from safetensors.torch import save_file

from distill_lib import KD, Stacked, cosine, distill, losses, rl, steps, zoo
from distill_lib.checkpoints import load_checkpoint

NAME, FLIGHTS = "live_students", "live_flights"
# trials of other settings had smaller seeds
SEEDS, ALONE_SEEDS, EPISODES, ROUNDS, BATCHES, RATE = range(10, 20), 5, 50, 8, 1_600, 1e-2
LABELS = (400, 4_000)
# id, teacher, hidden units, the signal that is taught, steps of an episode to plan with
TASKS: dict[str, tuple[Any, ...]] = {
    "acrobot": ("Acrobot-v1", "acrobot_ppo", (4,), "logits", 60),
    "pendulum": ("Pendulum-v1", "pendulum_rsl_rl", (16,), "gaussian", 200),
}
LANDER, PILOT, ALONE = "LunarLander-v3", "lunarlander_ppo", "lunarlander_alone"
PILOTS = (18, 18)  # hidden units, as those of the pilots that had no teacher
STARTS, FIRST, EVERY = 4, 3_000_000, 2  # recorded starts, the seed of the first, steps a picture


def students(teacher: Any, actions: int, hidden: tuple[int, ...], continuous: bool) -> Stacked:
    """Untrained, one for each seed; they see with the statistics of their teacher."""
    nets = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        net = zoo.Policy(len(teacher.obs_mean), actions, hidden, continuous=continuous)
        nets.append(net.normalize_as(teacher))
    return Stacked(nets, ndim=2)


def played(policy: Any, env: Any, episodes: int) -> list[float]:
    """Mean return of each policy."""
    return [round(v, 1) for v in rl.evaluate(policy, env, episodes).each.tolist()]


def kept(nets: Stacked, name: str) -> dict[str, torch.Tensor]:
    """The weights of the layers of all seeds, [S, ...]; statistics are those of the teacher."""
    states = [net.net.state_dict() for net in nets.unstack()]
    return {f"{name}.{k}": torch.stack([s[k] for s in states]) for k in states[0]}


def swing_up(task: str, tensors: dict[str, torch.Tensor], rows: list[dict[str, Any]]) -> None:
    """Teacher, clones and students of DAgger on one task."""
    env, named, hidden, signal, length = TASKS[task]
    teacher, real = zoo.load_teacher(named), signal == "gaussian"
    about = {"part": "student", "task": task, "env": env, "hidden": hidden}
    rows.append({"part": "teacher", "task": task, "env": env, "zoo": named,
                 "numbers": parameters(teacher.net), "episodes": EPISODES,
                 "return": played(teacher, env, len(SEEDS) * EPISODES)})  # fmt: skip
    objective = KD(losses.gaussian_kl, on="gaussian") if real else KD()
    for labels in LABELS:
        for kind, rounds in (("clone", 1), ("dagger", ROUNDS)):
            nets = students(teacher, 1 if real else 3, hidden, real)
            # the first round is the teacher's, all others the student's
            play = rl.Rollouts(
                env, teacher, nets, beta=steps({0: 1, 0.01: 0}) if rounds > 1 else 1.0,
                rounds=rounds, episodes=-(-labels // (rounds * length)), labels=labels // rounds,
                updates=BATCHES // ROUNDS, batch_size=128, seed=11,
            )  # fmt: skip
            distill(nets, play.teacher, play, objective, epochs=ROUNDS, lr=cosine(RATE, 0))
            tensors |= kept(nets, f"{task}.{kind}.{labels}")
            rows.append({**about, "kind": kind, "labels": play.labels_used,
                         "numbers": parameters(nets.unstack()[0].net),
                         "return": played(nets, env, EPISODES)})  # fmt: skip
            print(rows[-1], flush=True)


def pilots(tensors: dict[str, torch.Tensor], rows: list[dict[str, Any]]) -> list[Any]:
    """The lander's teacher, cloned students, and students without a teacher; the first of each."""
    teacher = zoo.load_teacher(PILOT)
    nets = students(teacher, 4, PILOTS, False)
    play = rl.Rollouts(LANDER, teacher, nets, episodes=10, noise=(0, 1), batch_size=128,
                       updates=800, seed=11)  # fmt: skip
    distill(nets, play.teacher, play, KD(), epochs=1, lr=cosine(RATE, 0))
    tensors |= kept(nets, "lander.clone")
    saved, alone = load_checkpoint(ZOO / f"{ALONE}.safetensors"), []
    for seed in range(ALONE_SEEDS):
        alone.append(zoo.Policy(8, 4, PILOTS))
        saved.load_into(alone[-1], f"seed{seed}")
    about = {"task": "lander", "env": LANDER}
    rows += [
        {"part": "teacher", **about, "zoo": PILOT, "numbers": parameters(teacher.net),
         "episodes": EPISODES, "return": played(teacher, LANDER, EPISODES)},
        {"part": "student", **about, "kind": "clone", "hidden": PILOTS,
         "numbers": parameters(nets.unstack()[0].net), "labels": play.labels_used,
         "return": played(nets, LANDER, EPISODES)},
        {"part": "student", **about, "kind": "alone", "hidden": PILOTS, "labels": 0,
         "numbers": parameters(alone[0].net),
         "return": played(Stacked(alone, ndim=2), LANDER, EPISODES)},
    ]  # fmt: skip
    print(rows[-2:], flush=True)
    return [teacher, nets.unstack()[0], alone[0]]


@torch.no_grad()
def flight(policy: Any, seed: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Pictures [n, 6]: x, y, angle, angles of both legs (all in thousandths), the engine's number;
    the ground's heights; and how it ended."""
    env: Any = gym.make(LANDER)
    seen, _ = env.reset(seed=seed)
    world, rows, total, over, count = env.unwrapped, [], 0.0, False, 0

    def look(action: int) -> list[int]:
        x, y = world.lander.position
        turns = (world.lander.angle, *(leg.angle for leg in world.legs))
        return [round(1000 * v) for v in (x, y, *turns)] + [action]

    while not over:
        action = policy(torch.from_numpy(seen)[None])["logits"].argmax(-1).item()
        seen, reward, terminated, truncated, _ = env.step(action)
        total, over, count = total + float(reward), terminated or truncated, count + 1
        if count % EVERY == 0 or over:
            rows.append(look(0 if over else action))
    ground = [world.sky_polys[0][0][1], *(poly[1][1] for poly in world.sky_polys)]
    out = "left the picture" if abs(seen[0]) >= 1 else "crashed"
    end = "still flying" if not terminated else "landed" if reward == 100 else out
    env.close()
    pictures = torch.tensor(rows).clamp(-32_768, 32_767).to(torch.int16)
    heights = torch.tensor(ground).mul(1000).round().to(torch.int16)
    return pictures, heights, {"return": round(total, 1), "steps": count, "end": end}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    tensors: dict[str, torch.Tensor] = {}
    rows: list[dict[str, Any]] = []
    for task in TASKS:
        swing_up(task, tensors, rows)
    drivers, flown = pilots(tensors, rows), {}
    for start in range(STARTS):
        for who, policy in zip(("teacher", "clone", "alone"), drivers, strict=True):
            pictures, heights, how = flight(policy, FIRST + start)
            flown[f"{start}.{who}"], flown[f"{start}.ground"] = pictures, heights
            rows.append({"part": "flight", "start": start, "kind": who, **how})
    for name, content in ((NAME, tensors), (FLIGHTS, flown)):
        file = ZOO / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in content.items()}, file)
        rows.append({"part": "file", "file": file.name, "sha256": digest(file)})
    write_table(ZOO / f"{NAME}.jsonl", rows, begun)
    print(f"{time.process_time() - begun:.0f} s")


if __name__ == "__main__":
    main()
