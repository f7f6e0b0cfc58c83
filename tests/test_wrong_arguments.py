"""Whatever is passed by mistake: an answer, or an error of ours that says what came."""

from __future__ import annotations

import functools
import linecache
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import distill_lib
from distill_lib import (
    BCE,
    CE,
    DKD,
    KD,
    Adversarial,
    BaseOf,
    Label,
    LogRatio,
    Match,
    Relation,
    layer_map,
    losses,
)
from distill_lib.terms import CRD, FusedKD, SpanKD, SparseKD

OURS = str(Path(distill_lib.__file__).parent)

# What is passed by mistake, by name.
WRONG: dict[str, Any] = {
    "None": None,
    "a text": "text",
    "a number": 4,
    "a negative number": -1,
    "nan": math.nan,
    "a bool": True,
    "a complex number": 1j,
    "an array": np.ones((6, 5)),
    "a list": [1.0, 2.0],
    "a list of tensors": [torch.zeros(6, 5)],
    "integers": torch.ones(6, 5, dtype=torch.long),
    "bools": torch.ones(6, 5, dtype=torch.bool),
    "complex numbers": torch.ones(6, 5, dtype=torch.complex64),
    "a scalar": torch.tensor(1.0),
    "a vector": torch.zeros(6),
    "another batch": torch.zeros(7, 5),
    "another width": torch.zeros(6, 9),
    "another ndim": torch.zeros(6, 5, 3, 3, 3),
    "an empty batch": torch.zeros(0, 5),
    "no classes": torch.zeros(6, 0),
    "a mapping": {"logits": torch.zeros(6, 5)},
    "a module": nn.Linear(5, 5),
    "a class": nn.Linear,
    "a function": len,
}


def answers() -> dict[str, Any]:
    return {"student": torch.randn(6, 5), "teacher": torch.randn(6, 5)}


def maps() -> dict[str, Any]:
    return {"student": torch.randn(2, 3, 4, 4), "teacher": torch.randn(2, 3, 4, 4)}


def attentions() -> dict[str, Any]:
    found = {who: torch.randn(2, 3, 4, 4).softmax(-1) for who in ("student", "teacher")}
    return {**found, "mask": torch.ones(2, 4)}


def tokens() -> dict[str, Any]:
    found = {who: torch.randn(2, 4, 6) for who in ("student", "teacher")}
    return {**found, "heads": 2, "mask": torch.ones(2, 4)}


# A good call of each loss.
LOSSES: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        name: lambda: {**answers(), "temperature": 2.0}
        for name in ("kl", "reverse_kl", "soft_cross_entropy", "tvd", "bernoulli_kl")
    },
    "jsd": lambda: {**answers(), "beta": 0.5, "temperature": 2.0},
    "dkd": lambda: {
        **answers(),
        "labels": torch.randint(5, (6,)),
        "alpha": 1.0,
        "beta": 8.0,
        "temperature": 2.0,
    },
    "dist": lambda: {**answers(), "beta": 1.0, "gamma": 1.0, "temperature": 2.0},
    "mse_logits": answers,
    "hint": answers,
    "cosine": answers,
    "similarity": answers,
    "pkt": answers,
    "rkd_distance": answers,
    "rkd_angle": answers,
    "channel_kl": lambda: {**maps(), "temperature": 2.0},
    "attention_transfer": lambda: {**maps(), "power": 2.0},
    "attention": attentions,
    "attention_kl": attentions,
    "attention_scores": attentions,
    "minilm_relation": tokens,
    "standardize": lambda: {"logits": torch.randn(6, 5)},
    "top_k": lambda: {"logits": torch.randn(6, 5), "k": 2},
    "sparse_divergence": lambda: {
        "student": torch.randn(6, 5),
        "teacher": torch.randn(6, 3).log_softmax(-1),
        "ids": torch.arange(3).expand(6, 3),
        "rest": torch.full((6,), -9.0),
        "tail": True,
    },
    "uld": lambda: {**answers(), "temperature": 2.0},
    "fused_divergence": lambda: {
        **answers(),
        "student_head": torch.randn(7, 5),
        "teacher_head": torch.randn(7, 5),
        "student_bias": torch.randn(7),
        "teacher_bias": torch.randn(7),
        "loss": losses.kl,
        "temperature": 2.0,
        "mask": torch.ones(6, dtype=torch.bool),
        "chunk": 2,
    },
    "align": lambda: {"student": [3, 5, 9], "teacher": [1, 5, 9]},
    "span_sums": lambda: {
        "values": -torch.rand(6, 5),
        "spans": torch.zeros(6, 5, dtype=torch.long),
        "count": 1,
    },
    "span_kl": lambda: {who: -torch.rand(6, 5) for who in ("student", "teacher")},
    "full_precision": lambda: {"x": torch.randn(6, 5)},
}
# The losses of policies are tested with their file.
ELSEWHERE = {"nll", "gaussian_kl", "policy_kl"}


