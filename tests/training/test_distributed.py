"""Two processes on the CPU do what one does, for any number of batches, also after a resume."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import (
    Accelerator,
    DataLoaderConfiguration,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from accelerate.state import AcceleratorState, PartialState
from together import free_ports, in_processes
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from distill_lib import CE, EMA, KD, Match, Teacher, distill, steps

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


class Noisy(Dataset[Any]):
    """Items that draw from every generator of the process, as augmentations do."""

    def __len__(self) -> int:
        return 27

    def __getitem__(self, i: int) -> dict[str, Any]:
        noise = torch.rand(5).double() + random.random() + np.random.rand()
        return {"inputs": noise + i % 3, "labels": i % 3}


def by_chance(accelerator: Accelerator) -> DataLoader[Any]:
    """A prepared loader whose order comes from the generator of the process."""
    sampler = WeightedRandomSampler([1.0] * 24, 24)
    return accelerator.prepare(DataLoader(items(24), 4, sampler=sampler))


# name -> batches, how long, micro-batches of one process, and what else
SCENARIOS: dict[str, tuple[Any, dict[str, int], int, str]] = {
    f"{number} batches, {next(iter(time))}, accumulation {cut}{how}": (
        ragged(number), time, cut, how
    )
    for number in (1, 5, 7, 8)
    for time in ({"epochs": 2}, {"steps": 5})
    for cut in (1, 3)
    for how in ((", resumed", ", resumed, dropout") if number > 5 else ("",))
} | {
    f"{name}, resumed, dropout{how}": (batches, {"epochs": 2}, 1, f"resumed, dropout{how}")
    for name, batches in (
        ("augmented", DataLoader(Noisy(), 4, shuffle=True)), ("prepared", prepared(6)),
        ("sampler", sampled), ("by chance", by_chance), ("ragged", ragged(7)),
    )
    for how in (("", ", average") if name == "ragged" else ("",))
} | {
    f"sharded, {number} batches, accumulation {cut}{how}": (
        ragged(number), {"epochs": 2}, cut, f"sharded{how}"
    )
    for number, cut, how in (
        (7, 1, ""), (8, 3, ""), (7, 1, ", resumed"), (7, 1, ", average"), (7, 3, ", plugin")
    )
} | {
    f"weights without a gradient, {number} batches, accumulation {cut}": (
        ragged(number), {"epochs": 2}, cut, "hidden"
    )
    for number, cut in ((7, 1), (8, 3))
} | {
    name: (*rest, "")
    for name, rest in {
    "shuffled, even": (shuffled(6), {"epochs": 3}, 1),
    "shuffled, uneven": (shuffled(7), {"epochs": 3}, 2),
    "prepared, even": (prepared(6), {"epochs": 2}, 1),
    "prepared, uneven": (prepared(7), {"epochs": 2}, 2),
    "prepared, steps": (prepared(5), {"steps": 7}, 1),
    "sampler": (sampled, {"epochs": 2}, 1),
    "a loss that is not finite": (is_nan(4), {"epochs": 1}, 1),
    "a loader too short": (prepared(1), {"epochs": 1}, 1),
    }.items()
}  # fmt: skip


# a decay would move weights that have a gradient of 0 in the place of none
OPTIMIZERS = {"sharded": torch.optim.Adam, "hidden": torch.optim.AdamW}


class Killed(Exception):
    """Stands for a kill of all processes."""


class Student(nn.Sequential):
    """A student that knows which units it dropped, and can be killed."""

    def __init__(self, how: str) -> None:
        more = [nn.BatchNorm1d(8)] if "average" in how and "sharded" not in how else []
        chance = 0.5 if "dropout" in how else 0.0
        super().__init__(nn.Linear(5, 8), nn.ReLU(), *more, nn.Dropout(chance), nn.Linear(8, 3))
        self.dropped: list[float] = []
        self.calls, self.kill_at = 0, -1
        self[-2].register_forward_hook(self._look)

    def _look(self, part: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        if part.training:
            self.calls += 1
            self.dropped.append((out == 0).double().sum().item())
            if self.calls == self.kill_at:
                raise Killed


def be(kind: DistributedType) -> None:
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = kind


def train(name: str, world: int, folder: Path, kill_at: int = -1, again: str = "") -> Any:
    """One training: what came out, or the error."""
    batches, time, cut, how = SCENARIOS[name]
    whole = 1 if batches is sampled else WORLD // world
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=cut * whole,
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=60))],
    )
    torch.manual_seed(0)
    student = Student(how).double()
    student.kill_at = kill_at
    teacher: Any = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    teacher = EMA(student, 0.9) if "average" in how else Teacher(teacher)
    project = nn.Linear(8, 8).double()
    if "plugin" in how and world > 1:  # as on GPUs: on a CPU Accelerate ignores it
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=20
        )
        be(DistributedType.FSDP)
    elif "sharded" in how and world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for part in (student[0], student, project, teacher.model[0], teacher.model):
            fully_shard(part, mesh=mesh)
    objective = CE() + KD(temperature=2) + 0.1 * Match("0", project=project)
    objective = CE() + KD() if "average" in how or "plugin" in how else objective
    if how == "hidden":  # the head learns nothing, the projector from the middle on
        late = Match("0", project=project)
        objective = Match("0", "1") + steps({0: 0.0, 0.5: 1.0}) * late
    optimizer: Any = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)  # noqa: E731
    try:
        history = distill(
            student,
            teacher,
            batches(accelerator) if callable(batches) else batches,
            objective,
            **time,
            optimizer=OPTIMIZERS.get(how.split(",")[0], optimizer),
            clip_norm=0.5,
            accelerator=accelerator,
            seed=5,
            checkpoint=folder / f"{name} of {world}{again}",
            save_every=1 if kill_at > 0 else None,
        )
    except Killed:
        return {}
    except (FloatingPointError, ValueError) as error:
        return {"error": str(error)}
    finally:
        if "plugin" in how and world > 1:
            assert accelerator.is_fsdp2
            be(DistributedType.MULTI_CPU)
    state = {**student.state_dict(), **objective.state_dict(prefix="objective.")}
    if isinstance(teacher, EMA):
        state |= {f"average.{key}": value for key, value in teacher.state_dict().items()}
    if world > 1:  # of batch normalization, the statistics are those of the first
        state = {k: v for k, v in state.items() if not k.startswith("2.") or "running" not in k}
    return {
        "state": {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in state.items()},
        "rows": history.records,
        "dropped": student.dropped,
        "after": torch.rand(1),
        "teacher": teacher.fingerprint(),
    }


def both_ways(name: str, folder: Path) -> dict[str, Any]:
    """The training, and where it is to be resumed also how it ends after a kill in mid-epoch."""
    _, _, cut, how = SCENARIOS[name]
    found: dict[str, Any] = train(name, WORLD, folder)
    if "resumed" in how:
        killed = train(name, WORLD, folder, kill_at=3 if cut == 1 else 4, again=", again")
        assert not killed
        found["resumed"] = train(name, WORLD, folder, again=", again")
    return found


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
        torch.save(both_ways(name, folder), folder / f"{name}, {rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes left what came out of every scenario that they finished in time."""
    folder = tmp_path_factory.mktemp("two")
    (port,) = free_ports()
    in_processes(work, [(rank, port, folder) for rank in range(WORLD)], LIMIT)
    return folder


