"""Policies of the zoo: what they say, their normalizer, and the shipped teachers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib import Stacked, Teacher, rl, zoo
from distill_lib.models import PixelPolicy
from distill_lib.zoo import Policy


def test_discrete_policies_say_logits() -> None:
    said = Policy(8, 4, hidden=(18, 18))(torch.randn(5, 8))
    assert {k: tuple(v.shape) for k, v in said.items()} == {"logits": (5, 4)}


def test_real_policies_say_a_mean_and_a_gaussian() -> None:
    said = Policy(11, 3, continuous=True, critic=True, std=0.5)(torch.randn(2, 5, 11))
    assert {k: tuple(v.shape) for k, v in said.items()} == {
        "mean": (2, 5, 3),
        "gaussian": (2, 5, 6),
        "value": (2, 5),
    }
    mean, log_std = said["gaussian"].chunk(2, -1)
    assert torch.equal(mean, said["mean"])
    torch.testing.assert_close(log_std.exp(), torch.full_like(log_std, 0.5))


def test_observations_are_normalized_and_clipped() -> None:
    policy = Policy(2, 2, hidden=())
    policy.obs_mean.copy_(torch.tensor([1.0, -1.0]))
    policy.obs_var.copy_(torch.tensor([4.0, 0.25]))
    plain = Policy(2, 2, hidden=())
    plain.load_state_dict({**policy.state_dict(), "obs_mean": torch.zeros(2),
                           "obs_var": torch.ones(2)})  # fmt: skip
    found = policy(torch.tensor([[3.0, -2.0], [1e9, -1.0]]))["logits"]
    wanted = plain(torch.tensor([[1.0, -2.0], [10.0, 0.0]]))["logits"]
    torch.testing.assert_close(found, wanted)


def test_a_student_takes_over_the_normalizer_and_no_weights() -> None:
    teacher, student = Policy(3, 2), Policy(3, 2)
    teacher.obs_mean.fill_(5.0)
    before = [p.clone() for p in student.parameters()]
    assert student.normalize_as(teacher) is student
    assert torch.equal(student.obs_mean, teacher.obs_mean)
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    with pytest.raises(ValueError, match="sees 4 numbers, the other 3"):
        Policy(4, 2).normalize_as(teacher)


@pytest.mark.parametrize("plus", [0.0, 1e-4])
def test_a_student_normalizes_to_what_it_has_seen(plus: float) -> None:
    torch.manual_seed(0)
    seen = 3 + torch.tensor([2.0, 50.0, 1e-3]) * torch.randn(200, 3)
    student = Policy(3, 2, clip=None)
    weights = copy.deepcopy(list(student.parameters()))
    assert student.normalize_to(seen, plus) is student
    assert all(torch.equal(a, b) for a, b in zip(weights, student.parameters(), strict=True))
    # by hand, as the pages did it
    assert torch.equal(student.obs_mean, seen.mean(0))
    assert torch.equal(student.obs_var, seen.var(0) + plus)
    shown: list[torch.Tensor] = []
    student.net.register_forward_pre_hook(lambda module, given: shown.append(given[0]))
    student(seen)
    assert shown[0].mean(0).abs().max() < 1e-2
    assert torch.allclose(shown[0][:, :2].std(0), torch.ones(2), atol=1e-3)
    other = Policy(3, 2).normalize_to(seen.double(), plus)
    assert other.obs_mean.dtype == torch.float32 and torch.equal(other.obs_var, student.obs_var)


@pytest.mark.parametrize("wrong", [torch.zeros(5, 2), torch.zeros(3), torch.zeros(1, 3)])
def test_a_normalizer_wants_observations_of_its_size(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[N, 3\] with N at least 2"):
        Policy(3, 2).normalize_to(wrong)


def test_a_normalizer_wants_numbers() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Policy(1, 2).normalize_to(torch.tensor([[0.0], [torch.inf]]))
    for plus in (-1.0, torch.inf, torch.nan):
        with pytest.raises(ValueError, match="plus expected a number of at least 0"):
            Policy(1, 2).normalize_to(torch.zeros(2, 1), plus)


def test_the_normalizer_is_no_parameter_and_travels() -> None:
    policy = Policy(3, 2, hidden=(4,))
    assert sum(p.numel() for p in policy.parameters()) == 3 * 4 + 4 + 4 * 2 + 2
    assert {"obs_mean", "obs_var"} <= policy.state_dict().keys()


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of tanh, relu, elu, .*identity, got 'sin'"):
        Policy(3, 2, activation="sin")


@pytest.mark.parametrize("clip", [None, 3.0, 10.0])
def test_a_bound_travels_with_the_weights(clip: float | None) -> None:
    teacher, x = Policy(2, 3, clip=clip), torch.tensor([[50.0, -7.0], [1.0, 2.0]])
    said = teacher(x)["logits"]
    state, plain = teacher.state_dict(), Policy(2, 3, clip=4.0)
    plain.load_state_dict(state)
    for same in (plain, copy.deepcopy(teacher), *Stacked([teacher, teacher], ndim=2).unstack()):
        assert torch.equal(same(x)["logits"], said)
        assert Policy(2, 3).normalize_as(same).clip == teacher.clip
    torch.testing.assert_close(Stacked([teacher, teacher], ndim=2)(x)["logits"][1], said)


def test_policies_with_other_bounds_are_other_policies() -> None:
    one, other = Policy(2, 3, clip=None), Policy(2, 3, clip=5.0)
    other.load_state_dict({**one.state_dict(), "obs_clip": torch.tensor(5.0)})
    assert Teacher(one).fingerprint() != Teacher(other).fingerprint()
    with pytest.raises(ValueError, match=r"is Policy\(clip=5\.0"):
        Stacked([one, other], ndim=2)


@pytest.mark.parametrize("huge", [1e39, 1e300, math.inf])
def test_a_bound_beyond_every_number_is_none(huge: float) -> None:
    x = torch.tensor([[1e6, -7.0]])
    assert torch.equal(Policy(2, 3, clip=huge)(x)["logits"].isfinite(), torch.ones(1, 3).bool())
    assert Policy(2, 3, clip=huge).clip == math.inf


@pytest.mark.parametrize("bad", [0, -1.0, float("nan")])
def test_a_bound_is_positive(bad: float) -> None:
    with pytest.raises(ValueError, match="clip expected a number > 0 or None"):
        Policy(2, 3, clip=bad)


def test_stacked_policies_say_what_each_says() -> None:
    policies = [Policy(4, 3, critic=True) for _ in range(3)]
    x = torch.randn(3, 5, 4)
    said = Stacked(policies, ndim=2)(x)
    for i, policy in enumerate(policies):
        for name, value in policy(x[i]).items():
            torch.testing.assert_close(said[name][i], value)


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.endswith("_ppo")])
def test_a_shipped_policy_is_as_good_as_its_card(name: str) -> None:
    card = zoo.card(name)
    kind = card["architecture"]["kwargs"]
    episodes = 5 if kind.get("continuous") else 20
    found = rl.evaluate(zoo.load_teacher(name), card["env"], episodes)
    error = card["score"]["std"] * (1 / episodes + 1 / card["score"]["n"]) ** 0.5
    assert abs(found.mean - card["score"]["value"]) <= 4 * error + 0.01 * abs(found.mean)


def test_the_teachers_reach_what_they_should() -> None:
    least = {"cartpole_ppo": 499, "acrobot_ppo": -90, "lunarlander_ppo": 240, "hopper_ppo": 3000}
    for name, bound in least.items():
        score = zoo.card(name)["score"]
        assert score["value"] >= bound and score["n"] >= 100
        assert zoo.card(name)["trained"]["minutes"] > 0


@given(st.integers(20, 90), st.integers(20, 90), st.integers(1, 9), st.booleans())
def test_a_pixel_policy_takes_any_picture(
    height: int, width: int, features: int, continuous: bool
) -> None:
    policy = PixelPolicy((3, height, width), 2, features, continuous=continuous, critic=True)
    picture = torch.randint(0, 256, (2, 5, 3, height, width), dtype=torch.uint8)
    said = policy(picture)
    assert said["features"].shape == (2, 5, features) and said["value"].shape == (2, 5)
    assert said["gaussian" if continuous else "logits"].shape == (2, 5, 4 if continuous else 2)
    assert all(torch.allclose(v, policy(picture / 255)[k]) for k, v in said.items())


def test_the_background_is_removed() -> None:
    pictures = torch.randint(0, 256, (50, 2, 20, 20), dtype=torch.uint8)
    policy = PixelPolicy((2, 20, 20), 2).normalize_to(pictures)
    seen: list[torch.Tensor] = []
    policy.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    policy(pictures)
    assert torch.allclose(seen[0].mean(0), torch.zeros(2, 20, 20), atol=1e-5)
    assert seen[0].square().mean().item() == pytest.approx(1, abs=1e-4)
    for wrong in (torch.zeros(3, 2, 20, 20), torch.full((3, 2, 20, 20), torch.nan)):
        with pytest.raises(ValueError, match="alike, or not finite"):
            policy.normalize_to(wrong)
    with pytest.raises(ValueError, match=r"\[N, 2, 20, 20\]"):
        policy.normalize_to(pictures[0])


def test_pictures_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected pictures \[2, 20, 20\], got \[1, 2, 20, 21\]"):
        PixelPolicy((2, 20, 20), 2)(torch.zeros(1, 2, 20, 21))
    for shape in ((2, 19, 20), (20, 20), (0, 20, 20)):
        with pytest.raises(ValueError, match="channels, height, width"):
            PixelPolicy(shape, 2)
    with pytest.raises(ValueError, match="std"):
        PixelPolicy((2, 20, 20), 2, std=0.0)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.int16])
def test_pictures_of_other_kinds_are_refused(kind: torch.dtype) -> None:
    policy = PixelPolicy((1, 20, 20), actions=2)
    with pytest.raises(ValueError, match="of uint8 or of real numbers"):
        policy(torch.ones(3, 1, 20, 20, dtype=kind))


def test_no_picture_is_answered_by_no_answer() -> None:
    said = PixelPolicy((1, 20, 20), actions=2)(torch.zeros(0, 1, 20, 20, dtype=torch.uint8))
    assert said["logits"].shape == (0, 2)


@pytest.mark.parametrize(
    "bad", [torch.tensor(math.nan), torch.tensor(-3.0), torch.ones(2), torch.tensor(-math.inf)]
)
def test_a_state_whose_bound_is_none_is_refused(bad: torch.Tensor) -> None:
    policy = Policy(2, 3, clip=4.0)
    with pytest.raises(ValueError, match="obs_clip expected a number > 0, or 0 for no bound"):
        policy.load_state_dict({**policy.state_dict(), "obs_clip": bad})
    assert policy.clip == 4.0
