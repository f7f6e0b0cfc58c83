"""Teachers of rl_games and skrl: what their own libraries wrote, and files that nobody wrote."""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from isaac_helpers import games_file, games_state, skrl_file, skrl_state

from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.integrations import rl_games, skrl

WRITER = Path(__file__).parent / "isaac_writer.py"
PEERS = Path(sys.prefix) / "peers"
LIBRARIES = {"rl_games": rl_games, "skrl": skrl}
OURS = {"None": "identity", "leaky_relu": "lrelu"}  # names of activations


@cache
def written(release: str) -> Path:
    """A folder of checkpoints of one library, or a skip."""
    home = PEERS / release
    if not home.is_dir():
        pytest.skip(f"{release} is not installed into {home}; python make.py setup does it")
    folder = Path(tempfile.mkdtemp())
    paths = {**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", str(WRITER), str(folder), release.rsplit("-", 1)[0]],
        env=paths, check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    return folder


@pytest.mark.peers
@pytest.mark.parametrize("release", ["rl_games-1", "skrl-1", "skrl-2"])
def test_what_the_library_wrote_acts_as_it_did_there(release):
    """All activations × real or discrete actions × shared layers or not × statistics or none."""
    library, seen = LIBRARIES[release.rsplit("-", 1)[0]], 0
    for folder in written(release).iterdir():
        activation = folder.name.split("-")[0]
        policy = library.load_teacher(folder / "agent.pt", OURS.get(activation, activation))
        said = torch.load(folder / "said.pt", weights_only=True)
        out = policy(said["inputs"])
        if "mean" in said:
            torch.testing.assert_close(out["mean"], said["mean"], rtol=1e-5, atol=1e-5)
            deviation = out["gaussian"][..., said["mean"].shape[-1] :].exp()
            torch.testing.assert_close(deviation, said["std"])
        else:  # rl_games says logarithms of probabilities
            ours, theirs = (x.log_softmax(-1) for x in (out["logits"], said["logits"]))
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        seen += 1
    assert seen >= 56


# ---- the same layouts by hand ----


def settings(folder: Path, text: str) -> None:
    (folder / "params").mkdir(exist_ok=True)
    (folder / "params" / "agent.yaml").write_text(text)


GAMES = """
params:
  model: {name: %s}
  env: {clip_observations: %s, clip_actions: 1.0}
  network:
    name: actor_critic
    space: {continuous: {mu_activation: %s, sigma_activation: None, fixed_sigma: True}}
    mlp: {units: [5, 4], activation: %s, initializer: {name: default}}
  config: {clip_actions: %s, seq: !!python/tuple [1, 2]}
"""
SKRL = """
models:
  separate: false
  policy:
    class: GaussianMixin
    min_log_std: %s
    max_log_std: 2.0
    network: [{name: net, input: %s, layers: [5, 4], activations: %s}]
    output: %s
"""


@pytest.mark.parametrize("clip", [".inf", "null"])
def test_settings_of_isaac_lab_tell_the_activation_of_rl_games(tmp_path, clip):
    path = games_file(tmp_path)
    settings(tmp_path, GAMES % ("continuous_a2c_logstd", clip, "None", "elu", False))
    x = torch.randn(4, 3)
    wanted = rl_games.load_teacher(games_file(tmp_path / "alone"), "elu")(x)
    for policy in (rl_games.load_teacher(path), rl_games.load_teacher(path, "elu")):
        assert torch.equal(policy(x)["gaussian"], wanted["gaussian"])
    with pytest.raises(CheckpointError, match="says that the actor has 'elu'"):
        rl_games.load_teacher(path, "relu")


def test_observations_that_isaac_lab_cut_are_told(tmp_path):
    path = games_file(tmp_path)
    settings(tmp_path, GAMES % ("continuous_a2c_logstd", "5.0", "None", "elu", False))
    with pytest.warns(UserWarning, match=r"clip_observations: 5\.0.*cut them for it too"):
        rl_games.load_teacher(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GAMES % ("continuous_a2c", "null", "None", "elu", False), "name: continuous_a2c"),
        (GAMES % ("continuous_a2c_logstd", "null", "tanh", "elu", False), "mu_activation: tanh"),
        (
            GAMES.replace("sigma_activation: None", "sigma_activation: softplus")
            % ("continuous_a2c_logstd", "null", "None", "elu", False),
            "sigma_activation: softplus",
        ),
        (GAMES % ("continuous_a2c_logstd", "null", "None", "elu", True), "pass bounds="),
        (GAMES % ("continuous_a2c_logstd", "null", "None", "sine", False), "'sine'; known are"),
        ("params: {network: {mlp: 3}}", "pass bounds="),
        ("seed: 0", "do not tell the activation"),
        ("- 1", "no settings by name"),
    ],
)
def test_settings_that_are_not_read_here_are_refused(tmp_path, text, match):
    path = games_file(tmp_path)
    settings(tmp_path, text)
    with pytest.raises(CheckpointError, match=match):
        rl_games.load_teacher(path)


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=2),
    st.lists(st.floats(0.1, 10), min_size=2, max_size=2),
)
def test_bounds_stretch_as_rl_games_does(tmp_path_factory, low, width):
    path = games_file(tmp_path_factory.mktemp("g"))
    low = torch.tensor(low)
    high = low + torch.tensor(width)
    plain = rl_games.load_teacher(path, "elu")
    ours = rl_games.load_teacher(path, "elu", bounds=(low, high))
    x = torch.randn(6, 3)
    acted = plain(x)["mean"].clamp(-1, 1) * (high - low) / 2 + (low + high) / 2
    torch.testing.assert_close(
        ours(x)["mean"].clamp(low, high), acted.clamp(low, high), rtol=1e-4, atol=1e-4
    )
    wanted = plain.log_std.exp() * (high - low) / 2
    torch.testing.assert_close(ours.log_std.exp(), wanted)


