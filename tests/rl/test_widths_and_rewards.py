"""A width of 1 is no wildcard, and a reward is a number."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_lib import rl, zoo
from distill_lib.rl.acting import check_actions


class Say(nn.Module):
    """Says one signal of a given width."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name, self.width = name, width

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.name: x.new_zeros(*x.shape[:-1], self.width)}


class Pays(gym.Env[Any, Any]):
    """Episodes of ``length`` steps, with given rewards."""

    def __init__(self, *rewards: float, length: int = 4, sees: int = 4) -> None:
        self.observation_space: Any = Box(-1, 1, (sees,))
        self.action_space: Any = gym.spaces.Discrete(2)
        self.rewards, self.length = rewards, length

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        reward = self.rewards[self.at - 1] if self.at <= len(self.rewards) else 1.0
        over = self.at >= self.length
        return np.zeros(self.observation_space.shape, np.float32), reward, over, False, {}


# ---- widths ----


@given(st.integers(1, 5), st.integers(0, 5), st.booleans(), st.sampled_from([(), (3,), (2, 3)]))
def test_a_policy_reads_its_own_width_alone(own, given_width, real, items):
    policy, x = zoo.Policy(own, 2, continuous=real), torch.randn(*items, given_width)
    if own == given_width:
        assert policy(x)["mean" if real else "logits"].shape == (*items, 2)
        return
    with pytest.raises(ValueError, match=r"could not be asked about observations .*rl\.Priv"):
        policy(x)


def test_a_number_is_no_observation():
    with pytest.raises(ValueError, match="could not be asked"):
        zoo.Policy(1, 2)(torch.tensor(1.0))


@pytest.mark.parametrize("play", [
    lambda env: rl.evaluate(zoo.Policy(8, 2), env, 2),
    lambda env: next(iter(rl.Rollouts(env, zoo.Policy(8, 2), episodes=2, batch_size=3))),
    lambda env: next(iter(rl.OnPolicy(env, zoo.Policy(8, 2, critic=True), envs=2, steps=8,
                                      batch_size=4))),
])  # fmt: skip
def test_an_environment_of_one_number_is_not_spread(play):
    with pytest.raises(ValueError, match=r"could not be asked about observations \[2, 1\]"):
        play(lambda: Pays(sees=1))


@given(st.integers(1, 4), st.integers(1, 8), st.booleans(), st.booleans())
def test_a_discretized_policy_has_the_actions_of_its_space(space, width, coded, stds):
    name, wanted = ("mean", space) if stds else ("gaussian", 2 * space)
    how: dict[str, Any] = {"codes": torch.randn(5, space)} if coded else {"bins": 4}
    coarse = rl.DiscretizedPolicy(
        Say(name, width), Box(-1, 1, (space,)), std=0.5 if stds else None, **how
    )
    if width == wanted:
        assert coarse(torch.zeros(2, 4))["logits"].shape == ((2, 5) if coded else (2, space, 4))
        return
    with pytest.raises(ValueError, match=r"expected to be \[\.\.\., .*use the space"):
        coarse(torch.zeros(2, 4))


@given(st.integers(1, 7), st.sampled_from([0.0, 1.0]))
def test_a_gaussian_is_two_numbers_for_each_action(width, noise):
    said = {"gaussian": torch.zeros(3, width)}
    if width % 2 == 0:
        assert rl.act(said, noise).shape == (3, width // 2)
        return
    with pytest.raises(ValueError, match=r"gaussian as \[\.\.\., 2A\]"):
        rl.act(said, noise)
    with pytest.raises(ValueError, match="another action space"):
        check_actions(said, Box(-1, 1, (max(width // 2, 1),)), "policy")


# ---- rewards ----


BAD = st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300])


@given(st.lists(st.floats(-1e6, 1e6), max_size=3), BAD)
def test_a_reward_that_is_not_finite_is_refused_wherever_it_comes(before, bad):
    env = lambda: Pays(*before, bad)  # noqa: E731
    for play in (
        lambda: rl.evaluate(zoo.Policy(4, 2), env, 2),
        lambda: rl.evaluate(zoo.Policy(4, 2), wrapped(env)),
        lambda: rl.sanity(zoo.Policy(4, 2), env, episodes=2, at_least=400),
        lambda: next(iter(rl.Rollouts(env, zoo.Policy(4, 2), episodes=2, batch_size=3))),
        lambda: next(iter(rl.OnPolicy(env, zoo.Policy(4, 2, critic=True), envs=2, steps=8,
                                      batch_size=4))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="environment 0 gave a reward that is not finite"):
            play()


def test_rewards_whose_sum_is_not_finite_are_refused():
    with pytest.raises(ValueError, match="a sum beyond float32"):
        rl.evaluate(zoo.Policy(4, 2), lambda: Pays(3e38, 3e38), 1)


def wrapped(env: Any, mode: str = "SAME_STEP") -> Any:
    modes = gym.vector.AutoresetMode
    vector = gym.vector.SyncVectorEnv([env] * 2, autoreset_mode=modes[mode])
    return gym.wrappers.vector.RecordEpisodeStatistics(vector)


def test_a_reward_of_those_that_wait_is_not_looked_at():
    mixed = [lambda: Pays(length=1), lambda: Pays(length=3)]
    modes = gym.vector.AutoresetMode
    vector: Any = gym.vector.SyncVectorEnv(mixed, autoreset_mode=modes.SAME_STEP)
    inner = vector.step

    def step(actions: Any) -> Any:
        seen, reward, *rest = inner(actions)
        step.calls += 1  # type: ignore[attr-defined]
        reward[0] = math.nan if step.calls > 1 else reward[0]  # type: ignore[attr-defined]
        return seen, reward, *rest

    step.calls, vector.step = 0, step  # type: ignore[attr-defined]
    found = rl.evaluate(zoo.Policy(4, 2), gym.wrappers.vector.RecordEpisodeStatistics(vector))
    assert found.returns.tolist() == [1.0, 3.0]


def test_a_share_of_what_is_no_number_is_refused():
    found = rl.Returns(torch.tensor([1.0, math.nan, 3.0]), torch.ones(3))
    with pytest.raises(ValueError, match="1 of 3 returns that are nan"):
        found.share(2.0)
    whole = rl.Returns(torch.tensor([1.0, 3.0]), torch.ones(2))
    assert whole.share(2.0) == 0.5
    with pytest.raises(ValueError, match="at_least=nan"):
        whole.share(math.nan)
    with pytest.raises(ValueError, match="expected at least nan"):
        rl.sanity(zoo.Policy(4, 2), Pays, episodes=2, at_least=math.nan)


def test_a_wrapped_vector_that_resets_nothing_is_refused():
    for mode in ("SAME_STEP", "NEXT_STEP"):
        found = rl.evaluate(zoo.Policy(4, 2), wrapped(Pays, mode))
        assert found.lengths.tolist() == [4, 4]
    with pytest.raises(ValueError, match=r"AutoresetMode\.DISABLED cannot be stepped.*SAME_STEP"):
        rl.evaluate(zoo.Policy(4, 2), wrapped(Pays, "DISABLED"))
    assert rl.evaluate(zoo.Policy(4, 2), wrapped(Pays, "DISABLED").env).lengths.tolist() == [4, 4]
