"""Our algorithms in RSL-RL's own runner."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from rsl_helpers import checkpoint, config, env, ppo_config, quiet, scanned
from rsl_rl.algorithms import Distillation as Theirs
from rsl_rl.runners import DistillationRunner, OnPolicyRunner

from distill_lib import KD, Match, linear, losses, zoo
from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.integrations.rsl_rl import (
    Distillation,
    Kickstarting,
    give_teacher,
    load_teacher,
    read_policy,
    write_policy,
)

ROOT = Path(__file__).parents[2]
MSE = Match("mean", loss=losses.mse_logits)
NAME = "distill_lib.integrations.rsl_rl:Distillation"


@pytest.fixture(scope="module")
def teacher_file():
    return checkpoint()


def runner_of(path, cfg=None, **algorithm):
    """A runner with its teacher, always the same at its start."""
    torch.manual_seed(0)
    cfg = cfg or config(**{"class_name": Distillation, **algorithm})
    with quiet():
        runner = DistillationRunner(env(5, groups=True), cfg)
        give_teacher(runner, path)
    return runner


def learned(path, times=1, **algorithm):
    runner = runner_of(path, **algorithm)
    with quiet():
        runner.learn(times)
    return runner


def weights(runner):
    return torch.cat([p.flatten() for p in runner.alg.student.mlp.parameters()])


def recurrent(cfg, kind="gru"):
    cfg["student"].update(class_name="RNNModel", rnn_type=kind, rnn_hidden_dim=5)
    return cfg


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_squared_error_and_chunks_of_one_step_are_theirs_exactly(teacher_file, epochs):
    common = {"gradient_length": 1, "num_learning_epochs": epochs, "max_grad_norm": 1.0}
    theirs = learned(teacher_file, 2, class_name="Distillation", **common)
    ours = learned(teacher_file, 2, objective=MSE, **common)
    assert torch.equal(weights(theirs), weights(ours))
    assert not torch.equal(weights(ours), weights(runner_of(teacher_file)))


def test_the_name_in_a_configuration_is_found(teacher_file):
    runner = learned(teacher_file, class_name=NAME)
    assert type(runner.alg) is Distillation and isinstance(runner.alg, Theirs)


def step_length(path, length, **algorithm):
    cfg = {"gradient_length": length, "optimizer": "sgd", "learning_rate": 1e-3, **algorithm}
    with pytest.warns(UserWarning) if length == 4 and "objective" not in cfg else quiet():
        runner = runner_of(path, **cfg)
    before = weights(runner).detach().clone()
    with quiet():
        runner.learn(1)
    return (weights(runner).detach() - before).norm().item()


def test_the_size_of_a_step_does_not_depend_on_the_length_of_a_chunk(teacher_file):
    ours = [step_length(teacher_file, n, objective=MSE) / (10 / n) for n in (1, 5, 10)]
    theirs = [
        step_length(teacher_file, n, class_name="Distillation") / (10 / n) for n in (1, 5, 10)
    ]
    assert max(ours) < 1.5 * min(ours)
    assert theirs[2] > 5 * theirs[0]


def test_the_last_steps_are_trained_on(teacher_file):
    with quiet():
        theirs = runner_of(teacher_file, class_name="Distillation", gradient_length=11)
        ours = runner_of(teacher_file, gradient_length=11)
        at = [weights(r).clone() for r in (theirs, ours)]
        theirs.learn(1)
        ours.learn(1)
    assert torch.equal(weights(theirs), at[0])  # ten steps, and not one of them was used
    assert not torch.equal(weights(ours), at[1])


def test_the_deviation_of_the_student_is_learned_and_theirs_is_not(teacher_file):
    theirs = learned(teacher_file, 3, class_name="Distillation")
    ours = learned(teacher_file, 30, learning_rate=0.03)
    assert (theirs.alg.student.distribution.std_param == 0.2).all()
    found = ours.alg.student.distribution.std_param.detach()
    teacher = read_policy(teacher_file).std
    assert (found > 0.2).all() and (found - teacher).abs().max() < 0.6 * (0.2 - teacher).abs().max()


def test_a_schedule_follows_the_iterations_of_the_runner(teacher_file):
    seen = []

    class Spy(Match):
        def values(self, student, teacher, batch, progress):
            seen.append(progress)
            return super().values(student, teacher, batch, progress)

    objective = linear(1, 0.5) * Spy("mean", loss=losses.mse_logits)
    learned(teacher_file, 4, objective=objective, iterations=4, gradient_length=10)
    assert seen == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": linear(2, 0) * MSE},
        {"objective": KD(losses.bernoulli_kl, temperature=linear(4, 1), on="mean")},
        {"learning_rate": linear(1e-2, 0)},
    ],
)
def test_a_schedule_without_a_length_is_refused(teacher_file, settings):
    with pytest.raises(ValueError, match="say iterations= in the configuration"):
        runner_of(teacher_file, **settings)


def test_the_rate_follows_its_schedule(teacher_file):
    runner = learned(teacher_file, 4, learning_rate=linear(1e-2, 0), iterations=4)
    assert runner.alg.learning_rate == pytest.approx(0.25e-2)
    assert runner.alg.optimizer.param_groups[0]["lr"] == pytest.approx(0.25e-2)


def test_a_projector_of_the_objective_is_trained(teacher_file):
    torch.manual_seed(1)
    project = torch.nn.Linear(2, 2)
    before = project.weight.clone()
    # the configuration is copied by RSL-RL
    runner = learned(teacher_file, objective=Match("mean", loss=losses.mse_logits, project=project))
    (term,) = runner.alg.objective.terms
    assert not torch.equal(term.project.weight, before)


@pytest.mark.parametrize("loss_type", ["mse", "huber"])
def test_a_configuration_of_theirs_trains_as_it_says(teacher_file, loss_type):
    """Isaac Lab's holds a loss_type unless it is told otherwise; only the class is ours."""
    common = {"gradient_length": 1, "loss_type": loss_type}
    theirs = learned(teacher_file, 2, class_name="Distillation", **common)
    ours = learned(teacher_file, 2, **common)
    assert (weights(theirs) - weights(ours)).abs().max() < 1e-6
    assert (weights(ours) - weights(learned(teacher_file, 2, gradient_length=1))).abs().max() > 1e-4


