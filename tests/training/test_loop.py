"""training: the one loop does what a loop written by hand does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from distill_lib import CE, KD, Match, Teacher, cosine, distill, linear, steps


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
