"""Terms of reinforcement on what people bring: columns, lists, signals of other names."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import KD, PPO, Consistency, distill, losses
from distill_lib.terms.policy import Entropy, Surrogate, Value


def batch(items: int = 5) -> dict[str, Tensor]:
    rest = {name: torch.randn(items) for name in ("log_prob", "advantages", "returns")}
    return {"actions": torch.randint(3, (items,)), **rest}


@settings(max_examples=60)
@given(st.integers(1, 4), st.sampled_from(["advantages", "returns", "log_prob", "actions"]))
def test_a_column_beside_a_row_is_refused(items: int, name: str) -> None:
    """[B, 1] and [B] would be made [B, B], each item with the numbers of all others."""
    given = batch(items)
    said = {"logits": torch.randn(items, 3), "value": torch.randn(items)}
    with pytest.raises(ValueError, match=r"axes|squeeze|neither one number"):
        PPO()(said, None, {**given, name: given[name].unsqueeze(-1)})


@settings(max_examples=60)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_a_value_may_be_a_column(shape: list[int]) -> None:
    value, returns = torch.randn(2, *shape)
    found = [
        Value()({"value": v}, None, {"returns": returns})[0] for v in (value, value[..., None])
    ]
    torch.testing.assert_close(found[0], (value - returns).square().mean())
    assert torch.equal(*found)


class Critic(nn.Module):
    """A layer that is called as the signal is."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.value = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.actor(x), "value": self.value(x).squeeze(-1)}


def test_a_critic_learns_whatever_its_layer_is_called() -> None:
    torch.manual_seed(0)
    critic, x = Critic(), torch.randn(64, 4)
    returns = x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
    distill(critic, None, [{"inputs": x, "returns": returns}], 1.0 * Value(), epochs=400, lr=0.05)
    assert (critic(x)["value"] - returns).abs().max() < 0.1


@pytest.mark.parametrize("bring", [Tensor.tolist, Tensor.numpy], ids=["lists", "arrays"])
def test_lists_and_arrays_are_as_good_as_tensors(bring: Any) -> None:
    said = {"logits": torch.randn(5, 3, requires_grad=True), "value": torch.randn(5)}
    said["value"].requires_grad_()
    given = batch()
    objective = PPO(entropy=0.1)
    found = objective(said, None, {name: bring(x) for name, x in given.items()})[0]
    torch.testing.assert_close(found, objective(said, None, given)[0])
    heads = {"logits": torch.randn(5, 2, 3)}
    whole = Entropy()(heads, None, {"log_prob": bring(given["log_prob"])})[0]
    torch.testing.assert_close(whole, losses.policy.entropy(heads["logits"]).sum(-1).mean())


def test_a_mean_is_no_logits() -> None:
    for make in (Surrogate, Entropy, PPO):
        for on in ("mean", "view/mean"):
            with pytest.raises(ValueError, match="a mean alone has no probabilities"):
                make(on=on)


def test_a_signal_inside_another_is_what_its_last_name_says() -> None:
    gaussian, given = torch.randn(5, 4), batch()
    given["actions"] = torch.randn(5, 2)
    for make in (Surrogate, Entropy):
        plain = make(on="gaussian")({"gaussian": gaussian}, None, given)[0]
        inner = make(on="view/gaussian")({"view": {"gaussian": gaussian}}, None, given)[0]
        assert torch.equal(plain, inner)


class Gap:
    def __call__(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().sum(-1)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (losses.kl, "kl"),
        (functools.partial(losses.kl, temperature=2.0), "partial"),
        (Gap(), "Gap"),
    ],
)
def test_every_loss_of_a_consistency_has_a_name(loss: Any, name: str) -> None:
    assert str(Consistency(loss)) == f"consistency({name})"


@pytest.mark.parametrize("on", ["mean", "gaussian", "actor/gaussian"])
def test_a_softmax_of_real_actions_is_refused(on: str) -> None:
    for loss in (losses.kl, losses.jsd, functools.partial(losses.kl, temperature=2.0)):
        with pytest.raises(ValueError, match="would not see a common shift"):
            Consistency(loss, on=on)
    assert Consistency(losses.mse_logits, on=on) and Consistency(losses.kl, on="logits")
    shift = Consistency(losses.gaussian_kl, on="gaussian")
    said = {"gaussian": torch.zeros(1, 4), "view": {"gaussian": torch.tensor([[1.0, 1, 0, 0]])}}
    assert math.isclose(shift(said)[0].item(), 1.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=2, max_size=5).filter(any),
    st.sampled_from([math.nan, math.inf, -1e30, -100.0]),
    st.sampled_from(["logits", "heads", "gaussian"]),
)
def test_what_is_left_out_says_nothing_and_has_no_gradient(
    kept: list[bool], junk: float, kind: str
) -> None:
    """Padding may hold anything: the gradient of nan would be 0 · nan, for all weights."""
    count, mask = len(kept), torch.tensor(kept)
    shape = {"logits": (3,), "heads": (2, 3), "gaussian": (4,)}[kind]
    on = "gaussian" if kind == "gaussian" else "logits"
    given = batch(count)
    if kind != "logits":
        given["actions"] = torch.rand(count, 2).mul(2).to(torch.float32 if on != "logits" else int)
    dirty = {
        name: x.masked_fill(
            ~mask.reshape(-1, *[1] * (x.ndim - 1)), junk if x.is_floating_point() else -100
        )
        for name, x in given.items()
    }
    said = {on: torch.randn(count, *shape), "value": torch.randn(count)}
    found = []
    for rows, numbers in ((slice(None), {**dirty, "mask": mask}), (mask, None)):
        leaf = {name: x[rows].clone().requires_grad_() for name, x in said.items()}
        numbers = numbers or {name: x[mask] for name, x in given.items()}
        loss = PPO(entropy=0.1, on=on)(leaf, None, numbers)[0]
        loss.backward()
        found.append((loss.detach(), [x.grad for x in leaf.values()]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for whole, part in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(whole[mask], part)
        assert not whole[~mask].any()


@pytest.mark.parametrize("on", ["mean", "gaussian", "view/mean"])
@pytest.mark.parametrize("loss", [losses.kl, losses.reverse_kl, losses.jsd, losses.tvd])
def test_a_softmax_is_not_taken_over_real_actions(loss: Any, on: str) -> None:
    """A shift that all actions share would cost nothing."""
    way = "mse_logits" if on.endswith("mean") else "gaussian_kl"
    with pytest.raises(ValueError, match=rf"common shift; KD\(losses\.{way}, on='{on}'\)"):
        KD(loss, on=on)
    with pytest.raises(ValueError, match="common shift"):
        Consistency(loss, on=on)
