"""before: what is found out before the first step."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import EMA, KD, Ensemble, Match, Teacher, capture, distill
from distill_lib.data import Dataset
from distill_lib.signals import eval_mode
from distill_lib.training import before


class Net(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def trunk(norm: bool = False) -> nn.Sequential:
    middle = nn.BatchNorm1d(8, affine=False) if norm else nn.ReLU()
    return nn.Sequential(nn.Linear(4, 8), middle, nn.Dropout(0.5))


def data(n: int = 3) -> list[dict[str, Tensor]]:
    return [{"inputs": torch.randn(16, 4)} for _ in range(n)]


class Counted(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


# ---- teacher and student are separate ----


def one_parameter(student: Net) -> nn.Module:
    teacher = copy.deepcopy(student)
    teacher.trunk[0].bias = student.trunk[0].bias
    return teacher


def one_memory(student: Net) -> nn.Module:
    """Parameters of their own, over the same numbers."""
    teacher = copy.deepcopy(student)
    teacher.trunk[0].bias = nn.Parameter(student.trunk[0].bias.detach(), requires_grad=False)
    return teacher


SHARING: dict[str, Callable[[Net], Any]] = {
    "a trunk": lambda student: Net(student.trunk),
    "one parameter": one_parameter,
    "one memory": one_memory,
    "a teacher": lambda student: Teacher(Net(student.trunk)),
    "one of a committee": lambda student: Ensemble([Net(trunk()), Net(student.trunk)]),
    "a view of the student": lambda student: capture(student, "trunk"),
    "a wrapper of the student": lambda student: nn.Sequential(student),
    "a part of the student": lambda student: nn.Sequential(student.trunk, nn.Linear(8, 3)),
}


@pytest.mark.parametrize("kind", SHARING)
def test_what_is_trained_is_not_shared(kind: str) -> None:
    student = Net(trunk())
    teacher = SHARING[kind](student)
    state = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=r"holds \d of the 4 .*trunk\.0\.bias.*copy\.deepcopy"):
        distill(student, teacher, data(), KD(), epochs=1, lr=0.1)
    assert all(torch.equal(state[k], v) for k, v in student.state_dict().items())
    assert (
        all(part.training for part in student.modules())
        or kind == "a teacher"
        or isinstance(teacher, Ensemble)
    )


def test_statistics_of_batch_normalization_are_trained_too() -> None:
    student = Net(trunk(norm=True))
    student.trunk.requires_grad_(False)
    with pytest.raises(ValueError, match=r"trunk\.1\.running_mean, trunk\.1\.running_var"):
        distill(student, Net(student.trunk), data(), KD(), epochs=1)
    student.trunk.eval()
    assert len(distill(student, Net(student.trunk), data(), KD(), epochs=1)) == 3


def test_a_projector_of_the_objective_is_trained_too() -> None:
    teacher = Net(trunk())
    with pytest.raises(ValueError, match=r"holds 2 of the 8 .*terms\.0\.project\.1\.weight"):
        objective = 1.0 * Match("head", project=nn.Sequential(nn.Linear(3, 8), teacher.head))
        distill(Net(trunk()), teacher, data(), objective, epochs=1)


def test_what_is_frozen_may_be_shared_and_drops_in_the_student_alone() -> None:
    """The teacher's eval mode does not reach the student's dropout."""
    shared = trunk()
    shared[0].requires_grad_(False)
    student, teacher = Net(shared), Net(shared)
    modes: list[bool] = []
    shared[2].register_forward_hook(lambda m, args, out: modes.append(m.training))
    state = copy.deepcopy(teacher.state_dict())
    distill(student, teacher, data(), KD(), epochs=2, lr=0.1)
    assert modes == [True, False] * 6
    assert all(torch.equal(state[k], v) for k, v in teacher.state_dict().items())


class Adapted(nn.Module):
    """A frozen base, and what is added to it where the adapter is on."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.added, self.on = Net(trunk()).requires_grad_(False), nn.Linear(4, 3), True

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.added(x) if self.on else self.base(x)


class Base:
    """The student without its adapter."""

    def __init__(self, model: Adapted) -> None:
        self.model = model

    def __call__(self, batch: Any) -> Tensor:
        with eval_mode([self.model]):
            self.model.on = False
            said = self.model(batch["inputs"])
            self.model.on = True
        return said

    def fingerprint(self) -> str:
        return "base"


