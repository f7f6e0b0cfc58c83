"""Which arrays a step would change: read off the trace, and true of every run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax_helpers import jax, jnp, optax

from distill_lib.integrations.jax import check_frozen, written
from distill_lib.integrations.jax.writes import named

X = jnp.linspace(-1, 1, 12).reshape(4, 3)


def params() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0))
    return {
        "encoder": {"w": jax.random.normal(keys[0], (3, 2))},
        "head": {"w": jax.random.normal(keys[1], (2, 1)), "b": jnp.zeros(1)},
    }


def loss(head: Any, encoder: Any, x: Any) -> Any:
    return jnp.square(jnp.tanh(x @ encoder["w"]) @ head["w"] + head["b"] - 1).mean()


def state(optimizer: Any, of: Any) -> dict[str, Any]:
    return {"params": params(), "opt": optimizer.init(of(params()))}


def head_only(optimizer: Any) -> Any:
    def step(state: Any, x: Any) -> Any:
        now = state["params"]
        value, grads = jax.value_and_grad(loss)(now["head"], now["encoder"], x)
        updates, opt = optimizer.update(grads, state["opt"], now["head"])
        new = {**now, "head": optax.apply_updates(now["head"], updates)}
        return {"params": new, "opt": opt}, value

    return step


def everything(optimizer: Any, stop: bool = False) -> Any:
    """The whole tree in the optimizer; with ``stop``, the encoder's gradient is zero."""

    def both(tree: Any, x: Any) -> Any:
        encoder = jax.lax.stop_gradient(tree["encoder"]) if stop else tree["encoder"]
        return loss(tree["head"], encoder, x)

    def step(state: Any, x: Any) -> Any:
        value, grads = jax.value_and_grad(both)(state["params"], x)
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, value

    return step


def test_the_head_alone_is_trained() -> None:
    optimizer = optax.adamw(1e-2)
    step, begin = head_only(optimizer), state(optimizer, lambda p: p["head"])
    found = check_frozen(step, begin, X, frozen=["params/encoder"])
    assert [n for n in found if n.startswith("params/")] == ["params/head/b", "params/head/w"]
    assert "params/encoder/w" not in found
    assert any("mu" in name for name in found), "moments are written, too"


def test_a_zero_gradient_does_not_freeze() -> None:
    """stop_gradient with weight decay: the gradient is zero, and the encoder moves."""
    optimizer = optax.adamw(1e-2, weight_decay=1e-2)
    step, begin = everything(optimizer, stop=True), state(optimizer, lambda p: p)
    with pytest.raises(ValueError, match=r"change 1 of 1 frozen arrays: params/encoder/w\. Give"):
        check_frozen(step, begin, X, frozen=["params/encoder"])
    after, _ = step(begin, X)
    moved = np.abs(after["params"]["encoder"]["w"] - begin["params"]["encoder"]["w"]).max()
    assert 0 < moved < 1e-3


def test_moments_for_a_frozen_array_are_found() -> None:
    optimizer = optax.adam(1e-2)
    begin = state(optimizer, lambda p: {"params": p})
    with pytest.raises(ValueError, match=r"keeps 2 arrays for frozen ones: opt/0/mu/params/enc"):
        check_frozen(lambda s: s, begin, frozen=["params/encoder"])


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_what_is_not_named_is_bit_for_bit_the_same(
    moving: list[bool], compiled: bool, inside: bool
) -> None:
    begin = {f"w{i}": jnp.full(2, 0.1 * i) for i in range(len(moving))}

    def step(state: Any) -> Any:
        new = {k: 1.1 * v + 1 if moving[int(k[1:])] else v for k, v in state.items()}
        return new, 0.0

    program: Any = jax.jit(step) if compiled else step
    found = written(lambda s: program(s), begin) if inside else written(program, begin)
    after, _ = program(begin)
    assert found == [f"w{i}" for i, moves in enumerate(moving) if moves]
    for name in begin.keys() - set(found):
        assert np.asarray(after[name]).tobytes() == np.asarray(begin[name]).tobytes()


def test_exchanged_arrays_count_as_changed() -> None:
    begin = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    assert written(lambda s: {"a": s["b"], "b": s["a"]}, begin) == ["a", "b"]
    assert written(lambda s: {**s, "a": s["a"] + 0}, begin) == ["a"]


def test_a_donating_program_is_traced_and_takes_nothing() -> None:
    begin = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    step = jax.jit(lambda s: {**s, "a": s["a"] + 1}, donate_argnums=0)
    assert written(step, begin) == ["a"]
    assert np.asarray(begin["a"]).tolist() == [0, 0]


def test_names_are_paths() -> None:
    optimizer = optax.adam(1e-2)
    found = named(state(optimizer, lambda p: p["head"]))
    assert {"params/encoder/w", "opt/0/mu/w", "opt/0/count"} <= set(found)
    assert list(named({"agent/head/kernel": 1.0})) == ["agent/head/kernel"]


def test_errors_say_what_there_is() -> None:
    begin = {"enc/w": jnp.zeros(2), "head/w": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"no array under 'encoder'; it has enc, head"):
        check_frozen(lambda s: s, begin, frozen=["encoder"])
    with pytest.raises(ValueError, match=r"no array under 'en'.*Did you mean 'enc'"):
        check_frozen(lambda s: s, begin, frozen=["en"])
    with pytest.raises(ValueError, match="returned another state than it was given"):
        written(lambda s: {**s, "new": s["enc/w"]}, begin)
    with pytest.raises(TypeError, match=r"one alone is \('enc',\)"):
        check_frozen(lambda s: s, begin, frozen="enc")
    assert check_frozen(lambda s: s, begin, frozen=["enc/", "/head/w"]) == []
