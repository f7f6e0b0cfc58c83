"""What the user set is kept: modes, rates, hooks, places."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import (
    CE,
    EMA,
    KD,
    Ensemble,
    Match,
    Schedule,
    Teacher,
    capture,
    cosine,
    distill,
    linear,
    steps,
)
from distill_lib.signals import modes_of, set_modes


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def data(n: int = 3) -> list[dict[str, Tensor]]:
    return [{"inputs": torch.randn(8, 4), "labels": torch.arange(8) % 3} for _ in range(n)]


def broken() -> list[dict[str, Tensor]]:
    return [*data(1), {"inputs": torch.randn(8, 9), "labels": torch.arange(8) % 3}]


# ---- rates ----

RATES = st.lists(st.sampled_from([0.0, 1e-5, 3e-3, 0.1]), min_size=1, max_size=4)
SCHEDULES = st.sampled_from([0.02, cosine(0.1, 0), linear(0, 0.3), steps({0: 0.1, 0.5: 0.0})])


@given(rates=RATES, lr=SCHEDULES)
def test_rates_of_groups_stay_in_proportion(rates: list[float], lr: Schedule | float) -> None:
    student = nn.Sequential(*[nn.Linear(4, 4) for _ in rates])
    groups = [{"params": p.parameters(), "lr": r} for p, r in zip(student, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    seen: list[list[float]] = []
    optimizer.register_step_pre_hook(
        lambda o, args, kwargs: seen.append([g["lr"] for g in o.param_groups])
    )
    history = distill(student, nn.Linear(4, 4), data(4), KD(), epochs=1, optimizer=optimizer, lr=lr)
    top = max(rates)
    for i, found in enumerate(seen):
        now = lr(i / 4) if isinstance(lr, Schedule) else lr
        assert found == pytest.approx([now * r / top if top else now for r in rates])
        assert history["lr"][i] == pytest.approx(now)
    assert [group["lr"] for group in optimizer.param_groups] == rates


@given(rates=RATES)
def test_without_a_rate_every_group_has_its_own(rates: list[float]) -> None:
    student = nn.Sequential(*[nn.Linear(4, 4) for _ in rates])
    groups = [{"params": p.parameters(), "lr": r} for p, r in zip(student, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups)
    history = distill(student, nn.Linear(4, 4), data(2), KD(), epochs=1, optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert history["lr"] == [max(rates)] * 2


# ---- modes ----

MODES = st.lists(st.booleans(), min_size=10, max_size=10)


@given(modes=MODES, frozen=st.booleans(), fails=st.booleans(), wrapped=st.booleans())
def test_every_module_is_left_in_the_mode_it_was_in(
    modes: list[bool], frozen: bool, fails: bool, wrapped: bool
) -> None:
    student, model = net(), net()
    student[1].requires_grad_(not frozen)
    teacher = Teacher(model) if wrapped else model
    parts = [part for part, _ in modes_of(student, model)]
    set_modes(zip(parts, modes, strict=True))
    try:
        distill(student, teacher, broken() if fails else data(), CE() + KD() + Match("0"), epochs=1)
    except RuntimeError:
        assert fails
    assert [part.training for part in parts] == modes


@given(frozen=st.booleans(), normed=st.booleans(), root=st.booleans())
def test_what_is_frozen_and_in_eval_mode_stays_so(frozen: bool, normed: bool, root: bool) -> None:
    """Batch normalization fixed by hand keeps its statistics; all else is in train mode."""
    student = net()
    student.training = root
    student[1].requires_grad_(not frozen).train(normed)
    student[2].eval()
    seen: dict[str, bool] = {}
    for name, part in student.named_modules():
        part.register_forward_hook(lambda m, args, out, n=name: seen.update({n: m.training}))
    distill(student, None, data(), CE(), epochs=1)
    fixed = frozen and not normed
    assert seen == {"": True, "0": True, "1": not fixed, "2": True, "3": True}
    assert (student[1].num_batches_tracked == 0) == fixed


# ---- hooks ----

TEACHERS: dict[str, Callable[[nn.Module], Any]] = {
    "a module": lambda model: model,
    "a teacher": Teacher,
    "a view": lambda model: Teacher(capture(model, "3")),
    "the view itself": lambda model: capture(model, "0"),
    "an average": lambda model: EMA(model, 0.9),
}


def hooks(*models: nn.Module) -> int:
    return sum(len(p._forward_hooks) + len(p._forward_pre_hooks) for p, _ in modes_of(*models))


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_is_left_after_trainings(kind: str, fails: bool) -> None:
    student, model = net(), net()
    teacher = TEACHERS[kind](model)
    inner = teacher.model if isinstance(teacher, Teacher) else teacher
    before = hooks(student, model, inner)
    for layer in ("0", "1", "0"):
        try:
            distill(student, teacher, broken() if fails else data(), KD() + Match(layer), epochs=1)
        except RuntimeError:
            assert fails
        assert hooks(student, model, inner) == before
    if isinstance(teacher, Teacher):
        assert teacher.model is inner
    if "view" in kind:
        layer = "3" if kind == "a view" else "0"
        assert layer in inner(torch.randn(2, 4))  # the caller's own view sees its layer again


@pytest.mark.parametrize("teacher", [net(), None], ids=["bad layer", "no teacher"])
def test_no_hook_is_left_where_nothing_could_begin(teacher: nn.Module | None) -> None:
    student = net()
    with pytest.raises((ValueError, KeyError)):
        distill(student, teacher, data(), Match("0", "9" if teacher else "1"), epochs=1)
    assert hooks(student) == 0 and (teacher is None or hooks(teacher) == 0)


def test_a_teacher_is_silent_again_after_it_was_asked_for_more() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=3,
    )  # fmt: skip
    student, teacher = (
        transformers.BertForSequenceClassification(copy.deepcopy(config)) for _ in "ab"
    )
    batches = [{"input_ids": torch.randint(0, 11, (4, 6))}]
    distill(student, teacher, batches, Match("hidden_states/1"), epochs=1)
    assert not teacher.config.output_hidden_states and not student.config.output_hidden_states


# ---- places ----


class Unmoved(nn.Linear):
    """As quantized models are, and those that a device map spread."""

    error: type[Exception] = ValueError

    def to(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error("`.to` is not supported")


@pytest.mark.parametrize("mark", [None, "hf_device_map", "is_quantized", "is_loaded_in_4bit"])
@pytest.mark.parametrize("wrap", [lambda m: m, Teacher, lambda m: Ensemble([m, nn.Linear(4, 3)])])
def test_a_teacher_that_must_not_be_moved_stays(mark: str | None, wrap: Any) -> None:
    model = Unmoved(4, 3)
    if mark:
        model.error = RuntimeError
        setattr(model, mark, {"": "cpu"})
    assert len(distill(nn.Linear(4, 3), wrap(model), data(), KD(), epochs=1)) == 3


def test_a_teacher_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="on the device meta, without weights: load them first"):
        Teacher(nn.Linear(4, 3, device="meta")).to("cpu")
    with pytest.raises(ValueError, match="on the device meta, without weights"):
        distill(nn.Linear(4, 3), nn.Linear(4, 3, device="meta"), data(), KD(), epochs=1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.usefixtures("own_accelerate")
def test_a_teacher_on_an_accelerator_stays_on_it() -> None:
    from accelerate import Accelerator

    teacher, student = net().cuda(), net()
    said = Teacher(teacher)(data(1)[0])
    assert said.device.type == "cpu"
    accelerator = Accelerator(cpu=True)
    history = distill(
        student, teacher, data(), KD() + Match("0"), epochs=1, accelerator=accelerator
    )
    assert len(history) == 3
    assert next(teacher.parameters()).is_cuda and not next(student.parameters()).is_cuda
