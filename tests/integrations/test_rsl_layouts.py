"""Checkpoints of RSL-RL 2 to 5: written by the real libraries where they are, by hand otherwise."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsl_helpers import checkpoint, config, env, quiet
from tensordict import TensorDict

from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.integrations.rsl_rl import (
    fill,
    give_teacher,
    load_model,
    load_teacher,
    read_policy,
    upgrade,
)

WRITER = Path(__file__).parent / "rsl_writer.py"
PEERS = Path(sys.prefix) / "peers"


@pytest.fixture(scope="module")
def teacher_file():
    return checkpoint()


# ---- written by the real libraries ----


@cache
def written(release: int) -> Path:
    """A folder of checkpoints of one release, or a skip."""
    import tempfile

    home = PEERS / f"rsl_rl-{release}"
    if not home.is_dir():
        pytest.skip(f"RSL-RL {release} is not installed into {home}; python make.py setup does it")
    folder = Path(tempfile.mkdtemp())
    paths = {**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", str(WRITER), str(folder)],
        env=paths, check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    return folder


@pytest.mark.peers
@pytest.mark.parametrize("how", ["normalized", "plain"])
@pytest.mark.parametrize("release", [2, 3, 4])
def test_what_an_old_release_wrote_acts_as_it_did_there(release, how):
    folder = written(release) / how
    golden = torch.load(folder / "golden.pt", weights_only=True)
    for task, roles in (("ppo", ["actor"]), ("distillation", ["student", "teacher"])):
        path = folder / f"{task}.pt"
        # releases 2 and 3 differ in their normalizer and in nothing else
        known = 2 if how == "plain" and release == 3 else release
        assert load_checkpoint(path).kind == f"rsl_rl-{known}/{task}"
        for role in roles:
            saved = read_policy(path, role)
            assert saved.sizes == [3, 4, 2] if role == "student" else [3, 6, 5, 2]
            assert (saved.normalizer is not None) == (how == "normalized")
            std = 0.1 if saved.std is None else None
            policy = saved.policy("elu", std=std)
            model = load_model(path, "elu", role)
            seen = golden["seen"]
            with torch.no_grad():
                torch.testing.assert_close(policy(seen)["mean"], golden[role])
                group = TensorDict({"policy": seen}, batch_size=[len(seen)])
                torch.testing.assert_close(model(group), golden[role])


# ---- the documented layouts, renamed by hand ----


def old(state: dict[str, Any], release: int) -> dict[str, Any]:
    """A checkpoint of release 5 under the names of an older one."""
    if release == 4:
        for role in ("actor_state_dict", "critic_state_dict"):
            renamed = {
                k.replace("distribution.std_param", "std"): v for k, v in state[role].items()
            }
            state = {**state, role: renamed}
        return state
    flat: dict[str, Any] = {}
    norms: dict[str, Any] = {}
    for role in ("actor", "critic"):
        for name, tensor in state[f"{role}_state_dict"].items():
            start, _, rest = name.partition(".")
            if start == "mlp":
                flat[f"{role}.{rest}"] = tensor
            elif start == "obs_normalizer" and release == 3:
                flat[f"{role}_obs_normalizer.{rest}"] = tensor
            elif start == "obs_normalizer":
                norms.setdefault(role, {})[rest] = tensor
            else:
                flat["std"] = tensor
    new = {"model_state_dict": flat, "optimizer_state_dict": {}, "iter": 7, "infos": None}
    if norms:
        new["obs_norm_state_dict"] = norms["actor"]
        new["privileged_obs_norm_state_dict"] = norms["critic"]
    return new


def usual(path: Path, n: int) -> torch.Tensor:
    """Observations, one of them far beyond ten standard deviations: RSL-RL clips nothing."""
    norm = read_policy(path).normalizer
    far = 2 * torch.randn(n, 3)
    far[0] *= 50
    return norm["_mean"] + norm["_std"] * far


@pytest.mark.parametrize("release", [2, 3, 4, 5])
def test_every_layout_says_the_same(teacher_file, tmp_path, release):
    state = torch.load(teacher_file, weights_only=True)
    path = tmp_path / "model_7.pt"
    torch.save(state if release == 5 else old(state, release), path)
    assert load_checkpoint(path).kind == f"rsl_rl-{release}/ppo"
    seen = usual(teacher_file, 5)
    mine, first = load_teacher(path, "elu")(seen), load_teacher(teacher_file, "elu")(seen)
    assert torch.equal(mine["gaussian"], first["gaussian"])
    assert read_policy(path, "critic").sizes == [3, 8, 7, 1]
    with quiet():
        from rsl_rl.runners import DistillationRunner

        runner = DistillationRunner(env(groups=True), config(class_name="Distillation"))
        give_teacher(runner, path)
        runner.learn(1)  # it refuses to where no teacher was loaded
        runner.load(str(upgrade(path, tmp_path / "new.pt")))
    groups = TensorDict({"teacher": seen}, batch_size=[5])
    torch.testing.assert_close(runner.alg.teacher(groups), mine["mean"])


def test_the_policy_of_the_zoo_is_the_model_of_rsl_rl(teacher_file):
    seen = usual(teacher_file, 50)
    model = load_model(teacher_file, "elu", group="here")
    said = load_teacher(teacher_file, "elu")(seen)
    groups = TensorDict({"here": seen}, batch_size=[50])
    torch.testing.assert_close(model(groups), said["mean"])
    model(groups, stochastic_output=True)
    torch.testing.assert_close(model.output_std[0].log(), said["gaussian"][0, 2:])
    other = load_teacher(teacher_file, "tanh")(seen)
    assert not torch.allclose(other["mean"], said["mean"])  # nothing in the file forbids it


@settings(max_examples=20, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    observations=st.integers(1, 6),
    actions=st.integers(1, 4),
)
def test_widths_are_read_from_the_shapes(tmp_path_factory, hidden, observations, actions):
    sizes = [observations, *hidden, actions]
    state: dict[str, Any] = {}
    for i, (a, b) in enumerate(pairwise(sizes)):
        state |= {f"mlp.{2 * i}.weight": torch.randn(b, a), f"mlp.{2 * i}.bias": torch.randn(b)}
    state["distribution.log_std_param"] = torch.randn(actions)
    path = tmp_path_factory.mktemp("w") / "m.pt"
    torch.save({"actor_state_dict": state, "critic_state_dict": {}, "iter": 1}, path)
    assert read_policy(path).sizes == sizes
    policy = load_teacher(path, "relu")
    assert policy(torch.zeros(2, observations))["mean"].shape == (2, actions)
    torch.testing.assert_close(policy.log_std.detach(), state["distribution.log_std_param"])


# ---- a model that keeps its deviation or normalizer differently ----


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("std_type", ["scalar", "log", None])
@pytest.mark.parametrize("saved_norm", [True, False])
def test_any_model_of_the_same_layers_takes_the_weights(teacher_file, norm, std_type, saved_norm):
    from rsl_helpers import model as settings_of
    from rsl_rl.models import MLPModel

    saved = read_policy(teacher_file)
    if not saved_norm:
        saved.normalizer = None
    seen = TensorDict({"teacher": usual(teacher_file, 6)}, batch_size=[6])
    cfg = settings_of([8, 7], norm=norm, std_type=std_type)
    del cfg["class_name"]
    if std_type is None:
        del cfg["distribution_cfg"]
    model = MLPModel(seen, {"teacher": ["teacher"]}, "teacher", 2, **cfg)
    if norm:
        model.update_normalization(seen)  # a normalizer of its own that has to go
    fill(model.eval(), saved)
    wanted = saved.policy("elu")(seen["teacher"])
    torch.testing.assert_close(model(seen), wanted["mean"], atol=1e-5, rtol=1e-4)
    if std_type is not None:
        model(seen, stochastic_output=True)
        torch.testing.assert_close(model.output_std.log(), wanted["gaussian"].chunk(2, -1)[1])


def test_a_model_keeps_its_own_deviation_where_none_was_saved(teacher_file):
    model, saved = load_model(teacher_file, "elu"), read_policy(teacher_file)
    before = model.distribution.std_param.clone()
    saved.std = None
    fill(model, saved)
    assert torch.equal(model.distribution.std_param, before)


def test_layers_of_other_sizes_are_named_on_both_sides(teacher_file):
    with quiet():
        from rsl_rl.runners import DistillationRunner

        cfg = config(class_name="Distillation")
        cfg["teacher"]["hidden_dims"] = [16]
        runner = DistillationRunner(env(groups=True), cfg)
    words = r"has layers 3→8→7→2, the model 3→16→2\. Give the model hidden_dims=\[8, 7\], 3 obs"
    with pytest.raises(CheckpointError, match=words):
        give_teacher(runner, teacher_file)
    assert not runner.alg.teacher_loaded


# ---- what is refused ----


def spoiled(teacher_file: Path, path: Path, change: Any) -> Path:
    state = torch.load(teacher_file, weights_only=True)
    change(state["actor_state_dict"])
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("mlp.2.bias"),
            r"Missing: mlp\.2\.bias\..*Expected: mlp\.0\.weight.*found",
        ),
        (lambda s: s.pop("obs_normalizer._std"), r"Missing: obs_normalizer\._std"),
        (lambda s: s.update(extra=torch.zeros(1)), r"Unexpected: extra\."),
        (
            lambda s: s.update({"rnn.rnn.weight_ih_l0": torch.zeros(1)}),
            r"Unexpected: rnn\.rnn\.weight_ih_l0\. It is recurrent, and needs RSL-RL's RNN",
        ),
        (lambda s: [s.pop(k) for k in list(s) if k[0] == "m"], r"Missing: mlp\.0\.weight, mlp\.0"),
        (
            lambda s: s.update({"mlp.2.weight": torch.zeros(7, 5)}),
            r"one says 8 numbers, the next takes 5",
        ),
        (
            lambda s: s.update({"distribution.std_param": torch.ones(3)}),
            r"standard deviation of the actor has 3 entries, its layers expect 2",
        ),
    ],
)
def test_weights_that_are_missing_or_too_many_are_named(teacher_file, tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        read_policy(spoiled(teacher_file, tmp_path / "m.pt", change))


def test_a_pickle_that_is_not_weights_is_refused_and_not_run(teacher_file, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    state = torch.load(teacher_file, weights_only=True)
    torch.save({**state, "infos": Evil()}, tmp_path / "model.pt")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("model.pt", "model.pkl"):
        with pytest.raises(CheckpointError, match="could run code"):
            load_teacher(tmp_path / name, "elu")
    assert not (tmp_path / "ran").exists()


def test_another_kind_of_file_and_another_role_are_refused(teacher_file, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match=r"no checkpoint of RSL-RL but of kind state_dict"):
        read_policy(tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match=r"holds actor and critic; there is no 'student'"):
        read_policy(teacher_file, "student")
    with pytest.raises(CheckpointError, match="a critic says a value"):
        load_teacher(teacher_file, "elu", role="critic")


def test_a_distillation_has_two_policies_and_no_default(teacher_file, tmp_path):
    with quiet():
        from rsl_rl.runners import DistillationRunner

        runner = DistillationRunner(env(groups=True), config(class_name="Distillation"))
        runner.load(str(teacher_file))
        torch.save({**runner.alg.save(), "iter": 0, "infos": None}, tmp_path / "both.pt")
    assert load_checkpoint(tmp_path / "both.pt").kind == "rsl_rl-5/distillation"
    with pytest.raises(CheckpointError, match="holds student and teacher; say which with role="):
        read_policy(tmp_path / "both.pt")
    assert read_policy(tmp_path / "both.pt", "student").sizes == [2, 6, 2]
    assert read_policy(tmp_path / "both.pt", "teacher").sizes == [3, 8, 7, 2]


def test_a_network_without_a_deviation_needs_one(teacher_file):
    saved = read_policy(teacher_file)
    saved.std, saved.role = None, "teacher"
    with pytest.raises(CheckpointError, match=r"no standard deviation.*its 2 outputs.*pass std="):
        saved.policy("elu")
    assert saved.policy("elu", std=0.5)(torch.zeros(1, 3))["gaussian"][0, 2:].exp().tolist() == (
        pytest.approx([0.5, 0.5])
    )


def plain_actor() -> dict[str, torch.Tensor]:
    return {
        "mlp.0.weight": torch.ones(3, 4), "mlp.0.bias": torch.ones(3), "std": torch.ones(2),
        "mlp.2.weight": torch.ones(2, 3), "mlp.2.bias": torch.ones(2),
        "obs_normalizer._mean": torch.ones(1, 4), "obs_normalizer._var": torch.ones(1, 4),
        "obs_normalizer._std": torch.ones(1, 4), "obs_normalizer.count": torch.tensor(3),
    }  # fmt: skip


ODD = [
    torch.ones(0), torch.tensor(1.0), torch.ones(7), torch.ones(1, 7), torch.ones(2, 2, 2),
    torch.ones(3, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.ones(3, device="meta"),
    torch.ones(3, dtype=torch.bool), torch.ones(3).to(torch.float8_e4m3fn), torch.ones(3, 0),
]  # fmt: skip


@given(st.sampled_from(sorted(plain_actor())), st.sampled_from(ODD), st.booleans())
def test_tensors_of_other_kinds_and_shapes_are_refused(tmp_path_factory, name, odd, log) -> None:
    path = tmp_path_factory.mktemp("p") / "model_1.pt"
    actor = plain_actor()
    if log:
        actor["log_std"] = actor.pop("std")
        name = "log_std" if name == "std" else name
    torch.save({"actor_state_dict": actor, "iter": 1}, path)
    load_teacher(path, "elu")
    torch.save({"actor_state_dict": {**actor, name: odd}, "iter": 1}, path)
    if name.endswith("count"):  # not used by a policy of the zoo
        return
    with pytest.raises(CheckpointError):
        load_teacher(path, "elu")


# ---- what Isaac Lab writes beside a checkpoint ----


def isaac_lab(folder: Path, checkpoint: Path, settings: str) -> Path:
    """A run's folder, with the tags for objects that its writer leaves in."""
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "agent.yaml").write_text(settings)
    shutil.copy(checkpoint, folder / "model_1.pt")
    return folder / "model_1.pt"