def test_a_loss_that_is_said_twice_or_unknown_is_refused(teacher_file):
    with pytest.raises(ValueError, match="both say what the loss is: set loss_type to None"):
        runner_of(teacher_file, loss_type="mse", objective=MSE)
    for other in ("kl", ["mse"]):
        with pytest.raises(ValueError, match=r"'.+: RSL-RL has mse and huber"):
            runner_of(teacher_file, loss_type=other)
    assert runner_of(teacher_file, loss_type=None, objective=MSE).alg.objective.terms


def test_a_student_that_cannot_explore_is_refused(teacher_file):
    cfg = config(class_name=Distillation)
    del cfg["student"]["distribution_cfg"]
    with pytest.raises(ValueError, match=r"has no distribution_cfg.*GaussianDistribution"):
        runner_of(teacher_file, cfg)


def test_a_teacher_without_a_deviation_says_only_its_mean(teacher_file):
    cfg = config(class_name=Distillation, objective=MSE)
    del cfg["teacher"]["distribution_cfg"]
    runner = runner_of(teacher_file, copy.deepcopy(cfg))
    with quiet():
        runner.learn(1)
    cfg["algorithm"]["objective"] = KD(losses.gaussian_kl, on="gaussian")
    runner = runner_of(teacher_file, cfg)
    with quiet(), pytest.raises(KeyError, match=r"no signal 'gaussian'.*it has: mean"):
        runner.learn(1)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_students_learn_also_over_the_ends_of_episodes(teacher_file, kind):
    cfg = recurrent(config(class_name=Distillation, gradient_length=4, num_learning_epochs=2), kind)
    runner = runner_of(teacher_file, cfg)  # episodes of 6 steps at most, chunks of 4, 4 and 2
    before = [p.clone() for p in runner.alg.student.rnn.parameters()]
    with quiet():
        runner.learn(3)
    after = list(runner.alg.student.rnn.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    copy.deepcopy(runner.alg.student)


def test_no_gradient_and_no_memory_passes_the_end_of_an_episode(teacher_file):
    cfg = recurrent(config(class_name=Distillation, gradient_length=10))
    runner = runner_of(teacher_file, cfg)
    alg, world = runner.alg, runner.env
    with torch.inference_mode():
        for _ in range(10):
            seen = world.get_observations()
            seen, rewards, dones, extras = world.step(alg.act(seen))
            alg.process_env_step(seen, rewards, dones, extras)
    batches = list(alg.storage.generator())
    ends = [t for t, b in enumerate(batches[:-1]) if b.dones[0]]
    assert ends
    for batch in batches:
        batch.observations["student"].requires_grad_()
    alg.student.reset()
    said = alg._student_says(batches)["mean"].view(10, 5, 2)
    said[ends[0] + 1, 0].sum().backward()
    reached = [b.observations["student"].grad for b in batches]
    assert reached[ends[0] + 1][0].abs().sum() > 0
    assert all(g is None or not g[0].any() for g in reached[: ends[0] + 1])


def save(runner, path):
    """As the runner saves; in RSL-RL 5.0 it cannot where it has no folder for its logs."""
    at = runner.current_learning_iteration
    torch.save({**runner.alg.save(), "iter": at, "infos": None}, path)
    assert load_checkpoint(path).kind.startswith("rsl_rl-5/")  # what we add hinders no reader
    return path


def test_training_goes_on_from_its_own_checkpoint(teacher_file, tmp_path):
    settings = {"learning_rate": linear(1e-2, 0), "iterations": 8}
    runner = learned(teacher_file, 4, **settings)
    again = runner_of(teacher_file, **settings)
    again.load(str(save(runner, tmp_path / "m.pt")))
    assert torch.equal(weights(again), weights(runner)) and again.alg.teacher_loaded
    assert again.alg.num_updates == 4
    with quiet():
        again.learn(1)
    assert again.alg.learning_rate == pytest.approx(0.5e-2)


def test_a_training_of_rsl_rl_goes_on_at_the_iteration_it_tells(teacher_file, tmp_path):
    theirs = learned(teacher_file, 4, class_name="Distillation")
    path = save(theirs, tmp_path / "m.pt")
    ours = runner_of(teacher_file, learning_rate=linear(1e-2, 0), iterations=8)
    ours.load(str(path))
    assert torch.equal(weights(ours), weights(theirs))
    assert ours.alg.num_updates == torch.load(path, weights_only=True)["iter"] + 1


def test_a_student_with_a_memory_goes_on_with_an_empty_one(teacher_file, tmp_path):
    """The runner of a resumed training begins new episodes, whose memory is empty anyway."""
    cfg = recurrent(config(class_name=Distillation))
    runner = runner_of(teacher_file, copy.deepcopy(cfg))
    with quiet():
        runner.learn(2)
    path = save(runner, tmp_path / "m.pt")
    assert runner.alg.student.get_hidden_state().any()
    again = runner_of(teacher_file, copy.deepcopy(cfg))
    again.load(str(path))
    for name, tensor in runner.alg.student.state_dict().items():
        assert torch.equal(again.alg.student.state_dict()[name], tensor)
    assert again.alg.student.get_hidden_state() is None and again.alg._memory is None
    assert not again.env.episode_length_buf.any()
    with quiet():
        again.learn(1)
    assert again.alg.num_updates == 3 and again.alg._memory.any()


def test_a_projector_of_the_objective_goes_on(teacher_file, tmp_path):
    pull = Match("mean", loss=losses.mse_logits, project=torch.nn.Linear(2, 2))
    runner, again = learned(teacher_file, objective=pull), runner_of(teacher_file, objective=pull)
    again.load(str(save(runner, tmp_path / "m.pt")))
    for a, b in zip(runner.alg.objective.parameters(), again.alg.objective.parameters(),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b) and not torch.equal(a, torch.zeros_like(a))


def test_a_configuration_of_plain_values_names_teacher_and_objective(teacher_file):
    # what Isaac Lab's script does: it loads a teacher for this very name, or with --resume
    plain = {"class_name": NAME, "teacher_file": str(teacher_file), "objective": f"{__name__}:made"}
    assert json.loads(json.dumps(plain)) == plain
    torch.manual_seed(0)
    with quiet():
        runner = DistillationRunner(env(5, groups=True), config(**plain))
        runner.learn(1)
    wanted = learned(teacher_file, objective=made())
    assert torch.equal(weights(runner), weights(wanted))


def made():
    """The objective of a configuration that names it."""
    return MSE


@pytest.mark.parametrize("bad", [lambda: MSE, 3, f"{__name__}:checkpoint"])
def test_what_is_no_objective_is_refused(teacher_file, bad):
    with pytest.raises(TypeError, match=r"objective expected terms, such as KD.*or the name"):
        runner_of(teacher_file, objective=bad)


@pytest.mark.parametrize("name", [NAME, "Distillation"])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_teachers_are_loaded_and_learned_from(tmp_path, name, kind):
    memory = {"class_name": "RNNModel", "rnn_type": kind, "rnn_hidden_dim": 5}
    cfg = ppo_config([8, 7])
    for who in ("actor", "critic"):
        cfg[who] |= memory
    with quiet():
        ppo = OnPolicyRunner(env(groups=True), cfg)
    path = save(ppo, tmp_path / "new.pt")
    state = torch.load(path, weights_only=True)
    old = {}
    for role in ("actor", "critic"):
        for key, value in state[f"{role}_state_dict"].items():
            key = key.replace("mlp.", f"{role}.").replace("rnn.rnn.", f"memory_{role[0]}.rnn.")
            key = key.replace("obs_normalizer.", f"{role}_obs_normalizer.")
            old[key.replace("distribution.std_param", "std")] = value
    torch.save({"model_state_dict": old, "iter": 0, "infos": None}, tmp_path / "old.pt")
    students = []
    for file, by in (
        ("new.pt", "give"),
        ("old.pt", "give"),
        ("new.pt", "load"),
        ("old.pt", "load"),
    ):
        cfg = config(class_name=name)
        cfg["teacher"] |= memory
        torch.manual_seed(0)
        with quiet():
            runner = DistillationRunner(env(5, groups=True), cfg)
            if by == "give":
                give_teacher(runner, tmp_path / file)
            elif file == "new.pt" or name == NAME:
                runner.load(str(tmp_path / file))
            else:
                continue  # RSL-RL reads its own layout alone
            teacher = runner.alg.teacher.state_dict()
            runner.learn(2)
        assert all(torch.equal(teacher[k], v) for k, v in state["actor_state_dict"].items())
        students.append(weights(runner))
    assert all(torch.equal(one, students[0]) for one in students)
    with pytest.raises(CheckpointError, match=r"is recurrent, and needs RSL-RL's RNNModel"):
        give_teacher(runner_of(checkpoint()), path)


@pytest.mark.parametrize("name", [NAME, "Distillation"])
def test_teachers_that_see_images_are_loaded_and_learned_from(tmp_path, name):
    images = {"class_name": "CNNModel", "cnn_cfg": {"output_channels": [3], "kernel_size": 3}}
    cfg = ppo_config([8, 7])
    cfg["obs_groups"] = {"actor": ["teacher", "scan"], "critic": ["teacher", "scan"]}
    for who in ("actor", "critic"):
        cfg[who] |= images
    with quiet():
        ppo = OnPolicyRunner(scanned(), cfg)
        ppo.learn(1)
    path = save(ppo, tmp_path / "model.pt")
    state = torch.load(path, weights_only=True)["actor_state_dict"]
    assert any(k.startswith("cnns.scan.") for k in state)
    for student in ({}, images):  # one that sees numbers alone, one that sees the images too
        taught = []
        for by in ("give", "load"):
            cfg = config(class_name=name)
            cfg["teacher"] |= images
            cfg["student"] |= student
            seen = ["student", "scan"] if student else ["student"]
            cfg["obs_groups"] = {"student": seen, "teacher": ["teacher", "scan"]}
            torch.manual_seed(0)
            with quiet():
                runner = DistillationRunner(scanned(5), cfg)
                if by == "give":
                    give_teacher(runner, path)
                else:
                    runner.load(str(path))
                before = weights(runner)
                runner.learn(2)
            teacher = runner.alg.teacher.state_dict()
            assert all(torch.equal(teacher[k], v) for k, v in state.items())
            assert not torch.equal(weights(runner), before)
            taught.append(weights(runner))
        assert torch.equal(*taught)


def test_the_runners_own_load_takes_older_layouts(teacher_file, tmp_path):
    state = torch.load(teacher_file, weights_only=True)["actor_state_dict"]
    flat = {k.replace("mlp.", "actor."): v for k, v in state.items() if "mlp" in k}
    torch.save({"model_state_dict": {**flat, "std": torch.ones(2)}, "iter": 3, "infos": None},
               tmp_path / "old.pt")  # fmt: skip
    with quiet():
        runner = DistillationRunner(env(groups=True), config(class_name=Distillation))
    with pytest.raises(ValueError, match="Teacher model parameters not loaded"):
        runner.learn(1)
    runner.load(str(tmp_path / "old.pt"))
    assert runner.alg.teacher_loaded
    assert torch.equal(runner.alg.teacher.mlp[0].weight, state["mlp.0.weight"])


# ---- with a reward ----


def kick_config(**algorithm):
    cfg = ppo_config([6])
    cfg["teacher"] = config()["teacher"]
    cfg["obs_groups"]["teacher"] = ["teacher"]
    cfg["algorithm"] |= {"class_name": Kickstarting, "entropy_coef": 0.0, **algorithm}
    return cfg


def kicked(path, times=1, load=True, **algorithm):
    torch.manual_seed(0)
    with quiet():
        runner = OnPolicyRunner(env(5, groups=True), kick_config(**algorithm))
        if load:
            give_teacher(runner, path)
        runner.learn(times)
    return runner


def test_kickstarting_with_weight_zero_is_ppo_exactly(teacher_file):
    pull = KD(losses.gaussian_kl, on="gaussian")
    kick = kicked(teacher_file, objective=0.0 * pull)
    torch.manual_seed(0)
    cfg = kick_config()
    cfg["algorithm"]["class_name"] = "PPO"
    with quiet():
        from rsl_rl.models import MLPModel  # noqa: F401

        plain = OnPolicyRunner(env(5, groups=True), cfg)
        # the teacher's construction draws random numbers
        kick_runner = OnPolicyRunner(env(5, groups=True), kick_config(objective=0.0 * pull))
        give_teacher(kick_runner, teacher_file)
        kick_runner.alg.actor.load_state_dict(plain.alg.actor.state_dict())
        kick_runner.alg.critic.load_state_dict(plain.alg.critic.state_dict())
        for runner in (plain, kick_runner):
            torch.manual_seed(1)
            runner.learn(1)
    for a, b in zip(plain.alg.actor.parameters(), kick_runner.alg.actor.parameters(), strict=True):
        assert torch.equal(a, b)
    assert kick.alg.num_updates == 1


def test_kickstarting_pulls_towards_the_teacher(teacher_file):
    pull = KD(losses.gaussian_kl, on="gaussian")

    def distance(weight):
        runner = kicked(teacher_file, 25, objective=weight * pull, learning_rate=3e-3,
                        schedule="fixed")  # fmt: skip
        seen = runner.env.get_observations()
        return (runner.alg.actor(seen) - runner.alg.teacher(seen)).square().mean().item()

    assert distance(20.0) < 0.5 * distance(1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": linear(2, 0) * MSE}, "say iterations="),
        ({"objective": MSE, "symmetry_cfg": {}}, "takes the place of the symmetry extension"),
        ({"objective": Match("mean", project=torch.nn.Linear(2, 2))}, "would not train the projec"),
    ],
)
def test_kickstarting_says_what_it_cannot(teacher_file, change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        kicked(teacher_file, **change)


def test_kickstarting_wants_a_loaded_teacher_and_no_memory(teacher_file):
    with pytest.raises(ValueError, match="no teacher is loaded"):
        kicked(teacher_file, objective=MSE, load=False)
    cfg = kick_config(objective=MSE)
    for who in ("actor", "critic"):
        cfg[who].update(class_name="RNNModel", rnn_type="gru", rnn_hidden_dim=4)
    with quiet(), pytest.raises(ValueError, match="recurrent actor is not supported"):
        OnPolicyRunner(env(groups=True), cfg)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_kickstarting_refuses_a_teacher_with_a_memory(kind):
    """Its memory would run over shuffled minibatches."""
    cfg = kick_config(objective=MSE)
    cfg["teacher"].update(class_name="RNNModel", rnn_type=kind, rnn_hidden_dim=4)
    words = r"recurrent teacher \(RNNModel\).*feed-forward teacher, or .* with our Distillation"
    with quiet(), pytest.raises(ValueError, match=words):
        OnPolicyRunner(env(groups=True), cfg)


def test_kickstarting_goes_on_with_its_teacher_and_its_schedule(teacher_file, tmp_path):
    settings = {"objective": linear(2, 0) * KD(losses.gaussian_kl, on="gaussian"), "iterations": 8}
    runner = kicked(teacher_file, 4, **settings)
    with quiet():
        again = OnPolicyRunner(env(5, groups=True), kick_config(**settings))
        again.load(str(save(runner, tmp_path / "m.pt")))
        assert again.alg.num_updates == 4 and again.alg.teacher_loaded
        for a, b in zip(runner.alg.teacher.parameters(), again.alg.teacher.parameters(),
                        strict=True):  # fmt: skip
            assert torch.equal(a, b)
        again.learn(1)
    assert again.alg.num_updates == 5


def test_kickstarting_reads_its_teacher_from_a_file(teacher_file):
    settings = {"objective": f"{__name__}:made", "teacher_file": str(teacher_file)}
    runner = kicked(None, load=False, **settings)
    wanted = kicked(teacher_file, objective=made())
    for a, b in zip(runner.alg.teacher.parameters(), wanted.alg.teacher.parameters(), strict=True):
        assert torch.equal(a, b)


def test_kickstarting_reports_the_value_of_its_objective(teacher_file):
    """In all releases: RSL-RL 5.0 would report the loss that is put aside."""
    once = {"num_learning_epochs": 1, "num_mini_batches": 1, "learning_rate": 0.0}
    runner = kicked(teacher_file, objective=MSE, schedule="fixed", **once)
    with quiet(), torch.inference_mode():
        seen = runner.env.get_observations()
        for _ in range(8):
            seen = runner.env.step(runner.alg.act(seen))[0]
            runner.alg.process_env_step(seen, torch.zeros(5), torch.zeros(5), {})
        runner.alg.compute_returns(seen)
    stored = runner.alg.storage.observations.flatten(0, 1).clone()
    wanted = (runner.alg.actor(stored) - runner.alg.teacher(stored)).square().mean(-1).mean()
    report = runner.alg.update()
    assert report["teacher"] == pytest.approx(wanted.item(), rel=1e-4)


# ---- back into RSL-RL ----


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("runner_kind", [OnPolicyRunner, DistillationRunner])
def test_a_student_plays_in_the_runner_that_loads_it(tmp_path, norm, runner_kind):
    torch.manual_seed(0)
    teacher = load_teacher(checkpoint(), "elu")
    student = zoo.Policy(3, 2, (6, 5), "elu", continuous=True, std=0.3).normalize_as(teacher)
    for layer in student.net[::2]:
        torch.nn.init.normal_(layer.weight)
    on_policy = runner_kind is OnPolicyRunner
    cfg = ppo_config([6, 5]) if on_policy else config(class_name="Distillation")
    cfg["obs_groups"] |= {} if on_policy else {"student": ["teacher"]}
    own = "actor" if on_policy else "student"
    cfg[own] |= {"hidden_dims": [6, 5], "obs_normalization": norm}
    with quiet():
        runner = runner_kind(env(5, groups=True), copy.deepcopy(cfg))
        before = copy.deepcopy(runner.alg.save())
        path = write_policy(student, runner, tmp_path / "model_0.pt")
        for key, value in runner.alg.save()[f"{own}_state_dict"].items():
            assert torch.equal(value, before[f"{own}_state_dict"][key])
        again = runner_kind(env(5, groups=True), copy.deepcopy(cfg))
        again.load(str(path))
    seen = again.env.get_observations()
    wanted = student(seen["teacher"])
    played = again.get_inference_policy()(seen)
    torch.testing.assert_close(played, wanted["mean"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again.alg.get_policy().distribution.std_param.detach(),
                               torch.full((2,), 0.3))  # fmt: skip
    back = read_policy(path, own).policy("elu")(seen["teacher"])
    torch.testing.assert_close(back["gaussian"], wanted["gaussian"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (zoo.Policy(3, 2, (6, 5), "elu", continuous=True), "bounds its normalized .* by 10"),
        (zoo.Policy(3, 2, (6, 5), "elu", clip=None), "discrete actions"),
        (zoo.Policy(3, 2, (6,), "elu", continuous=True, clip=None), r"3→6→2, the model 3→6→5→2"),
        (zoo.Policy(3, 2, (6, 5), "tanh", continuous=True, clip=None), "the same activation"),
    ],
)
def test_a_policy_that_the_runner_cannot_play_is_refused(tmp_path, policy, words):
    for layer in policy.net[::2]:
        torch.nn.init.normal_(layer.weight)
    with quiet():
        runner = OnPolicyRunner(env(5, groups=True), ppo_config([6, 5]))
    with pytest.raises(CheckpointError, match=words):
        write_policy(policy, runner, tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.peers
@pytest.mark.slow
def test_all_of_this_holds_in_the_release_that_isaac_lab_pins():
    home = Path(sys.prefix) / "peers" / "rsl_rl-5"
    if not home.is_dir():
        pytest.skip(f"RSL-RL 5.0.1 is not installed into {home}; python make.py setup does it")
    if "PYTEST_RSL_RL" in os.environ:
        assert version("rsl-rl-lib") == "5.0.1"
        return
    files = sorted(str(path) for path in Path(__file__).parent.glob("test_rsl_*.py"))
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(home), str(ROOT)]),
             "PYTEST_RSL_RL": "5.0.1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run([*command, *files], env=paths, cwd=ROOT, capture_output=True, text=True,
                          timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
