"""Networks that say two numbers for each action are read as such, or refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from rsl_helpers import checkpoint, config, env, ppo_config, quiet
from rsl_rl.modules import distribution
from rsl_rl.runners import DistillationRunner, OnPolicyRunner

from distill_lib import KD, Match, losses, zoo
from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations.rsl_rl import (
    Distillation,
    Kickstarting,
    give_teacher,
    load_model,
    load_teacher,
    read_policy,
    write_policy,
)

WIDE = "HeteroscedasticGaussianDistribution"
TWO = [WIDE] + ["BetaDistribution"] * hasattr(distribution, "BetaDistribution")  # not in 5.0
SETTINGS = {
    5: "actor: {activation: elu, distribution_cfg: {class_name: %s, init_std: 1.0}}",
    3: "policy: {activation: elu, state_dependent_std: true}",
}


def of(name: str) -> dict[str, Any]:
    return {"class_name": name} | ({"init_std": 0.5} if "Gaussian" in name else {})


def trained(folder: Path, name: str, settings: str | None = None) -> Path:
    """The checkpoint of a PPO with one distribution, and Isaac Lab's settings beside it."""
    cfg = ppo_config([8, 7])
    cfg["actor"]["distribution_cfg"] = of(name)
    torch.manual_seed(0)
    with quiet():
        runner = OnPolicyRunner(env(groups=True), cfg)
        runner.learn(1)
    folder.mkdir(exist_ok=True)
    torch.save({**runner.alg.save(), "iter": 1, "infos": None}, folder / "model_1.pt")
    if settings is not None:
        (folder / "params").mkdir()
        (folder / "params" / "agent.yaml").write_text(settings)
    return folder / "model_1.pt"


def distilling(name: str, **algorithm: Any) -> Any:
    cfg = config(**{"class_name": Distillation, **algorithm})
    cfg["teacher"]["distribution_cfg"] = of(name)
    with quiet():
        return DistillationRunner(env(groups=True), cfg)


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("release", [5, None])
def test_two_numbers_for_each_action_are_not_taken_for_actions(tmp_path, name, release):
    told = None if release is None else SETTINGS[release] % f"rsl_rl.modules:{name}"
    path = trained(tmp_path, name, told)
    words = "draws the actions of every actor: its 4 outputs are two .* each of 2 actions"
    if release:
        words = f"the actor has a {name}, so that its 4 outputs are not 4 actions"
    for std in (None, 0.1):
        with pytest.raises(CheckpointError, match=words + ".*load it with give_teacher"):
            load_teacher(path, "elu", std=std)
    with pytest.raises(CheckpointError, match=words):
        load_model(path, "elu")
    with pytest.raises(CheckpointError, match="draws the actions of every actor"):
        read_policy(path).policy("elu", std=0.1)


def test_what_release_3_called_its_deviation_is_told_too(tmp_path):
    path = trained(tmp_path, WIDE, SETTINGS[3])
    with pytest.raises(CheckpointError, match=f"the actor has a {WIDE}"):
        load_teacher(path, std=0.1)


def test_the_settings_of_a_plain_deviation_hinder_nothing(tmp_path):
    path = trained(tmp_path, "GaussianDistribution", SETTINGS[5] % "GaussianDistribution")
    assert load_teacher(path)(torch.zeros(1, 3))["mean"].shape == (1, 2)
    give_teacher(distilling("GaussianDistribution"), path)


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("settings", [SETTINGS[5], None])
def test_a_model_of_the_same_distribution_says_what_was_saved(tmp_path, name, settings):
    path = trained(tmp_path, name, settings and settings % name)
    objective = KD(losses.gaussian_kl, on="gaussian") if name == WIDE else Match("mean")
    runner = distilling(name, objective=objective)
    give_teacher(runner, path)
    state = torch.load(path, weights_only=True)["actor_state_dict"]
    assert all(torch.equal(v, state[k]) for k, v in runner.alg.teacher.state_dict().items())
    with quiet():
        seen = runner.env.get_observations()
        runner.alg.act(seen)
        stored = runner.alg.transition.privileged_actions
        assert stored.shape == (4, 4 if name == WIDE else 2)
        assert torch.equal(stored[:, :2], runner.alg.teacher(seen))
        runner.learn(1)


@pytest.mark.parametrize("name", TWO)
def test_a_model_of_another_distribution_is_refused(tmp_path, name):
    path = trained(tmp_path / "told", name, SETTINGS[5] % name)
    for other in {"GaussianDistribution", *TWO} - {name}:
        with pytest.raises(CheckpointError, match=f"has a {name}, the model has {other}: give it"):
            give_teacher(distilling(other), path)
    bare = trained(tmp_path / "bare", name)
    with pytest.raises(CheckpointError, match=r"7→4, the model .*7→2\..* has two outputs for each"):
        give_teacher(distilling("GaussianDistribution"), bare)
    with pytest.raises(CheckpointError, match=r"7→2, the model 3→8→7→4|wants two numbers for each"):
        give_teacher(distilling(name), checkpoint())


@pytest.mark.parametrize("name", TWO)
def test_a_policy_of_the_zoo_is_not_written_into_such_a_runner(tmp_path, name):
    cfg = ppo_config([6])
    cfg["actor"]["distribution_cfg"] = of(name)
    with quiet():
        runner = OnPolicyRunner(env(groups=True), cfg)
    policy = zoo.Policy(3, 4, (6,), "elu", continuous=True, clip=None)  # as wide as the network
    with pytest.raises(CheckpointError, match=f"{name} wants two numbers .*'GaussianDistribution'"):
        write_policy(policy, runner, tmp_path / "m.pt")


@pytest.mark.parametrize("name", TWO)
def test_only_a_gaussian_actor_is_kickstarted_as_one(name):
    cfg = ppo_config([6])
    cfg["actor"]["distribution_cfg"] = of(name)
    cfg["teacher"], cfg["obs_groups"]["teacher"] = config()["teacher"], ["teacher"]
    pull = KD(losses.gaussian_kl, on="gaussian")
    cfg["algorithm"] |= {"class_name": Kickstarting, "objective": pull}
    with quiet():
        runner = OnPolicyRunner(env(groups=True), copy.deepcopy(cfg))
        give_teacher(runner, checkpoint())
        if name == WIDE:
            assert runner.learn(1) is None
            return
        with pytest.raises(KeyError, match="no signal 'gaussian'"):
            runner.learn(1)
