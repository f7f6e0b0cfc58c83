"""resume: N + N steps equal 2N steps bit for bit, and what does not fit is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import BATCHES, TOTAL, Killed, Training

from distill_lib import CE, KD, History, distill


def assert_same(one: Training, two: Training) -> None:
    a, b = one.state(), two.state()
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def check(tmp_path: Path, kill_at: int, save_every: int | None, **settings: Any) -> None:
    path = tmp_path / "sub" / "training.ckpt"
    whole = Training(**settings)
    expected = whole.run()

    killed = Training(**settings, kill_at=kill_at)
    with pytest.raises(Killed):
        killed.run(path, save_every=save_every)
    again = Training(**settings)
    history = again.run(path, save_every=save_every)
    assert again.student.calls < TOTAL, "it began anew"
    assert_same(whole, again)
    assert history.records == expected.records


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize(("kill_at", "save_every"), [(6, 2), (11, 3), (10, None), (8, 7)])
def test_after_a_kill(tmp_path: Path, batches: str, kill_at: int, save_every: int | None) -> None:
    check(tmp_path, kill_at, save_every, batches=batches)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("average", [False, True])
def test_after_a_kill_with_every_state(tmp_path: Path, optimizer: str, average: bool) -> None:
    check(tmp_path, 12, 4, optimizer=optimizer, average=average)


@pytest.mark.usefixtures("own_accelerate")
def test_after_a_kill_under_accumulation_and_autocast(tmp_path: Path) -> None:
    from accelerate import Accelerator

    def train(training: Training, path: Path | None) -> History:
        accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2, cpu=True)
        return training.run(path, steps=8, save_every=1, accelerator=accelerator)

    whole, killed, again = Training(), Training(kill_at=12), Training()
    train(whole, None)
    with pytest.raises(Killed):
        train(killed, tmp_path / "c")
    train(again, tmp_path / "c")
    assert_same(whole, again)


@pytest.mark.parametrize("first", [3, 7, 10])
def test_more_steps_go_on_where_fewer_ended(tmp_path: Path, first: int) -> None:
    def run(training: Training, steps: int, path: Path | None) -> None:
        distill(
            training.student,
            training.teacher,
            training.batches,
            CE() + KD(),
            steps=steps,
            checkpoint=path,
            seed=7,
        )

    whole, halves = Training(), Training()
    run(whole, TOTAL, None)
    run(halves, first, tmp_path / "c")
    again = Training()
    run(again, TOTAL, tmp_path / "c")
    assert_same(whole, again)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, second = Training(), Training()
    history = first.run(tmp_path / "c")
    state = torch.get_rng_state()
    again = second.run(tmp_path / "c")
    assert second.student.calls == 0
    assert again.records == history.records
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, second)


def test_resume_false_begins_anew(tmp_path: Path) -> None:
    Training().run(tmp_path / "c", steps=3)
    training = Training()
    training.run(tmp_path / "c", resume=False)
    assert training.student.calls == TOTAL


def test_an_interrupt_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c"
    whole, stopped, again = Training(), Training(kill_at=10, how=KeyboardInterrupt), Training()
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        stopped.run(path)
    assert not list(tmp_path.glob("*.part"))
    again.run(path)
    assert again.student.calls == 7
    assert_same(whole, again)


def test_a_kill_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    Training().run(path, steps=7)
    before = path.read_bytes()

    def torn(state: object, file: Any) -> None:
        file.write(b"half a")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        with pytest.raises(Killed):
            Training().run(path)
    assert path.read_bytes() == before
    again, whole = Training(), Training()
    again.run(path)
    assert len(whole.run()) == TOTAL and again.student.calls == 7


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from trainings import Training
training = Training(batches="augmented")
if sys.argv[3] == "kill":
    forward = type(training.student).forward
    def killed(self, x):
        if self.calls == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, x)
    type(training.student).forward = killed
training.run(Path(sys.argv[2]), save_every=2)
torch.save(training.state(), sys.argv[2] + ".end")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_after_a_real_kill(tmp_path: Path) -> None:
    path = tmp_path / "c"

    def start(how: str) -> int:
        here = str(Path(__file__).parent)
        paths = os.pathsep.join([str(Path(here).parent), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, here, str(path), how],
            env={**os.environ, "PYTHONPATH": paths},
            timeout=600,
        ).returncode

    assert start("kill") == -signal.SIGKILL
    assert path.exists() and not Path(f"{path}.end").exists()
    assert start("go on") == 0
    whole = Training(batches="augmented")
    whole.run()
    end = torch.load(f"{path}.end", weights_only=True)
    assert [k for k, v in whole.state().items() if not torch.equal(v, end[k])] == []
