"""Make the book's entry for the lander in the challenge "Smallest student": a linear pilot.

    python teachers/challenge_lander.py      # challenge/entries/lander_linear.packed, two minutes

Eight linear students of 36 numbers learn from the teacher of LunarLander on the states that they
come to themselves (DAgger). Their normalization of the observations is folded into the weights, and
the weights become small whole numbers; of all students and roundings the smallest file is kept that
lands well in practice episodes. The episodes of the challenge are none of these.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_lib import KD, Stacked, compress, cosine, distill, linear, rl, zoo

ENTRIES = Path(__file__).resolve().parents[1] / "challenge" / "entries"
NAME, ENV, STUDENTS = "lander_linear", "LunarLander-v3", 8
LEVELS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # the largest whole number of a pilot
TRIED, JUDGED = (20, 300_000), (300, 400_000)  # practice episodes, and the first one's seed
GOAL = 225.0  # the bar is 200, and 1,000 other episodes have another mean


def taught(students: int, share: float) -> list[zoo.Policy]:
    """Linear students, each taught on its own states."""
    pilot = zoo.load_teacher("lunarlander_ppo")
    torch.manual_seed(0)
    nets = [zoo.Policy(8, 4, hidden=()).normalize_as(pilot) for _ in range(students)]
    stacked, rounds = Stacked(nets, ndim=2), 6
    states = rl.Rollouts(
        ENV, pilot, stacked, beta=linear(1.0, 0.0), rounds=rounds, episodes=5, labels=3_000,
        updates=max(int(share * 300), 1),
    )  # fmt: skip
    distill(stacked, states.teacher, states, KD(), epochs=rounds, lr=cosine(1e-2, 0))
    return stacked.unstack()


def folded(net: zoo.Policy) -> Tensor:
    """[4, 9] weights and biases for observations as they come.

    The normalized ones are also cut off at 10 standard deviations; the folded ones are not.
    """
    scale = (net.obs_var + 1e-8).rsqrt()
    layer = net.net[0]
    weight = layer.weight.detach() * scale
    bias = layer.bias.detach() - weight @ net.obs_mean
    return torch.cat([weight, bias[:, None]], 1)


def whole(numbers: Tensor, largest: int) -> Tensor:
    """The numbers as small whole ones, with as many zeros as there can be.

    A factor of all numbers changes no choice of an action, and neither does a number added to all
    actions: so in each column the most frequent value becomes 0.
    """
    centered = numbers - (numbers.amax(0) + numbers.amin(0)) / 2
    found = (centered / centered.abs().max() * largest).round()
    return (found - found.mode(0).values).to(torch.int8)


def entry(numbers: Tensor) -> nn.Module:
    """The pilot as it is packed; its statistics are 0 and 1, which cost nothing."""
    net = zoo.Policy(8, 4, hidden=())
    net.net[0].weight = nn.Parameter(numbers[:, :8].contiguous(), requires_grad=False)
    net.net[0].bias = nn.Parameter(numbers[:, 8].contiguous(), requires_grad=False)
    net.obs_mean, net.obs_var = net.obs_mean.to(torch.int8), net.obs_var.to(torch.int8)
    return net


def pilot_of(numbers: Tensor) -> zoo.Policy:
    """The same pilot as it flies."""
    net = zoo.Policy(8, 4, hidden=())
    net.load_state_dict(entry(numbers).state_dict())
    return net


def smallest(candidates: list[Tensor], goal: float) -> tuple[Tensor, float]:
    """Of all candidates that land well the one with the smallest file, and its mean return."""
    episodes, seed = TRIED
    each = rl.evaluate(Stacked([pilot_of(c) for c in candidates], ndim=2), ENV, episodes, seed=seed)
    good = [c for c, mean in zip(candidates, each.each.tolist(), strict=True) if mean >= goal]
    for numbers in sorted(good, key=packed):
        mean = rl.evaluate(pilot_of(numbers), ENV, JUDGED[0], seed=JUDGED[1]).mean
        print(f"{packed(numbers)} bytes, {mean:.1f} in practice", flush=True)
        if mean >= goal:
            return numbers, mean
    raise SystemExit("no pilot lands well enough: more students, or finer numbers")


def packed(numbers: Tensor) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return compress.save_packed(entry(numbers), Path(folder) / "x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--students", type=int, default=STUDENTS)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, to try the script")
    parser.add_argument("--goal", type=float, default=GOAL)
    parser.add_argument("--out", type=Path, default=ENTRIES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    nets = taught(args.students, args.share)
    candidates = [whole(folded(net), largest) for net in nets for largest in LEVELS]
    numbers, mean = smallest(candidates, args.goal)
    size = compress.save_packed(entry(numbers), args.out / f"{NAME}.packed")
    card = {
        "task": "lander",
        "author": "the authors of this book",
        "track": "taught",
        "how": "a linear policy, DAgger from lunarlander_ppo, whole numbers: "
        "teachers/challenge_lander.py",
        "test_data_unseen": True,
    }
    (args.out / f"{NAME}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    seconds = time.process_time() - begun
    print(numbers.tolist(), f"{size} bytes, {mean:.1f} in practice, {seconds:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
