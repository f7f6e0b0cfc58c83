"""Returns of whole episodes, their interval, and teachers that fail."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from worlds import Always, Line

from distill_lib import Stacked, Teacher, rl, zoo
from distill_lib.rl.evaluation import students_t


def test_returns_are_undiscounted_sums_of_whole_episodes() -> None:
    found = rl.evaluate(Always(1), lambda: Line(7), 4)
    assert found.returns.tolist() == found.lengths.tolist() == [7.0] * 4
    assert rl.evaluate(Always(0), lambda: Line(7), 4).mean == 0
    assert rl.evaluate(Always(1), lambda: Line(7, cut=True), 4).mean == 7


def test_stacked_policies_play_their_own_episodes() -> None:
    policies = [zoo.Policy(4, 2) for _ in range(3)]
    together = rl.evaluate(Stacked(policies, ndim=2), "CartPole-v1", 5, seed=0)
    assert together.returns.shape == (3, 5)
    assert together.each.shape == (3,)
    for i, policy in enumerate(policies):
        alone = rl.evaluate(policy, "CartPole-v1", 5, seed=5 * i)
        assert torch.equal(alone.returns, together.returns[i])


def test_one_seed_means_the_same_beginnings() -> None:
    policy = zoo.Policy(4, 2)
    one, two = (rl.evaluate(policy, "CartPole-v1", 6, seed=9, noise=1.0) for _ in range(2))
    assert torch.equal(one.returns, two.returns)
    other = rl.evaluate(policy, "CartPole-v1", 6, seed=99, noise=1.0)
    assert not torch.equal(one.returns, other.returns)


def test_the_random_generators_of_others_are_left_alone() -> None:
    before = torch.get_rng_state()
    rl.evaluate(Always(1), lambda: Line(3), 2, noise=1.0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("policies", "between", "within"), [(5, 1.0, 1.0), (5, 0.0, 1.0), (10, 1.0, 5.0), (2, 1.0, 0.0)]
)
def test_ninety_five_of_a_hundred_intervals_hold_the_mean(policies, between, within) -> None:
    draw, trials = torch.Generator().manual_seed(0), 1000
    own = between * torch.randn(trials, policies, 1, generator=draw)
    all_of = own + within * torch.randn(trials, policies, 20, generator=draw)
    held = 0
    for returns in all_of:
        low, high = rl.Returns(returns, torch.ones(policies, 20)).interval()
        held += low <= 0 <= high
    assert 0.93 < held / trials < 0.97  # three standard deviations of such a share


def test_quantiles_of_students_t() -> None:
    table = {(0.95, 1): 12.706, (0.95, 4): 2.776, (0.99, 4): 4.604, (0.9, 30): 1.697}
    for (level, freedom), t in table.items():
        assert students_t(level, freedom) == pytest.approx(t, abs=1e-3)
    assert students_t(0.95, 10**6) == pytest.approx(1.96, abs=1e-3)


def test_one_episode_tells_nothing_of_others() -> None:
    assert rl.Returns(torch.ones(1, 1), torch.ones(1, 1)).interval() == (-math.inf, math.inf)


class Told(gym.Env):
    """It tells the seed of its reset, in two halves that float32 holds exactly."""

    observation_space = gym.spaces.Box(0, 2**16, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array(divmod(seed or 0, 2**16), np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, True, False, {}


@settings(max_examples=15, deadline=None)
@given(lesson=st.integers(0, 2**40), exam=st.integers(0, 2**40))
@example(lesson=1, exam=1_000_000)
@example(lesson=0, exam=0)
def test_nobody_is_examined_in_a_lesson(lesson: int, exam: int) -> None:
    seen: list[torch.Tensor] = []

    class Watch(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 2)

    rollouts = rl.Rollouts(Told, Watch(), episodes=50, seed=lesson, rounds=2)
    rollouts.collect(), rollouts.collect()
    learned = {tuple(row) for row in rollouts.buffer["inputs"].tolist()}
    seen.clear()
    rl.evaluate(Watch(), Told, 50, seed=exam)
    asked = {tuple(row) for row in seen[0].tolist()}
    assert len(learned) == 100 and len(asked) == 50 and not learned & asked


def test_the_interval_covers_policies_and_episodes() -> None:
    torch.manual_seed(0)
    spread = rl.Returns(torch.randn(1, 400) * 10, torch.ones(1, 400))
    low, high = spread.interval()
    assert (high - low) / 2 == pytest.approx(1.96 * 10 / 20, rel=0.15)
    # five policies that differ by far more than their episodes
    apart = rl.Returns(torch.arange(5.0).mul(100).unsqueeze(-1).expand(5, 50), torch.ones(5, 50))
    low, high = apart.interval()
    assert high - low > 100
    assert repr(spread).endswith("400 episodes)") and spread.share(0.0) == pytest.approx(
        0.5, abs=0.1
    )


def test_the_group_is_chosen_by_name() -> None:
    def env():
        return rl.Privileged(Line(4), keep=[0])

    student, teacher = torch.nn.Linear(1, 2), torch.nn.Linear(2, 2)
    assert rl.evaluate(student, env, 2).lengths.tolist() == [4.0, 4.0]
    assert rl.evaluate(teacher, env, 2, sees="teacher").lengths.tolist() == [4.0, 4.0]
    with pytest.raises(KeyError, match=r"no group 'critic'; it has: student, teacher"):
        rl.evaluate(teacher, env, 2, sees="critic")


def test_spaces_that_differ_are_refused() -> None:
    with pytest.raises(
        ValueError, match="takes 2 discrete actions, the policy says 'logits' for 3"
    ):
        rl.evaluate(zoo.Policy(4, 3), "CartPole-v1", 2)
    with pytest.raises(ValueError, match=r"could not be asked about observations \[2, 4\]"):
        rl.evaluate(zoo.Policy(6, 2), "CartPole-v1", 2)


# ---- sanity ----


def test_a_good_teacher_passes() -> None:
    found = rl.sanity(zoo.load_teacher("cartpole_ppo"), "CartPole-v1", at_least=450, episodes=5)
    assert found.mean == 500
    assert rl.sanity(Teacher(Always(1)), lambda: Line(9)).mean == 9


def test_a_teacher_below_its_card_is_refused() -> None:
    with pytest.raises(ValueError, match=r"return of 0\.0 over 20 episodes, expected at least 5"):
        rl.sanity(Always(0), lambda: Line(9), at_least=5)


def test_a_teacher_no_better_than_chance_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"is not above that of chance .* fails its own environment"
    ):
        rl.sanity(Always(0), lambda: Line(9))


def test_a_teacher_without_its_normalizer_is_caught() -> None:
    teacher = zoo.load_teacher("hopper_ppo")
    teacher.obs_mean.zero_()
    teacher.obs_var.fill_(1.0)
    with pytest.raises(ValueError, match="its observation normalizer was not loaded"):
        rl.sanity(teacher, "Hopper-v5", at_least=3000, episodes=3)


def test_an_answer_that_is_not_finite_is_caught() -> None:
    broken = Always(1)
    broken.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="answer is not finite"):
        rl.sanity(broken, lambda: Line(9))
