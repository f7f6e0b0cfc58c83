"""Three processes of which one fails or dies: the others end with an error that names it."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from together import free_ports, in_processes
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from distill_lib import CE, EMA, KD, Match, distill
from distill_lib.training import processes
from distill_lib.training.processes import Streams

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

LIMIT = 300  # seconds for all; a process waits 120 for another, so none may wait for its limit


class Batches:
    """Batches, one of which fails or kills its process."""

    def __init__(self, how: str = "", at: int = 7) -> None:
        self.how, self.at = how, at

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[Any]:
        for number in range(12):
            if number == self.at and self.how == "raises":
                raise KeyError("a file is not there")
            if number == self.at and self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            yield torch.randn(4, 5), torch.arange(4) % 3


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def in_a_step(rank: int, path: Path) -> Any:
    student = mlp()
    if rank == 2:
        calls = iter(range(100))

        def fails(*given: Any) -> None:
            if next(calls) == 2:
                raise IndexError("index out of range")

        student.register_forward_pre_hook(fails)
    return distill(student, mlp(), Batches(), CE() + KD(), epochs=2, checkpoint=path)


def while_saving(rank: int, path: Path) -> Any:
    if rank == 0:

        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        os.fsync = full
    return distill(mlp(), mlp(), Batches(), CE() + KD(), epochs=2, checkpoint=path)


def with_one_that(how: str, whose: int) -> Any:
    def train(rank: int, path: Path) -> Any:
        batches = Batches(how if rank == whose else "")
        return distill(mlp(), mlp(), batches, CE() + KD(), epochs=2)

    return train


def of_other_steps(rank: int, path: Path) -> Any:
    """A checkpoint on a disk that only the first process sees."""
    distill(mlp(), mlp(), Batches(), CE(), steps=2, checkpoint=path)
    here = path if rank == 0 else path.with_name(f"{path.name} {rank}")
    return distill(mlp(), mlp(), Batches(), CE(), steps=4, checkpoint=here)


def resumed(made_by: str) -> Any:
    """From the checkpoint that so many processes have made."""

    def train(rank: int, path: Path) -> Any:
        path = path.with_name(f"made by {made_by}")
        return distill(mlp(), mlp(), Batches(), CE(), steps=2, checkpoint=path)

    return train


def partly_sharded(what: str) -> Any:
    def train(rank: int, path: Path) -> Any:
        mesh, student = init_device_mesh("cpu", (3,)), mlp()
        teacher: Any = EMA(student, 0.9) if what == "average" else mlp()
        objective = CE() + KD()
        if what == "projector":
            objective = CE() + Match("0", project=nn.Linear(8, 8))
        fully_shard(student[0] if what == "layer" else student, mesh=mesh)
        return distill(student, teacher, Batches(), objective, epochs=1)

    return train


# in turns, by the same processes; then the last of them dies, and of the others the first
TURNS = {
    "rank 1 fails in its batches": with_one_that("raises", 1),
    "rank 0 fails in its batches": with_one_that("raises", 0),
    "rank 2 fails in a step": in_a_step,
    "the disk is full": while_saving,
    "other steps": of_other_steps,
    "three begin": resumed("three"),
    "three go on": resumed("three"),
    "two go on": resumed("three"),
    "three go on from one": resumed("one"),
    **{f"sharded but for a {what}": partly_sharded(what) for what in ("projector", "layer")},
    "sharded but for the average": partly_sharded("average"),
    "rank 2 dies": with_one_that("dies", 2),
    "rank 0 dies": with_one_that("dies", 0),
}


def work(rank: int, ports: list[int], folder: Path) -> None:
    torch.set_num_threads(1)
    processes.PATIENCE = 3.0
    for (name, train), port in zip(TURNS.items(), ports, strict=True):
        world = 2 if name in ("rank 0 dies", "two go on") else 3
        if rank >= world:
            continue
        AcceleratorState._reset_state(True)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ |= {
            "DISTILL_QUIET": "1", "ACCELERATE_USE_CPU": "true",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        }  # fmt: skip
        wait = InitProcessGroupKwargs(timeout=timedelta(seconds=120))
        Accelerator(cpu=True, kwargs_handlers=[wait])
        fsync = os.fsync
        try:
            said = repr(train(rank, folder / f"c {name}"))
        # the process lives on, as in a notebook: the others must not wait for its end
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        os.fsync = fsync
        (folder / f"{name}, {rank}").write_text(said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes left what each turn ended with."""
    folder = tmp_path_factory.mktemp("three")
    resumed("one")(0, folder / "c")
    ports = free_ports(len(TURNS))
    in_processes(work, [(rank, ports, folder) for rank in range(3)], LIMIT)
    return folder


