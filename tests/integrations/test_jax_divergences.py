"""Our divergences on arrays of JAX: the values and gradients of those on tensors."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_helpers import jax, jnp

from distill_lib import losses
from distill_lib.integrations import jax as ours

NAMES = (
    *("kl", "reverse_kl", "jsd", "soft_cross_entropy", "tvd", "mse_logits", "bernoulli_kl"),
    *("channel_kl", "policy_kl", "gaussian_kl"),
)
WARM = ("kl", "reverse_kl", "jsd", "soft_cross_entropy", "tvd", "bernoulli_kl", "channel_kl")


def drawn(name: str, seed: int = 0, scale: float = 1.0, items: int = 4) -> dict[str, Any]:
    shape = (items, 3, 2, 2) if name == "channel_kl" else (items, 6)
    generator = np.random.default_rng(seed)
    return {who: scale * generator.normal(size=shape) for who in ("student", "teacher")}


def of_torch(name: str, said: dict[str, Any], **settings: Any) -> tuple[Any, ...]:
    """Value and both gradients of the sum."""
    tensors = {who: torch.tensor(x, requires_grad=True) for who, x in said.items()}
    value = getattr(losses, name)(**tensors, **settings)
    grads = torch.autograd.grad(value.sum(), list(tensors.values()))
    return tuple(x.detach().numpy() for x in (value, *grads))


def of_jax(name: str, said: dict[str, Any], **settings: Any) -> tuple[Any, ...]:
    def summed(both: dict[str, Any]) -> Any:
        value = getattr(ours, name)(**both, **settings)
        return value.sum(), value

    both = {who: jnp.asarray(x) for who, x in said.items()}
    (_, value), grads = jax.value_and_grad(summed, has_aux=True)(both)
    return (value, grads["student"], grads["teacher"])


def agree(name: str, said: dict[str, Any], tolerance: float = 1e-9, **settings: Any) -> None:
    with jax.enable_x64(True):
        found = of_jax(name, said, **settings)
    for mine, theirs in zip(found, of_torch(name, said, **settings), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 30), temperature=st.floats(0.1, 20))
def test_values_and_gradients_are_those_of_torch(
    name: str, seed: int, scale: float, temperature: float
) -> None:
    warm = {"temperature": temperature} if name in WARM else {}
    warm |= {"tau": temperature} if name == "policy_kl" else {}
    said = drawn(name, seed, min(scale, 3.0) if name == "gaussian_kl" else scale)
    agree(name, said, **warm)


@pytest.mark.parametrize(
    "chosen",
    [{"beta": b, "normalized": n} for b in (0.1, 0.5, 0.99) for n in (True, False)]
    + [{"beta": b, "normalized": True} for b in (0, 1, 1e-300, 1e-17)],
)
def test_every_beta(chosen: dict[str, Any]) -> None:
    agree("jsd", drawn("jsd", scale=4), **chosen)


def test_logits_without_their_mean() -> None:
    agree("mse_logits", drawn("mse_logits"), center=True)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jsd", "soft_cross_entropy", "tvd"])
def test_masked_classes_cost_nothing(name: str) -> None:
    said = drawn(name)
    for x in said.values():
        x[:, 2] = x[0, 4] = -math.inf
    agree(name, said)
    masked = getattr(ours, name)(**{k: jnp.asarray(x[1:], jnp.float32) for k, x in said.items()})
    kept = {k: jnp.asarray(np.delete(x[1:], 2, 1), jnp.float32) for k, x in said.items()}
    np.testing.assert_allclose(masked, getattr(ours, name)(**kept), rtol=1e-5)


def test_sure_answers_are_no_nan() -> None:
    said = {"student": np.array([[-np.inf, 1.0]]), "teacher": np.array([[-np.inf, np.inf]])}
    agree("bernoulli_kl", said)


def test_an_item_may_have_its_own_temperature() -> None:
    said, warm = drawn("kl"), np.array([[1.0], [2.0], [3.0], [4.0]])
    value = ours.kl(**said, temperature=warm)
    want = losses.kl(
        **{k: torch.tensor(x) for k, x in said.items()}, temperature=torch.tensor(warm)
    )
    np.testing.assert_allclose(value, want.numpy(), rtol=1e-5)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name: str, half: str) -> None:
    said = {who: jnp.asarray(x, half) for who, x in drawn(name).items()}
    found = getattr(ours, name)(**said)
    exact = getattr(ours, name)(**{who: x.astype("float32") for who, x in said.items()})
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "channel_kl"])
def test_one_teacher_serves_several_students(name: str) -> None:
    said = drawn(name)
    students = np.stack([said["student"], 2 * said["student"]])
    found = getattr(ours, name)(student=students, teacher=said["teacher"])
    for one, student in zip(found, students, strict=True):
        alone = getattr(ours, name)(student=student, teacher=said["teacher"])
        np.testing.assert_allclose(one, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WARM)
def test_they_are_compiled_and_mapped(name: str) -> None:
    function = getattr(ours, name)

    def warm(student: Any, teacher: Any, temperature: Any) -> Any:
        return function(student=student, teacher=teacher, temperature=temperature)

    said = drawn(name)
    want = warm(said["student"], said["teacher"], 2.0)
    np.testing.assert_allclose(jax.jit(warm)(said["student"], said["teacher"], 2.0), want, 1e-5)
    several = {who: np.stack([x, x]) for who, x in said.items()}
    mapped = jax.vmap(warm, (0, 0, None))(several["student"], several["teacher"], 2.0)
    np.testing.assert_allclose(mapped[1], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_can_swap_the_arguments(name: str) -> None:
    with pytest.raises(TypeError, match="positional"):
        getattr(ours, name)(*drawn(name).values())
    mine, theirs = (inspect.signature(getattr(m, name)).parameters for m in (ours, losses))
    assert [*mine] == [*theirs]
    assert [p.default for p in mine.values()] == [p.default for p in theirs.values()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (torch.zeros(4, 6), r"got a torch tensor as teacher; pass teacher\.detach\(\)\.numpy\(\)"),
        ([1.0], "expected arrays, got list"),
        (np.zeros((4, 6), int), "expected real numbers.* cross-entropy"),
        (np.zeros((4, 7)), r"teacher logits \[4, 7\] do not fit"),
        (np.zeros((1, 6)), r"teacher logits \[1, 6\] do not fit"),
        (np.zeros(()), "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, teacher: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        getattr(ours, name)(student=np.zeros((4, 6)), teacher=teacher)


@pytest.mark.parametrize(
    ("temperature", "words"),
    [
        (0, "expected a number > 0, got 0"),
        (-1.0, "expected a number > 0"),
        (math.nan, "expected a number > 0"),
        ("warm", "expected a number > 0, got str 'warm'"),
        (np.ones(6), r"of shape \[6\] does not fit"),
        (np.array([[1.0], [0.0], [1.0], [1.0]]), "expected a number > 0"),
    ],
)
def test_a_temperature_is_a_number_above_zero(temperature: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        ours.kl(**drawn("kl"), temperature=temperature)


def test_a_beta_where_nothing_is_learned_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at beta=1 .* use reverse_kl, or normalized=True"):
        ours.jsd(**drawn("jsd"), beta=1)
    with pytest.raises(ValueError, match=r"a number in \[0, 1\], got 2"):
        ours.jsd(**drawn("jsd"), beta=2)


def test_maps_and_gaussians_have_their_shapes() -> None:
    with pytest.raises(ValueError, match="at least two positions"):
        ours.channel_kl(student=np.zeros((2, 3)), teacher=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="an even number on the last axis"):
        ours.gaussian_kl(student=np.zeros((2, 3)), teacher=np.zeros((2, 3)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
def test_what_both_exclude_costs_nothing_here_too(
    masked: list[tuple[bool, bool]], center: bool, seed: int
) -> None:
    """Also of a difference of logits, where -inf less -inf is nan."""
    said = drawn("mse_logits", seed, items=2)
    for place, both in enumerate(masked):
        for who, is_masked in zip(("student", "teacher"), both, strict=True):
            said[who][:, place] = -math.inf if is_masked else said[who][:, place]
    if any(one != other for one, other in masked):  # infinite, with no gradient to compare
        for who in said:
            said[who][:, [one != other for one, other in masked] + [False] * 3] = 0.0
    agree("mse_logits", said, center=center)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=2), st.lists(st.integers(1, 3), max_size=3), st.booleans()
)
def test_a_temperature_makes_no_new_items(items: list[int], given: list[int], traced: bool) -> None:
    """As in PyTorch: [3, 1] beside one item is refused, and not three items."""
    z, temperature = np.zeros((*items, 4)), np.ones((*given, 1))
    call: Any = lambda t: ours.kl(student=z, teacher=z, temperature=t)  # noqa: E731
    call = jax.jit(call) if traced else call
    try:
        wanted = losses.kl(
            student=torch.tensor(z), teacher=torch.tensor(z), temperature=torch.tensor(temperature)
        )
    except ValueError:
        with pytest.raises(ValueError, match="does not fit logits"):
            call(temperature)
    else:
        assert call(temperature).shape == wanted.shape
