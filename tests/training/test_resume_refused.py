"""resume: what does not fit is refused; the state of every generator."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trainings import Killable, Killed, Training, loader

from distill_lib import CE, History, distill
from distill_lib.training.processes import rng_state, set_rng_state

# ---- what is refused ----


def test_a_changed_teacher_is_refused(tmp_path: Path) -> None:
    Training().run(tmp_path / "c", steps=3)
    other = Training()
    with torch.no_grad():
        other.teacher.model[0].bias += 1
    with pytest.raises(ValueError, match=r"another teacher: .*pass resume=False to begin anew"):
        other.run(tmp_path / "c")


def test_a_changed_objective_is_refused(tmp_path: Path) -> None:
    Training().run(tmp_path / "c", steps=3)
    other = Training()
    other.objective = other.objective + CE()
    with pytest.raises(ValueError, match=r"another objective: '1→0.5·CE.*now '1→0.5·CE.*\+ CE'"):
        other.run(tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 half a zip", None])
def test_a_torn_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "c"
    Training().run(path, steps=3)
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(ValueError, match=r"is torn, or not a checkpoint of distill.*delete it"):
        Training().run(path)


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "c")
    with pytest.raises(ValueError, match=r"not a checkpoint of distill \(KeyError"):
        Training().run(tmp_path / "c")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(sentinel),)

    torch.save({"identity": Evil()}, tmp_path / "c")
    with pytest.raises(ValueError, match=r"UnpicklingError"):
        Training().run(tmp_path / "c")
    assert not sentinel.exists()


def test_another_student_is_refused(tmp_path: Path) -> None:
    Training().run(tmp_path / "c", steps=3)
    other = Training()
    other.student.head = nn.Linear(8, 4)
    with pytest.raises(
        ValueError, match=r"does not fit this training(?s:.*)size mismatch for head\.weight"
    ):
        other.run(tmp_path / "c")


def test_another_number_of_batches_is_refused(tmp_path: Path) -> None:
    killed = Training(batches="list", kill_at=6)
    with pytest.raises(Killed):
        killed.run(tmp_path / "c", save_every=5)
    other = Training(batches="list")
    other.batches = other.batches[:6]
    with pytest.raises(ValueError, match=r"another number of batches in an epoch: '7', now '6'"):
        other.run(tmp_path / "c")


class Unsized:
    """Batches that do not tell how many they are."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def test_fewer_batches_than_were_done_are_refused(tmp_path: Path) -> None:
    killed = Training(batches="list", kill_at=6)
    killed.batches = Unsized(killed.batches)
    with pytest.raises(Killed):
        killed.run(tmp_path / "c", steps=14, save_every=5)
    other = Training(batches="list")
    other.batches = Unsized(other.batches[:3])
    with pytest.raises(ValueError, match="batches gave nothing after 5 steps of an epoch"):
        other.run(tmp_path / "c", steps=14)


@pytest.mark.usefixtures("own_accelerate")
@pytest.mark.parametrize("where", ["in an epoch", "after one"])
def test_another_accumulation_is_refused(tmp_path: Path, where: str) -> None:
    from accelerate import Accelerator

    def run(training: Training, parts: int, **how: Any) -> History:
        accelerator = Accelerator(gradient_accumulation_steps=parts, cpu=True)
        return training.run(tmp_path / "c", accelerator=accelerator, **how)

    run(Training(), 2, steps=2 if where == "in an epoch" else 4)
    for parts in (1, 3):
        other = Training()
        match = f"another gradient accumulation: '2', now '{parts}'.*resume=False"
        with pytest.raises(ValueError, match=match):
            run(other, parts)
        assert other.student.calls == 0
    assert len(run(Training(), 2)) == 14


def test_files_of_before_say_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "c"
    Training().run(path, steps=3)
    state = torch.load(path, weights_only=True)
    for name in ("number of processes", "gradient accumulation", "number of batches in an epoch"):
        state["identity"].pop(name)
    torch.save(state, path)
    assert len(Training().run(path)) == 14


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    path = tmp_path / "c"
    batches = list(loader())
    batches[4] = (batches[4][0] * float("nan"), batches[4][1])
    with pytest.raises(FloatingPointError, match="step 5"):
        distill(Killable(), None, batches, CE(), epochs=1, checkpoint=path, save_every=2)
    assert torch.load(path, weights_only=True)["step"] == 4


# ---- generators ----


def test_the_state_of_every_generator_comes_back() -> None:
    def draw() -> tuple[float, ...]:
        numbers = random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()
        return (*numbers, torch.rand(1).item(), torch.randn(3).sum().item())

    np.random.randn()  # NumPy keeps the second of a pair
    state = rng_state()
    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first
    set_rng_state({})
    assert draw() != first


@pytest.mark.parametrize("which", ["rng", "epoch_rng"])
@pytest.mark.parametrize("odd", [{"python": 1}, {"python": (3, [1], None)}, {"torch": None}, 3])
def test_an_odd_state_of_the_generators_is_refused_at_once(tmp_path: Path, which, odd) -> None:
    path = tmp_path / "c"
    Training().run(path)
    state = torch.load(path, weights_only=True)
    state[which] = {**state[which], **odd} if isinstance(odd, dict) else odd
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"does not fit this training"):
        Training().run(path)
