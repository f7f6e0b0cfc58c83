"""Whatever is passed by mistake to the wings of JAX and Ninjax: an error of ours that says so."""

from __future__ import annotations

import contextlib
import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_wrong_calls import ALL, fault_of
from torch import nn

REASON = "{} is not installed; it is in the extra jax: python make.py setup"
jax = pytest.importorskip("jax", reason=REASON.format("JAX"))
jnp = pytest.importorskip("jax.numpy")
linen = pytest.importorskip("flax.linen", reason=REASON.format("Flax"))
FlaxError = pytest.importorskip("flax.errors").FlaxError
nj = pytest.importorskip("ninjax", reason=REASON.format("Ninjax"))

from distill_lib.integrations import jax as ours  # noqa: E402
from distill_lib.integrations import ninjax  # noqa: E402

WINGS = (ours, ninjax)
METHODS = {"jax.JaxTeacher.call", "jax.JaxTeacher.fingerprint", "ninjax.ViT.call"}
MORE: dict[str, Any] = {
    "an array of JAX": jnp.zeros(3),
    "another batch in JAX": jnp.zeros((7, 5)),
    "another width in JAX": jnp.zeros((6, 9)),
    "whole numbers in JAX": jnp.ones((6, 5), int),
    "an array of texts": np.array(["a", "b"]),
    "an array of objects": np.array([None, "b"], dtype=object),
    "a tree": {"params": {"kernel": np.ones((2, 2), np.float32)}},
    "a tree of texts": {"params": {"kernel": "weights"}},
}
# What a user's own function does with its arguments is its own affair.
FUNCTIONS = {"step", "function", "make", "teacher"}

Call = tuple[Callable[..., Any], dict[str, Any]]
X = np.ones((2, 3), np.float32)


def rows(width: int = 5) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {who: jnp.asarray(draw.normal(size=(6, width))) for who in ("student", "teacher")}


def maps() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {who: jnp.asarray(draw.normal(size=(2, 3, 4, 4))) for who in ("student", "teacher")}


def train(state: Any) -> Any:
    """Trains all but an encoder."""
    if not isinstance(state, dict):
        return state
    moved = {k: v for k, v in state.items() if "encoder" not in k}
    return {**state, **jax.tree.map(lambda x: 0.9 * x, moved)}


def vit() -> Any:
    from transformers import ViTConfig, ViTModel

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ViTModel(ViTConfig(**size, intermediate_size=16, image_size=8, patch_size=4))


def begun(encoder: Any) -> None:
    """A module of ours, made and run once; what Flax says of other weights is its own error."""
    with contextlib.suppress(FlaxError):
        nj.init(encoder(name="encoder"))({}, X)


def filled(**given: Any) -> Any:
    return nj.init(nj.FromFlax(linen.Dense, postinit=ninjax.postinit(**given))(2, name="e"))(
        {}, X, seed=0
    )


def calls() -> dict[str, Call]:
    """A good call of each."""
    module = linen.Dense(2)
    made = jax.tree.map(np.asarray, module.init(jax.random.key(0), X))
    model, state = vit(), {"head": jnp.ones(2), "encoder/kernel": jnp.ones(2)}
    softened = {**rows(), "temperature": 2.0}
    encoder, weights = ninjax.read_vit(model)
    teacher = ours.JaxTeacher(lambda params, x: x * params["w"], {"w": np.array(2.0)})
    softening = ("kl", "reverse_kl", "soft_cross_entropy", "tvd", "bernoulli_kl")
    sizes = {"image": (8, 8), "patch": (4, 4), "width": 8, "layers": 1, "heads": 2, "mlp": 16}
    sizes |= {"epsilon": 1e-6, "activation": "gelu", "bias": True}

    def run(**settings: Any) -> Any:
        return ninjax.ViT(**settings).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    return {
        **{f"jax.{name}": (getattr(ours, name), softened) for name in softening},
        "jax.jsd": (ours.jsd, {**softened, "beta": 0.5, "normalized": True}),
        "jax.mse_logits": (ours.mse_logits, {**rows(), "center": True}),
        "jax.channel_kl": (ours.channel_kl, {**maps(), "temperature": 2.0}),
        "jax.policy_kl": (ours.policy_kl, {**rows(), "tau": 0.1}),
        "jax.gaussian_kl": (ours.gaussian_kl, rows(6)),
        "jax.targets": (
            ours.targets,
            {"teacher": nn.Linear(3, 2), "batch": {"inputs": X}},
        ),
        "jax.JaxTeacher": (
            lambda **k: ours.JaxTeacher(**k)({"inputs": X}),
            {"function": lambda params, x: x * 2, "params": {"w": np.eye(3)}},
        ),
        "jax.JaxTeacher.call": (teacher, {"batch": {"inputs": torch.ones(2, 3)}}),
        "jax.JaxTeacher.fingerprint": (lambda: teacher.fingerprint(), {}),
        "jax.written": (ours.written, {"step": train, "state": state}),
        "jax.check_frozen": (
            ours.check_frozen,
            {"step": train, "state": state, "frozen": ["encoder"]},
        ),
        "ninjax.injected": (
            lambda **k: begun(ninjax.injected(**k)),
            {"module": module, "variables": made},
        ),
        "ninjax.constructed": (
            lambda **k: begun(ninjax.constructed(**k)),
            {"module": module, "make": lambda: made},
        ),
        "ninjax.postinit": (filled, {"variables": made}),
        "ninjax.put": (
            ninjax.put,
            {"state": {"e/params/kernel": jnp.ones((3, 2)), "e/params/bias": jnp.ones(2)}}
            | {"path": "e", "variables": made},
        ),
        "ninjax.read_vit": (
            ninjax.read_vit,
            {"source": model, "config": model.config, "image_size": 12},
        ),
        "ninjax.ViT": (run, sizes),
        "ninjax.ViT.call": (
            lambda images: encoder.apply(weights, images),
            {"images": np.zeros((1, 8, 8, 3), np.float32)},
        ),
    }


@pytest.fixture(scope="module")
def table() -> dict[str, Call]:
    return calls()


def names() -> list[str]:
    public = {f"{wing.__name__.split('.')[-1]}.{name}" for wing in WINGS for name in wing.__all__}
    return sorted({*public, *METHODS})


def test_every_public_name_is_walked(table: dict[str, Call]) -> None:
    assert {*table} == {*names()}


@pytest.mark.parametrize("name", names())
def test_each_argument_of_each_call(name: str, table: dict[str, Call]) -> None:
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call, good = table[name]
        call(**good)
        for argument, (wrong, value) in itertools.product(good, {**ALL, **MORE}.items()):
            if callable(value) and argument in FUNCTIONS:
                continue
            some = {**good, argument: copy.deepcopy(value)}
            # what a model or a function cannot take is its own error
            asks = "batches" if argument in ("inputs", "batch") else argument
            fault = fault_of(lambda: call(**some), value, asks)  # noqa: B023
            faults += [] if fault is None else [f"{argument} = {wrong}: {fault}"]
    assert not faults, "\n".join(faults)
