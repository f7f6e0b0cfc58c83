"""Distillation in the trainer of 🤗 Transformers: schedules, logs, evaluation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_helpers import Watch, bert, data, settings, states, trainer

from distill_lib import CE, KD, Match, capture, linear
from distill_lib.integrations.transformers import DistillationTrainer

pytestmark = pytest.mark.usefixtures("own_accelerate")


class Silent:
    """A teacher that nobody may ask."""

    def __call__(self, batch: Any) -> Any:
        raise AssertionError("the teacher was asked")

    def fingerprint(self) -> str:
        return "silent"


# ---- schedules and logs ----


def test_progress_is_the_share_of_steps_that_are_done(tmp_path: Path) -> None:
    watch = Watch()
    made = trainer(
        bert(), settings(tmp_path, 16, 2, max_steps=4), teacher=None, objective=1.0 * watch
    )
    made.evaluate(data(2))
    made.train()
    made.evaluate(data(2))
    assert [p for p, _ in watch.seen] == [0, *(s / 4 for s in (0, 0, 1, 1, 2, 2, 3, 3)), 1]


def test_parts_are_logged_beside_the_loss(tmp_path: Path) -> None:
    args = settings(tmp_path, 8, 2, max_steps=5, logging_strategy="steps", logging_steps=2)
    objective = 0.25 * CE() + 0.75 * KD() + linear(0, 0) * Match("hidden_states/1")
    made = trainer(bert(), args, teacher=bert(seed=5), objective=objective)
    made.train()
    first, second, last = made.state.log_history
    for found in (first, second):
        assert found["loss"] == pytest.approx(0.25 * found["ce"] + 0.75 * found["kd"], rel=1e-5)
        assert "match" not in found
    assert "train_loss" in last and "kd" not in last


def test_the_teacher_is_asked_only_where_a_term_reads_it(tmp_path: Path) -> None:
    objective = CE() + 0 * KD()
    made = trainer(bert(), settings(tmp_path), teacher=Silent(), objective=objective)
    made.train()
    assert made.evaluate(data(4))["eval_loss"] > 0
    late = trainer(
        bert(), settings(tmp_path), teacher=Silent(), objective=CE() + linear(1, 0) * KD()
    )
    with pytest.raises(AssertionError, match="was asked"):
        late.train()


# ---- evaluation ----


def accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def test_evaluation_gives_the_loss_of_the_objective_and_metrics(tmp_path: Path) -> None:
    student, teacher, rows = bert(layers=2), bert(16, seed=5), data(16)
    objective = states() + KD()
    made = trainer(
        student, settings(tmp_path), teacher=teacher, objective=objective, compute_metrics=accuracy
    )
    found = made.evaluate(rows)
    keys = {"input_ids", "attention_mask"}
    batch = {k: torch.stack([row[k] for row in rows]) for k in keys}
    labels = torch.stack([row["labels"] for row in rows])
    with torch.no_grad():
        said = capture(student.eval(), "bert.encoder.layer.1")(**batch, output_hidden_states=True)
        taught = capture(teacher, "bert.encoder.layer.0")(**batch, output_hidden_states=True)
        loss, parts = objective(said, taught, {**batch, "labels": labels})
    assert found["eval_loss"] == pytest.approx(loss.item())
    assert found["eval_accuracy"] == (said["logits"].argmax(-1) == labels).double().mean()
    bare = [{k: v for k, v in row.items() if k != "labels"} for row in rows]
    found = made.evaluate(bare)
    alone = loss - parts["ce"]
    assert found["eval_loss"] == pytest.approx(alone.item()) and "eval_accuracy" not in found
    done = made.predict(bare)
    assert done.label_ids is None and torch.allclose(torch.tensor(done.predictions), said["logits"])
    assert made.label_names == ["labels"]


def test_unlabeled_data_under_labels_alone_cost_nothing(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "labels"} for row in data(4)]
    made = trainer(bert(), settings(tmp_path), teacher=None, objective=CE())
    assert made.evaluate(rows)["eval_loss"] == 0
    assert made.predict(rows).predictions.shape == (4, 3)


def test_a_copy_of_the_teacher_can_be_the_student(tmp_path: Path) -> None:
    teacher = bert()
    made = DistillationTrainer(
        copy.deepcopy(teacher), settings(tmp_path), teacher=teacher, objective=KD()
    )
    assert made.evaluate(data(4))["eval_loss"] == pytest.approx(0, abs=1e-12)
