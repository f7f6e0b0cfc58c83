"""The trainer of 🤗 Transformers: checkpoints, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_helpers import WORDS, bert, data, settings, trainer, update, weights
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainerCallback

from distill_lib import CE, EMA, KD, Match, Teacher, linear
from distill_lib.compress import prune_transformer
from distill_lib.integrations.transformers import DistillationTrainer, check_tokenizers
from distill_lib.integrations.transformers.checks import check_layers, check_projectors
from distill_lib.zoo import small_bert

pytestmark = pytest.mark.usefixtures("own_accelerate")


class Kill(TrainerCallback):
    """Ends a run after some steps, as a power cut does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def parts(seed: int = 5, T: float = 2.0, moving: bool = False) -> tuple[Any, Any, Any]:
    student, teacher = bert(layers=2, dropout=0.3), bert(8 if moving else 16, seed=seed)
    torch.manual_seed(0)
    objective = CE() + linear(0, 1) * KD(temperature=T)
    objective += Match("hidden_states/1", project=nn.Linear(8, 8 if moving else 16).double())
    return student, EMA(student, 0.9) if moving else teacher, objective


def run(path: Path, made: tuple[Any, Any, Any], *callbacks: Any, **k: Any) -> DistillationTrainer:
    student, teacher, objective = made
    args = settings(
        path, 8, 2, num_train_epochs=3, max_steps=-1, save_strategy="steps", save_steps=3,
        optim="adamw_torch", learning_rate=0.01, max_grad_norm=1.0, lr_scheduler_type="linear", **k,
    )  # fmt: skip
    return trainer(
        student, args, teacher=teacher, objective=objective, callbacks=list(callbacks),
        train_dataset=data(70), eval_dataset=data(10),
    )  # fmt: skip


@pytest.mark.parametrize("moving", [False, True])
def test_a_killed_run_ends_where_it_would_have_ended(tmp_path: Path, moving: bool) -> None:
    whole = parts(moving=moving)
    run(tmp_path / "whole", whole).train()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn", parts(moving=moving), Kill(8)).train()
    again = parts(moving=moving)
    made = run(tmp_path / "torn", again)
    made.train(resume_from_checkpoint=True)
    assert made.state.global_step == 15
    assert torch.equal(weights(whole[0], whole[2]), weights(again[0], again[2]))
    if moving:
        assert torch.equal(weights(whole[1].model), weights(again[1].model))


def test_a_checkpoint_holds_student_and_projectors_and_no_teacher(tmp_path: Path) -> None:
    student, teacher, objective = parts()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, (student, teacher, objective), Kill(4)).train()
    folder = tmp_path / "checkpoint-3"
    assert set(load_file(folder / "model.safetensors")) == set(student.state_dict())
    assert set(load_file(folder / "distillation.safetensors")) == {
        f"objective.{key}" for key in objective.state_dict()
    }
    note = json.loads((folder / "distillation.json").read_text())
    assert note == {"teacher": Teacher(teacher).fingerprint(), "objective": str(objective)}
    values = next(p for p in teacher.parameters() if p.numel() > 100).detach().numpy().tobytes()
    assert not any(values in file.read_bytes() for file in folder.iterdir())


def test_another_teacher_or_objective_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, parts(), Kill(4)).train()
    for other, what in ((parts(seed=6), "teacher"), (parts(T=3), "objective")):
        with pytest.raises(ValueError, match=f"checkpoint-3 was made with another {what}: "):
            run(tmp_path, other).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-3" / "distillation.json").unlink()
    with pytest.raises(ValueError, match=r"no distillation.json: .* without resume_from"):
        run(tmp_path, parts()).train(resume_from_checkpoint=True)


