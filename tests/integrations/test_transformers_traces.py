"""The trainer of 🤗 Transformers: what it leaves behind, who tells what, and who may be saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hf_helpers import LENGTH, WORDS, bert, data, settings, trainer
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from distill_lib import CE, EMA, KD, Match, Teacher, distill
from distill_lib.integrations.transformers.checks import check_classes, check_rebuilt

pytestmark = [
    pytest.mark.usefixtures("own_accelerate"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT reads it
]

INNER = "bert.encoder.layer.0"


def batch_of(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {k: torch.stack([torch.as_tensor(row[k]) for row in rows]) for k in rows[0]}


# ---- traces ----


class Stop(TrainerCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def look(model: nn.Module) -> Any:
    hooks = [len(p._forward_hooks) + len(p._forward_pre_hooks) for p in model.modules()]
    return model.config.output_attentions, model.config.output_hidden_states, hooks


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("path", ["hidden_states/1", "attentions/0", INNER])
@pytest.mark.parametrize("end", ["whole", "torn", "evaluate", "predict"])
def test_both_are_left_as_they_were(tmp_path: Path, shared: bool, path: str, end: str) -> None:
    student, seen = bert(), []
    config = student.config if shared else copy.deepcopy(student.config)
    teacher = BertForSequenceClassification(config).double()
    for model in (student, teacher):  # what Transformers leaves at the first time
        model(torch.tensor([[2, 3]]), output_hidden_states=True, output_attentions=True)
    before = [look(student), look(teacher)]
    args = settings(tmp_path, 8, 1, max_steps=2, save_strategy="steps", save_steps=1)
    own = Teacher(teacher)
    made = trainer(
        student, args, teacher=own, objective=CE() + KD() + Match(path, loss=flat),
        callbacks=[Stop()] if end == "torn" else [], eval_dataset=data(8), train_dataset=data(16),
        compute_metrics=lambda found: seen.append(found.predictions) or {},
    )  # fmt: skip
    assert before == [look(student), look(teacher)]
    if end == "torn":
        with pytest.raises(KeyboardInterrupt):
            made.train()
    elif end == "whole":
        made.train()
        said = json.loads((tmp_path / "checkpoint-1" / "config.json").read_text())
        assert not said.get("output_hidden_states") and not said.get("output_attentions")
        made.evaluate()
    elif end == "evaluate":
        made.evaluate()
    else:
        seen.append(made.predict(data(8)).predictions)
    assert before == [look(student), look(teacher)] and own.model is teacher
    assert all(found.shape == (8, 3) for found in seen)


def flat(*, student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().flatten(1).mean(-1)


def test_an_average_goes_on_from_a_checkpoint_with_its_layers(tmp_path: Path) -> None:
    def run(steps: int, **k: Any) -> Any:
        student = bert()
        args = settings(tmp_path, 8, 1, max_steps=steps, save_strategy="steps", save_steps=1)
        objective = KD() + Match(INNER)
        made = trainer(student, args, teacher=EMA(student, 0.5), objective=objective)
        made.save_model(str(tmp_path / "before"))
        made.train(**k)
        return made

    run(1)
    made = run(2, resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert made.state.global_step == 2


# ---- labels of another name ----


@pytest.mark.parametrize(
    "without", [(), ("start_positions",), ("start_positions", "end_positions")]
)
def test_the_loss_of_evaluation_holds_the_terms_whose_labels_are_there(
    tmp_path: Path, without: tuple[str, ...]
) -> None:
    student, teacher = (BertForQuestionAnswering(bert(num_labels=2).config) for _ in range(2))
    rows = [
        {"input_ids": row["input_ids"], "attention_mask": torch.ones(LENGTH).long(),
         "start_positions": i % 4, "end_positions": i % 7}
        for i, row in enumerate(data(8))
    ]  # fmt: skip
    kept = [{k: v for k, v in row.items() if k not in without} for row in rows]
    objective = KD(on="start_logits")
    for name in ("start", "end"):
        objective += CE(on=f"{name}_logits", labels=f"{name}_positions")
    made = trainer(student, settings(tmp_path), teacher=teacher, objective=objective)
    found = made.evaluate(kept)["eval_loss"]
    batch = batch_of(rows)
    ids = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        z, v = student.eval()(**ids), teacher.eval()(**ids).start_logits
    want = F.kl_div(z.start_logits.log_softmax(-1), v.log_softmax(-1), reduction="batchmean",
                    log_target=True)  # fmt: skip
    for name in ("start", "end"):
        if f"{name}_positions" not in without:
            want = want + F.cross_entropy(z[f"{name}_logits"], batch[f"{name}_positions"])
    assert found == pytest.approx(want.item(), rel=1e-5)


# ---- who tells hidden states ----


def adapted(model: nn.Module, task: str, *modules: str) -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=list(modules), task_type=task)
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("path", ["hidden_states/1", "attentions/0"])
@pytest.mark.parametrize("how", ["distill", "trainer"])
def test_adapted_models_tell_what_is_named(tmp_path: Path, who: str, path: str, how: str) -> None:
    models = {"student": bert(), "teacher": bert(seed=5)}
    batch = {k: v for k, v in batch_of(data(8)).items() if k != "labels"}
    name, place = path.split("/")
    with torch.no_grad():
        one, two = (m.eval()(**batch, **{f"output_{name}": True})[name][int(place)]
                    for m in models.values())  # fmt: skip
    for key in models:
        if who in (key, "both"):
            models[key] = adapted(models[key], "SEQ_CLS", "query")
    objective = Match(path, loss=flat)
    if how == "distill":
        found = distill(models["student"], models["teacher"], [batch], objective, steps=1)["match"][
            0
        ]
    else:
        made = trainer(models["student"], settings(tmp_path), teacher=models["teacher"],
                       objective=objective)  # fmt: skip
        found = made.evaluate(data(8))["eval_loss"]
    assert found == pytest.approx(flat(student=one, teacher=two).mean().item(), rel=1e-6)
    assert not any(model._forward_pre_hooks for model in models.values())


@pytest.mark.parametrize(
    "path", ["encoder_hidden_states/1", "decoder_hidden_states/1", "cross_attentions/0"]
)
def test_halves_tell_what_is_named(tmp_path: Path, path: str) -> None:
    config = T5Config(
        vocab_size=WORDS, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, pad_token_id=0,
        decoder_start_token_id=0, dropout_rate=0.0, attn_implementation="eager",
    )  # fmt: skip
    models = [T5ForConditionalGeneration(copy.deepcopy(config)) for _ in range(2)]
    rows = [{"input_ids": [5, 6, 7, 1], "labels": [8, i, 1, 2]} for i in range(8, 16)]
    batch = batch_of(rows)
    name = path.split("/")[0]
    flags = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        one, two = (m.eval()(**batch, **flags)[name][int(path[-1])] for m in models)
    objective = Match(path, loss=flat)
    made = trainer(models[0], settings(tmp_path), teacher=models[1], objective=objective)
    want = flat(student=one, teacher=two).mean().item()
    assert made.evaluate(rows)["eval_loss"] == pytest.approx(want, rel=1e-5)
    for model in models:
        assert not any(getattr(m, "config", config).output_hidden_states for m in model.modules())
    assert distill(*models, [batch], objective, steps=1)["match"][0] == pytest.approx(
        want, rel=1e-5
    )


def test_answers_to_virtual_tokens_are_refused_with_a_way_out() -> None:
    peft = pytest.importorskip("peft")
    size = {"vocab_size": WORDS, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    student = peft.get_peft_model(GPT2LMHeadModel(GPT2Config(**size)), settings)
    teacher, words = GPT2LMHeadModel(GPT2Config(**size)), torch.randint(3, WORDS, (2, 8))
    batch = {"input_ids": words, "labels": words}
    with pytest.raises(ValueError, match=r"3 virtual tokens .* forward=lambda model, batch: "):
        distill(student, teacher, [batch], CE() + KD(), steps=1)

    def forward(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"logits": model(input_ids=batch["input_ids"]).logits[:, 3:]}

    found = distill(
        student, Teacher(teacher, forward=lambda m, b: {"logits": m(b["input_ids"]).logits}),
        [batch], CE() + KD(), steps=1, forward=forward,
    )  # fmt: skip
    assert found["ce"][0] > 0 and found["kd"][0] > 0


# ---- several trainings ----


@pytest.mark.parametrize("moving", [False, True])
def test_each_training_from_a_model_init_is_the_first(tmp_path: Path, moving: bool) -> None:
    project = nn.Linear(8, 8).double()
    args = settings(tmp_path, 8, 1, max_steps=3, logging_strategy="steps", logging_steps=1)
    made = trainer(
        None, args, model_init=lambda: bert(),
        teacher=EMA(bert(seed=4), 0.5) if moving else bert(seed=5),
        objective=CE() + Match("hidden_states/1", project=project),
    )  # fmt: skip
    nn.init.eye_(project.weight)  # what is set before the first training stays
    found = []
    for _ in range(3):
        made.train()
        found.append([row["match"] for row in made.state.log_history if "match" in row][-3:])
        assert not torch.equal(project.weight, torch.eye(8).double())
    assert found[0] == found[1] == found[2]


def test_a_second_training_of_weights_made_in_the_first_is_refused(tmp_path: Path) -> None:
    objective = Match("hidden_states/1", project=nn.LazyLinear(8).double())
    made = trainer(
        None,
        settings(tmp_path),
        model_init=lambda: bert(),
        teacher=bert(seed=5),
        objective=objective,
    )
    try:
        made.train()
    except ValueError as error:  # so it is without a model_init, too
        pytest.skip(str(error))
    with pytest.raises(ValueError, match=r"terms.0.project.weight.* nn.Linear\(8, 16\)"):
        made.train()


def test_without_a_model_init_a_second_training_goes_on(tmp_path: Path) -> None:
    project = nn.Linear(8, 8).double()
    objective = Match("hidden_states/1", project=project)
    made = trainer(bert(), settings(tmp_path), teacher=bert(seed=5), objective=objective)
    seen = [project.weight.detach().clone()]
    for _ in range(2):
        made.train()
        seen.append(project.weight.detach().clone())
    assert (seen[2] - seen[0]).norm() > (seen[1] - seen[0]).norm() > 0


# ---- who may be saved, and who answers by classes ----


class Own(BertForSequenceClassification):
    def __init__(self, config: Any, width: int) -> None:
        super().__init__(config)
        self.more = nn.Linear(width, width)


class Picky(BertForSequenceClassification):
    def __init__(self, config: Any) -> None:
        if torch.empty(0).is_meta:
            raise RuntimeError("no file on this machine")
        super().__init__(config)


def test_what_cannot_be_built_here_is_not_refused(tmp_path: Path) -> None:
    config = bert().config
    for student in (Own(config, 2), Picky(config)):
        check_rebuilt(student)
        made = trainer(student.double(), settings(tmp_path), teacher=None, objective=CE())
        made.save_model(str(tmp_path / type(student).__name__))
    again = Own.from_pretrained(tmp_path / "Own", width=2)
    assert torch.equal(again.more.weight.double(), made_weight(tmp_path))


def made_weight(path: Path) -> Tensor:
    from safetensors.torch import load_file

    return load_file(path / "Own" / "model.safetensors")["more.weight"]


def test_a_student_with_adapters_is_saved(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    student = bert()
    student.add_adapter(peft.LoraConfig(target_modules=["query"]))
    made = trainer(student, settings(tmp_path), teacher=None, objective=CE())
    made.save_model(str(tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    again = bert()
    again.load_adapter(str(tmp_path / "out"))
    ids = torch.tensor([[3, 1, 2]])
    assert torch.allclose(again.eval()(ids).logits, student.eval()(ids).logits)


def language(labels: int) -> list[nn.Module]:
    config = bert(num_labels=labels).config
    size = {"vocab_size": WORDS, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
    gpt = GPT2LMHeadModel(GPT2Config(**size, num_labels=labels))
    return [BertForMaskedLM(config), BertForMultipleChoice(config), gpt]


@pytest.mark.parametrize("adapter", [False, True])
def test_classes_that_nobody_answers_by_are_not_compared(adapter: bool) -> None:
    for one, two in zip(language(3), language(4), strict=True):
        check_classes(one, Teacher(two))
    first = adapted(bert(), "SEQ_CLS", "query") if adapter else bert()
    with pytest.raises(ValueError, match="has 3 classes and the teacher 4"):
        check_classes(first, Teacher(bert(num_labels=4)))
