"""``make bench``: every comparison, in one run.

python -m benchmarks [PART OF A NAME ...]; ``parts``: where the time of a step goes
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("DISTILL_QUIET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# where make.py puts libraries whose dependencies it leaves out
sys.path.append(str(Path(sys.prefix) / "peers"))

import torch
from torch import nn

from .side_by_side import Result, compare, write


def kd_epoch(small: bool = False) -> Result:
    """Our loop against the loop that one writes by hand."""
    from . import loops, setting

    (run, a), (hand, b) = loops.ours(small=small), loops.by_hand(small=small)
    run(), hand()
    setting.same(a, b)
    name = f"KD epoch{' of linear models' if small else ''} against a loop by hand"
    # of linear models the loop is all there is: no bar, it says what a step costs
    bound = None if small else 0.97
    torch_version = f"torch {version('torch')}"
    return compare(name, run, hand, version=torch_version, rounds=21, bound=bound)


def against_torchdistill(small: bool = False) -> Result | None:
    """Our loop against torchdistill's box, each with the batches of its library."""
    from . import loops, setting

    if importlib.util.find_spec("torchdistill") is None:
        print("torchdistill is not installed: pip install --no-deps torchdistill", flush=True)
        return None

    (run, a), (box, b) = loops.ours(loaded=False, small=small), loops.torchdistill_box(small=small)
    run(), box()
    setting.same(a, b)
    what = f"KD epoch{' of linear models' if small else ''} against torchdistill's box"
    name = f"torchdistill {version('torchdistill')}"
    return compare(what, run, box, version=name, rounds=21, bound=1.0)


def loop_by_hand() -> Result:
    """:func:`kd_epoch` where the loop is nearly all that takes time."""
    return kd_epoch(small=True)


def loop_torchdistill() -> Result | None:
    """:func:`against_torchdistill` where the loop is nearly all that takes time."""
    return against_torchdistill(small=True)


def against_trainer() -> Result:
    """Our loop against transformers' Trainer, each with the batches of its library."""
    from . import loops, setting

    (run, a), (train, b) = loops.ours(loaded=False), loops.trainer()
    run(), train()
    setting.same(a, b)
    name = f"transformers {version('transformers')}"
    return compare("KD epoch against transformers.Trainer", run, train, version=name, bound=1.0)


def trainer_against_subclass() -> Result:
    """Our ``DistillationTrainer`` against the subclass of ten lines that one writes by hand."""
    from . import loops, setting

    (run, a), (hand, b) = loops.trainer(ours=True), loops.trainer()
    run(), hand()
    setting.same(a, b)
    name = f"transformers {version('transformers')}"
    return compare(
        "DistillationTrainer against a Trainer by hand",
        run,
        hand,
        version=name,
        rounds=21,
        bound=0.97,
    )


def cached_targets() -> Result:
    """Targets from the cache against targets from the teacher that the book ships."""
    from distill_lib import KD, Cache, Teacher, data, distill, zoo

    from . import setting

    train = data.load("fashion_mnist", split="train").subset(range(2560))
    teacher = Teacher(zoo.load_teacher("fashion_resnet20"))
    cache = Cache.build(Path(tempfile.mkdtemp()) / "logits", teacher, train)
    student, _ = setting.models()

    def epoch(source: Any) -> Callable[[], Any]:
        batches = train.batches(128, seed=0)
        return lambda: distill(student, source, batches, KD(temperature=4), epochs=1)

    return compare(
        "epoch with cached targets against a live ResNet-20",
        epoch(cache),
        epoch(teacher),
        version="the live teacher",
        rounds=3,
        bound=2.0,
    )


def imports() -> Result:
    """``import distill_lib`` against ``import torch`` alone, each in a fresh interpreter."""

    def seconds(code: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begun

    both = [
        (seconds("import distill_lib; distill_lib.KD"), seconds("import torch")) for _ in range(6)
    ]
    ours, peer = (min(times) for times in zip(*both, strict=True))
    return Result(
        "import distill_lib against import torch",
        peer / ours,
        ours,
        peer,
        f"torch {version('torch')}",
        "s",
        1 / 1.3,
    )


def five_seeds() -> Result:
    """Five small students as one batched model against one student, five times."""
    from distill_lib import CE, KD, Stacked, distill

    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    torch.manual_seed(9)
    teacher = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    shared = [(torch.randn(64, 64), torch.randint(10, (64,))) for _ in range(200)]
    objective = CE() + KD(temperature=4)
    one, five = net(0), Stacked([net(seed) for seed in range(5)], ndim=2)
    return compare(
        "five seeds in one against five runs",
        lambda: distill(five, teacher, shared, objective, epochs=1),
        lambda: distill(one, teacher, shared, objective, epochs=1),
        version="five times one seed",
        scale=5,
        bound=2.5,
    )


def main() -> int:
    from . import parts, policies, policies_rsl_rl, policy_returns, steps, vocabulary

    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    if not wanted or "parts" in wanted:
        parts.show()
    results: list[Result] = []
    for job in (
        kd_epoch,
        against_torchdistill,
        loop_by_hand,
        loop_torchdistill,
        against_trainer,
        trainer_against_subclass,
        cached_targets,
        imports,
        five_seeds,
        policies.against_sb3,
        policies.dagger,
        *policy_returns.ALL,
        *policies_rsl_rl.ALL,
        *vocabulary.ALL,
        *steps.ALL,
    ):
        if wanted and not any(part in job.__name__ for part in wanted):
            continue
        if (result := job()) is not None:
            results.append(result)
            print(result.line(), flush=True)
    write(results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
