"""Students of other sizes, spaces that differ, and pendula side by side."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsl_helpers import env, points

from distill_lib import KD, distill, losses, zoo
from distill_lib.integrations import rsl_rl
from distill_lib.integrations.rsl_rl import Adapter, Pendula, check_spaces, play
from distill_lib.models.control import Policy as Control
from distill_lib.zoo import Policy


def small(observations=2, actions=1):
    torch.manual_seed(0)
    return Control(observations, actions, hidden=(8,), continuous=True)


# ---- the adapter ----


def test_the_projection_begins_as_the_identity_and_is_trained_with_the_student():
    student = small()
    adapter = Adapter(student, observations=3, takes=2)
    seen = torch.randn(6, 3)
    assert torch.equal(adapter(seen)["mean"], student(seen[:, :2])["mean"])
    teacher = Control(3, 1, hidden=(8,), continuous=True)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    batches = [{"inputs": torch.randn(32, 3)} for _ in range(20)]
    weight = adapter.project.weight.clone()
    history = distill(
        adapter, teacher, batches, KD(losses.gaussian_kl, on="gaussian"), epochs=3, lr=1e-2
    )
    assert history["kd"][-1] < history["kd"][0]
    assert not torch.equal(adapter.project.weight, weight)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_actions_are_picked_and_never_learned():
    adapter = Adapter(small(actions=2), actions=[2, 0])
    said = Control(3, 3, hidden=(), continuous=True)(torch.randn(5, 3))
    picked = adapter.of_teacher(said)
    assert torch.equal(picked["mean"], said["mean"][:, [2, 0]])
    assert torch.equal(picked["gaussian"], said["gaussian"][:, [2, 0, 5, 3]])
    assert sum(p.numel() for p in adapter.parameters()) == sum(
        p.numel() for p in adapter.student.parameters()
    )
    plain = Adapter(small())
    assert plain.of_teacher({"mean": said["mean"]})["mean"] is said["mean"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"observations": 3}, "observations=3, takes=None"),
        ({"takes": 3}, "observations=None, takes=3"),
        ({"actions": [1, 1]}, r"two of the student's actions have one place: \[1, 1\]"),
    ],
)
def test_what_an_adapter_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        Adapter(small(), **arguments)


def test_a_place_that_the_teacher_does_not_have_is_named():
    with pytest.raises(
        ValueError, match=r"those at \[0, 4\] of the teacher, which has 3: from 0 to"
    ):
        Adapter(small(), actions=[0, 4]).of_teacher({"mean": torch.zeros(1, 3)})


# ---- spaces ----


def test_spaces_that_fit_are_accepted():
    check_spaces(small(3, 2), points(2))
    check_spaces(small(2, 2), env(2, groups=True), group="student")
    check_spaces(zoo.load_teacher("pendulum_rsl_rl"), gym.make("Pendulum-v1"))
    check_spaces(Policy(4, 2), gym.make("CartPole-v1"))


@pytest.mark.parametrize(
    ("policy", "group", "words"),
    [
        ((3, 2), "student", r"takes 3 numbers, the environment shows 2 in 'student'\..*Adapter"),
        ((2, 5), "student", r"says 5 actions, the environment takes 2\..*Adapter\(actions="),
        (
            (2, 2),
            None,
            r"has the observation groups student, teacher; say which .*group=, got None",
        ),
    ],
)
def test_spaces_that_differ_are_refused_with_both_sizes(policy, group, words):
    with pytest.raises(ValueError, match=words):
        check_spaces(small(*policy), points(2, groups=True), group)


# ---- pendula ----


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_pendula_are_gymnasiums_pendulum(seed):
    one, many = gym.make("Pendulum-v1").unwrapped, Pendula(3)
    one.reset(seed=0)
    many.reset(seed=seed)
    one.state = np.array([many.angle[1], many.speed[1]])
    for push in np.random.default_rng(seed).uniform(-3, 3, (60, 3, 1)).astype(np.float32):
        seen, reward, *_ = one.step(push[1])
        all_seen, rewards, ended, cut, _ = many.step(push)
        np.testing.assert_allclose(all_seen["teacher"][1], seen, atol=2e-5)
        np.testing.assert_allclose(rewards[1], reward, atol=2e-5)
        assert not ended.any() and not cut.any()


def test_pendula_begin_anew_after_200_steps_and_are_seeded():
    many = Pendula(4, keep=[2, 0], noise=0.0)
    first, _ = many.reset(seed=5)
    assert many.observation_space.contains(first)
    np.testing.assert_array_equal(first["student"], first["teacher"][:, [2, 0]])
    for t in range(200):
        seen, _, ended, cut, _ = many.step(np.zeros((4, 1)))
        assert cut.all() == (t == 199) and not ended.any()
    assert (np.abs(seen["teacher"][:, 2]) <= 1).all()  # a beginning, not an end
    again, _ = many.reset(seed=5)
    np.testing.assert_array_equal(first["teacher"], again["teacher"])


def test_the_noise_of_the_student_is_not_the_teachers():
    many = Pendula(4000, noise=0.3)
    seen, _ = many.reset(seed=0)
    off = seen["student"] - seen["teacher"]
    assert abs(off.std() - 0.3) < 0.01 and abs(off.mean()) < 0.02
    assert (np.abs(seen["teacher"][:, :2]) <= 1).all()


def test_the_shipped_teacher_plays_as_its_card_says():
    card = zoo.card("pendulum_rsl_rl")
    model = rsl_rl.load_model(zoo.FOLDER / card["file"], "elu", group="teacher")
    found = play(model, Pendula(400), seed=0)
    assert found.lengths.unique().tolist() == [200]
    error = card["score"]["std"] * (1 / 400 + 1 / card["score"]["n"]) ** 0.5
    assert abs(found.mean - card["score"]["value"]) < 5 * error


def test_the_shipped_file_loads_in_rsl_rls_runners_as_it_is():
    import sys

    from rsl_helpers import model, ppo_config, quiet
    from rsl_rl.runners import DistillationRunner, OnPolicyRunner

    path = str(zoo.FOLDER / "pendulum_rsl_rl.pt")
    world = rsl_rl.GymVecEnv(Pendula(2), seed=0)
    cfg = {
        "num_steps_per_env": 4, "save_interval": 9, "student": model([4]),
        "teacher": model([128, 128]), "algorithm": {"class_name": "Distillation",
        "gradient_length": 2}, "obs_groups": {"student": ["student"], "teacher": ["teacher"]},
    }  # fmt: skip
    with quiet():
        for runner in (
            DistillationRunner(world, cfg),
            OnPolicyRunner(world, ppo_config([128, 128])),
        ):
            runner.load(path)
            runner.learn(1)
    assert "wandb" not in sys.modules


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_observations_of_other_types_are_projected_too(dtype):
    adapter, seen = Adapter(small(), observations=3, takes=2), torch.ones(4, 3)
    assert torch.equal(adapter(seen.to(dtype))["mean"], adapter(seen)["mean"])


@pytest.mark.parametrize("places", [[], [-1], [0, -2]])
def test_places_are_those_of_the_teacher(places):
    with pytest.raises(ValueError, match="places of the teacher's, from 0 on, got"):
        Adapter(small(), actions=places)


@pytest.mark.parametrize("width", [3, 5, 7])
def test_a_teacher_says_a_deviation_for_every_mean(width):
    signals = {"mean": torch.zeros(2, 3), "gaussian": torch.zeros(2, width)}
    with pytest.raises(ValueError, match=r"a teacher of 3 actions says 'gaussian' \[\.\.\., 6\]"):
        Adapter(small(), actions=[0]).of_teacher(signals)


@pytest.mark.parametrize("shape", [(3,), (1, 1), (3, 2), ()])
def test_each_pendulum_has_its_own_push(shape):
    """Of one push for all, each would get the same."""
    world = Pendula(3)
    world.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions expected \[3, 1\], got"):
        world.step(np.zeros(shape))


def test_a_memory_is_emptied_before_playing_and_comes_back():
    from rsl_helpers import config, quiet
    from rsl_rl.runners import DistillationRunner

    cfg = config(class_name="Distillation")
    cfg["student"].update(class_name="RNNModel", rnn_type="gru", rnn_hidden_dim=3)
    cfg["student"]["hidden_dims"] = [4]
    with quiet():
        runner = DistillationRunner(rsl_rl.GymVecEnv(Pendula(2, keep=[0, 1]), seed=0), cfg)
    student = runner.get_inference_policy()
    student(runner.env.get_observations())
    memory = student.get_hidden_state()
    first = play(student, Pendula(5, keep=[0, 1]), seed=1)
    assert student.get_hidden_state() is memory
    assert torch.equal(first.returns, play(student, Pendula(5, keep=[0, 1]), seed=1).returns)
