"""Whatever is passed by mistake to teachers, training and evaluation: an error that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_wrong_arguments import WRONG, told
from torch import nn

import distill_lib
from distill_lib import CE, KD, schedules
from distill_lib.teachers.cachefile import CacheError
from distill_lib.teachers.live import fingerprint
from distill_lib.training.before import check_settings

MORE = {
    **WRONG,
    "a fraction": 1.5,
    "an empty list": [],
    "an empty mapping": {},
    "a path": Path("x"),
}
# What a user's own function, module or class does with its arguments is its own affair.
CALLABLE = {"a module", "a class", "a function"}
OWN = {
    *("preprocess", "forward", "each_epoch", "optimizer", "function"),
    *("model", "student", "teacher", "teachers", "models"),
}


def net() -> nn.Module:
    return nn.Linear(4, 3)


def batches() -> list[dict[str, torch.Tensor]]:
    whole = {"inputs": torch.randn(6, 4), "labels": torch.arange(6) % 3, "index": torch.arange(6)}
    return [{**whole, "attention_mask": torch.ones(6, 1)}]


class Items(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"inputs": torch.ones(4) * i, "index": i}


def right() -> nn.Module:
    found = nn.Linear(4, 3, bias=False)
    nn.init.eye_(found.weight)
    return found


def trained(**others: Any) -> dict[str, Any]:
    return {"student": net(), "teacher": net(), "batches": batches(), "objective": KD(), **others}


def labeled() -> list[Any]:
    return [(torch.eye(3, 4), torch.arange(3))]


# A good call of each, made anew for each wrong argument: some train what they are given.
CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "linear": (distill_lib.linear, lambda: {"start": 1.0, "end": 0.1}),
    "cosine": (distill_lib.cosine, lambda: {"start": 1.0, "end": 0.1}),
    "exp": (distill_lib.exp, lambda: {"start": 1.0, "end": 0.1}),
    "constant": (schedules.constant, lambda: {"value": 1.0}),
    "as_schedule": (schedules.as_schedule, lambda: {"value": 1.0}),
    "steps": (distill_lib.steps, lambda: {"values": {0: 1.0}}),
    "piecewise": (distill_lib.piecewise, lambda: {"values": {0: 1.0}}),
    "warmup": (distill_lib.warmup, lambda: {"share": 0.1, "then": 1.0, "start": 0.0}),
    "Schedule": (distill_lib.Schedule, lambda: {"function": abs, "name": "|s|"}),
    "a schedule": (distill_lib.linear(1, 2), lambda: {"progress": 0.5}),
    "KD": (KD, lambda: {"temperature": 2.0}),
    "PPO": (distill_lib.PPO, lambda: {"clip": 0.2, "value": 0.5, "entropy": 0.0, "on": "logits"}),
    "Consistency": (distill_lib.Consistency, lambda: {"loss": distill_lib.losses.kl}),
    "Objective": (distill_lib.Objective, lambda: {"pairs": [(1.0, CE())]}),
    "capture": (
        lambda **k: distill_lib.capture(*k.values()),
        lambda: {"model": nn.Sequential(net()), "layer": "0"},
    ),
    "fingerprint": (fingerprint, lambda: {"model": net()}),
    "Teacher": (
        distill_lib.Teacher,
        lambda: {"model": net(), "preprocess": None, "bn_train": False, "forward": None},
    ),
    "Teacher.to": (lambda device: distill_lib.Teacher(net()).to(device), lambda: {"device": "cpu"}),
    "Teacher.reveal": (
        lambda paths: distill_lib.Teacher(net()).reveal(paths),
        lambda: {"paths": ["logits"]},
    ),
    "EMA": (distill_lib.EMA, lambda: {"student": net(), "decay": 0.9, "forward": None}),
    "EMA.update": (
        lambda student: distill_lib.EMA(net(), 0.9).update(student),
        lambda: {"student": net()},
    ),
    "Ensemble": (
        distill_lib.Ensemble,
        lambda: {
            "teachers": [net(), net()],
            "weights": [1.0, 1.0],
            "space": "prob",
            "on": "logits",
            "axis": None,
        },
    ),
    "Peers": (distill_lib.Peers, lambda: {"models": [net(), net()]}),
    "Stacked": (distill_lib.Stacked, lambda: {"models": [net(), net()], "ndim": 2}),
    "Recorded": (
        distill_lib.Recorded,
        lambda: {
            "teacher": net(),
            "batches": batches(),
            "signals": ["logits"],
            "dtype": torch.float16,
        },
    ),
    "a record": (
        lambda index: distill_lib.Recorded(net(), batches(), ["logits"])(
            {**batches()[0], "index": index}
        ),
        lambda: {"index": torch.arange(6)},
    ),
    "Cache": (distill_lib.Cache, lambda: {"path": built(), "verify": True}),
    "Cache.build": (
        distill_lib.Cache.build,
        lambda: {
            "path": PLACE / "new.cache",
            "teacher": net(),
            "dataset": Items(),
            "what": "logits",
            "dtype": torch.float32,
            "block": 4,
            "augmentation": None,
            "progress": False,
        },
    ),
    "a cache": (
        lambda index: distill_lib.Cache(built())({"index": index}),
        lambda: {"index": torch.arange(3)},
    ),
    "evaluate": (
        distill_lib.evaluate,
        lambda: {
            "model": net(),
            "batches": batches(),
            "forward": None,
            "task": "classes",
            "axis": None,
            "on": "logits",
            "labels": "labels",
            "ignore_index": None,
        },
    ),
    "agreement": (
        distill_lib.agreement,
        lambda: {
            "student": net(),
            "teacher": net(),
            "batches": batches(),
            "forward": None,
            "task": "classes",
            "axis": None,
            "on": "logits",
        },
    ),
    "sanity": (
        distill_lib.sanity,
        lambda: {"teacher": right(), "batches": labeled(), "at_least": 0.5, "limit": 2},
    ),
    "distill": (
        distill_lib.distill,
        lambda: trained(
            steps=1,
            lr=0.1,
            optimizer=None,
            clip_norm=None,
            accelerator=None,
            resume=True,
            forward=None,
            each_epoch=None,
            keep_best=None,
        ),
    ),
    # the same numbers as distill's, without as many trainings
    "settings": (
        check_settings,
        lambda: {
            "epochs": 1,
            "steps": None,
            "clip_norm": 1.0,
            "checkpoint": "a.pt",
            "save_every": 1,
            "resume": True,
            "seed": 0,
            "forward": None,
            "patience": 1,
        },
    ),
}
PLACE = Path()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for a text or a path, taken as that of a file
    monkeypatch.setitem(globals(), "PLACE", tmp_path)


def built() -> Path:
    path = PLACE / "a.cache"
    if not path.exists():
        distill_lib.Cache.build(path, net(), Items(), block=4, progress=False)
    return path


def fault(call: Callable[[], Any]) -> str | None:
    try:
        return told(call)
    finally:
        (PLACE / "new.cache").unlink(missing_ok=True)


def refused(call: Callable[[], Any]) -> str | None:
    """As ``told``; an error of a cache is one of ours too."""

    def ours() -> None:
        try:
            call()
        except CacheError as error:
            assert len(str(error)) > 20

    return fault(ours)


@pytest.mark.parametrize("name", CALLS)
def test_a_good_call(name: str) -> None:
    call, good = CALLS[name]
    assert fault(lambda: call(**good())) is None


@pytest.mark.parametrize("name", CALLS)
def test_each_argument(name: str) -> None:
    call, good = CALLS[name]
    faults = []
    for argument in good():
        for wrong, value in MORE.items():
            if argument in OWN and wrong in CALLABLE:
                continue
            arguments = {**good(), argument: value}
            found = refused(lambda: call(**arguments))  # noqa: B023
            faults += [] if found is None else [f"{argument} = {wrong}: {found}"]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"epochs": 1.5}, {"epochs": True}, {"epochs": "3"}, {"steps": 2.0}, {"seed": -1}),
        *(
            {"epochs": 1, "clip_norm": 0},
            {"epochs": 1, "patience": 1.5},
            {"epochs": 1, "resume": 2},
        ),
        *({"epochs": 1, "save_every": -3}, {"epochs": 1, "checkpoint": 7}),
    ],
)
def test_a_training_begins_with_no_wrong_number(wrong: dict[str, Any]) -> None:
    arguments = trained(**{"epochs": 1, **wrong} if "steps" not in wrong else wrong)
    name, value = list(wrong.items())[-1]
    with pytest.raises((TypeError, ValueError), match=rf"{name}.*{value}"):
        distill_lib.distill(**arguments)


def test_a_temperature_is_no_bool() -> None:
    with pytest.raises(TypeError, match="bool True"):
        KD(temperature=True)


def test_the_best_weights_need_room_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    student = nn.Linear(100, 100)
    usage = type("Usage", (), {"free": 60_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    data = [(torch.zeros(2, 100), torch.zeros(2, dtype=torch.long))]
    kept = {"each_epoch": lambda epoch, history: {"good": 1.0}, "keep_best": "good"}
    alone = tmp_path / "alone.pt"
    distill_lib.distill(student, None, data, CE(), epochs=1, checkpoint=alone)
    with pytest.raises(OSError, match="the weights alone take 80,800"):
        distill_lib.distill(
            student, None, data, CE(), epochs=1, checkpoint=tmp_path / "best.pt", **kept
        )
