"""What Isaac Lab writes of a training's environment beside a checkpoint, read and applied."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutants

from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations.rsl_rl import Command, load_teacher, read_env

yaml = pytest.importorskip("yaml")
LEGS = [f"{leg}_{part}_joint" for part in ("hip", "thigh", "calf") for leg in ("FL", "FR")]


class Mode(enum.Enum):
    ALL = 1


class Thing:
    """Dumped with a tag that would make it again."""

    def __init__(self) -> None:
        self.value = 3


def term(function: str, **changed: Any) -> dict[str, Any]:
    noise = {"func": "isaaclab.utils.noise.noise_model:uniform_noise", "n_min": -0.1, "n_max": 0.1}
    return {"func": f"isaaclab.envs.mdp.observations:{function}", "params": {}, "modifiers": None,
            "noise": noise, "clip": None, "scale": None, "history_length": 0,
            "flatten_history_dim": True, **changed}  # fmt: skip


def group(**terms: Any) -> dict[str, Any]:
    return {"concatenate_terms": True, "concatenate_dim": -1, "enable_corruption": True,
            "history_length": None, "flatten_history_dim": True, **terms}  # fmt: skip


def action(**changed: Any) -> dict[str, Any]:
    return {"class_type": "isaaclab.envs.mdp.actions.joint_actions:JointPositionAction",
            "asset_name": "robot", "debug_vis": False, "clip": None, "joint_names": [".*"],
            "scale": 0.25, "offset": 0.0, "preserve_order": False,
            "use_default_offset": True, **changed}  # fmt: skip


def environment(**changed: Any) -> dict[str, Any]:
    """The settings of a small walking robot, with all that a writer leaves in."""
    joints = {".*L_hip_joint": 0.1, ".*R_hip_joint": -0.1, ".*_thigh_joint": 0.8,
              ".*_calf_joint": -1.5}  # fmt: skip
    policy = group(
        base_ang_vel=term("base_ang_vel", scale=0.2, clip=(-100.0, float("inf"))),
        base_lin_vel=None,
        velocity_commands=term("generated_commands", scale=(2.0, 2.0, 0.25)),
        joint_pos=term("joint_pos_rel", history_length=3),
    )
    return {
        "viewer": {"eye": (7.5, 7.5, 7.5), "resolution": (1280, 720)},
        "sim": {"dt": 0.005, "gravity": (0.0, 0.0, -9.81), "thing": Thing()},
        "seed": 42,
        "decimation": 4,
        "scene": {"robot": {"init_state": {"joint_pos": joints, "joint_vel": {".*": 0.0}}}},
        "recorders": {"mode": Mode.ALL, "number": np.float32(1.5)},
        "observations": {"policy": policy, "critic": group(height=term("height_scan"))},
        "actions": {"joint_pos": action()},
        "events": {"mass": {"asset_cfg": {"joint_ids": slice(None)}, "range": (-1.0, 3.0)}},
        "episode_length_s": 20.0,
        **changed,
    }


def folder(path: Path, env: Any, agent: str | None = None, sort: bool = False) -> Path:
    """A run of Isaac Lab, written as its ``dump_yaml`` does it."""
    (path / "params").mkdir(parents=True, exist_ok=True)
    text = env if isinstance(env, str) else yaml.dump(env, default_flow_style=False, sort_keys=sort)
    (path / "params" / "env.yaml").write_text(text)
    if agent is not None:
        (path / "params" / "agent.yaml").write_text(agent)
    return path / "model_3.pt"


def weights(path: Path, observations: int = 4, actions: int = 2) -> Path:
    own = {"0.weight": torch.ones(3, observations), "0.bias": torch.ones(3),
           "2.weight": torch.ones(actions, 3), "2.bias": torch.ones(actions)}  # fmt: skip
    state = {f"actor.{k}": v for k, v in own.items()} | {"std": torch.ones(actions)}
    torch.save({"model_state_dict": state, "iter": 3, "infos": None}, path)
    return path


def test_the_terms_are_read_in_the_order_of_the_training(tmp_path: Path) -> None:
    path = folder(tmp_path, environment())
    text = (tmp_path / "params" / "env.yaml").read_text()
    for tag in ("python/tuple", "apply:builtins.slice", "python/object:", "numpy"):
        assert tag in text
    found = read_env(path)
    assert [t.name for t in found.observations] == [
        "base_ang_vel", "velocity_commands", "joint_pos"]  # fmt: skip
    first, second, third = found.observations
    assert first.clip == (-100, float("inf")) and first.scale == 0.2 and first.history == 1
    assert second.scale == (2.0, 2.0, 0.25) and second.clip is None
    assert third.function.endswith(":joint_pos_rel") and third.history == 3 and third.scale == 1
    assert found.step == pytest.approx(0.02) and found.episode == 20 and found.sizes == {}
    assert found.clip_actions is None
    assert [t.name for t in read_env(path, "critic").observations] == ["height"]
    with pytest.raises(CheckpointError, match=r"no observation group 'teacher'.*policy, critic: p"):
        read_env(path, "teacher")


@pytest.mark.parametrize(
    ("agent", "role", "groups"),
    [
        ("obs_groups: {actor: [critic, policy]}", "actor", ["critic", "policy"]),
        ("obs_groups: {policy: [critic], critic: [policy]}", "actor", ["critic"]),
        ("obs_groups: {student: [policy], teacher: [critic]}", "teacher", ["critic"]),
        ("obs_groups: {student: [policy], teacher: [critic]}", "student", ["policy"]),
        ("seed: 3", "student", ["policy"]),
        ("obs_groups: {actor: [[1]]}", "actor", ["policy"]),
    ],
)
def test_the_groups_are_those_of_the_network(
    tmp_path: Path, agent: str, role: str, groups: list[str]
) -> None:
    found = read_env(folder(tmp_path, environment(), agent), role)
    assert list(dict.fromkeys(t.group for t in found.observations)) == groups


def test_one_history_of_the_group_is_that_of_all_terms(tmp_path: Path) -> None:
    env = environment()
    env["observations"]["policy"]["history_length"] = 5
    assert {t.history for t in read_env(folder(tmp_path, env)).observations} == {5}


# ---- what the robot was asked to do ----


@given(st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6), st.permutations(LEGS))
def test_actions_are_applied_as_isaac_lab_does(
    tmp_path_factory: pytest.TempPathFactory, said: list[float], robot: list[str]
) -> None:
    clip = {".*_calf_joint": (-2.0, 1.0)}
    env = environment(actions={"joint_pos": action(clip=clip)})
    path = folder(tmp_path_factory.mktemp("run"), env, "clip_actions: 10.0")
    (command,) = read_env(path).commands(torch.tensor([said]), robot)
    assert isinstance(command, Command) and command.kind == "position" and command.joints == robot
    for value, joint, raw in zip(command.values[0].tolist(), robot, said, strict=True):
        default = {"thigh": 0.8, "calf": -1.5}.get(
            joint.split("_")[1], 0.1 if joint[1] == "L" else -0.1
        )
        wanted = 0.25 * max(-10.0, min(10.0, raw)) + default
        wanted = max(-2.0, min(1.0, wanted)) if "calf" in joint else wanted
        assert value == pytest.approx(wanted, abs=1e-5)


def test_several_terms_and_orders(tmp_path: Path) -> None:
    actions = {
        "legs": action(joint_names=["F._thigh_joint", ".*_calf_joint"], preserve_order=True,
                       scale={".*_calf_joint": 2.0}, offset={"FR_.*": 1.0},
                       use_default_offset=False),
        "gone": None,
        "hips": action(class_type="omni.isaac.lab.envs.mdp.actions.joint_actions:JointEffortAction",
                       joint_names=".*_hip_joint", scale=3.0, use_default_offset=False),
    }  # fmt: skip
    robot = ["FL_calf_joint", "FL_hip_joint", "FL_thigh_joint", "FR_hip_joint", "FR_calf_joint"]
    found = read_env(folder(tmp_path, environment(actions=actions)))
    legs, hips = found.commands(torch.ones(2, 5), robot)
    assert legs.joints == ["FL_thigh_joint", "FL_calf_joint", "FR_calf_joint"]
    assert legs.values.tolist() == [[1.0, 2.0, 3.0]] * 2
    assert (hips.kind, hips.joints) == ("effort", ["FL_hip_joint", "FR_hip_joint"])
    assert hips.values.tolist() == [[3.0, 3.0]] * 2
    with pytest.raises(CheckpointError, match=r"terms have 5 joints, the actions are \[2, 4\]"):
        found.commands(torch.ones(2, 4), robot)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"class_type": "mine:EMAJointPositionToLimitsAction"}, "is a EMAJointPositionToLimits"),
        ({"joint_names": ["arm_.*"]}, "do not fit those of the robot"),
        ({"joint_names": [".*", ".*_hip_joint"]}, "do not fit those of the robot"),
        ({"joint_names": [".*"], "scale": {".*": 1.0, ".*hip.*": 2.0}}, "fits several of"),
        ({"joint_names": None}, "do not fit|have 0 joints"),
    ],
)
def test_actions_of_other_kinds_are_refused_when_they_are_applied(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    path = folder(tmp_path, environment(actions={"joint_pos": action(**changed)}))
    found = read_env(path)  # all the rest is told
    with pytest.raises(CheckpointError, match=match):
        found.commands(torch.ones(2, 6), LEGS)


# ---- what cannot be read ----


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"observations": {"policy": group(a=term("a")) | {"concatenate_terms": False}}}, "concat"),
        ({"observations": {"policy": group(a={"scale": 1})}}, r"observations\.policy\.a .*no func"),
        ({"observations": {"policy": group(a=term("a", scale="x"))}}, "'x' where a number"),
        ({"observations": {"policy": group(a=term("a", clip=(1.0, -1.0)))}}, "two bounds stand"),
        ({"observations": {"policy": group(a=term("a", clip=3.0))}}, "two bounds stand"),
        ({"decimation": [4]}, "where a number stands"),
        ({"sim": {"dt": float("nan")}}, "where a number stands"),
        ({"actions": {"a": action(joint_names=["(a+)+b"])}}, "none or could take long"),
        ({"actions": {"a": action(joint_names=["(a|a)" * 9])}}, "none or could take long"),
        ({"actions": {"a": action(joint_names=["a?" * 9])}}, "none or could take long"),
        ({"actions": {"a": action(joint_names=["["])}}, "none or could take long"),
        ({"actions": {"a": action(joint_names=[["x"]])}}, "none or could take long"),
        ({"actions": {"a": action(scale={".*": None})}}, "nothing where a number"),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    path = folder(tmp_path, environment(**changed), "actor: {activation: elu}")
    with pytest.raises(CheckpointError, match=match):
        read_env(path)
    load_teacher(weights(path))  # the weights tell enough


def test_a_file_that_was_sorted_has_lost_its_order(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="somebody has sorted them"):
        read_env(folder(tmp_path, environment(), sort=True))
    with pytest.raises(CheckpointError, match=r"there is no .*env\.yaml, which Isaac Lab writes"):
        read_env(tmp_path / "other" / "deep" / "model.pt")


def test_code_in_the_file_is_not_run_and_its_size_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = yaml.dump(environment(), sort_keys=False)
    evil = "evil: !!python/object/apply:os.mkdir [ran]\n"
    assert len(read_env(folder(tmp_path / "a", text + evil)).observations) == 3
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="has more than 524288 bytes"):
        read_env(folder(tmp_path / "b", text + "#" * 2**19))


def test_a_changed_file_ends_in_an_error_of_ours_or_is_read(tmp_path: Path) -> None:
    text = yaml.dump(environment(), sort_keys=False).encode()
    path, ends = folder(tmp_path, environment()), {"read": 0, "refused": 0}
    for content in mutants(text, 150, "env"):
        (tmp_path / "params" / "env.yaml").write_bytes(content)
        try:
            read_env(path).commands(torch.ones(1, 6), LEGS)
            ends["read"] += 1
        except CheckpointError:
            ends["refused"] += 1
    assert min(ends.values()) > 10


# ---- beside weights ----


def test_a_network_of_other_sizes_is_refused(tmp_path: Path) -> None:
    agent = "obs_groups: {policy: [policy]}\npolicy: {activation: elu}"
    direct = "observation_space: 4\naction_space: 2\nsim: {dt: 0.01}\ndecimation: 2\n"
    path = weights(folder(tmp_path, direct, agent))
    assert load_teacher(path)(torch.ones(1, 4))["mean"].shape == (1, 2)
    found = read_env(path)
    assert found.sizes == {"observations": 4, "actions": 2} and found.step == pytest.approx(0.02)
    with pytest.raises(CheckpointError, match="_apply_action"):
        found.commands(torch.ones(1, 2), LEGS)
    for sizes, what in (((5, 2), "says 4 obs.*actor has 5"), ((4, 3), "says 2 act.*actor has 3")):
        with pytest.raises(CheckpointError, match=what):
            load_teacher(weights(path, *sizes))
    # other groups have other numbers, which the file does not tell
    folder(tmp_path, direct, agent.replace("[policy]", "[policy, more]"))
    load_teacher(weights(path, 9, 2))


@pytest.mark.parametrize("env", ["whole", "sorted", "torn", "none"])
def test_actions_that_the_wrapper_cut_are_told(tmp_path: Path, env: str) -> None:
    """Also where only ``agent.yaml`` can be read."""
    agent = "clip_actions: 1.5\nactor: {activation: elu}"
    path = weights(folder(tmp_path, environment(), agent, sort=env == "sorted"))
    if env == "none":
        (tmp_path / "params" / "env.yaml").unlink()
    elif env == "torn":
        (tmp_path / "params" / "env.yaml").write_text("{a: [")
    with pytest.warns(UserWarning, match=r"clip_actions: 1\.5: the training cut actions"):
        load_teacher(path)