FIVE = """
seed: 42
obs_groups: {actor: [policy], critic: [policy, critic]}
clip_actions: null
actor: {class_name: MLPModel, hidden_dims: !!python/tuple [8, 7], activation: %s}
critic: {class_name: MLPModel, hidden_dims: [8, 7], activation: relu}
algorithm: {class_name: PPO, joints: !!python/object/apply:builtins.slice [null, null, null]}
"""
TWO = """
policy: {class_name: ActorCritic, actor_hidden_dims: [8, 7], activation: %s}
"""


@pytest.mark.parametrize("settings", [FIVE, TWO])
@pytest.mark.parametrize("name", ["elu", "Tanh", "swish", "crelu"])
def test_the_activation_is_read_beside_the_checkpoint(teacher_file, tmp_path, settings, name):
    path = isaac_lab(tmp_path / "run", teacher_file, settings % name)
    seen = usual(teacher_file, 6)
    wanted = read_policy(path).policy(name.lower())(seen)["mean"]
    for policy in (load_teacher(path), load_teacher(path, name.lower())):
        assert torch.equal(policy(seen)["mean"], wanted)
    group = TensorDict({"policy": seen}, batch_size=[6])
    torch.testing.assert_close(load_model(path)(group), wanted)
    other = "relu" if name != "relu" else "elu"
    with pytest.raises(CheckpointError, match=f"{other}.*says that the actor has '{name.lower()}'"):
        load_teacher(path, other)


def test_without_it_the_activation_has_to_be_said(teacher_file):
    with pytest.raises(CheckpointError, match=r"do not tell the activation of the actor.*pass act"):
        load_teacher(teacher_file)


def bomb() -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "settings",
    ["actor: [", "- 1", "actor: !!python/object/apply:os.mkdir [ran]", "[" * 5000, "&a [*a]",
     "? {a: 1}\n: 2", "\x00", bomb(), "x" * 2**21, "actor: {activation: [elu]}", "actor: elu"],
)  # fmt: skip
def test_a_strange_file_beside_it_is_refused_or_passed_over(
    teacher_file, tmp_path, monkeypatch, settings
):
    monkeypatch.chdir(tmp_path)
    path = isaac_lab(tmp_path / "run", teacher_file, settings)
    with pytest.raises(CheckpointError):
        load_teacher(path)
    load_teacher(path, "elu")  # who says it needs no file
    assert not (tmp_path / "ran").exists()
