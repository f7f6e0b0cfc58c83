"""resume: N + N steps equal 2N steps bit for bit, and what does not fit is refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mutants import flips, mutants
from torch import nn
from trainings import BATCHES, TOTAL, Killed, Training

from distill_lib import CE, KD, History, distill
from distill_lib.training.resume import Saver


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


# ---- faults of a file and of a disk ----


class Small:
    """A saver of a network and an optimizer that has made two steps."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.net = nn.Linear(4, 3)
        self.optimizer = torch.optim.Adam(self.net.parameters())
        for _ in range(2):
            self.net(torch.randn(5, 4)).sum().backward()
            self.optimizer.step()
        parts = {"student": self.net, "optimizer": self.optimizer}
        self.saver = Saver(path, parts, {"teacher": "t", "objective": "o"}, [])

    def save(self) -> None:
        self.saver.save(2, 0, 2, self.saver.begin_epoch(), History())

    def looks(self) -> str:
        state = (self.net.state_dict(), self.optimizer.state_dict())
        torch.set_printoptions(precision=10)
        try:
            return repr(state)
        finally:
            torch.set_printoptions(profile="default")


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    Small(tmp_path / "c").save()
    return (tmp_path / "c").read_bytes()


def test_every_flipped_bit_is_found_or_changes_nothing(whole: bytes, tmp_path: Path) -> None:
    path, found = tmp_path / "c", 0
    expected, small = Small(path), Small(path, seed=1)
    start = expected.saver.load()
    for data in flips(whole, 300):
        path.write_bytes(data)
        try:
            again = small.saver.load()
        except ValueError as error:
            assert "is torn, or not a checkpoint of distill" in str(error)
            found += 1
        else:
            assert repr(again) == repr(start) and small.looks() == expected.looks()
    assert found > 100


def test_mutants_are_read_or_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c"
    small = Small(path)
    for data in mutants(whole, 250):
        path.write_bytes(data)
        try:
            small.saver.load()
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": 3}, {"identity": {}}, {"step": "x"}, {"records": 3}, {"rng": None},
        {"epoch_rng": {"python": 1}}, {"parts": {}}, {"parts": {"student": {}, "optimizer": {}}},
        {"source": 5, "skip": None}, {"epoch": []},
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_kind_is_refused(whole: bytes, tmp_path: Path, change: Any) -> None:
    path = tmp_path / "c"
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(ValueError, match=str(path)):
        Small(path).saver.load()


def test_checkpoints_have_checksums_whatever_the_user_chose(tmp_path: Path) -> None:
    from torch.utils.serialization import config

    with config.patch("save.compute_crc32", False):
        Small(tmp_path / "c").save()
    assert Small(tmp_path / "c", seed=1).saver.load().step == 2


def test_a_full_disk_is_said_and_leaves_the_older_one(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    small = Small(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left.*could not be written.*make room"):
            small.save()
    assert path.read_bytes() == whole and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_two_trainings_may_write_one_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, save = Small(tmp_path / "c"), Small(tmp_path / "c", seed=1), torch.save

    def meanwhile(*given: Any) -> None:
        monkeypatch.setattr(torch, "save", save)
        second.save()
        save(*given)

    monkeypatch.setattr(torch, "save", meanwhile)
    first.save()
    second.saver.load()
    assert second.looks() == first.looks() and len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_said_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    training = Training()
    with pytest.raises(OSError, match="cannot be written"):
        training.run(tmp_path / "file" / "c")
    assert training.student.calls == 0
