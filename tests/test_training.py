"""training: the one loop does what a loop written by hand does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from distill_lib import CE, KD, Match, Stacked, Teacher, cosine, distill, linear, steps


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def data(n: int = 6, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 5), torch.randint(0, 3, (size,))) for _ in range(n)]


def weights(*models: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])


def sgd(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


# ---- the loop ----

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": sgd,
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
    "default": lambda params: torch.optim.AdamW(params, lr=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_it_equals_a_loop_by_hand_bit_for_bit(name: str, clip: float | None) -> None:
    student, teacher, batches = mlp(), mlp().eval(), data()
    by_hand = copy.deepcopy(student)
    history = distill(
        student,
        teacher,
        batches,
        0.5 * CE() + 0.5 * KD(temperature=4),
        epochs=2,
        optimizer=None if name == "default" else OPTIMIZERS[name],
        clip_norm=clip,
    )

    optimizer = OPTIMIZERS[name](list(by_hand.parameters()))
    seen = []
    for x, y in batches * 2:
        z = by_hand(x)
        with torch.no_grad():
            v = teacher(x)
        kd = F.kl_div(
            (z / 4).log_softmax(-1), (v / 4).log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)
        loss = 0.5 * (F.cross_entropy(z, y, reduction="none").sum() / len(y))
        loss = loss + 0.5 * ((4.0 * 4.0 * kd).sum() / len(y))
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(by_hand.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    assert history["loss"] == seen
    assert torch.equal(weights(student), weights(by_hand))


def test_history_holds_every_part() -> None:
    history = distill(mlp(), mlp(), data(), CE() + 2 * KD(), epochs=2, lr=0.01)
    assert [r["step"] for r in history.records] == list(range(1, 13))
    total = [a + 2 * b for a, b in zip(history["ce"], history["kd"], strict=True)]
    assert history["loss"] == pytest.approx(total, rel=1e-5)
    assert set(history["lr"]) == {0.01}


@pytest.mark.parametrize("schedule", [linear(0.1, 0.0), cosine(0.1, 0.0), steps({0: 1, 0.5: 2})])
def test_the_learning_rate_follows_its_schedule(schedule) -> None:
    history = distill(mlp(), None, data(4), CE(), epochs=2, lr=schedule, optimizer=sgd)
    assert history["lr"] == pytest.approx([schedule(i / 8) for i in range(8)])


def test_an_instance_keeps_its_rate_unless_there_is_a_schedule() -> None:
    student = mlp()
    history = distill(student, None, data(2), CE(), steps=2, optimizer=sgd(student.parameters()))
    assert set(history["lr"]) == {0.1}
    optimizer = sgd(student.parameters())
    history = distill(student, None, data(2), CE(), steps=2, optimizer=optimizer, lr=linear(1, 0))
    assert history["lr"] == [1, 0.5]


def test_progress_moves_weights_and_temperatures() -> None:
    seen = []
    history = distill(mlp(), mlp(), data(4), linear(1, 0) * KD(temperature=linear(4, 1)), epochs=1)
    for i, (loss, kd) in enumerate(zip(history["loss"], history["kd"], strict=True)):
        seen.append(loss / kd)
        assert loss / kd == pytest.approx(1 - i / 4, rel=1e-5)


@pytest.mark.parametrize("total", [1, 5, 6, 13])
def test_steps_walk_as_often_as_needed(total: int) -> None:
    assert len(distill(mlp(), None, data(6), CE(), steps=total)) == total


def test_a_seed_makes_it_reproducible() -> None:
    loader = DataLoader(TensorDataset(torch.randn(20, 5), torch.arange(20) % 3), 4, shuffle=True)
    start = nn.Sequential(nn.Dropout(0.5), mlp())
    ends = []
    for seed in (3, 3, 4):
        student = copy.deepcopy(start)
        distill(student, None, loader, CE(), epochs=2, seed=seed)
        ends.append(weights(student))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_the_student_is_trained_in_train_mode_and_the_teacher_is_not() -> None:
    modes = []

    class Seen(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            modes.append((self.out_features, self.training))
            return super().forward(x)

    teacher, student = nn.Sequential(Seen(5, 3)), nn.Sequential(Seen(5, 4), nn.Linear(4, 3))
    student.eval()
    distill(student, teacher.train(), data(2), KD(), epochs=1)
    assert modes == [(4, True), (3, False)] * 2


def test_forward_says_how_the_student_is_called() -> None:
    student = mlp()
    batches = [{"a": torch.randn(4, 5), "b": torch.randn(4, 5), "labels": torch.arange(4) % 3}]
    history = distill(
        student, None, batches, CE(), steps=3, lr=0.1, forward=lambda m, b: m(b["a"] + b["b"])
    )
    assert history["ce"][-1] < history["ce"][0]


def test_models_of_transformers_are_students() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=3,
        attn_implementation="eager",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    student = transformers.BertForSequenceClassification(config)
    teacher = transformers.BertForSequenceClassification(config)
    say_all: dict[str, Any] = {"output_hidden_states": True}
    batches = [
        {
            "input_ids": torch.randint(0, 11, (4, 6)),
            "attention_mask": torch.ones(4, 6, dtype=torch.long),
            "labels": torch.arange(4) % 3,
            **say_all,
        }
    ]
    objective = CE() + KD(temperature=2) + Match("hidden_states/1", "hidden_states/2")
    history = distill(student, teacher, batches, objective, steps=6, lr=0.01)
    assert history["loss"][-1] < history["loss"][0]


# ---- the teacher ----


class Counted(Teacher):
    calls = 0

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        return super().__call__(batch)


def test_no_teacher_forward_when_its_terms_weigh_nothing() -> None:
    teacher = Counted(mlp())
    history = distill(mlp(), teacher, data(8), CE() + steps({0: 1, 0.5: 0}) * KD(), epochs=1)
    assert teacher.calls == 4 and len(history["kd"]) == 4 and len(history["ce"]) == 8


def test_a_teacher_that_no_term_reads_is_never_asked() -> None:
    teacher = Counted(mlp())
    distill(mlp(), teacher, data(2), CE(), epochs=1)
    assert teacher.calls == 0


@pytest.mark.parametrize("wrap", [lambda m: m, Teacher])
def test_the_teacher_is_not_the_student(wrap) -> None:
    student = mlp()
    with pytest.raises(ValueError, match=r"the teacher is the student itself.*EMA\(student, decay"):
        distill(student, wrap(student), data(), KD(), epochs=1)


def test_no_teacher_where_one_is_needed() -> None:
    with pytest.raises(ValueError, match="reads the teacher, and none was given"):
        distill(mlp(), None, data(), KD(), epochs=1)


# ---- inner layers ----


def test_layers_that_an_objective_names_are_captured_and_released() -> None:
    student, teacher, project = mlp(), mlp(), nn.Linear(8, 3)
    history = distill(
        student, teacher, data(), KD() + Match("0", "2", project=project), epochs=4, lr=0.01
    )
    assert history["match"][-1] < history["match"][0]
    assert not any(part._forward_hooks for part in student.modules())


def test_layers_are_released_after_an_error_too() -> None:
    student = mlp()
    batches = [*data(1), (torch.randn(2, 99), torch.zeros(2))]
    with pytest.raises(RuntimeError):
        distill(student, mlp(), batches, Match("0"), epochs=1)
    assert not any(part._forward_hooks for part in student.modules())


def test_a_projector_is_trained_along() -> None:
    project = nn.Linear(8, 8)
    before = weights(project)
    distill(mlp(), mlp(), data(), Match("0", project=project), epochs=1)
    assert not torch.equal(before, weights(project))


def test_a_forgotten_projector_is_found() -> None:
    student = mlp()
    objective = CE() + Match("0", project=nn.Linear(8, 8))
    with pytest.raises(ValueError, match=r"the optimizer forgets 2 of 6 parameters.*projectors"):
        distill(student, mlp(), data(), objective, epochs=1, optimizer=sgd(student.parameters()))
    both = [*student.parameters(), *objective.parameters()]
    assert len(distill(student, mlp(), data(), objective, epochs=1, optimizer=sgd(both))) == 6


def test_frozen_parameters_stay() -> None:
    student = mlp()
    student[0].requires_grad_(False)
    before = weights(student[0])
    distill(student, None, data(), CE(), epochs=1, optimizer=sgd)
    assert torch.equal(before, weights(student[0]))


# ---- accumulation ----


def accumulated(by: int, objective: Any, batches: Any, *, clip: float | None = None) -> Tensor:
    from accelerate import Accelerator

    torch.manual_seed(5)
    student, teacher = mlp().double(), mlp().double()
    accelerator = Accelerator(gradient_accumulation_steps=by, cpu=True)
    distill(
        student,
        teacher,
        batches,
        objective,
        epochs=2,
        optimizer=sgd,
        accelerator=accelerator,
        clip_norm=clip,
    )
    return weights(student)


@pytest.mark.usefixtures("own_accelerate")
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("sizes", [[16] * 4, [16, 16, 16, 5], [1, 40, 7, 3]])
def test_accumulation_is_exact(sizes: list[int], clip: float | None) -> None:
    x, y = torch.randn(3 * sum(sizes), 5).double(), torch.randint(-1, 3, (3 * sum(sizes),))
    y[y < 0] = -100
    objective = CE() + KD(temperature=2)
    whole = [*zip(x.split(sum(sizes)), y.split(sum(sizes)), strict=True)]
    pieces = [piece for a, b in whole for piece in zip(a.split(sizes), b.split(sizes), strict=True)]
    one = accumulated(1, objective, whole, clip=clip)
    assert torch.allclose(one, accumulated(4, objective, pieces, clip=clip), atol=1e-6)


@pytest.mark.usefixtures("own_accelerate")
def test_the_last_group_may_be_smaller() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
    history = distill(mlp(), None, data(6), CE(), epochs=2, accelerator=accelerator)
    assert len(history) == 4


@pytest.mark.usefixtures("own_accelerate")
def test_accumulation_counts_every_student_of_a_stack() -> None:
    from accelerate import Accelerator

    ends = []
    x, y = torch.randn(16, 5), torch.arange(16) % 3
    for by, sizes in ((1, 16), (2, 8)):
        torch.manual_seed(1)
        student = Stacked([mlp() for _ in range(3)], ndim=2)
        batches = [*zip(x.split(sizes), y.split(sizes), strict=True)]
        accelerator = Accelerator(gradient_accumulation_steps=by, cpu=True)
        distill(student, None, batches, CE(), epochs=3, optimizer=sgd, accelerator=accelerator)
        ends.append(weights(student))
    assert torch.allclose(*ends, atol=1e-6)


# ---- precision and devices ----


@pytest.mark.usefixtures("own_accelerate")
def test_bf16_autocast_on_cpu() -> None:
    from accelerate import Accelerator

    seen = []
    student = mlp()
    student[1].register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    before = student.forward.__func__
    history = distill(
        student,
        mlp(),
        data(),
        CE() + KD() + Match("0", project=nn.Linear(8, 8)),
        epochs=2,
        lr=0.01,
        accelerator=Accelerator(mixed_precision="bf16", cpu=True),
        clip_norm=1.0,
    )
    assert set(seen) == {torch.bfloat16}
    assert history["loss"][-1] < history["loss"][0]
    assert weights(student).dtype == torch.float32
    assert student.forward.__func__ is before
    assert student(torch.randn(2, 5)).dtype == torch.float32


@pytest.mark.usefixtures("own_accelerate")
def test_the_default_accelerator_decides_nothing_for_later_ones() -> None:
    from accelerate import Accelerator

    distill(mlp(), None, data(1), CE(), steps=1)
    assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.usefixtures("own_accelerate")
def test_on_cuda(precision: str) -> None:
    from accelerate import Accelerator

    student, teacher = mlp(), mlp()
    history = distill(
        student,
        teacher,
        data(),
        CE() + KD() + Match("0", project=nn.Linear(8, 8)),
        epochs=4,
        lr=0.01,
        accelerator=Accelerator(mixed_precision=precision),
        clip_norm=1.0,
    )
    assert history["loss"][-1] < history["loss"][0]
    assert next(student.parameters()).is_cuda


# ---- TensorBoard ----


@pytest.mark.usefixtures("own_accelerate")
def test_tensorboard_gets_every_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from accelerate import Accelerator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(log_with="tensorboard", project_dir=str(tmp_path), cpu=True)
    history = distill(mlp(), mlp(), data(), CE() + KD(), epochs=2, accelerator=accelerator)
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = EventAccumulator(str(file.parent)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "ce", "kd", "lr"}
    scalars = events.Scalars("kd")
    assert [s.step for s in scalars] == list(range(1, 13))
    assert [s.value for s in scalars] == pytest.approx(history["kd"])
    assert accelerator.trackers == []


@pytest.mark.usefixtures("own_accelerate")
def test_trackers_that_the_caller_started_go_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from accelerate import Accelerator

    accelerator = Accelerator(log_with="tensorboard", project_dir=str(tmp_path), cpu=True)
    accelerator.init_trackers("mine")
    distill(mlp(), None, data(), CE(), epochs=1, accelerator=accelerator)
    assert len(accelerator.trackers) == 1
    assert [p.parent.name for p in tmp_path.rglob("events.out*")] == ["mine"]
    accelerator.end_training()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give epochs or steps, one of the two"),
        ({"epochs": 1, "steps": 1}, "one of the two; got epochs=1, steps=1"),
        ({"epochs": 0}, "epochs is at least 1, got 0"),
        ({"steps": -1}, "steps is at least 1, got -1"),
    ],
)
def test_epochs_or_steps(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        distill(mlp(), None, data(), CE(), **settings)


@pytest.mark.parametrize("make", [iter, lambda batches: (b for b in batches)])
def test_iterators_are_refused(make) -> None:
    with pytest.raises(TypeError, match="can be walked only once.*__iter__ begins anew"):
        distill(mlp(), None, make(data()), CE(), steps=2)


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter(data(3, 1))


class Walk:
    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


@pytest.mark.parametrize(
    "batches",
    [DataLoader(Endless(), collate_fn=lambda items: items[0]), Walk(data(3))],
    ids=["IterableDataset", "object"],
)
def test_without_a_length_steps_are_needed(batches: Any) -> None:
    with pytest.raises(ValueError, match=r"no length.*give steps="):
        distill(mlp(), None, batches, CE(), epochs=1)
    assert len(distill(mlp(), None, batches, CE(), steps=4)) == 4


def test_empty_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="batches is empty"):
        distill(mlp(), None, [], CE(), epochs=1)
    with pytest.raises(ValueError, match="batches gave nothing"):
        distill(mlp(), None, Walk([]), CE(), steps=1)


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an objective, got CrossEntropyLoss"):
        distill(mlp(), None, data(), nn.CrossEntropyLoss(), epochs=1)


def test_a_loss_that_is_not_finite_stops_it() -> None:
    batches = data(6)
    batches[3] = (batches[3][0] * float("nan"), batches[3][1])
    with pytest.raises(FloatingPointError, match=r"not finite at step 4 \(loss=nan, ce=nan\)"):
        distill(mlp(), None, batches, CE(), epochs=1)