def found(folder: Path, name: str) -> list[dict[str, Any]]:
    paths = [folder / f"{name}, {rank}" for rank in range(WORLD)]
    assert all(path.exists() for path in paths), "hung, or died"
    return [torch.load(path, weights_only=True) for path in paths]


WHOLE = [n for n in SCENARIOS if not n.startswith("a lo") and "dropout" not in n]
RESUMED = [name for name in SCENARIOS if "resumed" in name]


@pytest.mark.usefixtures("own_accelerate")
@pytest.mark.parametrize("name", WHOLE)
def test_two_processes_equal_one(folder: Path, name: str) -> None:
    one, (first, *others) = train(name, 1, folder), found(folder, name)
    assert all(other["rows"] == first["rows"] for other in others)
    assert len(first["rows"]) == len(one["rows"])
    for mine, theirs in zip(one["rows"], first["rows"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert all(torch.equal(first["after"], other["after"]) for other in others)
    assert first["teacher"] == one["teacher"]
    for key, value in one["state"].items():
        assert all(torch.equal(first["state"][key], other["state"][key]) for other in others), key
        assert torch.allclose(value, first["state"][key], atol=1e-9), key
    saved = torch.load(folder / f"{name} of {WORLD}", weights_only=True)
    assert saved["step"] == len(one["rows"])
    for key, value in saved["parts"]["student"].items():
        assert torch.equal(value, first["state"][key]), key


@pytest.mark.parametrize("name", RESUMED)
def test_a_resume_in_mid_epoch_is_bit_for_bit(folder: Path, name: str) -> None:
    ends = found(folder, name)
    for end in ends:
        again = end["resumed"]
        assert again["rows"] == end["rows"]
        assert 0 < len(again["dropped"]) < len(end["dropped"]), "it began anew"
        assert again["dropped"] == end["dropped"][-len(again["dropped"]) :]
        assert [k for k, v in end["state"].items() if not torch.equal(v, again["state"][k])] == []
        assert torch.equal(end["after"], again["after"])
    first, *others = ends
    for other in others:
        assert other["rows"] == first["rows"]
        if "dropout" in name:
            assert other["dropped"] != first["dropped"]


def test_a_loss_that_is_not_finite_ends_both(folder: Path) -> None:
    for end in found(folder, "a loss that is not finite"):
        assert "the loss is not finite at step 1" in end["error"]


def test_a_loader_that_has_nothing_for_a_process_is_refused_by_both(folder: Path) -> None:
    for end in found(folder, "a loader too short"):
        assert "was shared out and 1 of 2 processes got no batch" in end["error"]
