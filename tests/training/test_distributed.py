"""Two processes on the CPU do what one does, for any number of batches."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator, DataLoaderConfiguration, InitProcessGroupKwargs
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from distill_lib import CE, KD, Match, distill

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

WORLD = 2
LIMIT = 300  # seconds for both processes; a process waits 60 for the other


def items(count: int) -> list[dict[str, torch.Tensor]]:
    """Single items; every fourth has no label."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(-1, 3, (count,), generator=draw)
    inputs = torch.randn(count, 5, generator=draw).double()
    labels = torch.where(labels < 0, -100, labels)
    return [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


def ragged(number: int) -> list[dict[str, torch.Tensor]]:
    """That many batches, each of another size."""
    sizes = list(itertools.islice(itertools.cycle((4, 7, 3, 6, 5, 2, 8, 1)), number))
    whole = items(sum(sizes))
    columns = {key: torch.stack([row[key] for row in whole]).split(sizes) for key in whole[0]}
    return [dict(zip(columns, batch, strict=True)) for batch in zip(*columns.values(), strict=True)]


def shuffled(number: int) -> DataLoader[Any]:
    return DataLoader(items(4 * number - 1), 4, shuffle=True)


def prepared(number: int) -> Callable[[Accelerator], DataLoader[Any]]:
    return lambda accelerator: accelerator.prepare(DataLoader(items(4 * number), 4))


def sampled(accelerator: Accelerator) -> DataLoader[Any]:
    """As torch's own scripts share a loader out: every second item."""
    rows, world = items(32), accelerator.num_processes
    sampler = DistributedSampler(rows, world, accelerator.process_index, shuffle=False)
    return DataLoader(rows, 4 if world == WORLD else 8, sampler=sampler)


def is_nan(number: int) -> list[dict[str, torch.Tensor]]:
    batches = ragged(number)
    batches[1]["inputs"] *= float("nan")  # of the second process
    return batches


# name -> batches, how long, micro-batches of one process
SCENARIOS: dict[str, tuple[Any, dict[str, int], int]] = {
    f"{number} batches, {next(iter(time))}, accumulation {cut}": (ragged(number), time, cut)
    for number in (1, 5, 7, 8)
    for time in ({"epochs": 2}, {"steps": 5})
    for cut in (1, 3)
} | {
    "shuffled, even": (shuffled(6), {"epochs": 3}, 1),
    "shuffled, uneven": (shuffled(7), {"epochs": 3}, 2),
    "prepared, even": (prepared(6), {"epochs": 2}, 1),
    "prepared, uneven": (prepared(7), {"epochs": 2}, 2),
    "prepared, steps": (prepared(5), {"steps": 7}, 1),
    "sampler": (sampled, {"epochs": 2}, 1),
    "a loss that is not finite": (is_nan(4), {"epochs": 1}, 1),
    "a loader too short": (prepared(1), {"epochs": 1}, 1),
}


def train(name: str, world: int, folder: Path) -> dict[str, Any]:
    """One training: what came out, or the error."""
    batches, time, cut = SCENARIOS[name]
    whole = 1 if batches is sampled else WORLD // world
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=cut * whole,
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=60))],
    )
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    teacher = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    objective = CE() + KD(temperature=2) + 0.1 * Match("0", project=nn.Linear(8, 8).double())
    try:
        history = distill(
            student,
            teacher,
            batches(accelerator) if callable(batches) else batches,
            objective,
            **time,
            optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
            clip_norm=0.5,
            accelerator=accelerator,
            seed=5,
            checkpoint=folder / f"{name} of {world}",
        )
    except (FloatingPointError, ValueError) as error:
        return {"error": str(error)}
    return {"state": {**student.state_dict(), **objective.state_dict()}, "rows": history.records}


def work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "DISTILL_QUIET": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "ACCELERATE_USE_CPU": "true",
    }
    for name in SCENARIOS:
        torch.save(train(name, WORLD, folder), folder / f"{name}, {rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes left what came out of every scenario that they finished in time."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = mp.get_context("spawn")
    both = [spawn.Process(target=work, args=(rank, port, folder)) for rank in range(WORLD)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=LIMIT)
        process.kill()
    return folder


def found(folder: Path, name: str) -> list[dict[str, Any]]:
    paths = [folder / f"{name}, {rank}" for rank in range(WORLD)]
    assert all(path.exists() for path in paths), "hung, or died"
    return [torch.load(path, weights_only=True) for path in paths]


WHOLE = [name for name in SCENARIOS if not name.startswith("a lo")]


@pytest.mark.usefixtures("own_accelerate")
@pytest.mark.parametrize("name", WHOLE)
def test_two_processes_equal_one(folder: Path, name: str) -> None:
    one, (first, *others) = train(name, 1, folder), found(folder, name)
    assert all(other["rows"] == first["rows"] for other in others)
    assert len(first["rows"]) == len(one["rows"])
    for mine, theirs in zip(one["rows"], first["rows"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    for key, value in one["state"].items():
        assert all(torch.equal(first["state"][key], other["state"][key]) for other in others), key
        assert torch.allclose(value, first["state"][key], atol=1e-9), key
    saved = torch.load(folder / f"{name} of {WORLD}", weights_only=True)
    assert saved["step"] == len(one["rows"])


def test_a_loss_that_is_not_finite_ends_both(folder: Path) -> None:
    for end in found(folder, "a loss that is not finite"):
        assert "the loss is not finite at step 1" in end["error"]


def test_a_loader_that_has_nothing_for_a_process_is_refused_by_both(folder: Path) -> None:
    for end in found(folder, "a loader too short"):
        assert "was shared out and 1 of 2 processes got no batch" in end["error"]