def test_the_base_below_an_adapter_teaches_it() -> None:
    student = Adapted()
    with pytest.raises(ValueError, match=r"for its base below an adapter BaseOf\(student\)"):
        distill(student, student, data(), KD(), epochs=1)
    base = copy.deepcopy(student.base.state_dict())
    history = distill(student, Base(student), data() * 20, KD(), epochs=1, lr=0.05)
    assert history["kd"][-1] < history["kd"][0]
    assert all(torch.equal(base[k], v) for k, v in student.base.state_dict().items())
    assert all(part.training for part in student.modules())


def test_tensors_that_do_not_tell_where_they_are() -> None:
    """Lazy projectors and sparse or empty buffers are no reason to refuse."""
    teacher, student = Net(trunk()), Net(trunk())
    for model in (teacher, student):
        model.register_buffer("sparse", torch.eye(2).to_sparse(), persistent=False)
        model.empty = nn.Parameter(torch.empty(0))
    before.check_separate(student, teacher, Match("head", project=nn.LazyLinear(3)), set())


# ---- a checkpoint that cannot be written ----


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "c"


def in_a_closed_folder(folder: Path) -> Path:
    closed = folder / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    return closed / "c"


UNWRITABLE: dict[str, Callable[[Path], Path]] = {
    "where nothing can be": lambda folder: Path("/proc/nowhere/c"),
    "a folder": lambda folder: folder,
    "below a file": below_a_file,
    "a name too long": lambda folder: folder / ("c" * 256),
    "in a closed folder": in_a_closed_folder,
}


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_a_checkpoint_that_cannot_be_written_is_found_first(kind: str, tmp_path: Path) -> None:
    student, path = Counted(4, 3), UNWRITABLE[kind](tmp_path)
    if kind == "where nothing can be" and not Path("/proc").is_dir():
        pytest.skip("there is no /proc")
    with pytest.raises(OSError, match=r"cannot be written \(.*give a file in a folder"):
        distill(student, nn.Linear(4, 3), data(), KD(), epochs=1, checkpoint=path)
    assert student.calls == 0


def test_a_full_disk_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(free=59)
    monkeypatch.setattr(before.shutil, "disk_usage", lambda path: full)
    settings: dict[str, Any] = {"epochs": 1, "checkpoint": tmp_path / "c"}
    with pytest.raises(OSError, match="59 bytes are free and the weights alone take 60"):
        distill(nn.Linear(4, 3), nn.Linear(4, 3), data(), KD(), **settings)
    full.free = 60
    assert len(distill(nn.Linear(4, 3), nn.Linear(4, 3), data(), KD(), **settings)) == 3


def test_trying_leaves_nothing_behind_and_keeps_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "new" / "c.part").parent.mkdir()
    (tmp_path / "new" / "c").write_text("older")
    assert before.cannot_write(tmp_path / "new" / "c", 10) is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c"]
    assert (tmp_path / "new" / "c").read_text() == "older"


# ---- what can be trained, and on what ----


def linear(**settings: Any) -> nn.Linear:
    return nn.Linear(4, 3, **settings)


NOT_TO_BE_TRAINED: dict[str, tuple[Callable[[], Any], str]] = {
    "a teacher": (
        lambda: Teacher(linear()),
        "got Teacher; a teacher .* it comes second",
    ),
    "an average": (lambda: EMA(linear(), 0.9), "got EMA; a teacher never learns"),
    "a committee": (lambda: Ensemble([linear()]), "got Ensemble; a teacher never learns"),
    "a function": (lambda: torch.relu, "the student is an nn.Module, got builtin"),
    "nothing": (lambda: None, "the student is an nn.Module, got NoneType"),
    "a frozen model": (lambda: linear().requires_grad_(False), r"requires_grad_\(True\)"),
    "a model without weights": (nn.Identity, "an? Identity, has no parameter that can be trained"),
}


@pytest.mark.parametrize("kind", NOT_TO_BE_TRAINED)
def test_what_cannot_be_trained_is_refused(kind: str) -> None:
    make, words = NOT_TO_BE_TRAINED[kind]
    with pytest.raises((TypeError, ValueError), match=words):
        distill(make(), linear(), data(), KD(), epochs=1)


