"""training: the one loop does what a loop written by hand does."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from trainings import Killable, Killed

from distill_lib import CE, KD, Match, Teacher, cosine, distill, linear, steps
from distill_lib.data import Dataset
from distill_lib.training.rates import make_optimizer


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
    "default": lambda params: torch.optim.AdamW(params, lr=1e-3, fused=True),
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


@pytest.mark.parametrize(
    ("kind", "fused"), [(torch.float32, True), (torch.float64, True), (torch.complex64, None)]
)
def test_the_step_of_the_default_is_one_call_where_torch_has_it(kind, fused):
    weights = nn.Parameter(torch.ones(3, dtype=kind))
    optimizer = make_optimizer(None, [weights])
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    assert optimizer.defaults["fused"] is fused
    assert (weights.abs() < 1).all()


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


# ---- schedulers of torch ----

SCHEDULERS: dict[str, Callable[..., Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda i: 0.9),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": functools.partial(lr_scheduler.CosineAnnealingLR, T_max=8),
    "WarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.3, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=12),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.StepLR(o, 2)], [3]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=5),
}


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


@pytest.mark.parametrize("how", ["function", "instance"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_torch_does_what_it_does_by_hand(name: str, how: str) -> None:
    student, batches = mlp(), data(4)
    by_hand = copy.deepcopy(student)
    optimizer = sgd(list(student.parameters()))
    given, before = SCHEDULERS[name], settings_of(optimizer)
    lr = given if how == "function" else given(optimizer)
    history = distill(student, None, batches, CE(), epochs=3, optimizer=optimizer, lr=lr)

    optimizer2 = sgd(list(by_hand.parameters()))
    scheduler, rates = given(optimizer2), []
    for x, y in batches * 3:
        F.cross_entropy(by_hand(x), y).backward()
        rates.append(optimizer2.param_groups[0]["lr"])
        optimizer2.step()
        optimizer2.zero_grad()
        scheduler.step()
    assert history["lr"] == rates and len(set(rates)) > 1
    assert torch.allclose(weights(student), weights(by_hand), atol=1e-6)
    if how == "function":  # it was ours: the optimizer is as it came, and may be given again
        assert settings_of(optimizer) == before
        distill(student, None, batches, CE(), steps=1, optimizer=optimizer, lr=linear(1, 0))
    else:  # it is the user's, and stands where it stands
        assert settings_of(optimizer) == settings_of(optimizer2)
        assert lr.last_epoch == scheduler.last_epoch if hasattr(lr, "last_epoch") else True


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_torch_survives_a_kill(name: str, tmp_path: Path) -> None:
    def run(path: str, kill_at: int = -1) -> tuple[Any, Tensor]:
        torch.manual_seed(1)
        student = Killable(kill_at)
        history = distill(
            student, None, data(4), CE(), epochs=3, optimizer=sgd, lr=SCHEDULERS[name],
            checkpoint=tmp_path / path, save_every=3,
        )  # fmt: skip
        return history.records, weights(student)

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", kill_at=8)
    again = run("killed")
    assert again[0] == whole[0] and torch.equal(again[1], whole[1])


def test_groups_have_the_rates_that_a_scheduler_of_torch_gives_them() -> None:
    student, seen = mlp(), []
    groups = [{"params": student[0].parameters(), "lr": 1e-5}, {"params": student[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append([g["lr"] for g in o.param_groups]))
    distill(student, None, data(4), CE(), epochs=1, optimizer=optimizer,
            lr=lambda o: lr_scheduler.StepLR(o, 2))  # fmt: skip
    assert seen[:2] == [[1e-5, 0.1]] * 2
    assert seen[2:] == [pytest.approx([1e-6, 0.01])] * 2


@pytest.mark.parametrize("mode", ["min", "max"])
def test_reduce_on_plateau_gets_the_number_that_is_kept(mode: str) -> None:
    scores = [1, 2, 2, 3, 1] if mode == "max" else [3, 2, 2, 1, 3]
    history = distill(
        mlp(), None, data(2), CE(), epochs=5, optimizer=sgd,
        lr=lambda o: lr_scheduler.ReduceLROnPlateau(o, mode, patience=0),
        each_epoch=lambda e, h: {"score": scores[e - 1]},
        keep_best="score" if mode == "max" else "-score",
    )  # fmt: skip
    assert history["lr"][::2] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])


def test_reduce_on_plateau_without_its_number_is_refused() -> None:
    def plateau(optimizer: Any) -> Any:
        return lr_scheduler.ReduceLROnPlateau(optimizer)

    with pytest.raises(ValueError, match="needs a number after each epoch"):
        distill(mlp(), None, data(), CE(), epochs=1, lr=plateau)
    with pytest.raises(ValueError, match=r"mode='min', but keep_best='accuracy'"):
        distill(mlp(), None, data(), CE(), epochs=1, lr=plateau, keep_best="accuracy",
                each_epoch=lambda e, h: {"accuracy": 1.0})  # fmt: skip


@pytest.mark.parametrize("lr", [0.5, linear(1, 0), SCHEDULERS["StepLR"], None])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_the_users_is_not_overridden_and_not_forgotten(name: str, lr: Any) -> None:
    student = mlp()
    optimizer = sgd(list(student.parameters()))
    scheduler = SCHEDULERS[name](optimizer)
    before, start = settings_of(optimizer), weights(student)
    words = "nobody would step" if lr is None else "which lr would override"
    with pytest.raises(ValueError, match=rf"{words}: pass the scheduler itself as lr"):
        distill(student, None, data(), CE(), epochs=1, optimizer=optimizer, lr=lr)
    assert settings_of(optimizer) == before and torch.equal(weights(student), start)
    assert scheduler.optimizer is optimizer


def test_who_steps_his_scheduler_himself_may() -> None:
    for hook in (False, True):
        student = mlp()
        optimizer = sgd(list(student.parameters()))
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
        look = None if hook else lambda e, h, s=scheduler: s.step()
        if hook:
            optimizer.register_step_post_hook(lambda *_, s=scheduler: s.step())
        history = distill(
            student, None, data(2), CE(), epochs=2, optimizer=optimizer, each_epoch=look
        )
        # the rate of a step is read after it, and so after the hook
        assert history["lr"] == ([0.05, 0.025, 0.0125, 0.00625] if hook else [0.1, 0.1, 0.05, 0.05])


def test_a_scheduler_of_another_optimizer_is_refused() -> None:
    student = mlp()
    scheduler = lr_scheduler.StepLR(sgd(list(student.parameters())), 3)
    for optimizer in (None, sgd, sgd(list(student.parameters()))):
        with pytest.raises(ValueError, match="StepLR of another optimizer: pass that one"):
            distill(student, None, data(), CE(), epochs=1, optimizer=optimizer, lr=scheduler)


@pytest.mark.parametrize(
    "lr", [lambda s: 0.1 * s, lambda s: 0.1, lr_scheduler.CosineAnnealingLR, lambda o: None]
)
def test_a_function_that_makes_no_scheduler_is_refused(lr: Any) -> None:
    with pytest.raises(TypeError, match=r"a function from the optimizer.*Schedule\(function, 'n"):
        distill(mlp(), None, data(), CE(), epochs=1, lr=lr)


def test_a_function_that_fails_leaves_the_optimizer_as_it_was() -> None:
    student = mlp()
    optimizer = sgd(list(student.parameters()))
    before = settings_of(optimizer)

    def forgets_to_return(o: Any) -> None:
        lr_scheduler.OneCycleLR(o, 0.3, total_steps=12)

    with pytest.raises(TypeError, match="it gave NoneType"):
        distill(student, None, data(), CE(), epochs=1, optimizer=optimizer, lr=forgets_to_return)
    assert settings_of(optimizer) == before
    assert len(distill(student, None, data(), CE(), epochs=1, optimizer=optimizer)) == 6


@pytest.mark.usefixtures("own_accelerate")
def test_a_scheduler_is_stepped_once_an_optimizer_step_under_accumulation() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=3, mixed_precision="bf16", cpu=True)
    history = distill(mlp(), None, data(6), CE(), epochs=2, optimizer=sgd,
                      lr=lambda o: lr_scheduler.StepLR(o, 1), accelerator=accelerator)  # fmt: skip
    assert history["lr"] == pytest.approx([0.1, 0.01, 1e-3, 1e-4])


def test_one_step_after_another_sees_one_batch_after_another() -> None:
    items = Dataset(torch.randn(12, 5), torch.arange(12) % 3, ("a", "b", "c"))
    seen, batches = [], items.batches(4)
    for _ in range(6):
        distill(mlp(), None, batches, CE(), steps=1,
                forward=lambda m, b: seen.append(b["index"]) or m(b["inputs"]))  # fmt: skip
    assert batches.epoch == 6 and len({tuple(index.tolist()) for index in seen}) == 6


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
    with pytest.raises(TypeError, match=r"can be walked only once.*__iter__ begins anew"):
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
