"""checkpoints: every layout is known, no code is run, and what does not fit is named."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib.checkpoints import Checkpoint, CheckpointError, load_checkpoint


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def named(*names: str) -> dict[str, Tensor]:
    return {name: torch.full((2,), float(i)) for i, name in enumerate(names)}


# ---- layouts ----


def test_a_plain_state_dict(tmp_path: Path) -> None:
    model, other = net(), net()
    found = load_checkpoint(saved(model.state_dict(), tmp_path / "w.pt"))
    assert found.kind == "state_dict"
    found.load_into(other)
    assert torch.equal(other[0].weight, model[0].weight)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_nested_state_dict(tmp_path: Path, key: str) -> None:
    state = {key: net().state_dict(), "epoch": 7, "optimizer": {"lr": [1]}, "best": 0.5}
    found = load_checkpoint(saved(state, tmp_path / "w.pth"))
    assert found.kind == "state_dict" and found.meta == {"epoch": 7, "best": 0.5}
    assert set(found.tensors) == set(net().state_dict())


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(named("a", "b"), tmp_path / "w.safetensors", metadata={"made": "here"})
    found = load_checkpoint(tmp_path / "w.safetensors")
    assert found.kind == "safetensors" and found.meta == {"made": "here"}
    assert found.tensors["b"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "adapter_model.safetensors", "pytorch_model.bin"]
)
@pytest.mark.parametrize("config", [None, {"model_type": "bert"}])
def test_a_hugging_face_folder(tmp_path: Path, name: str, config: Any) -> None:
    from safetensors.torch import save_file

    save = torch.save if name.endswith("bin") else save_file
    save(named("a"), tmp_path / name)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    found = load_checkpoint(str(tmp_path))
    assert found.kind == "hf" and found.meta == (config or {}) and set(found.tensors) == {"a"}


def test_a_stable_baselines_archive(tmp_path: Path) -> None:
    path, weights = tmp_path / "ppo.zip", io.BytesIO()
    torch.save(named("mlp_extractor.policy_net.0.weight", "action_net.weight"), weights)
    data = {"gamma": 0.99, "policy_class": {":type:": "x", ":serialized:": "gASV"}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", weights.getvalue())
        archive.writestr("policy.optimizer.pth", b"")
        archive.writestr("_stable_baselines3_version", "2.4.0")
    found = load_checkpoint(path)
    assert found.kind == "sb3" and found.meta == {"gamma": 0.99}
    assert set(found.tensors) == {"mlp_extractor.policy_net.0.weight", "action_net.weight"}


COMMON = {"optimizer_state_dict": {"state": {}, "param_groups": []}, "iter": 59, "infos": None}
MLP = ("0.weight", "0.bias")


def old(*owners: str, norm: bool) -> dict[str, Any]:
    names = [f"{owner}.{layer}" for owner in owners for layer in MLP] + ["std"]
    names += [f"{owner}_obs_normalizer._mean" for owner in owners if norm]
    return {"model_state_dict": named(*names), **COMMON}


def new(std: str, *owners: str) -> dict[str, Any]:
    inner = [*(f"mlp.{layer}" for layer in MLP), "obs_normalizer._mean", std]
    return {**{f"{owner}_state_dict": named(*inner) for owner in owners}, **COMMON}


RSL_RL = {
    "rsl_rl-2/ppo": old("actor", "critic", norm=False),
    "rsl_rl-2/distillation": old("student", "teacher", norm=False),
    "rsl_rl-3/ppo": old("actor", "critic", norm=True),
    "rsl_rl-3/distillation": old("student", "teacher", norm=True),
    "rsl_rl-4/ppo": new("std", "actor", "critic"),
    "rsl_rl-4/distillation": new("std", "student", "teacher"),
    "rsl_rl-5/ppo": new("distribution.std_param", "actor", "critic"),
    "rsl_rl-5/distillation": new("distribution.std_param", "student", "teacher"),
}


@pytest.mark.parametrize("kind", RSL_RL)
def test_every_layout_of_rsl_rl(tmp_path: Path, kind: str) -> None:
    found = load_checkpoint(saved(RSL_RL[kind], tmp_path / "model_59.pt"))
    assert found.kind == kind and found.meta["iter"] == 59
    owner = "actor" if kind.endswith("ppo") else "student"
    prefix = f"{owner}.mlp" if kind[7] in "45" else owner
    assert set(found.part(prefix)) == set(MLP)


@pytest.mark.parametrize(
    ("std", "kind"), [("log_std", "rsl_rl-4/ppo"), ("distribution.log_std_param", "rsl_rl-5/ppo")]
)
def test_the_log_of_the_deviation_tells_the_release_too(tmp_path: Path, std, kind) -> None:
    assert load_checkpoint(saved(new(std, "actor", "critic"), tmp_path / "m.pt")).kind == kind


def test_the_separate_normalizers_of_release_2_are_kept(tmp_path: Path) -> None:
    state = {**old("actor", "critic", norm=False), "obs_norm_state_dict": named("_mean", "_std")}
    found = load_checkpoint(saved(state, tmp_path / "m.pt"))
    assert found.kind == "rsl_rl-2/ppo"
    assert set(found.meta["obs_norm_state_dict"]) == {"_mean", "_std"}


def test_a_nested_state_dict_with_a_counter_is_not_yet_rsl_rl(tmp_path: Path) -> None:
    state = {"model_state_dict": named("body.weight"), "iter": 3}
    assert load_checkpoint(saved(state, tmp_path / "m.pt")).kind == "state_dict"


# ---- what is refused ----


def evil(sentinel: Path) -> Any:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(sentinel),)

    return Evil()


@pytest.mark.parametrize("where", ["file", "folder", "sb3"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, where: str) -> None:
    sentinel, content = tmp_path / "ran", io.BytesIO()
    torch.save({"a": torch.zeros(1), "b": evil(sentinel)}, content)
    path = tmp_path / "w.pt"
    if where == "file":
        path.write_bytes(content.getvalue())
    elif where == "folder":
        path.mkdir()
        (path / "pytorch_model.bin").write_bytes(content.getvalue())
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("policy.pth", content.getvalue())
    with pytest.raises(CheckpointError, match=r"could run code, so it was not read.*safetensors"):
        load_checkpoint(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(evil(sentinel), protocol=protocol))
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint(path)
    assert not sentinel.exists()
    pickle.loads(path.read_bytes())
    assert sentinel.exists(), "the pickle is harmless: the test shows nothing"


def test_a_whole_model_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"more than weights \(torch\.nn\.modules"):
        load_checkpoint(saved(nn.Linear(2, 2), tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [b"", b"hello world, no weights", b"\x80\x04.", bytes(100)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pt is torn, or not a file of torch\.save"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [10, 500, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(net().state_dict(), tmp_path / "w.pt")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"w\.pt is torn"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 5, -4])
def test_truncated_safetensors_are_refused(tmp_path: Path, keep: int) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file(named("a"), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        load_checkpoint(path)


def test_torn_settings_are_refused(tmp_path: Path) -> None:
    torch.save(named("a"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match=r"settings in .*config\.json are torn"):
        load_checkpoint(tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        load_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors.*it holds: nothing"):
        load_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"it holds: tokenizer\.json"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([1, 2], "found: list"),
        ({}, "found: nothing"),
        ({"net": {"a": [1]}, "epoch": 3}, r"found: net \(dict\), epoch \(int\)"),
        ({"weights": torch.ones(1), "epoch": 3}, r"found: weights \(Tensor\), epoch \(int\)"),
    ],
)
def test_an_unknown_layout_says_what_was_found(tmp_path: Path, state: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match="layout that is not known.*" + words):
        load_checkpoint(saved(state, tmp_path / "w.pt"))


# ---- into a model ----


def test_a_part_goes_into_a_model() -> None:
    model = net()
    tensors = {f"actor.{k}": torch.ones_like(v) for k, v in model.state_dict().items()}
    found = Checkpoint("test", {**tensors, "critic.0.weight": torch.zeros(1)})
    found.load_into(model, "actor")
    assert model[0].weight.min() == 1
    assert found.part("actor.").keys() == model.state_dict().keys()


def test_a_part_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(CheckpointError, match=r"no weights under 'act' in a test .* actor, std"):
        Checkpoint("test", named("actor.0.weight", "std")).part("act")


def changed(**changes: Any) -> Checkpoint:
    state = {**net().state_dict(), **changes}
    return Checkpoint("test", {k: v for k, v in state.items() if v is not None})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (changed(**{"0.bias": None}), r"missing: 0\.bias$"),
        (changed(std=torch.ones(1)), r"unexpected: std$"),
        (changed(**{"2.bias": torch.ones(3)}), r"2\.bias: \(3,\) where the model has \(2,\)$"),
        (
            changed(**{"0.bias": None, "std": torch.ones(1), "2.bias": torch.ones(3)}),
            r"missing: 0\.bias; unexpected: std; shapes differ: 2\.bias",
        ),
        (changed(**{f"x{i}": torch.ones(1) for i in range(9)}), r"x6, x7, …$"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(found: Checkpoint, words: str) -> None:
    model = net()
    before = model[0].weight.detach().clone()
    with pytest.raises(
        CheckpointError, match="the test checkpoint does not fit the model.*" + words
    ):
        found.load_into(model)
    assert torch.equal(model[0].weight, before)
