"""each_epoch, keep_best, patience: a look at the student changes nothing but what it was for."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from together import free_ports, in_processes
from torch import Tensor, nn
from trainings import BATCHES, TOTAL, Killed, Training

from distill_lib import CE, EMA, KD, History, Match, Stacked, distill, evaluate, linear
from distill_lib.data import Dataset

EPOCH = TOTAL // 2


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.4), nn.Linear(6, 3))


def data(n: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(8, 5), torch.arange(8) % 3) for _ in range(n)]


def state(*models: nn.Module) -> dict[str, Tensor]:
    found = {f"{i}.{k}": v for i, m in enumerate(models) for k, v in m.state_dict().items()}
    return {k: v.clone() for k, v in found.items()}


def differ(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> list[str]:
    assert one.keys() == two.keys()
    return [k for k in one if not torch.equal(one[k], two[k])]


# ---- a look changes nothing ----


class Looks:
    """What people do after an epoch, and leave behind."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def evaluates(self, epoch: int, history: History) -> Mapping[str, Any]:
        return evaluate(self.training.student, BATCHES["list"]())

    def walks_the_training_batches(self, epoch: int, history: History) -> Mapping[str, Any]:
        return evaluate(self.training.student, self.training.batches)

    def leaves_eval_mode(self, epoch: int, history: History) -> None:
        self.training.student.eval()
        self.training.objective.eval()

    def seeds_everything(self, epoch: int, history: History) -> None:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)

    def leaves_gradients(self, epoch: int, history: History) -> None:
        project = self.training.project
        loss = self.training.student.eval()(torch.randn(4, 5)).sum()
        (loss + project(torch.randn(2, project.in_features)).sum()).backward()

    def looks_at_the_history(self, epoch: int, history: History) -> Mapping[str, float]:
        assert history.last["step"] == len(history)
        return {"mean": float(np.mean(history["loss"]))}


LOOKS = [name for name in vars(Looks) if not name.startswith("_")]


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("look", LOOKS)
def test_training_is_bit_for_bit_the_same_with_a_look(batches: str, look: str) -> None:
    plain, looked = Training(batches), Training(batches)
    expected = plain.run()
    history = looked.run(each_epoch=getattr(Looks(looked), look))
    assert differ(plain.state(), looked.state()) == []
    steps = {k for row in expected.records for k in row}
    assert [{k: v for k, v in r.items() if k in steps} for r in history.records] == expected.records


@pytest.mark.parametrize("how", ["epochs", "steps"])
def test_the_order_of_a_data_set_is_the_same_with_a_look(how: str) -> None:
    ends = []
    items = Dataset(torch.randn(20, 5), torch.arange(20) % 3, ("a", "b", "c"))
    for look in (False, True):
        torch.manual_seed(1)
        student, batches = net(), items.batches(4)
        function = (lambda e, h, s=student, b=batches: evaluate(s, b)) if look else None
        time = {"epochs": 3} if how == "epochs" else {"steps": 13}
        distill(student, None, batches, CE(), **time, each_epoch=function)
        ends.append((state(student), batches.epoch))
    assert differ(ends[0][0], ends[1][0]) == [] and ends[0][1] == ends[1][1] == 3


def test_other_batches_that_a_look_made_stay() -> None:
    batches = Dataset(torch.randn(20, 5), torch.arange(20) % 3, ("a", "b", "c")).batches(4)
    sizes = []

    def grow(epoch: int, history: History) -> None:
        sizes.append(batches.batch_size)
        batches.batch_size = 10

    distill(net(), None, batches, CE(), steps=8, each_epoch=grow)
    assert sizes == [4, 10, 10] and batches.batch_size == 10


def test_modes_are_those_of_training_and_afterwards_as_before() -> None:
    student, teacher, seen = net().eval(), net(), []
    objective = KD() + Match("0", project=nn.Linear(6, 6))

    def look(epoch: int, history: History) -> None:
        seen.append((student.training, student[2].training, student[0].training))
        student.eval()

    student[0].requires_grad_(False)
    distill(student, teacher, data(), objective, epochs=2, each_epoch=look)
    assert seen == [(True, True, False)] * 2
    assert not student.training and teacher.training
    assert not any(part._forward_hooks for part in (*student.modules(), *teacher.modules()))


