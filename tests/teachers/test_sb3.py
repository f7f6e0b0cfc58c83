"""Models of Stable-Baselines3 as teachers: they do and say what they do and say there."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from distill_lib import KD, PPO, Match, Teacher, distill, losses, rl, zoo
from distill_lib.teachers import SB3Policy

sb3 = pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402


class World(gym.Env[Any, Any]):
    """Random observations and rewards of zero, in given spaces."""

    def __init__(self, space: Any, actions: Any) -> None:
        self.observation_space, self.action_space = space, actions

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 0.0, self.steps >= 5, False, {}


VECTOR = spaces.Box(-3, 3, (4,), np.float32)
LOW, HIGH = np.array([[-2.0, 0.0], [1.0, 5.0]], np.float32)
TWO, REAL = spaces.Discrete(2), spaces.Box(LOW, HIGH)
HEADS = spaces.MultiDiscrete([3, 2, 5])
SPACES = {
    "vector": VECTOR,
    "double": spaces.Box(-3, 3, (4,), np.float64),
    "discrete": spaces.Discrete(7),
    "several": spaces.MultiDiscrete([3, 4]),
    "binary": spaces.MultiBinary(5),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "first": spaces.Box(0, 255, (3, 36, 36), np.uint8),
}


def model(kind: str, space: Any = VECTOR, actions: Any = None, **settings: Any) -> Any:
    actions = (TWO if kind in ("PPO", "A2C", "DQN") else REAL) if actions is None else actions
    image = len(space.shape or ()) == 3
    if kind in ("PPO", "A2C"):
        settings = {"n_steps": 8, **({"batch_size": 8} if kind == "PPO" else {}), **settings}
    else:
        settings = {"buffer_size": 10, **settings}
    return getattr(sb3, kind)(
        "CnnPolicy" if image else "MlpPolicy", World(space, actions), seed=0, device="cpu",
        policy_kwargs={"net_arch": [8]}, **settings,
    )  # fmt: skip


def sampled(space: Any, count: int = 9) -> np.ndarray:
    space.seed(0)
    return np.stack([space.sample() for _ in range(count)])


def acts(policy: Any, seen: np.ndarray, actions: Any) -> np.ndarray:
    """The greedy actions, by our way."""
    said = rl.ask(policy, torch.as_tensor(seen))
    return rl.spaces.legal(rl.act(said), actions)


CASES = [
    *[("PPO", name, TWO) for name in SPACES], ("PPO", "vector", HEADS), ("A2C", "image", HEADS),
    *[("A2C", name, REAL) for name in SPACES],
    *[("DQN", name, TWO) for name in SPACES],
    *[(kind, name, REAL) for kind in ("SAC", "TD3", "DDPG") for name in ("vector", "image")],
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "actions"), CASES)
def test_a_model_does_what_its_predict_does(kind: str, name: str, actions: Any) -> None:
    teacher = model(kind, SPACES[name], actions)
    seen = sampled(SPACES[name])
    wanted, _ = teacher.predict(seen, deterministic=True)
    found = acts(SB3Policy(teacher), seen, actions)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, atol=1e-6)
    # as a teacher, in rollouts, and in an examination
    assert np.allclose(acts(Teacher(teacher), seen, actions), wanted, atol=1e-6)
    world = lambda: World(SPACES[name], actions)  # noqa: E731
    rollouts = rl.Rollouts(world, teacher, episodes=2)
    rollouts.collect()
    played, _ = teacher.predict(rollouts.buffer["inputs"].numpy(), deterministic=True)
    assert np.allclose(rl.spaces.legal(rollouts.buffer["actions"], actions), played, atol=1e-6)
    assert rl.evaluate(teacher, world, 2).lengths.tolist() == [5, 5]


def test_an_actor_critic_says_its_distribution_and_its_value() -> None:
    seen = torch.as_tensor(sampled(VECTOR))
    discrete, real = model("PPO"), model("PPO", actions=REAL)
    real.policy.log_std.data = torch.tensor([-0.5, 0.25])
    for teacher, name in ((discrete, "logits"), (real, "gaussian")):
        said = Teacher(teacher)({"inputs": seen})
        there = teacher.policy.get_distribution(seen).distribution
        torch.testing.assert_close(said["value"], teacher.policy.predict_values(seen).squeeze(-1))
        if name == "logits":
            torch.testing.assert_close(said["logits"].softmax(-1), there.probs)
        else:
            mean, log_std = said["gaussian"].chunk(2, -1)
            torch.testing.assert_close(mean, there.mean)
            torch.testing.assert_close(log_std, real.policy.log_std.expand_as(mean))


def test_several_heads_have_the_probability_and_the_entropy_that_they_have_there() -> None:
    seen = torch.as_tensor(sampled(VECTOR))
    teacher = model("PPO", actions=HEADS)
    nn.init.normal_(teacher.policy.action_net.weight)
    said = SB3Policy(teacher)(seen)
    there = teacher.policy.get_distribution(seen)
    actions = there.sample()
    for ours, theirs in (
        (losses.policy.log_prob(said["logits"], actions), there.log_prob(actions)),
        (losses.policy.entropy(said["logits"]), there.entropy()),
    ):
        torch.testing.assert_close(losses.policy.whole(ours, said["value"]), theirs)
    batch = {"actions": actions, "log_prob": torch.zeros(9), "advantages": torch.ones(9)}
    objective = PPO(clip=0.9, value=0, entropy=2.0)
    wanted = -there.log_prob(actions).exp().clamp_max(1.9) - 2 * there.entropy()
    torch.testing.assert_close(objective(said, None, batch)[0], wanted.mean())


def test_noise_that_depends_on_the_state_is_its_gaussian_at_that_state() -> None:
    seen = torch.as_tensor(sampled(VECTOR))
    teacher = model("A2C", actions=REAL, use_sde=True)
    said = SB3Policy(teacher)(seen)
    there = teacher.policy.get_distribution(seen).distribution
    torch.testing.assert_close(said["gaussian"], torch.cat([there.mean, there.stddev.log()], -1))
    wanted, _ = teacher.predict(seen.numpy(), deterministic=True)
    assert np.allclose(acts(SB3Policy(teacher), seen.numpy(), REAL), wanted, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 0.01, 5.0])
def test_action_values_are_divided_by_their_temperature(tau: float) -> None:
    teacher, seen = model("DQN"), torch.as_tensor(sampled(VECTOR))
    policy = SB3Policy(teacher, temperature=tau)
    torch.testing.assert_close(policy(seen)["logits"], teacher.policy.q_net(seen) / tau)
    assert (
        Teacher(policy).fingerprint() != Teacher(SB3Policy(teacher, temperature=2.0)).fingerprint()
    )


def test_squashed_actions_have_no_gaussian_and_no_noise() -> None:
    said = SB3Policy(model("SAC"))(torch.as_tensor(sampled(VECTOR)))
    assert set(said) == {"mean"}
    with pytest.raises(ValueError, match="noise needs a standard deviation"):
        rl.act(said, 1.0)


@pytest.mark.parametrize("norm_obs", [True, False])
def test_the_statistics_of_the_training_are_applied(norm_obs: bool) -> None:
    space = spaces.Box(-500, 900, (4,), np.float64)
    envs = VecNormalize(DummyVecEnv([lambda: World(space, TWO)]), norm_obs=norm_obs, clip_obs=1.5)
    teacher = sb3.PPO("MlpPolicy", envs, n_steps=64, batch_size=64, seed=0, device="cpu").learn(64)
    seen = sampled(space).astype(np.float32)
    wanted = torch.as_tensor(envs.normalize_obs(seen))
    policy = SB3Policy(teacher)
    torch.testing.assert_close(policy._read(torch.as_tensor(seen)), wanted)
    values = teacher.policy.predict_values(wanted).squeeze(-1)
    torch.testing.assert_close(Teacher(teacher)({"inputs": torch.as_tensor(seen)})["value"], values)
    given = SB3Policy(teacher.policy, normalize=envs)
    torch.testing.assert_close(given(torch.as_tensor(seen)), policy(torch.as_tensor(seen)))
    # what was said before does not follow a training that goes on
    teacher.learn(64)
    torch.testing.assert_close(policy._read(torch.as_tensor(seen)), wanted)


def test_statistics_that_nobody_named_are_not_forgotten_in_silence(tmp_path: Any) -> None:
    teacher = model("PPO")
    teacher.save(tmp_path / "a.zip")
    loaded = sb3.PPO.load(tmp_path / "a.zip", device="cpu")
    for unknown in (teacher.policy, loaded):
        for job in (SB3Policy, Teacher, lambda m: rl.evaluate(m, "CartPole-v1", 1)):
            with pytest.warns(UserWarning, match=r"normalize=VecNormalize.load.*normalize=False"):
                job(unknown)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SB3Policy(unknown, normalize=False)
            SB3Policy(model("PPO", SPACES["image"]).policy)  # images have none


def test_what_cannot_be_carried_is_refused_with_the_way_out() -> None:
    several = spaces.Dict({"a": VECTOR, "b": VECTOR})
    both = sb3.PPO("MultiInputPolicy", World(several, TWO), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match=r"several observations at once.*FlattenObs"):
        rl.evaluate(both, lambda: World(VECTOR, TWO), 1)
    with pytest.raises(ValueError, match="actions are Discrete or MultiDiscrete from 0 on"):
        Teacher(model("PPO", actions=spaces.MultiBinary(3)))
    with pytest.raises(
        ValueError, match=r"trained on observations \[4\], and is asked about \[6\]"
    ):
        rl.evaluate(model("PPO"), lambda: World(spaces.Box(0, 1, (6,)), TWO), 1)
    with pytest.raises(ValueError, match="the policy says 'logits' for 2: it is a policy"):
        rl.evaluate(model("PPO"), lambda: World(VECTOR, spaces.Discrete(3)), 1)
    with pytest.raises(TypeError, match="expected a model of Stable-Baselines3"):
        SB3Policy(nn.Linear(2, 2))
    for tau in (0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"temperature is above 0, got {tau}"):
            SB3Policy(model("DQN"), temperature=tau)
    with pytest.raises(TypeError, match="expected temperature to be a number, got str '1'"):
        SB3Policy(model("DQN"), temperature="1")
    with pytest.raises(ValueError, match="expected a VecNormalize or False, got str"):
        SB3Policy(model("PPO").policy, normalize="vecnormalize.pkl")
    other = VecNormalize(DummyVecEnv([lambda: World(spaces.Box(0, 1, (6,)), TWO)]))
    with pytest.raises(ValueError, match=r"observations \[6\], the policy reads \[4\]"):
        SB3Policy(model("PPO"), normalize=other)
    recurrent = model("PPO").policy
    recurrent.lstm_actor = nn.LSTM(2, 2)
    with pytest.raises(TypeError, match="keeps a memory, masks actions or is not known"):
        SB3Policy(recurrent)


def test_students_learn_from_such_teachers() -> None:
    torch.manual_seed(0)
    for kind, actions, term in (("PPO", TWO, KD()), ("SAC", REAL, Match("mean", "mean"))):
        teacher = model(kind, actions=actions)
        before = {k: v.clone() for k, v in teacher.policy.state_dict().items()}
        student = zoo.Policy(4, 2, (8,), continuous=kind == "SAC")
        world = lambda a=actions: World(VECTOR, a)  # noqa: E731
        rollouts = rl.Rollouts(world, teacher, student, beta=0.5, episodes=20, updates=150,
                               batch_size=32)  # fmt: skip
        history = distill(student, rollouts.teacher, rollouts, term, epochs=1, lr=1e-2)
        found = next(iter(history[k] for k in ("kd", "match") if k in history.records[0]))
        assert np.mean(found[-10:]) < 0.5 * np.mean(found[:10])
        assert all(torch.equal(v, before[k]) for k, v in teacher.policy.state_dict().items())
