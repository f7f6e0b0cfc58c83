"""Environments side by side, groups of observations, and whole episodes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from worlds import LENGTH, Line, Reads, World

from distill_lib import rl
from distill_lib.rl.environments import Stage


def test_a_vector_resets_in_the_same_step_unless_asked() -> None:
    for autoreset, after in (("same step", 0.0), ("next step", 3.0)):
        envs = rl.make(lambda: Line(3), 2, autoreset=autoreset)
        envs.reset(seed=0)
        for _ in range(3):
            seen, *_ = envs.step(np.zeros(2, int))
        assert seen[:, 0].tolist() == [after, after]


def test_a_vector_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="num_envs is at least 1, got 0"):
        rl.make("CartPole-v1", 0)
    with pytest.raises(ValueError, match="autoreset is 'same step' or 'next step', got 'never'"):
        rl.make("CartPole-v1", 1, autoreset="never")


def test_settings_reach_the_environments() -> None:
    envs = rl.make("CartPole-v1", 2, max_episode_steps=7)
    assert envs.envs[0].spec.max_episode_steps == 7


def test_the_student_sees_part_of_the_last_frames() -> None:
    env = rl.Privileged(gym.make("CartPole-v1"), keep=[0, 2], frames=3)
    first, _ = env.reset(seed=0)
    assert set(first) == {"student", "teacher"}
    assert first["student"].tolist() == [*first["teacher"][[0, 2]].tolist()] * 3
    history = [first["teacher"][[0, 2]]] * 3
    for _ in range(4):
        seen, *_ = env.step(1)
        history.append(seen["teacher"][[0, 2]])
        assert np.allclose(seen["student"], np.concatenate(history[-3:]))
        assert env.observation_space["student"].shape == seen["student"].shape
    again, _ = env.reset(seed=0)
    assert np.array_equal(again["student"], first["student"])


def test_noise_is_the_students_alone_and_follows_the_seed() -> None:
    def run(seed: int) -> list[np.ndarray]:
        env = rl.Privileged(gym.make("CartPole-v1"), noise=0.5)
        return [env.reset(seed=seed)[0]["student"], *(env.step(1)[0]["student"] for _ in range(3))]

    for one, two in zip(run(3), run(3), strict=True):
        assert np.array_equal(one, two)
    env = rl.Privileged(gym.make("CartPole-v1"), noise=0.5)
    seen, _ = env.reset(seed=3)
    assert 0.05 < np.abs(seen["student"] - seen["teacher"]).max() < 3


def test_groups_that_make_no_sense_are_refused() -> None:
    plain = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"keep names positions 0 to 3 .* got \[4\]"):
        rl.Privileged(plain, keep=[4])
    with pytest.raises(ValueError, match="frames is at least 1, got 0"):
        rl.Privileged(plain, frames=0)
    with pytest.raises(ValueError, match="Privileged expected a flat observation"):
        rl.Privileged(rl.Privileged(plain))


@pytest.mark.parametrize("vector", [False, True])
def test_each_environment_plays_one_episode_and_waits(vector: bool) -> None:
    lengths = [2, 4, 3]
    made = [lambda n=n: Line(n) for n in lengths]
    envs = gym.vector.SyncVectorEnv(made)
    stage = Stage(envs)
    stage.singly = not vector
    stage.begin(seed=0)
    total, played = torch.zeros(3), torch.zeros(3)
    while stage.alive.any():
        played += torch.from_numpy(stage.alive)
        reward, ended, cut = stage.step(torch.ones(3, dtype=torch.long))
        total += reward
        assert not cut.any() and not (ended & torch.from_numpy(stage.alive)).any()
    assert total.tolist() == played.tolist() == [2.0, 4.0, 3.0]


def test_environment_i_is_seeded_with_seed_plus_i() -> None:
    stage = Stage(lambda: Line(3), 3)
    first = stage.begin(seed=5)[:, 1]
    assert torch.equal(stage.begin(seed=6)[:2, 1], first[1:])


def test_real_actions_are_clipped_to_their_bounds() -> None:
    stage = Stage(lambda: Line(2, real=True), 2)
    stage.begin(seed=0)
    reward, _, _ = stage.step(torch.tensor([[7.0], [-0.25]]))
    assert reward.tolist() == [1.0, -0.25]


def test_observations_that_are_not_finite_are_refused() -> None:
    stage = Stage(lambda: Line(5, broken=2), 2)
    stage.begin(seed=0)
    stage.step(torch.zeros(2, dtype=torch.long))
    stage.observation()
    stage.step(torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="environment 0 gave an observation that is not finite"):
        stage.observation()


def test_a_vector_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 episodes at a time need as many environments"):
        Stage(rl.make("CartPole-v1", 2), 3)
    with pytest.raises(ValueError, match="expected at least one episode, got 0"):
        Stage("CartPole-v1", 0)


# ---- what an environment may be ----


def test_an_environment_that_was_made_already_is_refused() -> None:
    one = World(spaces.Discrete(2))
    for env in (one, 3, None, gym.make_vec("CartPole-v1", 2)):
        with pytest.raises(ValueError, match="a function that makes one environment, as many"):
            rl.OnPolicy(env, Reads(), envs=2)
    with pytest.raises(ValueError, match=r"not a gymnasium\.Env"):
        rl.evaluate(Reads(), lambda: gym.make_vec("CartPole-v1", 2), 2)


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_a_vector_plays_one_episode_in_each(mode: str) -> None:
    envs = gym.make_vec("CartPole-v1", 3, vectorization_mode=mode)
    found = rl.evaluate(Reads(), envs)
    assert found.lengths.shape == (3,) and bool((found.lengths < 100).all())
    with pytest.raises(ValueError, match="100 episodes at a time need as many environments"):
        rl.evaluate(Reads(), envs, 100)


# ---- episodes that do not end ----


@pytest.mark.parametrize("vector", [False, True])
def test_an_episode_that_does_not_end_is_an_error(vector: bool) -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)
    endless = lambda: World(space, endless=True)  # noqa: E731
    envs = gym.vector.SyncVectorEnv([endless] * 2) if vector else endless
    episodes = None if vector else 2
    for limit, named in ((7, 7), (None, 10_000)):
        with pytest.raises(ValueError, match=rf"not ended after {named} steps.*TimeLimit.*max_st"):
            rl.evaluate(Reads(), envs, episodes, max_steps=limit)
    with pytest.raises(ValueError, match="not ended after 5 steps"):
        rl.Rollouts(endless, Reads(), episodes=2, max_steps=5).collect()
    with pytest.raises(ValueError, match="not ended after 5 steps"):
        rl.sanity(Reads(), endless, episodes=2, sees="student", max_steps=5)
    limited = lambda: gym.wrappers.TimeLimit(endless(), 9)  # noqa: E731
    assert rl.evaluate(Reads(), limited, 2).lengths.tolist() == [9, 9]
    # a limit counts what is allowed, not one less
    assert rl.evaluate(Reads(), lambda: World(space), 2, max_steps=LENGTH).mean == LENGTH
    for job in (rl.evaluate, rl.sanity):
        with pytest.raises(ValueError, match="max_steps is at least 1, got 0"):
            job(Reads(), endless, episodes=2, max_steps=0)


def test_a_time_limit_that_is_longer_is_kept() -> None:
    space = spaces.Box(-1, 1, (1,), np.float32)
    long = lambda: gym.wrappers.TimeLimit(World(space, endless=True), 10_003)  # noqa: E731
    assert rl.evaluate(Reads(), long, 1).lengths.tolist() == [10_003]