# ---- when it is called, and what becomes of its numbers ----


@given(size=st.integers(1, 5), total=st.integers(1, 12), epochs=st.booleans())
def test_it_is_called_after_each_walk_and_at_the_end(size: int, total: int, epochs: bool) -> None:
    calls = []

    def look(epoch: int, history: History) -> Mapping[str, float]:
        calls.append((epoch, len(history)))
        return {"score": epoch / 2}

    time = {"epochs": total} if epochs else {"steps": total}
    history = distill(nn.Linear(5, 3), None, data(size), CE(), **time, each_epoch=look)
    ends = [*range(size, len(history), size), len(history)]
    assert calls == list(enumerate(ends, 1))
    assert history["score"] == [epoch / 2 for epoch, _ in calls]
    assert [int(row["step"]) for row in history.records if "score" in row] == ends
    assert len(history["loss"]) == len(history) and history.last["score"] == len(calls) / 2


def test_numbers_of_every_kind_become_numbers() -> None:
    said = {
        "int": 3, "bool": True, "tensor": torch.tensor(0.5), "numpy": np.float32(0.25),
        "list": [1, 2.0], "vector": torch.arange(2), 7: 8, "nan": float("nan"),
    }  # fmt: skip
    history = distill(nn.Linear(5, 3), None, data(), CE(), epochs=1, each_epoch=lambda e, h: said)
    last = {k: v for k, v in history.last.items() if k not in ("step", "loss", "lr", "ce")}
    assert np.isnan(last.pop("nan"))
    assert last == {
        "int": 3, "bool": 1, "tensor": 0.5, "numpy": 0.25, "list/0": 1, "list/1": 2,
        "vector/0": 0, "vector/1": 1, "7": 8,
    }  # fmt: skip


def test_what_evaluate_says_of_a_stack_is_said_of_each() -> None:
    student = Stacked([nn.Linear(5, 3) for _ in range(2)], ndim=2)
    history = distill(
        student, None, data(), CE(), epochs=2, each_epoch=lambda e, h: evaluate(student, data())
    )
    assert len(history["accuracy/0"]) == len(history["accuracy/1"]) == 2


def test_an_epoch_without_a_look_leaves_no_number() -> None:
    history = distill(
        nn.Linear(5, 3), None, data(), CE(), epochs=4,
        each_epoch=lambda e, h: {"score": e} if e % 2 else None,
    )  # fmt: skip
    assert history["score"] == [1, 3] and "score" not in history.last


@pytest.mark.usefixtures("own_accelerate")
def test_trackers_get_the_numbers_at_the_last_step_of_their_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from accelerate import Accelerator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(log_with="tensorboard", project_dir=str(tmp_path), cpu=True)
    distill(
        nn.Linear(5, 3), None, data(64), CE(), steps=150, accelerator=accelerator,
        each_epoch=lambda e, h: {"score": e / 4, "list": [1.0]},
    )  # fmt: skip
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = EventAccumulator(str(file.parent)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "ce", "lr", "score", "list/0"}
    seen = [(e.step, e.value) for e in events.Scalars("score")]
    assert seen == [(64, 0.25), (128, 0.5), (150, 0.75)]
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 151))


# ---- the best ----

SCORES = st.lists(
    st.sampled_from([-1.0, 0.0, 0.5, 0.25, float("inf"), float("-inf"), None]),
    min_size=1,
    max_size=7,
).filter(lambda scores: scores[0] is not None)