def told(call: Callable[[], Any], *came: str) -> str | None:
    """What is wrong with how a call ended: None where it gave an answer, or an error of ours."""
    try:
        call()
    except (TypeError, ValueError, KeyError, OSError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = linecache.getline(frame.filename, frame.lineno or 0).strip()
        if not frame.filename.startswith(OURS) or not line.startswith("raise"):
            return f"{type(error).__name__} of {Path(frame.filename).name}:{frame.lineno}: {error}"
        text = str(error)
        if len(text) < 20 or (came and not any(word in text for word in came)):
            return f"names none of {came}: {text}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} of {Path(frame.filename).name}:{frame.lineno}: {error}"
    return None


def words(value: Any) -> tuple[str, ...]:
    """How a message may name a value: by its type, shape or itself."""
    found = [type(value).__name__, repr(value)[:20], f"{value}"[:20]]
    found += [getattr(value, "__name__", type(value).__name__)]
    if isinstance(value, np.ndarray):
        found += [f"an array {list(value.shape)}"]
    if isinstance(value, torch.Tensor):
        found += [str(list(value.shape)), str(value.dtype), str(tuple(value.shape))]
        found += [str(n) for n in value.shape]
        found += [f"{value.item():g}"] if value.ndim == 0 else []
    return tuple(found)


def test_every_loss_is_walked() -> None:
    assert set(LOSSES) | ELSEWHERE == set(losses.__all__)
    for name, good in LOSSES.items():
        assert told(lambda: getattr(losses, name)(**good())) is None  # noqa: B023


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", LOSSES)
def test_each_argument_of_each_loss(name: str, wrong: str) -> None:
    faults = []
    loss, value = getattr(losses, name), WRONG[wrong]
    for argument in LOSSES[name]():
        arguments = {**LOSSES[name](), argument: value}
        fault = told(lambda: loss(**arguments), *words(value))  # noqa: B023
        faults += [] if fault is None else [f"{argument} = {wrong}: {fault}"]
    both = {k: value if k in ("student", "teacher") else v for k, v in LOSSES[name]().items()}
    fault = told(lambda: loss(**both), *words(value))
    faults += [] if fault is None else [f"both = {wrong}: {fault}"]
    assert not faults, "\n".join(faults)


# ---- the terms ----

# A good call of each constructor.
MAKERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "KD": (KD, {"loss": losses.kl, "temperature": 2.0, "on": "logits"}),
    "DKD": (DKD, {"temperature": 2.0, "on": "logits"}),
    "CE": (CE, {"label_smoothing": 0.1, "on": "logits", "labels": "labels"}),
    "BCE": (BCE, {"on": "logits", "labels": "labels"}),
    "Label": (Label, {"loss": F.mse_loss, "on": "logits", "labels": "labels"}),
    "Match": (
        Match,
        {
            "student": "logits",
            "teacher": "logits",
            "loss": losses.hint,
            "project": nn.Identity(),
            "project_teacher": nn.Identity(),
        },
    ),
    "Relation": (Relation, {"student": "logits", "teacher": "logits", "loss": losses.similarity}),
    "CRD": (
        CRD,
        {
            "student": "logits",
            "teacher": "logits",
            "index": torch.arange(6),
            "labels": torch.arange(6) % 2,
            "width": 4,
            "negatives": 3,
            "temperature": 0.1,
            "momentum": 0.5,
            "seed": 0,
        },
    ),
    "SparseKD": (
        SparseKD,
        {"loss": losses.kl, "on": "logits", "rest": True, "tail": True},
    ),
    "FusedKD": (
        FusedKD,
        {
            "loss": losses.kl,
            "temperature": 2.0,
            "teacher_head": torch.zeros(6, 5),
            "teacher_bias": torch.zeros(6),
            "chunk": 4,
        },
    ),
    "SpanKD": (SpanKD, {"loss": losses.span_kl}),
    "layer_map": (layer_map, {"student": 2, "teacher": 6, "how": "uniform"}),
    "BaseOf": (BaseOf, {"student": None}),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", MAKERS)
def test_each_argument_of_each_term(name: str, wrong: str) -> None:
    make, good = MAKERS[name]
    faults = []
    for argument in good:
        value = WRONG[wrong]
        fault = told(lambda: make(**{**good, argument: value}), *words(value))  # noqa: B023
        faults += [] if fault is None else [f"{argument} = {wrong}: {fault}"]
    assert not faults, "\n".join(faults)


TERMS: dict[str, Callable[[], Any]] = {
    "KD": lambda: KD(temperature=2),
    "KD of maps": lambda: KD(losses.channel_kl),
    "KD of yes or no": lambda: KD(losses.bernoulli_kl),
    "DKD": DKD,
    "CE": CE,
    "BCE": BCE,
    "Label": lambda: Label(F.mse_loss),
    "Match": lambda: Match("logits"),
    "Relation": lambda: Relation("logits"),
    "Adversarial": lambda: Adversarial(nn.Linear(5, 1)),
    "LogRatio": LogRatio,
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", TERMS)
def test_each_input_of_each_term(name: str, wrong: str) -> None:
    term, faults = TERMS[name](), []
    yes = name in ("BCE", "Label")
    good = {**answers(), "labels": torch.rand(6, 5) if yes else torch.randint(5, (6,))}
    for which in good:
        value = {**good, which: WRONG[wrong]}
        call = functools.partial(
            term, value["student"], value["teacher"], {"labels": value["labels"]}
        )
        fault = told(call)
        faults += [] if fault is None else [f"{which} = {wrong}: {fault}"]
    assert not faults, "\n".join(faults)
