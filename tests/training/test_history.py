"""history: a row a step; progress: silence where nobody watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import KD, History, Teacher, distill
from distill_lib.progress import bar, quiet


def test_rows_become_columns() -> None:
    history = History()
    for step in range(1, 101):
        history.add(step, {"loss": torch.tensor(float(step)), "lr": 0.5})
    assert len(history) == 100
    assert history["loss"] == [float(i) for i in range(1, 101)]
    assert history.last == {"step": 100, "loss": 100.0, "lr": 0.5}


def test_a_part_that_was_not_always_there() -> None:
    history = History([{"step": 1, "loss": 1.0, "kd": 2.0}, {"step": 2, "loss": 0.5}])
    assert history["kd"] == [2.0]


def test_an_unknown_part_names_those_there_are() -> None:
    with pytest.raises(KeyError, match="no 'kl'; it has loss, step"):
        History([{"step": 1, "loss": 1.0}])["kl"]
    with pytest.raises(KeyError, match="it has nothing"):
        History()["loss"]


def test_numbers_of_an_epoch_stand_in_the_row_of_its_last_step() -> None:
    history = History()
    for step in range(1, 5):
        history.add(step, {"loss": torch.tensor(float(step))})
        if step % 2 == 0:
            history.note({"accuracy": step / 10})
    assert history["accuracy"] == [0.2, 0.4] and history["loss"] == [1, 2, 3, 4]
    assert len(history) == 4 and history.last == {"step": 4, "loss": 4.0, "accuracy": 0.4}
    assert repr(history) == "History(4 steps: loss 4, accuracy 0.4)"
    again = History(history.records)
    assert again["accuracy"] == [0.2, 0.4]


@pytest.mark.parametrize("name", ["step", "loss", "kd"])
def test_a_name_of_the_steps_is_refused_for_an_epoch(name: str) -> None:
    history = History()
    history.add(1, {"loss": torch.tensor(1.0), "kd": 1.0})
    history.add(2, {"loss": torch.tensor(1.0)})  # a part that fell to weight 0
    with pytest.raises(ValueError, match=f"gave {name}, which is a name of.*call it val_{name}"):
        history.note({"accuracy": 1.0, name: 2.0})
    assert history.last == {"step": 2, "loss": 1.0}


def test_it_prints_its_last_row() -> None:
    assert repr(History()) == "History(empty)"
    history = History([{"step": 1, "loss": 1.23456, "lr": 0.1}])
    assert repr(history) == "History(1 steps: loss 1.235, lr 0.1)"


def test_an_empty_history_has_no_last_row() -> None:
    with pytest.raises(IndexError, match="history is empty"):
        _ = History().last


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_reported_with_its_step(bad: float) -> None:
    history = History()
    history.add(1, {"loss": torch.tensor(1.0), "kd": torch.tensor(0.5)})
    history.add(2, {"loss": torch.tensor(bad), "kd": torch.tensor(bad)})
    with pytest.raises(FloatingPointError, match=r"at step 2 \(loss=.*kd=.*lower the learning"):
        history.settle()
    assert len(history) == 2


def test_not_finite_is_found_within_64_steps() -> None:
    history = History()
    with pytest.raises(FloatingPointError):
        for step in range(64):
            history.add(step, {"loss": torch.tensor(float("nan"))})


def test_rows_are_copies() -> None:
    rows = [{"step": 1.0, "loss": 1.0}]
    History(rows).records[0]["loss"] = 2.0
    assert rows[0]["loss"] == 1.0


@pytest.mark.parametrize("name", ["CI", "DISTILL_QUIET"])
def test_bars_are_silent_where_nobody_watches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("DISTILL_QUIET", raising=False)
    assert not quiet()
    monkeypatch.setenv(name, "1")
    assert quiet()


def test_a_bar_gives_the_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(bar([1, 2, 3], "work", 3)) == [1, 2, 3]
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("DISTILL_QUIET", raising=False)
    assert list(bar([1, 2, 3], "work", 3, show=False)) == [1, 2, 3]
    assert list(bar(iter([1]), "work", None)) == [1]  # over before it would show
    assert capsys.readouterr().err == ""


def test_a_loss_that_an_excluded_class_makes_is_named_as_that() -> None:
    student, teacher = nn.Linear(2, 3), nn.Linear(2, 3)
    batch = {"inputs": torch.ones(4, 2)}

    def masked(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        logits: Tensor = model(batch["inputs"])
        return logits.masked_fill(torch.tensor([False, False, True]), -torch.inf)

    with pytest.raises(
        FloatingPointError, match=r"beyond 1e\+18 at step 1 \(loss.*excluded \(-inf\)"
    ):
        distill(student, teacher, [batch], KD(), epochs=1, forward=masked)
    both = Teacher(teacher, forward=masked)
    student = nn.Linear(2, 3)
    history = distill(student, both, [batch], KD(), epochs=1, forward=masked)
    assert history.last["loss"] >= 0 and all(p.isfinite().all() for p in student.parameters())