@given(scores=SCORES, smaller=st.booleans(), patience=st.none() | st.integers(1, 3))
def test_the_best_epoch_is_kept_and_patience_ends_training(
    scores: list[float | None], smaller: bool, patience: int | None
) -> None:
    torch.manual_seed(0)
    student, project = net(), nn.Linear(6, 6)
    teacher = EMA(student, 0.5)
    objective = CE() + KD() + 0.1 * Match("0", project=project)
    average, states = teacher.model, []

    def look(epoch: int, history: History) -> Mapping[str, float] | None:
        states.append(state(student, project, average))
        return None if scores[epoch - 1] is None else {"score": scores[epoch - 1]}

    lr = linear(0.1, 0.0)
    history = distill(
        student, teacher, data(2), objective, epochs=len(scores), lr=lr, each_epoch=look,
        keep_best="-score" if smaller else "score", patience=patience,
    )  # fmt: skip
    best, since, expected = -1, 0, 0
    for number, score in enumerate(scores):
        expected += 1
        if score is None:
            continue
        old = scores[best] if best >= 0 else None
        if old is None or (score < old if smaller else score > old):
            best, since = number, 0
        else:
            since += 1
        if patience is not None and since >= patience:
            break
    assert len(states) == expected and len(history) == 2 * expected
    assert differ(states[best], state(student, project, average)) == []
    # stopped or not, the schedule runs over all epochs
    assert history["lr"] == pytest.approx([lr(i / (2 * len(scores))) for i in range(len(history))])


@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 3).double(), lambda: nn.Linear(5, 3)])
def test_a_copy_of_the_best_is_not_the_weights_themselves(make: Any) -> None:
    student, first = make(), []

    def look(epoch: int, history: History) -> Mapping[str, float]:
        first.append(student.weight.detach().clone())
        return {"score": -epoch}

    x = student.weight.new_ones(4, 5)
    distill(student, None, [(x, torch.arange(4) % 3)], CE(), epochs=3, lr=0.1, each_epoch=look,
            keep_best="score")  # fmt: skip
    assert torch.equal(student.weight, first[0]) and not torch.equal(first[0], first[1])


# ---- after a kill ----


def watched(training: Training, path: Path | None, **settings: Any) -> History:
    """Scores that go up and down, and a look that draws random numbers."""

    def look(epoch: int, history: History) -> Mapping[str, float]:
        found = evaluate(training.student, BATCHES["list"]())
        score = torch.rand(()).item() + random.random() + np.random.rand()
        return {**found, "score": [0.5, 0.9, 0.1, 0.3, 0.2, 0.8][epoch - 1], "draw": score}

    given: dict[str, Any] = {"steps": 3 * EPOCH, "keep_best": "score", **settings}
    return training.run(path, each_epoch=look, **given)


@pytest.mark.parametrize("batches", ["shuffled", "own generator", "augmented", "own state"])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(("kill_at", "save_every"), [(6, 2), (11, 7), (17, None), (24, 3), (33, 4)])
def test_the_best_survives_a_kill(
    tmp_path: Path, batches: str, average: bool, kill_at: int, save_every: int | None
) -> None:
    make: dict[str, Any] = {"batches": batches, "average": average}
    whole, killed, again = Training(**make), Training(**make, kill_at=kill_at), Training(**make)
    expected = watched(whole, None)
    with pytest.raises(Killed):
        watched(killed, tmp_path / "c", save_every=save_every)
    history = watched(again, tmp_path / "c", save_every=save_every)
    assert differ(whole.state(), again.state()) == []
    assert history.records == expected.records
    assert history["score"] == [0.5, 0.9, 0.1]


def test_a_stopped_training_stays_stopped_until_there_is_more_patience(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 5 * EPOCH}
    first = Training()
    history = watched(first, tmp_path / "c", patience=1, **settings)
    assert history["score"] == [0.5, 0.9, 0.1]
    again = Training()
    assert watched(again, tmp_path / "c", patience=1, **settings).records == history.records
    assert again.student.calls == 0 and differ(first.state(), again.state()) == []
    longer, whole = Training(), Training()
    on = watched(longer, tmp_path / "c", patience=9, **settings)
    assert on.records == watched(whole, None, **settings).records
    assert differ(whole.state(), longer.state()) == []


