"""Any Gymnasium vector environment, as RSL-RL wants to see one."""

from __future__ import annotations

import re

import pytest
import torch
from rsl_helpers import Point, env, gym, points, ppo_config, quiet

from distill_lib.integrations.rsl_rl import GymVecEnv


def test_a_box_is_the_group_policy_and_a_dict_keeps_its_names():
    assert {k: v.shape for k, v in env(4).get_observations().items()} == {"policy": (4, 3)}
    groups = env(4, groups=True).get_observations()
    assert {k: v.shape for k, v in groups.items()} == {"student": (4, 2), "teacher": (4, 3)}
    assert all(v.dtype == torch.float32 for v in groups.values())


def test_it_is_seeded():
    first = [env(3, seed=s).get_observations()["policy"] for s in (1, 1, 2)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_a_time_limit_is_a_time_out_and_an_end_is_none():
    world = env(64)
    outs = ends = 0
    for t in range(1, 13):
        push = torch.ones(64, 2) * torch.tensor([1.0, -1.0])  # most run away, some are cut first
        push[:8] = 0.0
        before = world.episode_length_buf.clone()
        obs, reward, done, extras = world.step(push)
        cut = extras["time_outs"]
        assert done.shape == reward.shape == cut.shape == (64,) and done.dtype == torch.long
        assert torch.equal(world.episode_length_buf == 0, done.bool())
        assert (before[cut] == 5).all()
        assert not (cut & ~done.bool()).any()
        # same-step autoreset: what is seen after the end is the beginning of the next episode
        assert (obs["policy"][done.bool()][:, 2] == 0).all()
        outs, ends = outs + int(cut.sum()), ends + int((done.bool() & ~cut).sum())
        assert torch.equal(world.get_observations()["policy"], obs["policy"]), t
    assert outs and ends


def test_actions_are_clipped_to_the_space():
    world = env(2)
    world.step(
        torch.full((2, 2), 7.0)
    )  # the environment asserts that it gets an action of its space
    assert world.num_actions == 2 and world.max_episode_length == 6


@pytest.mark.parametrize("mode", ["NEXT_STEP", "DISABLED"])
def test_another_autoreset_is_refused_with_the_way_out(mode):
    with pytest.raises(ValueError, match=rf"autoreset_mode {mode}.*AutoresetMode\.SAME_STEP"):
        GymVecEnv(points(mode=gym.vector.AutoresetMode[mode]))


def test_nan_observations_are_refused_by_environment_and_group():
    world = env(3, groups=True, broken_at=2)
    world.step(torch.zeros(3, 2))
    words = "group 'student' is not a number (NaN) in environment 0 and 2 others, after 2 steps"
    with pytest.raises(ValueError, match=re.escape(words)):
        world.step(torch.zeros(3, 2))


def test_a_policy_that_diverged_is_named_and_not_the_environment():
    world = env(3)
    with pytest.raises(ValueError, match=r"acts with NaN in 1 of 3 .*smaller learning rate"):
        world.step(torch.tensor([[0.0, 0.0], [float("nan"), 0.0], [0.0, 0.0]]))


def test_discrete_actions_are_refused():
    mode = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    env = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync", vector_kwargs=mode)
    with pytest.raises(ValueError, match=r"vectors of real numbers, and Discrete\(2\)"):
        GymVecEnv(env)
    env.close()


def test_discrete_observations_are_refused():
    class Counter(gym.Env):
        observation_space = gym.spaces.Dict({"count": gym.spaces.Tuple((gym.spaces.Discrete(3),))})
        action_space = gym.spaces.Box(-1, 1, (1,))

        def reset(self, **kwargs):
            return {"count": (0,)}, {}

    mode = gym.vector.AutoresetMode.SAME_STEP
    env = gym.vector.SyncVectorEnv([Counter], autoreset_mode=mode)
    with pytest.raises(ValueError, match=r"group 'count' is a tuple.*FlattenObservation"):
        GymVecEnv(env, max_episode_length=3)


def test_an_unknown_length_of_episodes_is_asked_for():
    env = gym.vector.SyncVectorEnv([Point], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match="pass max_episode_length"):
        GymVecEnv(env)
    assert GymVecEnv(env, max_episode_length=9).max_episode_length == 9


def test_the_runner_of_rsl_rl_learns_on_it():
    from rsl_rl.runners import OnPolicyRunner

    world = env(4, groups=True)
    with quiet():
        runner = OnPolicyRunner(world, ppo_config([4]))
        before = [p.clone() for p in runner.alg.actor.parameters()]
        runner.learn(1)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, runner.alg.actor.parameters(), strict=True)
    )
    assert world.unwrapped is world
    world.close()


@pytest.mark.parametrize("groups", [False, True])
def test_what_was_seen_stays_as_it_was(groups):
    """A vector without copies writes every observation into the same array."""
    mode = gym.vector.AutoresetMode.SAME_STEP
    one = lambda: gym.wrappers.TimeLimit(Point(groups), 6)  # noqa: E731
    worlds = []
    for copied in (True, False):
        vector = gym.vector.SyncVectorEnv([one] * 3, copy=copied, autoreset_mode=mode)
        worlds.append(GymVecEnv(vector, seed=0, max_episode_length=6))
    seen = [[world.get_observations()] for world in worlds]
    for _ in range(4):
        for world, track in zip(worlds, seen, strict=True):
            track.append(world.step(torch.ones(3, 2))[0])
    for plain, shared in zip(*seen, strict=True):
        assert all(torch.equal(plain[name], shared[name]) for name in plain.keys())  # noqa: SIM118


def test_numbers_of_numpy_and_of_half_precision_are_taken():
    import numpy as np

    worlds = [env(2, seed=s) for s in (np.int64(5), 5)]
    first, second = (world.get_observations()["policy"] for world in worlds)
    assert torch.equal(first, second)
    half = torch.tensor([[0.5, 0.25], [1.0, -1.0]])
    said = [world.step(x)[1] for world, x in zip(worlds, (half.bfloat16(), half), strict=True)]
    assert torch.equal(*said)


def test_one_environment_is_not_several():
    made = Point()
    mode = gym.vector.AutoresetMode.SAME_STEP
    vector = gym.vector.SyncVectorEnv([lambda: made] * 2, autoreset_mode=mode)
    with pytest.raises(ValueError, match="are one and the same Point"):
        GymVecEnv(vector, max_episode_length=5)


@pytest.mark.parametrize("length", [0, -5])
def test_an_episode_has_a_step(length):
    with pytest.raises(ValueError, match="max_episode_length expected a whole number of 1 or more"):
        GymVecEnv(points(2), max_episode_length=length)