def said(folder: Path, name: str, rank: int) -> str:
    path = folder / f"{name}, {rank}"
    assert path.exists(), "hung, or died"
    return path.read_text()


@pytest.mark.parametrize(
    ("name", "culprit", "own"),
    [
        ("rank 1 fails in its batches", 1, "KeyError: 'a file is not there'"),
        ("rank 0 fails in its batches", 0, "KeyError: 'a file is not there'"),
        ("rank 2 fails in a step", 2, "IndexError: index out of range"),
    ],
)
def test_a_process_that_fails_is_named_by_all(
    folder: Path, name: str, culprit: int, own: str
) -> None:
    for rank in range(3):
        text = said(folder, name, rank)
        if rank == culprit:
            assert text == own
        else:
            assert text.startswith(f"RuntimeError: process {culprit} of 3 ({socket.gethostname()},")
            assert f"failed: {own}; all processes end with it. Start all" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_process_that_dies_is_named_by_all(folder: Path) -> None:
    for rank in (0, 1):
        text = said(folder, "rank 2 dies", rank)
        assert text.startswith(f"RuntimeError: process 2 of 3 ({socket.gethostname()}, pid ")
        assert "is gone without a word: killed" in text and "Start all of them again" in text
    assert "process 0 of 2 is gone" in said(folder, "rank 0 dies", 1)


def test_what_the_first_cannot_write_all_say(folder: Path) -> None:
    for rank in range(3):
        text = said(folder, "the disk is full", rank)
        assert text.startswith("OSError: [Errno 28]") and "make room" in text


def test_a_checkpoint_that_not_all_see_is_refused_by_all(folder: Path) -> None:
    for rank in range(3):
        text = said(folder, "other steps", rank)
        assert "at different steps ([2, 0, 0]; 0: no such file): put it on a disk that all" in text


def test_a_checkpoint_of_another_number_of_processes_is_refused(folder: Path) -> None:
    def refused(made: int, now: int) -> str:
        return f"was made with another number of processes: '{made}', now '{now}'. Going on would"

    for rank in range(3):
        assert said(folder, "three begin", rank) == said(folder, "three go on", rank)
        assert refused(1, 3) in said(folder, "three go on from one", rank)
    for rank in range(2):
        assert refused(3, 2) in said(folder, "two go on", rank)
    with pytest.raises(ValueError, match=refused(3, 1)):
        resumed("three")(0, folder / "c")


@pytest.mark.parametrize(
    ("what", "way_out"),
    [
        ("a projector", "2 of 6 trained parameters are not: objective.terms.1.project.weight"),
        ("a layer", "2 of 4 trained parameters are not: 2.weight, 2.bias"),
        ("the average", "its average is not: make EMA(student, decay) of the whole student"),
    ],
)
def test_what_is_sharded_in_part_is_refused(folder: Path, what: str, way_out: str) -> None:
    for rank in range(3):
        assert way_out in said(folder, f"sharded but for {what}", rank)


# ---- in one process ----


def test_one_process_has_one_stream() -> None:
    streams = Streams()
    streams.begin()
    before = torch.get_rng_state()
    with streams.drawing():
        torch.rand(1)
    assert not torch.equal(before, torch.get_rng_state()) and "drawn" not in streams.state()
    now = torch.get_rng_state()
    streams.end()
    assert torch.equal(now, torch.get_rng_state())


def begun(monkeypatch: pytest.MonkeyPatch, rank: int) -> Streams:
    """The streams of one of several processes that were seeded alike."""
    monkeypatch.setattr(processes, "from_first", lambda thing: thing)
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    streams = Streams(3, rank)
    streams.begin()
    return streams


def draw() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


def test_processes_draw_batches_alike_and_all_else_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    alone = [draw() for _ in range(4)]
    together, apart = [], []
    for rank in range(3):
        streams = begun(monkeypatch, rank)
        for _ in range(3):
            with streams.drawing():
                together.append(draw())
            apart += [draw() for _ in range(rank)]  # as many as the process needs
            with streams.drawing(alike=False):
                apart.append(draw())
        streams.end()
    assert together == 3 * alone[:3]
    assert len(set(apart)) == len(apart) and not set(apart) & set(together)


@pytest.mark.parametrize("used", [False, True])
def test_streams_that_were_used_are_not_used_again(
    monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    streams = begun(monkeypatch, 1)
    first = draw() if used else None
    streams.end()
    again = Streams(3, 1)
    again.begin()
    assert (draw() == first) is False


def test_the_state_of_the_streams_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = begun(monkeypatch, 2)

    def some() -> list[tuple[float, ...]]:
        with streams.drawing():
            first = draw()
        return [first, draw()]

    some()
    state = streams.state()
    expected = some()
    streams.set(state)
    assert some() == expected
    streams.set({})
    assert some() != expected
