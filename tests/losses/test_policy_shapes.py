"""Actions beside a policy: each item has its own, in whatever way they are brought, or an error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_lib.losses import policy

# axes of few lengths, so that they coincide
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
WAYS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "list": lambda x: x.tolist(),
    "array": lambda x: x.numpy(),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
}


@settings(max_examples=150)
@given(SHAPES, SHAPES, st.integers(1, 3))
def test_discrete_actions_are_one_an_item_or_refused(
    items: tuple[int, ...], brought: tuple[int, ...], count: int
) -> None:
    logits = torch.randn(*items, count)
    actions = torch.randint(count, brought)
    if items != brought:
        with pytest.raises(ValueError, match="log_prob expected actions"):
            policy.log_prob(logits, actions)
        return
    found = policy.log_prob(logits, actions)
    rows = zip(logits.reshape(-1, count), actions.flatten(), strict=True)
    each = [row.log_softmax(-1)[at] for row, at in rows]
    assert found.shape == items
    torch.testing.assert_close(found.flatten(), torch.stack(each) if each else found.flatten())


@settings(max_examples=150)
@given(SHAPES, SHAPES, st.integers(1, 3))
def test_real_actions_are_one_an_item_or_refused(
    items: tuple[int, ...], brought: tuple[int, ...], count: int
) -> None:
    gaussian, actions = torch.randn(*items, 2 * count), torch.randn(brought)
    if (*items, count) != brought:
        with pytest.raises(ValueError, match="gaussian_log_prob expected actions"):
            policy.gaussian_log_prob(gaussian, actions)
        return
    mean, log_std = gaussian.chunk(2, -1)
    wanted = torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(actions)
    torch.testing.assert_close(policy.gaussian_log_prob(gaussian, actions), wanted.sum(-1))


@settings(max_examples=150)
@given(SHAPES, SHAPES, SHAPES)
def test_the_surrogate_is_one_an_item_or_refused(
    items: tuple[int, ...], olds: tuple[int, ...], gains: tuple[int, ...]
) -> None:
    """Leading axes may be lacking, as one batch of several students lacks them."""
    now, old, gain = (torch.randn(shape) for shape in (items, olds, gains))
    if any(one != items[max(len(items) - len(one), 0) :] for one in (olds, gains)):
        with pytest.raises(ValueError, match="in the same axes"):
            policy.surrogate(log_prob=now, old=old, advantages=gain)
        return
    ratio = (now - old.expand(items)).exp()
    wanted = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
    found = policy.surrogate(log_prob=now, old=old, advantages=gain)
    assert found.shape == items
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("way", WAYS)
def test_lists_and_arrays_are_as_good_as_tensors(way: str) -> None:
    bring, (z, gain) = WAYS[way], torch.randn(2, 6)
    logits, actions = torch.randn(6, 4, requires_grad=True), torch.randint(4, (6,))
    real, pushed = torch.randn(6, 4, requires_grad=True), torch.randn(6, 2)
    pairs = [
        (policy.log_prob(logits, bring(actions)), policy.log_prob(logits, actions)),
        (policy.gaussian_log_prob(real, bring(pushed)), policy.gaussian_log_prob(real, pushed)),
        (
            policy.surrogate(log_prob=z, old=bring(z / 2), advantages=bring(gain)),
            policy.surrogate(log_prob=z, old=z / 2, advantages=gain),
        ),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.float64])
def test_whole_actions_of_every_type_are_the_same(dtype: torch.dtype) -> None:
    logits, actions = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    found = policy.log_prob(logits, actions.to(dtype))
    torch.testing.assert_close(found, policy.log_prob(logits, actions))


@pytest.mark.parametrize("broken", [-1, 3, 300, 0.5, 1.999, math.nan])
def test_actions_that_are_not_there_are_refused(broken: float) -> None:
    with pytest.raises(ValueError, match="log_prob expected"):
        policy.log_prob(torch.zeros(2, 3), torch.tensor([0, broken]))


@pytest.mark.parametrize("said", [torch.zeros(2, 3).long(), torch.tensor(1.0)])
def test_what_is_no_policy_is_refused(said: Tensor) -> None:
    for call in (policy.entropy, lambda z: policy.log_prob(z, torch.zeros(2))):
        with pytest.raises(TypeError, match=r"expected logits \[..., A\] of real numbers"):
            call(said)
    with pytest.raises(ValueError, match="one after the other"):
        policy.gaussian_entropy(torch.tensor(1.0))
    with pytest.raises(TypeError, match="expected a tensor of actions, got dict"):
        policy.log_prob(torch.zeros(2, 3), {})
    with pytest.raises(TypeError, match="advantages expected one number an item, got None"):
        policy.surrogate(log_prob=torch.zeros(2), old=torch.zeros(2), advantages=None)


@settings(max_examples=60)
@given(st.floats(-200, 200), st.floats(0, 5))
def test_what_the_surrogate_cuts_has_no_gradient_however_far_it_is(
    change: float, gain: float
) -> None:
    """A ratio of e^100 is infinite in float32, and 0 times it is nan."""
    now = torch.tensor([change], requires_grad=True)
    loss = policy.surrogate(log_prob=now, old=torch.zeros(1), advantages=torch.tensor([gain]))
    loss.sum().backward()
    cut = change > math.log(1.2)
    wanted = -gain * (1.2 if cut else math.exp(change))
    torch.testing.assert_close(loss.item(), wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(now.grad.item(), 0.0 if cut else wanted, rtol=1e-4, atol=1e-6)


def test_numpy_numbers_keep_their_width() -> None:
    old = np.zeros(2)
    found = policy.surrogate(log_prob=torch.zeros(2), old=old, advantages=old)
    assert found.dtype == torch.float64
