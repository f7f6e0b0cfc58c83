"""Two processes on the CPU do what one does."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from distill_lib import CE, KD, Match, distill

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for size in (4, 7, 3, 6, 5, 2, 8, 1):
        labels = torch.randint(-1, 3, (size,), generator=generator)
        found.append(
            {
                "inputs": torch.randn(size, 5, generator=generator).double(),
                "labels": torch.where(labels < 0, -100, labels),
            }
        )
    return found


def train(path: Path, cut: int, checkpoint: Path | None) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    teacher = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    objective = CE() + KD(temperature=2) + 0.1 * Match("0", project=nn.Linear(8, 8).double())
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=120))
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=cut, kwargs_handlers=[patience])
    distill(
        student,
        teacher,
        batches(),
        objective,
        epochs=3,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        clip_norm=0.5,
        accelerator=accelerator,
        checkpoint=checkpoint,
        save_every=1,
    )
    if accelerator.is_main_process:
        torch.save({**student.state_dict(), **objective.state_dict()}, path)
    accelerator.end_training()


def setting(rank: int, port: int) -> dict[str, str]:
    return {
        "DISTILL_QUIET": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }


def first(port: int, path: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(setting(0, port))
    train(path, 2, path.with_name("checkpoint"))


@pytest.mark.usefixtures("own_accelerate")
def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "one", 4, None)
    AcceleratorState._reset_state(True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # two processes, two micro-batches each: four batches a step; the second process is this one
    other = mp.get_context("spawn").Process(target=first, args=(port, tmp_path / "two"))
    other.start()
    try:
        with monkeypatch.context() as patch:
            for name, value in setting(1, port).items():
                patch.setenv(name, value)
            train(tmp_path / "unused", 2, tmp_path / "checkpoint")
        other.join(timeout=300)
    finally:
        other.kill()
    assert other.exitcode == 0 and not (tmp_path / "unused").exists()
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=1e-9), key
    assert torch.load(tmp_path / "checkpoint", weights_only=True)["step"] == 6