@pytest.mark.parametrize("first", [EPOCH, 2 * EPOCH])
def test_a_training_goes_on_from_its_last_weights_not_its_best(tmp_path: Path, first: int) -> None:
    def run(training: Training, steps: int, path: Path | None) -> History:
        score = {"steps": steps, "checkpoint": path, "seed": 7, "keep_best": "score"}
        return distill(training.student, training.teacher, training.batches, CE() + KD(), **score,
                       each_epoch=lambda e, h: {"score": [1, 0, 2, 0][e - 1]})  # fmt: skip

    whole, halves, again = Training(), Training(), Training()
    expected = run(whole, 4 * EPOCH, None)
    run(halves, first, tmp_path / "c")
    assert run(again, 4 * EPOCH, tmp_path / "c").records == expected.records
    assert differ(whole.state(), again.state()) == []


def test_older_checkpoints_go_on_with_a_look(tmp_path: Path) -> None:
    Training().run(tmp_path / "c", steps=EPOCH)
    assert "epochs" not in torch.load(tmp_path / "c", weights_only=True)["parts"]
    history = watched(Training(), tmp_path / "c", steps=2 * EPOCH)
    assert history["score"] == [0.5, 0.9]  # the first was not looked at yet
    plain = Training()
    assert len(plain.run(tmp_path / "c", steps=3 * EPOCH)) == 3 * EPOCH  # and one without


def test_the_best_by_another_number_is_refused(tmp_path: Path) -> None:
    watched(Training(), tmp_path / "c", steps=EPOCH)
    with pytest.raises(ValueError, match=r"kept the best by keep_best='score', now '-nll'"):
        watched(Training(), tmp_path / "c", steps=2 * EPOCH, keep_best="-nll")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"each_epoch": {"accuracy": 1.0}}, TypeError, "each_epoch is a function.*got a dict"),
        ({"keep_best": "accuracy"}, ValueError, "needs each_epoch="),
        ({"keep_best": True}, TypeError, "'accuracy', or '-nll' where smaller is better; got True"),
        ({"keep_best": "-"}, TypeError, "name of a number"),
        ({"patience": 2}, ValueError, "patience needs keep_best="),
        ({"look": 1, "keep_best": "a", "patience": 0}, ValueError, "at least 1 epoch, got 0"),
        ({"look": 1, "keep_best": "nll"}, ValueError, "better when it is smaller: keep_best='-nll"),
        ({"look": 1, "keep_best": "mse"}, ValueError, "better when it is smaller: keep_best='-mse"),
    ],
)
def test_refused_before_the_first_step(settings: Any, error: Any, words: str) -> None:
    if settings.pop("look", None):
        settings = {**settings, "each_epoch": lambda e, h: {"a": 1.0}}
    student = net()
    before = state(student)
    with pytest.raises(error, match=words):
        distill(student, None, data(), CE(), epochs=1, **settings)
    assert differ(before, state(student)) == []


@pytest.mark.parametrize(
    ("said", "keep", "error", "words"),
    [
        ({"nll": 1.0, "n": 3}, "accuracy", ValueError, "after epoch 1 each_epoch gave nll=1, n=3"),
        (None, "accuracy", ValueError, "after epoch 1 each_epoch gave nothing"),
        ({"nll": float("nan")}, "-nll", ValueError, "number 'nll', and .* gave nll=nan"),
        ({"accuracy": [0.5, 1]}, "accuracy", ValueError, r"gave accuracy/0=0.5, accuracy/1=1"),
        (0.5, None, TypeError, "mapping of numbers.*or None; it returned a float"),
        ([("accuracy", 0.5)], None, TypeError, "it returned a list"),
        ({"accuracy": "good"}, None, TypeError, "'accuracy' is a str: 'good'"),
        ({"accuracy": {"a": 1}}, None, TypeError, "'accuracy' is a dict"),
        ({"loss": 1.0}, None, ValueError, "gave loss, which is a name of the steps.*val_loss"),
        ({"ce": 1.0, "lr": 2}, None, ValueError, "gave ce, lr, which"),
    ],
)
def test_refused_after_the_first_epoch(said: Any, keep: Any, error: Any, words: str) -> None:
    calls = []

    def look(epoch: int, history: History) -> Any:
        calls.append(epoch)
        return said

    student = net().eval()
    with pytest.raises(error, match=words):
        distill(student, None, data(), CE(), epochs=3, each_epoch=look, keep_best=keep)
    assert calls == [1] and not student.training