def test_a_frozen_student_may_train_a_projector() -> None:
    term = Match("logits", project=nn.Linear(3, 5))
    before = term.project.weight.clone()  # type: ignore[union-attr, operator]
    distill(linear().requires_grad_(False), nn.Linear(4, 5), data(), term, epochs=1)
    assert not torch.equal(before, term.project.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("teacher", [[linear()], "net", 4, torch.zeros(2, 3)])
def test_what_cannot_be_asked_is_no_teacher(teacher: Any) -> None:
    with pytest.raises(TypeError, match=r"the teacher is a module, .*Ensemble\(\[\.\.\.\]\)"):
        distill(linear(), teacher, data(), KD(), epochs=1)


class Items(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 355

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": torch.zeros(4)}


@pytest.mark.parametrize(
    ("items", "way"),
    [
        (Items(), r"DataLoader\(data, batch_size=64\)"),
        (torch.utils.data.TensorDataset(torch.zeros(5, 4)), "DataLoader"),
        (Dataset(torch.zeros(5, 4), torch.zeros(5).long(), list("ab")), r"data\.batches\(64\)"),
        (torch.zeros(5, 4), "DataLoader"),
    ],
    ids=["a data set", "of tensors", "ours", "a tensor"],
)
def test_items_are_no_batches(items: Any, way: str) -> None:
    with pytest.raises(TypeError, match=f"expected batches, got a .* single items; give {way}"):
        distill(linear(), linear(), items, KD(), epochs=1)


def test_an_optimizer_that_asks_several_times_a_step_is_refused() -> None:
    with pytest.raises(TypeError, match=r"LBFGS asks for the loss several times.*SGD or AdamW"):
        distill(linear(), linear(), data(), KD(), epochs=1, optimizer=torch.optim.LBFGS)


def test_a_training_that_is_done_needs_no_room(tmp_path: Path, monkeypatch: Any) -> None:
    settings: dict[str, Any] = {"checkpoint": tmp_path / "c"}
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    distill(student, teacher, data(), KD(), epochs=1, **settings)
    monkeypatch.setattr("distill_lib.training.run.cannot_write", lambda *_: "read-only")
    again = nn.Linear(4, 3)
    assert len(distill(again, teacher, data(), KD(), epochs=1, **settings)) == 3
    assert torch.equal(again.weight, student.weight)
    with pytest.raises(OSError, match=r"cannot be written \(read-only\)"):
        distill(again, teacher, data(), KD(), epochs=2, **settings)


class Silent(nn.Module):
    """A model that must not be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("asked")


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        ("trunk.9", "trunk.0", r"student has no layer 'trunk.9'; it has trunk, trunk.0, trunk.1"),
        ("trnk.0", "trunk.0", r"student has no layer 'trnk.0'.* Did you mean 'trunk.0'"),
        ("trunk.0", "trunk.O/1", r"teacher has no layer 'trunk.O'.* Did you mean 'trunk\."),
    ],
)
@pytest.mark.parametrize("wrap", ["plain", "captured", "parallel"])
def test_a_misspelt_layer_is_found_before_anybody_is_asked(
    mine: str, theirs: str, message: str, wrap: str
) -> None:
    student, teacher = Silent(), Silent()
    if wrap == "captured":
        student, teacher = capture(student, "trunk.1"), capture(teacher, "trunk.1")
    if wrap == "parallel":
        student = nn.DataParallel(student)
    with pytest.raises(KeyError, match=message):
        distill(student, teacher, data(), Match(mine, theirs), epochs=1)


class Dotted(Net):
    """A model that gives its answers names with dots."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"of.mine": super().forward(x)}


def test_an_answer_may_have_a_dot_in_its_name_where_the_caller_asks() -> None:
    def ask(model: nn.Module, batch: Any) -> Any:
        return model(batch["inputs"])

    student, teacher = Dotted(trunk()), Teacher(Dotted(trunk()), forward=ask)
    distill(student, teacher, data(), Match("of.mine", "of.mine"), epochs=1, forward=ask)
    with pytest.raises(KeyError, match="that the model itself gives an answer needs forward="):
        distill(student, teacher, data(), Match("of.mine", "of.mine"), epochs=1)


def test_the_second_call_of_a_layer_is_a_layer() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.trunk(x) + self.trunk(-x))

    distill(Twice(trunk()), Twice(trunk()), data(), Match("trunk.1/1", "trunk.1/1"), epochs=1)
