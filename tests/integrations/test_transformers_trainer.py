"""Distillation in the trainer of 🤗 Transformers: the gradient, and who sees what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from hf_helpers import (
    LENGTH,
    WORDS,
    Watch,
    answers,
    bert,
    data,
    projector,
    settings,
    states,
    trainer,
    update,
    weights,
)
from torch import Tensor, nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    default_data_collator,
)

from distill_lib import CE, EMA, KD, Match, Teacher, distill

pytestmark = pytest.mark.usefixtures("own_accelerate")


# ---- the gradient ----


@pytest.mark.parametrize("objective", [answers, states])
@pytest.mark.parametrize("tokens", [False, True])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(
    tmp_path: Path, objective: Any, tokens: bool
) -> None:
    teacher, found = bert(16, seed=5, tokens=tokens), []
    for size, cut in ((64, 1), (16, 4), (12, 6)):
        student, chosen = bert(layers=2, tokens=tokens), objective()
        args = settings(tmp_path, size, cut)
        rows = data(tokens=tokens)
        made = trainer(student, args, teacher=teacher, objective=chosen, train_dataset=rows)
        found.append(update(made, student, chosen))
    assert found[0].norm() > 1e-3
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-10 * found[0].norm()


class Web(Trainer):
    """The usual subclass: a mean a micro-batch, and no word about accumulation."""

    teacher = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        labels, said = inputs.pop("labels"), model(**inputs)
        loss = F.cross_entropy(said.logits, labels)
        return (loss, said) if return_outputs else loss


def test_the_usual_subclass_is_wrong_by_the_factor_of_accumulation(tmp_path: Path) -> None:
    rows = [{**row, "labels": torch.tensor(i % 3)} for i, row in enumerate(data())]
    norms = []
    for size, cut in ((64, 1), (16, 4)):
        student = bert()
        made = trainer(student, settings(tmp_path, size, cut), Web, train_dataset=rows)
        norms.append(update(made, student).norm().item())
    assert norms[1] / norms[0] == pytest.approx(4, rel=1e-6), (
        "this release of transformers scales the loss of a plain subclass by itself: the warnings "
        "of the trap, in the book too, are out of date"
    )


def test_it_is_the_training_that_distill_does(tmp_path: Path) -> None:
    rows, teacher = data(48), bert(16, seed=5)
    first, ours = bert(layers=2), states()
    args = settings(
        tmp_path, 8, 2, max_steps=3, max_grad_norm=0.5, train_sampling_strategy="sequential"
    )
    trainer(first, args, teacher=teacher, objective=ours, train_dataset=rows).train()
    second, theirs = bert(layers=2), states()
    batches = [default_data_collator(rows[i : i + 8]) for i in range(0, 48, 8)]

    def forward(model: nn.Module, batch: Any) -> Any:
        kept = {k: batch[k] for k in ("input_ids", "attention_mask")}
        return model(**kept, output_hidden_states=True)

    distill(
        second,
        Teacher(teacher, forward=forward),
        batches,
        theirs,
        epochs=1,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        clip_norm=0.5,
        accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2),
        forward=forward,
    )
    assert torch.allclose(weights(first, ours), weights(second, theirs), atol=1e-12)


def test_projectors_are_clipped_with_the_student(tmp_path: Path) -> None:
    student, objective = bert(layers=2), 100 * states()
    made = trainer(
        student, settings(tmp_path, max_grad_norm=0.5), teacher=bert(16), objective=objective
    )
    assert update(made, student, objective).norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_projectors_decay_as_the_student_does(tmp_path: Path) -> None:
    project = projector()
    args = settings(tmp_path, weight_decay=0.5)
    made = trainer(
        bert(), args, teacher=bert(16), objective=Match("hidden_states/1", project=project)
    )
    made.create_optimizer()
    decay = {id(p): g["weight_decay"] for g in made.optimizer.param_groups for p in g["params"]}
    assert (decay[id(project.weight)], decay[id(project.bias)]) == (0.5, 0.0)


def test_half_precision_is_the_students_and_the_projectors(tmp_path: Path) -> None:
    student, watch = bert(layers=2).float(), Watch()
    objective = (states() + KD()).float() + watch
    args = settings(tmp_path, 16, 2, bf16=True, logging_strategy="steps", logging_steps=1)
    made = trainer(student, args, teacher=bert(16).float(), objective=objective)
    assert update(made, student, objective).isfinite().all()
    assert made.state.log_history[0]["kd"] > 0 and student.dtype == torch.float32


# ---- who sees what ----


def test_the_student_sees_no_labels_and_the_teacher_never_changes(tmp_path: Path) -> None:
    student, teacher, asked = bert(), bert(16, dropout=0.5), []
    student.register_forward_pre_hook(
        lambda model, args, kwargs: asked.append(set(kwargs)), with_kwargs=True
    )
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    made = trainer(student, settings(tmp_path, 16, 4), teacher=teacher.train(), objective=answers())
    made.train()
    assert asked == 4 * [{"input_ids", "attention_mask"}]
    assert not teacher.training and all(
        torch.equal(before[k], v) for k, v in teacher.state_dict().items()
    )
    assert all(p.grad is None for p in teacher.parameters())


def test_layers_are_captured_and_released(tmp_path: Path) -> None:
    student, objective = bert(layers=2), Match("bert.encoder.layer.1", "bert.encoder.layer.0")
    trainer(student, settings(tmp_path), teacher=bert(), objective=objective).train()
    assert not any(part._forward_hooks for part in student.modules())


def test_attentions_are_told(tmp_path: Path) -> None:
    def mse(*, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean((1, 3))

    student = bert()
    made = trainer(
        student, settings(tmp_path, logging_strategy="steps", logging_steps=1),
        teacher=bert(16), objective=Match("attentions/0", loss=mse),
    )  # fmt: skip
    made.train()
    assert made.state.log_history[0]["match"] > 0
    assert made.predict(data(4)).predictions.shape == (4, 3)


def test_columns_reach_those_who_take_them(tmp_path: Path) -> None:
    config = DistilBertConfig(
        vocab_size=WORDS, dim=8, n_layers=1, n_heads=2, hidden_dim=8, num_labels=3,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    student, teacher, asked = DistilBertForSequenceClassification(config), bert(16), {}
    for name, model in (("student", student), ("teacher", teacher)):
        model.register_forward_pre_hook(
            lambda model, args, kwargs, name=name: asked.update({name: set(kwargs)}),
            with_kwargs=True,
        )
    rows = [
        {**row, "token_type_ids": row["input_ids"] * 0, "index": i, "mask": i % 2, "other": 1}
        for i, row in enumerate(data(8))
    ]
    watch = Watch()
    made = trainer(
        student, settings(tmp_path), teacher=teacher, objective=KD() + watch, train_dataset=rows
    )
    made.train()
    common = {"input_ids", "attention_mask"}
    assert asked == {"student": common, "teacher": {*common, "token_type_ids"}}
    assert {*common, "token_type_ids", "labels", "index", "mask"} == set(watch.seen[0][1])


def test_the_labels_of_a_causal_model_are_those_of_the_next_token(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    student = LlamaForCausalLM(config)
    rows = [
        {"input_ids": r["input_ids"], "attention_mask": r["attention_mask"],
         "labels": torch.where(r["attention_mask"] > 0, r["input_ids"], -100)}
        for r in data(8)
    ]  # fmt: skip
    args = settings(tmp_path)
    made = trainer(student, args, teacher=None, objective=CE(), train_dataset=rows)
    theirs = trainer(student, args, Trainer, train_dataset=rows)
    assert made.evaluate(rows)["eval_loss"] == pytest.approx(
        theirs.evaluate(rows)["eval_loss"], rel=1e-6
    )


def test_a_student_of_ones_own_is_welcome(tmp_path: Path) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.EmbeddingBag(WORDS, 8), nn.Linear(8, 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.head(self.words(input_ids))

    student = Bag()
    objective = CE() + Match("words", "hidden_states/1", project=nn.Linear(8, 16), loss=pooled)
    made = trainer(student, settings(tmp_path), teacher=bert(16).float(), objective=objective)
    assert update(made, student).norm() > 0
    done = made.predict(data(5))
    assert done.predictions.shape == (5, 3) and done.label_ids.shape == (5,)


def pooled(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher.mean(1)).square().mean(-1)


def test_an_average_of_the_student_follows_it(tmp_path: Path) -> None:
    student = bert()
    teacher = EMA(student, 0.5)
    before = weights(student)
    trainer(student, settings(tmp_path), teacher=teacher, objective=answers()).train()
    middle = (before + weights(student)) / 2
    assert torch.allclose(weights(teacher.model), middle) and not torch.equal(before, middle)
