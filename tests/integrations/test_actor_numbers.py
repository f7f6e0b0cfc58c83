"""Numbers in zips of Stable-Baselines3 and files of rl_games that contradict what is given."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations import rl_games, sb3

PPO = {
    "mlp_extractor.policy_net.0.weight": torch.randn(8, 4),
    "mlp_extractor.policy_net.0.bias": torch.randn(8),
    "action_net.weight": torch.randn(2, 8),
    "action_net.bias": torch.randn(2),
    "log_std": torch.zeros(2),
}
SAC = {
    "actor.latent_pi.0.weight": torch.randn(8, 4),
    "actor.latent_pi.0.bias": torch.randn(8),
    "actor.mu.weight": torch.randn(2, 8),
    "actor.mu.bias": torch.randn(2),
}
DQN = {
    "q_net.q_net.0.weight": torch.randn(8, 4),
    "q_net.q_net.0.bias": torch.randn(8),
    "q_net.q_net.2.weight": torch.randn(2, 8),
    "q_net.q_net.2.bias": torch.randn(2),
}


def zipped(folder: Path, state: dict[str, torch.Tensor], **space: Any) -> Path:
    file = io.BytesIO()
    torch.save(state, file)
    path = folder / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("policy.pth", file.getvalue())
        told = {"action_space": {":serialized:": "x", **space}} if space else {}
        archive.writestr("data", json.dumps(told))
    return path


def box(low: str, high: str, shape: Any = (2,)) -> dict[str, Any]:
    return {":type:": "<class 'gymnasium.spaces.box.Box'>", "low": low, "high": high,
            "_shape": list(shape)}  # fmt: skip


def discrete(n: str) -> dict[str, Any]:
    return {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": n, "start": "0"}


def statistics(**told: float) -> Any:
    rms = SimpleNamespace(mean=np.zeros(4), var=np.ones(4))
    own = {"epsilon": 1e-8, "clip_obs": 10.0, **told}
    return SimpleNamespace(obs_rms=rms, norm_obs=True, **own)


@given(st.one_of(st.floats(), st.sampled_from([math.inf, 0.0, 10.0])))
def test_every_bound_is_the_one_of_vecnormalize_or_refused(tmp_path_factory, clip):
    path = zipped(tmp_path_factory.mktemp("z"), PPO)
    x = torch.tensor([[0.5, -2.0, 30.0, 0.0]])
    if not clip > 0:
        with pytest.raises(ValueError, match="cuts at clip_obs > 0"):
            sb3.load_teacher(path, "tanh", normalize=statistics(clip_obs=clip))
        return
    said = sb3.load_teacher(path, "tanh", normalize=statistics(clip_obs=clip))(x)["mean"]
    bare = sb3.load_teacher(path, "tanh", normalize=False)
    least = min(clip, 1e30)  # what torch can be told
    torch.testing.assert_close(said, bare(x.clamp(-least, least))["mean"], rtol=1e-4, atol=1e-4)


def test_an_epsilon_below_0_is_refused(tmp_path):
    with pytest.raises(ValueError, match="adds an epsilon ≥ 0"):
        sb3.load_teacher(zipped(tmp_path, PPO), "tanh", normalize=statistics(epsilon=-0.5))


def test_bounds_that_contradict_the_file_are_refused(tmp_path):
    path = zipped(tmp_path, SAC, **box("[-1. -2.]", "[1. 2.]"))
    x = torch.randn(3, 4)
    read = sb3.load_teacher(path, "relu", normalize=False)(x)["mean"]
    same = sb3.load_teacher(path, "relu", normalize=False, bounds=([-1, -2], [1, 2]))
    assert torch.equal(same(x)["mean"], read)
    for bounds in ((-5, 5), ([-1, -2], [1, 2.1])):
        with pytest.raises(CheckpointError, match=r"says that they are.*leave bounds= out"):
            sb3.load_teacher(path, "relu", normalize=False, bounds=bounds)
    cut = zipped(tmp_path, SAC, **box("[-1. ... -2.]", "[1. ... 2.]"))
    sb3.load_teacher(cut, "relu", normalize=False, bounds=(-5, 5))


@pytest.mark.parametrize("n", ["5", "np.int64(5)", "99999999999999999999"])
def test_actions_of_another_number_are_refused(tmp_path, n):
    with pytest.raises(CheckpointError, match="its last layer says 2 numbers"):
        sb3.load_teacher(zipped(tmp_path, DQN, **discrete(n)), "relu", normalize=False)
    real = zipped(tmp_path, PPO, **box("-1", "1", (3,)))
    with pytest.raises(CheckpointError, match="its last layer says 2 numbers"):
        sb3.load_teacher(real, "tanh", normalize=False)


@pytest.mark.parametrize("n", ["2", "np.int64(2)"])
def test_actions_of_this_number_are_read(tmp_path, n):
    read = sb3.load_teacher(zipped(tmp_path, DQN, **discrete(n)), "relu", normalize=False)
    assert read(torch.ones(1, 4))["logits"].shape == (1, 2)
    for shape in ((2,), (2, 1)):
        path = zipped(tmp_path, PPO, **box("-1", "1", shape))
        assert sb3.load_teacher(path, "tanh", normalize=False)(torch.ones(1, 4))["mean"].shape == (
            (1, 2)
        )


@pytest.mark.parametrize("bounds", [None, (-1, 1)])
@pytest.mark.parametrize(
    ("name", "odd"),
    [("sigma", torch.zeros(3)), ("sigma", torch.tensor(0.0)), ("mu.bias", torch.zeros(3)),
     ("mu.weight", torch.zeros(3, 8)), ("mu.bias", torch.tensor(0.0))],
)  # fmt: skip
def test_a_head_that_does_not_fit_itself_is_named_with_bounds_too(tmp_path, bounds, name, odd):
    state = {
        "actor_mlp.0.weight": torch.randn(8, 4), "actor_mlp.0.bias": torch.randn(8),
        "mu.weight": torch.randn(2, 8), "mu.bias": torch.randn(2), "sigma": torch.zeros(2),
        name: odd,
    }  # fmt: skip
    path = tmp_path / "g.pth"
    torch.save({"model": {f"a2c_network.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="rl_games checkpoint"):
        rl_games.load_teacher(path, "elu", bounds=bounds)