def test_the_best_checkpoint_brings_its_projectors(tmp_path: Path) -> None:
    made = parts()
    best = run(
        tmp_path, made, eval_strategy="steps", eval_steps=3, load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    best.train()
    found = load_file(Path(best.state.best_model_checkpoint) / "distillation.safetensors")
    for key, value in made[2].state_dict().items():
        assert torch.equal(found[f"objective.{key}"], value)


def test_save_model_writes_beside_the_student(tmp_path: Path) -> None:
    run(tmp_path / "run", parts()).save_model(str(tmp_path / "mine"))
    assert {"distillation.json", "distillation.safetensors", "model.safetensors"} <= {
        file.name for file in (tmp_path / "mine").iterdir()
    }


# ---- what is refused ----


def make(path: Path, student: Any = None, **k: Any) -> DistillationTrainer:
    given: dict[str, Any] = {"teacher": bert(seed=5), "objective": CE() + KD(), **k}
    return trainer(student or bert(), settings(path), **given)


def test_what_is_no_objective(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected an objective, got function"):
        make(tmp_path, objective=lambda s, t: 0)


def test_the_student_as_its_own_teacher(tmp_path: Path) -> None:
    student = bert()
    with pytest.raises(ValueError, match="the teacher is the student itself"):
        make(tmp_path, student, teacher=student)


def test_no_teacher_where_a_term_asks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="KL reads the teacher, and none was given"):
        make(tmp_path, teacher=None).train()


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range(tmp_path: Path, label: int) -> None:
    rows = [{**row, "labels": torch.tensor(label)} for row in data(4)]
    with pytest.raises(ValueError, match=rf"labels {label} to {label} are none of the classes"):
        make(tmp_path, train_dataset=rows).train()


def test_other_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 classes and the teacher 4; .* num_labels=4"):
        make(tmp_path, teacher=bert(num_labels=4))
    turned = {"id2label": {0: "LABEL_2", 1: "LABEL_1", 2: "LABEL_0"}}
    with pytest.raises(ValueError, match="in another order; make the student with the teacher's"):
        make(tmp_path, teacher=bert(**turned))
    loud = {"id2label": {0: "label_2", 1: "Label_1", 2: "label_0"}}
    with pytest.raises(ValueError, match="in another order"):
        make(tmp_path, teacher=bert(**loud))
    # where nobody compares answers, they may differ
    make(tmp_path, teacher=bert(num_labels=4), objective=Match("hidden_states/1")).train()
    make(tmp_path, teacher=Teacher(bert(num_labels=4), forward=three)).train()


def three(model: nn.Module, batch: Any) -> Any:
    return model(input_ids=batch["input_ids"]).logits[:, :3]


def test_a_loss_in_another_way(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss is the objective: .* CE\(label_smoothing="):
        make(tmp_path, compute_loss_func=lambda *a, **k: 0)
    args = settings(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="the loss is the objective"):
        trainer(bert(), args, teacher=None, objective=CE())


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_attentions_that_nobody_keeps(tmp_path: Path, who: str) -> None:
    both = {"student": bert(), "teacher": bert(seed=5)}
    both[who].set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=r"computes its attention by 'sdpa', .*eager"):
        make(tmp_path, **both, objective=Match("attentions/0"))
    assert not both["student"].config.output_attentions


def test_an_optimizer_that_forgets_the_projectors(tmp_path: Path) -> None:
    student, objective = bert(), Match("hidden_states/1", project=nn.Linear(8, 8).double())
    forgetful = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"forgets terms.0.project.weight, .* build it over"):
        make(tmp_path, student, objective=objective, optimizers=(forgetful, None)).train()
    whole = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.1)
    made = make(tmp_path, student, objective=objective, optimizers=(whole, None))
    assert update(made, objective).norm() > 0


def test_a_sharded_student_and_projectors() -> None:
    with pytest.raises(ValueError, match=r"would not shard terms.0.project.weight of .* use DDP"):
        check_projectors({"terms.0.project.weight": 1}, {}, sharded=True)
    check_projectors({}, {}, sharded=True)


def test_inner_layers_on_several_devices_of_one_process() -> None:
    with pytest.raises(ValueError, match=r"'layer1' cannot be captured on 2 GPUs .* torchrun"):
        check_layers(("layer1",), 2)
    check_layers((), 2)


