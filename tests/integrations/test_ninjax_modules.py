"""The three ways of an encoder into a Ninjax program; after training it is bit for bit itself."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jax_helpers import jax, jnp, nj, nn, optax
from transformers import ViTConfig, ViTModel

from distill_lib.integrations.jax import check_frozen
from distill_lib.integrations.ninjax import constructed, injected, postinit, put, read_vit

SIZE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MODULE, VARIABLES = read_vit(ViTModel(ViTConfig(**SIZE, image_size=8, patch_size=4)))
X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
Y = np.array([0, 1, 2, 1])
WAYS: dict[str, Callable[[], Any]] = {
    "injected": lambda: injected(MODULE, VARIABLES),
    "constructed": lambda: constructed(MODULE, lambda: VARIABLES),
    "postinit": lambda: nj.FromFlax(lambda: MODULE, postinit=postinit(VARIABLES)),
    "put": lambda: nj.FromFlax(lambda: MODULE),
}
ways = pytest.mark.parametrize("way", WAYS)


class Agent(nj.Module):  # type: ignore[misc]
    def __init__(self, make: Any, decay: float = 0.01, all_of_it: bool = False) -> None:
        self.encoder = make(name="encoder")
        self.head = nj.FromFlax(nn.Dense)(3, name="head")
        self.optimizer = optax.adamw(1e-2, weight_decay=decay)
        self.trained = [self.encoder, self.head] if all_of_it else [self.head]

    def loss(self, x: Any, y: Any) -> Any:
        logits = self.head(self.encoder(x)[:, 0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def train(self, x: Any, y: Any) -> Any:
        loss, params, grads = nj.grad(self.loss, self.trained)(x, y)
        moments = self.sub("opt", nj.Tree, self.optimizer.init, params)
        updates, new = self.optimizer.update(grads, moments.read(), params)
        nj.context().update(optax.apply_updates(params, updates))
        moments.write(new)
        return loss


@functools.cache  # a program is compiled in seconds, and a state is never changed
def begun(way: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    agent = Agent(WAYS[way](), **settings, name="agent")
    state = nj.init(agent.train)({}, X, Y, seed=0)
    return agent, put(state, "agent/encoder", VARIABLES) if way == "put" else state


@ways
def test_the_encoder_answers_and_stays_bit_for_bit(way: str) -> None:
    agent, state = begun(way)
    want = MODULE.apply(VARIABLES, X)
    _, found = nj.pure(agent.encoder)(state, X)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    frozen = {k: np.array(v) for k, v in state.items() if k.startswith("agent/encoder/")}
    assert set(frozen) == {f"agent/encoder/{k}" for k in nj.flatten(VARIABLES)[0]}
    step = jax.jit(nj.pure(agent.train))
    losses = []
    for number in range(20):
        state, loss = step(state, X, Y, seed=number)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for name, before in frozen.items():
        assert np.asarray(state[name]).tobytes() == before.tobytes(), name


@ways
def test_only_the_head_is_trained_and_has_moments(way: str) -> None:
    agent, state = begun(way)
    found = check_frozen(nj.pure(agent.train), state, X, Y, seed=0, frozen=["agent/encoder"])
    head = {"agent/head/params/bias", "agent/head/params/kernel"}
    assert {n for n in found if not n.startswith("agent/opt/")} == head
    assert sum(k.startswith("agent/opt/") for k in state) == 1 + 2 * len(head)


def test_an_encoder_that_is_trained_is_refused() -> None:
    agent, state = begun("injected", all_of_it=True)
    count = len(jax.tree.leaves(VARIABLES))
    with pytest.raises(ValueError, match=rf"change {count} of {count} frozen arrays"):
        check_frozen(nj.pure(agent.train), state, X, Y, seed=0, frozen=["agent/encoder"])


@ways
def test_a_state_that_was_loaded_wins(way: str) -> None:
    _, state = begun(way)
    other = {k: v + 1 if k.startswith("agent/encoder/") else v for k, v in state.items()}
    again = Agent(WAYS[way](), name="agent")  # a new process: other objects, the old state
    after, _ = jax.jit(nj.pure(again.train))(other, X, Y, seed=1)
    for name in after:
        if name.startswith("agent/encoder/"):
            np.testing.assert_array_equal(after[name], other[name])


def test_weights_are_made_once() -> None:
    calls = []

    def make() -> Any:
        calls.append(1)
        return VARIABLES

    agent = Agent(constructed(MODULE, make), name="agent")
    state = nj.init(agent.train)({}, X, Y, seed=0)
    jax.jit(nj.pure(agent.train))(state, X, Y, seed=0)
    assert len(calls) == 1


def test_what_does_not_fit_is_named() -> None:
    _, state = begun("postinit")
    short = {"params": {k: v for k, v in VARIABLES["params"].items() if k != "norm"}}
    with pytest.raises(ValueError, match=r"norm/bias has shape \(8,\) in the state .* and none in"):
        put(state, "agent/encoder", short)
    with pytest.raises(ValueError, match="has shape none in the state under 'agent/coder'"):
        put(state, "agent/coder", VARIABLES)
    larger = {"params": {**VARIABLES["params"], "positions": np.zeros((1, 10, 8), np.float32)}}
    agent = Agent(nj.FromFlax(lambda: MODULE, postinit=postinit(larger)), name="agent")
    with pytest.raises(ValueError, match=r"positions has shape \(1, 5, 8\) in the module and \(1,"):
        nj.init(agent.train)({}, X, Y, seed=0)


def test_what_is_put_survives_a_donating_step() -> None:
    agent, state = begun("postinit")
    mine = jax.tree.map(jnp.asarray, VARIABLES)
    copied = {k: jnp.copy(v) for k, v in state.items()}
    state = put(copied, "agent/encoder", mine)
    jax.jit(nj.pure(agent.train), donate_argnums=0)(state, X, Y, seed=0)
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state["agent/head/params/kernel"])
    np.testing.assert_array_equal(mine["params"]["cls"], VARIABLES["params"]["cls"])


def test_the_gradient_of_the_head_costs_a_forward_pass() -> None:
    """The freeze: what is no target is a constant, and its gradient is never computed."""

    def flops(method: Any, state: Any) -> float:
        compiled = jax.jit(nj.pure(method)).lower(state, X, Y, seed=0).compile()
        cost = compiled.cost_analysis()
        return float((cost[0] if isinstance(cost, list) else cost)["flops"])  # a list before 0.5

    (frozen, state), (whole, larger) = begun("injected"), begun("injected", all_of_it=True)
    forward = flops(frozen.loss, state)
    assert flops(frozen.train, state) < 1.1 * forward
    assert flops(whole.train, larger) > 2 * forward


def test_a_module_of_ninjax_is_initialized_once() -> None:
    """Its objects remember the tree; a second empty state needs other objects. Ours do not mind."""
    encoder = injected(MODULE, VARIABLES)(name="encoder")
    first, second = (nj.init(encoder)({}, X) for _ in range(2))
    assert first.keys() == second.keys()
    native = nj.FromFlax(lambda: MODULE)(name="encoder")
    nj.init(native)({}, X, seed=0)
    with pytest.raises(AssertionError):
        nj.init(native)({}, X, seed=0)


def test_threads_that_trace_at_once_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scope of what is traced is one global variable; two threads overwrite each other's."""
    monkeypatch.setattr(nj.ninjax, "SCOPE", "")  # put back afterwards: the threads leave it wrong
    meet = threading.Barrier(2, timeout=60)
    failed: dict[str, str] = {}

    class Met(nj.Module):  # type: ignore[misc]
        def __call__(self) -> Any:
            meet.wait()  # both threads are inside of their module
            try:
                return self.value("weight", jnp.zeros, 2)
            finally:
                meet.wait()  # neither leaves before the other has tried

    def trace(name: str) -> None:
        try:
            nj.init(Met(name=name))({})
        except AssertionError as error:
            failed[name] = str(error)

    threads = [threading.Thread(target=trace, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 1, "the one that came first; one after the other both succeed"


def test_other_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="injected expected module"):
        injected(lambda x: x, VARIABLES)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="constructed expected make to be a function"):
        constructed(MODULE, VARIABLES)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["jax", "flax", "ninjax"])
def test_without_a_package_the_error_says_what_to_install(package: str) -> None:
    code = (
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == '{package}' else find(name, *a)\n"
        "try:\n    import distill_lib.integrations.ninjax\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"needs {package}: pip install" in done.stdout
