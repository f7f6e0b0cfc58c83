"""Policies answer observations of every type of real numbers, and keep their bound."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.models import PixelPolicy, Policy

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def stated(policy: nn.Module) -> nn.Module:
    for name, value in policy.named_buffers():
        value.add_(torch.rand(value.shape) + 0.1 * ("var" in name))
    for weight in policy.parameters():
        nn.init.normal_(weight, std=0.3)
    return policy


@pytest.mark.parametrize("own", TYPES)
@pytest.mark.parametrize("theirs", [*TYPES, torch.int64, torch.uint8])
def test_the_answer_has_the_policys_type_whatever_is_seen(
    own: torch.dtype, theirs: torch.dtype
) -> None:
    torch.manual_seed(0)
    exact = stated(Policy(3, 2, critic=True)).double()
    seen = torch.randint(0, 3, (5, 3)).to(theirs)
    said, wanted = copy.deepcopy(exact).to(own)(seen), exact(seen.double())
    rough = {torch.float16: 0.02, torch.bfloat16: 0.15}.get(own, 1e-5)
    for name, value in said.items():
        assert value.dtype == own
        torch.testing.assert_close(value.double(), wanted[name], atol=rough, rtol=rough)


@pytest.mark.parametrize("own", TYPES)
def test_a_number_that_never_moved_is_no_problem_in_half_precision(
    own: torch.dtype,
) -> None:
    policy = Policy(2, 3)
    policy.obs_var.zero_()
    assert policy.to(own)(torch.zeros(4, 2, dtype=own))["logits"].isfinite().all()


@pytest.mark.parametrize("theirs", [torch.float32, torch.float64, torch.uint8])
def test_pictures_of_every_type_and_number_are_answered(theirs: torch.dtype) -> None:
    torch.manual_seed(0)
    policy = PixelPolicy((2, 36, 36), 3, features=4, continuous=True, critic=True)
    many = torch.randint(0, 256, (2, 5, 2, 36, 36), dtype=torch.uint8)
    many = many if theirs == torch.uint8 else many.to(theirs) / 255
    said = policy(many)
    assert said["features"].shape == (2, 5, 4) and said["mean"].dtype == torch.float32
    for place in ((0, 0), (1, 3)):
        for name, value in policy(many[place]).items():
            torch.testing.assert_close(value, said[name][place])
    assert policy(many[:0])["mean"].shape == (0, 5, 3)


def test_what_is_no_tensor_is_refused() -> None:
    for seen in ([[0.0, 0.0]], torch.zeros(1, 2).numpy()):
        with pytest.raises(TypeError, match="expected a tensor of observations"):
            Policy(2, 3)(seen)
        with pytest.raises(TypeError, match="expected a tensor of pictures"):
            PixelPolicy((2, 36, 36), 3)(seen)


@settings(max_examples=30)
@given(
    st.sampled_from([None, 3.0, 5.0, 10.0]),
    st.sampled_from([None, 3.0, 5.0, 10.0]),
    st.sets(st.sampled_from(["net", "critic", "obs"])),
)
def test_only_a_state_with_statistics_says_a_bound(
    mine: float | None, theirs: float | None, parts: set[str]
) -> None:
    """The bound belongs to the statistics: a state of other parts leaves it as it is."""
    policy = Policy(3, 2, hidden=(4,), critic=True, clip=mine)
    state = Policy(3, 2, hidden=(4,), critic=True, clip=theirs).state_dict()
    some = {k: v for k, v in state.items() if k.startswith(tuple(parts))} if parts else {}
    policy.load_state_dict(some, strict=False)
    wanted = theirs if "obs" in parts else mine
    assert policy.clip == (math.inf if wanted is None else wanted)
    whole = nn.ModuleDict({"one": Policy(3, 2, hidden=(4,), clip=mine)})
    whole.load_state_dict({f"one.{k}": v for k, v in some.items()}, strict=False)
    assert whole["one"].clip == policy.clip


def test_statistics_that_are_not_finite_are_refused_and_change_nothing() -> None:
    policy = Policy(2, 1).normalize_to(torch.randn(5, 2))
    before: Tensor = policy.obs_mean.clone()
    with pytest.raises(ValueError, match="variance is not finite"):
        policy.normalize_to(torch.tensor([[1e30, 0.0], [-1e30, 1.0]]))
    assert torch.equal(policy.obs_mean, before)
