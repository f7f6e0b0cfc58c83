"""From answers to actions."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from distill_lib import Stacked, Teacher, rl, zoo
from distill_lib.rl.acting import check_actions, signal_of


def test_greedy_takes_the_best_and_the_mean() -> None:
    z = torch.randn(3, 5, 4)
    assert torch.equal(rl.act({"logits": z}), z.argmax(-1))
    assert torch.equal(rl.act(z), z.argmax(-1))
    gaussian = torch.randn(5, 6)
    assert torch.equal(rl.act({"gaussian": gaussian}), gaussian[:, :3])
    assert torch.equal(rl.act({"mean": gaussian}), gaussian)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_noise_is_the_temperature_of_the_behavior(noise: float) -> None:
    z = torch.tensor([0.0, 1.0, 2.0])
    drawn = rl.act(z.expand(40_000, 3), noise, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, (z / noise).softmax(-1), atol=0.01, rtol=0)


def test_noise_scales_the_standard_deviation() -> None:
    gaussian = torch.tensor([1.0, -1.0, 0.0, -1.0]).expand(40_000, 4)
    drawn = rl.act({"gaussian": gaussian}, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -1.0]), atol=0.02, rtol=0)
    wanted = 0.5 * torch.tensor([0.0, -1.0]).exp()
    torch.testing.assert_close(drawn.std(0), wanted, atol=0.02, rtol=0)


def test_each_item_has_its_own_noise() -> None:
    z = torch.tensor([[0.0, 0.5]]).expand(4_000, 2)
    noise = torch.tensor([0.0, 5.0]).repeat(2_000)
    drawn = rl.act(z, noise, torch.Generator().manual_seed(0))
    assert (drawn[::2] == 1).all() and 0.3 < drawn[1::2].float().mean() < 0.7


def test_the_generator_decides() -> None:
    z = torch.zeros(50, 4)
    one, two = (rl.act(z, 1.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, rl.act(z, 1.0, torch.Generator().manual_seed(4)))


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(KeyError, match=r"says 'logits' .* this one says: hidden"):
        signal_of({"hidden": torch.zeros(1)})
    with pytest.raises(ValueError, match="the policy's answer is not finite"):
        rl.act(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"noise expected numbers ≥ 0, got -1"):
        rl.act(torch.zeros(2, 3), -1.0)
    with pytest.raises(ValueError, match="noise needs a standard deviation"):
        rl.act({"mean": torch.zeros(2, 3)}, 1.0)


def test_asking_changes_no_mode_and_leaves_no_gradient() -> None:
    policy = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    policy[1].eval()
    said = rl.ask(policy, torch.ones(4, 3))
    assert policy.training and policy[0].training and not policy[1].training
    assert not said["logits"].requires_grad
    policy.train()
    one, two = (rl.ask(policy, torch.ones(4, 3))["logits"] for _ in range(2))
    assert torch.equal(one, two) and policy[1].training


def test_modules_teachers_and_stacks_can_be_asked() -> None:
    policies = [zoo.Policy(3, 2) for _ in range(4)]
    x = torch.randn(5, 3)
    said = rl.ask(Stacked(policies, ndim=2), x.expand(4, 5, 3))
    for i, policy in enumerate(policies):
        torch.testing.assert_close(said["logits"][i], rl.ask(policy, x)["logits"])
        torch.testing.assert_close(said["logits"][i], rl.ask(Teacher(policy), x)["logits"])


def test_another_observation_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"could not be asked about observations \[5, 4\].*rl.Priv"
    ):
        rl.ask(zoo.Policy(8, 2), torch.zeros(5, 4))


def test_another_action_space_is_named() -> None:
    four, box = gym.spaces.Discrete(4), gym.spaces.Box(-1, 1, (3,))
    check_actions({"logits": torch.zeros(1, 4)}, four, "teacher")
    check_actions({"gaussian": torch.zeros(1, 6)}, box, "teacher")
    with pytest.raises(
        ValueError, match="takes 4 discrete actions, the teacher says 'logits' for 2"
    ):
        check_actions({"logits": torch.zeros(1, 2)}, four, "teacher")
    with pytest.raises(ValueError, match="takes 3 real actions, the student says 'logits' for 3"):
        check_actions({"logits": torch.zeros(1, 3)}, box, "student")
    with pytest.raises(ValueError, match="actions are Discrete, MultiDiscrete of one axis or Box"):
        check_actions({"logits": torch.zeros(1, 3)}, gym.spaces.MultiBinary(3), "student")


def test_two_views_ask_twice() -> None:
    policy = zoo.Policy(3, 2)
    said = rl.two_views(lambda o: o + 1)(policy, {"inputs": torch.zeros(4, 3)})
    torch.testing.assert_close(said["logits"], policy(torch.zeros(4, 3))["logits"])
    torch.testing.assert_close(said["view"]["logits"], policy(torch.ones(4, 3))["logits"])
    plain = rl.two_views(lambda o: o)(torch.nn.Linear(3, 2), {"inputs": torch.zeros(4, 3)})
    assert torch.equal(plain["logits"], plain["view"]["logits"])