def test_a_number_that_goes_missing_or_nan_later_is_refused_too() -> None:
    for later in ({"other": 1.0}, {"score": float("nan")}):
        with pytest.raises(ValueError, match="after epoch 2"):
            distill(
                net(), None, data(), CE(), epochs=3, keep_best="score",
                each_epoch=lambda e, h, later=later: {"score": 1.0} if e == 1 else later,
            )  # fmt: skip


def test_an_error_of_the_function_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError):
        distill(net(), None, data(), CE(), epochs=1, each_epoch=lambda e, h: {"a": 1 / 0})


# ---- two processes ----


def shared(name: str, rank: int) -> dict[str, Any]:
    """What became of one training."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    batches = [(torch.randn(4, 5).double(), torch.arange(4) % 3) for _ in range(5)]
    calls: list[int] = []

    def look(epoch: int, history: History) -> Mapping[str, float] | None:
        calls.append(epoch)
        if name == "fails" and rank == 1 and epoch == 2:
            raise ZeroDivisionError("of process 1")
        if name == "the first alone" and rank == 1:
            return None
        scores = [1, 3, 2, 1, 0, 5] if rank == 0 else [1, 0, 0, 9, 9, 9]
        return {"score": scores[epoch - 1]}

    try:
        history = distill(
            student, None, batches, CE(), epochs=6, lr=0.1, each_epoch=look, keep_best="score",
            patience=2,
        )  # fmt: skip
    except (RuntimeError, ZeroDivisionError) as error:
        return {"error": repr(error), "calls": calls}
    return {"state": student.state_dict(), "rows": history.records, "calls": calls}


NAMES = ("differ", "the first alone", "fails")


def work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "DISTILL_QUIET": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    for name in NAMES:
        torch.save(shared(name, rank), folder / f"{name} {rank}")


@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)
def test_the_first_process_decides_for_both(tmp_path: Path) -> None:
    (port,) = free_ports()
    in_processes(work, [(rank, port, tmp_path) for rank in range(2)], 200)
    found = {
        name: [torch.load(tmp_path / f"{name} {rank}", weights_only=True) for rank in range(2)]
        for name in NAMES
    }
    for name in NAMES[:2]:
        one, two = found[name]
        assert one["rows"] == two["rows"] and one["calls"] == two["calls"] == [1, 2, 3, 4]
        assert differ(one["state"], two["state"]) == []
        assert [row["score"] for row in one["rows"] if "score" in row] == [1, 3, 2, 1]
    assert "ZeroDivisionError" in found["fails"][1]["error"]
    assert "each_epoch failed in process 1 (ZeroDivisionError" in found["fails"][0]["error"]
    assert all(one["calls"] == [1, 2] for one in found["fails"])


def test_a_copy_that_is_made_after_an_epoch_has_no_hooks() -> None:
    copies: list[nn.Module] = []
    student, teacher = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(4, 3)
    history = distill(
        student, teacher, [{"inputs": torch.randn(8, 4)}] * 2, Match("0", "logits"), epochs=2,
        each_epoch=lambda epoch, history: copies.append(copy.deepcopy(student)),
    )  # fmt: skip
    assert len(history) == 4 and len(copies) == 2
    assert not any(part._forward_hooks for model in copies for part in model.modules())


def test_a_misspelt_layer_lists_the_layers() -> None:
    student = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(KeyError, match=r"no signal 'O'.* The student's layers are 0, 1"):
        distill(student, nn.Linear(4, 3), [{"inputs": torch.randn(8, 4)}], Match("O", "logits"),
                epochs=1)  # fmt: skip