def test_tokens_that_the_teacher_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hold token 39, and the teacher knows 30 .* preprocess="):
        make(tmp_path, teacher=bert(vocab_size=30)).train()
    # a student with fewer words of its own is nobody's business, nor a teacher that translates
    mended = Teacher(
        bert(vocab_size=30),
        preprocess=lambda batch: {"input_ids": batch["input_ids"].clamp(max=29)},
    )
    make(tmp_path, teacher=mended).train()
    make(tmp_path, teacher=bert(vocab_size=WORDS + 5)).train()


def tokenizer(*words: str, lower: bool = False) -> PreTrainedTokenizerFast:
    known = {word: number for number, word in enumerate(("[UNK]", *words))}
    made = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    if lower:
        made.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def test_other_tokenizers(tmp_path: Path) -> None:
    mine = tokenizer("good", "bad")
    with pytest.raises(ValueError, match=r"token 2 is 'bad' for the student and 'ugly' for the t"):
        check_tokenizers(mine, tokenizer("good", "ugly"))
    with pytest.raises(ValueError, match="token 2 is 'bad' for the student and None for"):
        make(tmp_path, processing_class=mine, teacher_tokenizer=tokenizer("good"))
    with pytest.raises(ValueError, match=r"tokenizer of the student, got NoneType; .*processing"):
        make(tmp_path, teacher_tokenizer=mine)
    make(tmp_path, processing_class=mine, teacher_tokenizer=tokenizer("good", "bad"))


def test_one_vocabulary_and_two_ways_of_reading() -> None:
    probe = "naïve? no: the cafés of são paulo don't open at 7 a.m. …"
    with pytest.raises(ValueError, match=r'one vocabulary, but read "Naïve.* as \[0\] .* \[1\]'):
        check_tokenizers(tokenizer(probe), tokenizer(probe, lower=True))


@pytest.mark.parametrize("trimmed", [False, True])
def test_a_student_that_could_not_be_read_again_is_not_saved(tmp_path: Path, trimmed: bool) -> None:
    small = small_bert(torch.arange(40), hidden=8, heads=2, labels=3)
    student = small if trimmed else bert()
    prune_transformer(student, heads=0.5)
    made = DistillationTrainer(
        student, settings(tmp_path, max_steps=1, save_strategy="steps", save_steps=1),
        teacher=None, objective=CE(), train_dataset=data(8),
    )  # fmt: skip
    made.train()  # its checkpoints are its own affair
    assert (tmp_path / "checkpoint-1").exists()
    with pytest.raises(ValueError, match=r"could not read this student again: .*save_pruned"):
        made.save_model(str(tmp_path / "out"))


def test_a_student_with_a_trimmed_table_is_saved_read_and_resumed(tmp_path: Path) -> None:
    def trainer(steps: int) -> DistillationTrainer:
        torch.manual_seed(0)
        student = small_bert(torch.arange(40), hidden=8, labels=3)
        return DistillationTrainer(
            student, settings(tmp_path, max_steps=steps, save_strategy="steps", save_steps=1),
            teacher=None, objective=CE(), train_dataset=data(8),
        )  # fmt: skip

    trainer(1).train()
    made = trainer(2)
    made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    made.save_model(str(tmp_path / "out"))
    again = type(bert()).from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[3, 1, 2]])
    mine = made.model.eval()(ids).logits
    assert torch.allclose(again(ids).logits, mine, atol=1e-6)


def test_a_student_with_fewer_hidden_units_is_saved_and_read(tmp_path: Path) -> None:
    student = bert()
    prune_transformer(student, ffn=0.5)
    made = DistillationTrainer(
        student, settings(tmp_path), teacher=None, objective=CE(), train_dataset=data(8)
    )
    made.save_model(str(tmp_path / "out"))
    again = type(student).from_pretrained(tmp_path / "out").double()
    for name, value in student.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-6, atol=1e-7)
