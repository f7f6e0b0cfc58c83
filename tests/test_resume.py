"""resume: N + N steps equal 2N steps bit for bit, and what does not fit is refused."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from distill_lib import CE, EMA, KD, History, Match, Teacher, distill, linear
from distill_lib.resume import rng_state, set_rng_state

TOTAL = 14  # steps: two epochs of seven


class Killed(Exception):
    """Stands for a kill."""


class Noisy(Dataset):
    """Items that draw from every global generator, as augmentations do."""

    def __len__(self) -> int:
        return 28

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        noise = torch.rand(5) + random.random() + np.random.rand()
        return noise + i % 3, i % 3


class OwnOrder:
    """Batches with a state of their own, as StatefulDataLoader has."""

    def __init__(self) -> None:
        self.epoch = 0
        self.inputs = torch.arange(140.0).view(28, 5) / 140

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(28, generator=torch.Generator().manual_seed(self.epoch))
        self.epoch += 1
        return iter([(self.inputs[at], at % 3) for at in order.split(4)])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]


def loader(**settings: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    items = TensorDataset(torch.randn(28, 5, generator=generator), torch.arange(28) % 3)
    return DataLoader(items, batch_size=4, **settings)


def own_generator() -> DataLoader[Any]:
    return loader(shuffle=True, generator=torch.Generator().manual_seed(9))


def own_sampler() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(9)
    return loader(sampler=RandomSampler(range(28), generator=generator))


BATCHES = {
    "in order": loader,
    "shuffled": lambda: loader(shuffle=True),
    "own generator": own_generator,
    "own sampler": own_sampler,
    "augmented": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "own state": OwnOrder,
    "list": lambda: list(loader()),
}


class Killable(nn.Module):
    """A student with dropout that is killed at one of its forward passes."""

    def __init__(self, kill_at: int = -1, how: type[BaseException] = Killed) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)
        self.calls, self.kill_at, self.how = 0, kill_at, how

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.kill_at:
            raise self.how
        return self.head(self.body(x))


class Training:
    """One training from scratch, as a script is that is started anew."""

    def __init__(
        self,
        batches: str = "shuffled",
        optimizer: str = "adam",
        average: bool = False,
        kill_at: int = -1,
        how: type[BaseException] = Killed,
    ) -> None:
        torch.manual_seed(0)
        self.student = Killable(kill_at, how)
        self.project = nn.Linear(8, 3)
        teacher = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
        self.teacher = EMA(self.student, 0.9) if average else Teacher(teacher)
        inner = "body.0" if average else "1"
        project = nn.Linear(8, 8) if average else self.project
        self.project = project
        self.objective = (
            linear(1, 0.5) * CE()
            + KD(temperature=linear(4, 1))
            + 0.1 * Match("body.0", inner, project=project)
        )
        self.batches = BATCHES[batches]()
        self.optimizer = {
            "adam": None,
            "momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
        }[optimizer]

    def run(self, checkpoint: Path | None = None, steps: int = TOTAL, **settings: Any) -> History:
        # what the process did before is no part of the training: the seed decides
        torch.manual_seed(random.randrange(1000))
        return distill(
            self.student,
            self.teacher,
            self.batches,
            self.objective,
            steps=steps,
            lr=0.02,
            optimizer=self.optimizer,
            checkpoint=checkpoint,
            seed=7,
            **settings,
        )

    def state(self) -> dict[str, Tensor]:
        state = {**self.student.state_dict(), **self.project.state_dict(prefix="project.")}
        if isinstance(self.teacher, EMA):
            state |= {f"teacher.{k}": v for k, v in self.teacher.state_dict().items()}
        return state


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
from test_resume import Training
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
    with pytest.raises(ValueError, match="is torn, or not a checkpoint of distill.*delete it"):
        Training().run(path)


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "c")
    with pytest.raises(ValueError, match=r"not a checkpoint of distill \(KeyError\)"):
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
    with pytest.raises(RuntimeError, match=r"size mismatch for head\.weight"):
        other.run(tmp_path / "c")


def test_fewer_batches_than_were_done_are_refused(tmp_path: Path) -> None:
    killed = Training(batches="list", kill_at=6)
    with pytest.raises(Killed):
        killed.run(tmp_path / "c", save_every=5)
    other = Training(batches="list")
    other.batches = other.batches[:3]
    with pytest.raises(ValueError, match="batches gave nothing after 5 steps of an epoch"):
        other.run(tmp_path / "c")


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