@pytest.mark.parametrize("write", [games_file, skrl_file])
def test_who_gives_the_activation_needs_no_settings(tmp_path, write):
    library, path = rl_games if write is games_file else skrl, write(tmp_path)
    settings(tmp_path, "models: [")
    with pytest.raises(CheckpointError, match="pass activation="):
        library.load_teacher(path)
    library.load_teacher(path, "elu")


@pytest.mark.parametrize("bounds", [(1, -1), (0, float("inf")), (0, 0), (float("nan"), 1)])
def test_bounds_that_are_none_are_refused(tmp_path, bounds):
    with pytest.raises(ValueError, match="low < high"):
        rl_games.load_teacher(games_file(tmp_path), "elu", bounds=bounds)


def test_settings_of_isaac_lab_tell_the_activation_of_skrl(tmp_path):
    path = skrl_file(tmp_path)
    x = torch.randn(4, 3)
    wanted = skrl.load_teacher(skrl_file(tmp_path / "alone"), "lrelu")(x)["gaussian"]
    for said in ("leaky_relu", "[leaky_relu, leaky_relu]"):
        settings(tmp_path, SKRL % (-20.0, "STATES", said, "ACTIONS"))
        assert torch.equal(skrl.load_teacher(path)(x)["gaussian"], wanted)
    with pytest.raises(CheckpointError, match="says that the policy has 'lrelu'"):
        skrl.load_teacher(path, "relu")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (SKRL % (-20.0, "STATES", "elu", "tanh(ACTIONS)"), r"output: tanh\(ACTIONS\)"),
        (SKRL % (-5.0, "STATES", "elu", "ACTIONS"), "deviation at -5"),
        (SKRL % (-20.0, "STATES", "[elu, relu]", "ACTIONS"), "several activations"),
        (SKRL % (-20.0, "STATES", "softsign", "ACTIONS"), "'softsign'; known are"),
        ("models: {policy: 3}", "do not tell the activation"),
        ("models: {policy: {class: DeterministicMixin}}", "class: DeterministicMixin"),
    ],
)
def test_settings_of_skrl_that_are_not_read_here_are_refused(tmp_path, text, match):
    path = skrl_file(tmp_path)
    settings(tmp_path, text)
    with pytest.raises(CheckpointError, match=match):
        skrl.load_teacher(path)


