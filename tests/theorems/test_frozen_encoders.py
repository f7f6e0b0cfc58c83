"""What freezing saves, and what a gradient of zero does not prevent."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WIDTHS = st.lists(st.integers(1, 12), min_size=2, max_size=5)


def chain(widths: list[int]) -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())])


def products(widths: list[int], batch: int) -> list[int]:
    """Multiplications and additions of each layer's forward pass."""
    return [2 * batch * a * b for a, b in itertools.pairwise(widths)]


def counted(encoder: nn.Module, head: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        head(encoder(x)).sum().backward()
    return counter.get_total_flops()


@given(encoder=WIDTHS, head=WIDTHS, batch=st.integers(1, 8))
def test_a_step_that_trains_the_head_costs_three_heads_and_one_encoder(
    encoder: list[int], head: list[int], batch: int
) -> None:
    head = [encoder[-1], *head]
    below, above = products(encoder, batch), products(head, batch)
    x = torch.randn(batch, encoder[0])
    whole = counted(chain(encoder), chain(head), x)
    assert whole == 3 * sum(below) + 3 * sum(above) - below[0]
    frozen = counted(chain(encoder).requires_grad_(False), chain(head), x)
    assert frozen == sum(below) + 3 * sum(above) - above[0]


def test_so_do_the_programs_of_jax() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed; it is in the extra jax")
    widths, above = [64, 256, 256, 64], [64, 64, 64]
    keys = iter(jax.random.split(jax.random.key(0), 99))

    def made(sizes: list[int]) -> list[object]:
        pairs = itertools.pairwise(sizes)
        return [jax.random.normal(next(keys), pair) for pair in pairs]

    def loss(head: list[object], encoder: list[object], x: object) -> object:
        for w in [*encoder, *head]:
            x = jax.numpy.tanh(x @ w)
        return x.sum()

    def cost(function: object) -> float:
        args = (made(above), made(widths), jax.numpy.ones((32, 64)))
        found = jax.jit(function).lower(*args).compile().cost_analysis()
        return (found[0] if isinstance(found, list) else found)["flops"]

    below, over = products(widths, 32), products(above, 32)
    whole, frozen = cost(jax.grad(loss, (0, 1))), cost(jax.grad(loss))
    assert whole == pytest.approx(3 * sum(below) + 3 * sum(over) - below[0], rel=0.1)
    assert frozen == pytest.approx(sum(below) + 3 * sum(over) - over[0], rel=0.1)


@given(
    rate=st.floats(1e-5, 0.1), decay=st.floats(0, 1), steps=st.integers(1, 50), seed=st.integers(0)
)
def test_weights_of_zero_gradient_shrink_as_the_decay_says(
    rate: float, decay: float, steps: int, seed: int
) -> None:
    torch.manual_seed(seed % 2**32)
    w = nn.Parameter(torch.randn(5, dtype=torch.float64))
    before = w.detach().clone()
    optimizer = torch.optim.AdamW([w], lr=rate, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        (0 * w).sum().backward()
        optimizer.step()
    torch.testing.assert_close(w.detach(), (1 - rate * decay) ** steps * before)


def test_so_they_do_in_optax() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed; it is in the extra jax")
    optax = pytest.importorskip("optax", reason="optax is not installed; it is in the extra jax")
    w = before = jax.numpy.array([1.0, -2.0, 3.0])
    optimizer = optax.adamw(1e-2, weight_decay=0.5)
    state = optimizer.init(w)
    for _ in range(20):
        updates, state = optimizer.update(0 * w, state, w)
        w = optax.apply_updates(w, updates)
    assert jax.numpy.allclose(w, (1 - 5e-3) ** 20 * before, rtol=1e-5)