def test_statistics_of_both_need_a_word(tmp_path):
    two = {k: 2 * v for k, v in skrl_state()["state_preprocessor"].items()}
    path = skrl_file(tmp_path, "observation_preprocessor", **two)
    with pytest.raises(CheckpointError, match="pass inputs="):
        skrl.load_teacher(path, "elu")
    for inputs, times in (("states", 1), ("observations", 2)):
        policy = skrl.load_teacher(path, "elu", inputs=inputs)
        assert policy.obs_mean.tolist() == [times, 2 * times, 3 * times]
    settings(tmp_path, SKRL % (-20.0, "OBSERVATIONS", "elu", "ACTIONS"))
    assert skrl.load_teacher(path).obs_mean.tolist() == [2, 4, 6]


def test_observations_that_never_changed_stay_finite(tmp_path):
    still = {"running_variance": torch.zeros(3).double()}
    policy = skrl.load_teacher(skrl_file(tmp_path, "state_preprocessor", **still), "elu")
    for x in (policy.obs_mean, policy.obs_mean + 1e-9, policy.obs_mean + 1):
        assert policy(x)["mean"].isfinite().all()


MISSING = [
    *((games_file, f"a2c_network.{k}") for k in ("actor_mlp.0.bias", "actor_mlp.2.weight",
                                                 "mu.weight", "mu.bias", "sigma")),
    (games_file, "running_mean_std.running_var"),
    *((skrl_file, k) for k in ("net_container.0.weight", "net_container.2.bias",
                               "policy_layer.bias")),
]  # fmt: skip


@pytest.mark.parametrize(("write", "name"), MISSING)
def test_parts_that_are_missing_are_refused(tmp_path, write, name):
    library = rl_games if write is games_file else skrl
    with pytest.raises(CheckpointError):
        library.load_teacher(write(tmp_path, **{name: None}), "elu")


STRANGE = [
    (games_file, "a2c_network.actor_cnn.0.weight"),
    (games_file, "a2c_network.rnn.rnn.weight_ih_l0"),
    (games_file, "a2c_network.actor_mlp.1.weight"),
    (games_file, "a2c_network.sigma.weight"),
    (skrl_file, "rnn.weight_ih_l0"),
    (skrl_file, "second_container.0.weight"),
    (skrl_file, "net_container.1.running_mean"),
    (skrl_file, "output_layer.weight"),
]


@pytest.mark.parametrize(("write", "name"), STRANGE)
def test_networks_of_other_kinds_are_refused(tmp_path, write, name):
    library = rl_games if write is games_file else skrl
    with pytest.raises(CheckpointError, match=r"Teacher\(module, adapter\)|has no weight"):
        library.load_teacher(write(tmp_path, **{name: torch.ones(4, 4)}), "elu")


ODD = [
    torch.ones(3, dtype=torch.int64), torch.ones(3).to_sparse(), torch.full((3,), torch.nan),
    torch.ones(3, 3, 3), torch.ones(()), torch.ones(0), torch.ones(3, dtype=torch.complex64),
    torch.ones(7, 7),
]  # fmt: skip


@given(st.sampled_from(sorted(games_state())), st.sampled_from(ODD))
def test_tensors_of_other_kinds_and_shapes_are_refused_by_rl_games(tmp_path_factory, name, odd):
    if name.endswith("count") or ".value." in name:  # not the actor's
        return
    path = games_file(tmp_path_factory.mktemp("g"), **{name: odd})
    with pytest.raises(CheckpointError):
        rl_games.load_teacher(path, "elu")


@given(st.sampled_from(sorted(skrl_state()["policy"])), st.sampled_from(ODD))
def test_tensors_of_other_kinds_and_shapes_are_refused_by_skrl(tmp_path_factory, name, odd):
    if name.startswith("value_layer"):
        return
    path = skrl_file(tmp_path_factory.mktemp("s"), **{name: odd})
    with pytest.raises(CheckpointError):
        skrl.load_teacher(path, "elu")


def test_files_of_others_are_refused_by_name(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"no actor of rl_games: expected a2c_network\.mu"):
        rl_games.load_teacher(tmp_path / "other.pt", "elu")
    with pytest.raises(CheckpointError, match="found no policy"):
        skrl.load_teacher(tmp_path / "other.pt", "elu")
    assert load_checkpoint(skrl_file(tmp_path)).kind == "skrl"
