"""Zips of Stable-Baselines3 read without it: the policies do what that library's own do."""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from mutants import odd_json
from torch import nn

from distill_lib import rl
from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.integrations.sb3 import load_teacher
from distill_lib.models import Policy
from distill_lib.teachers import SB3Policy

sb3 = pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")
from stable_baselines3.common.policies import ActorCriticPolicy  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

SEEN = spaces.Box(-3, 3, (4,), np.float32)
TWO = spaces.Discrete(3)
REAL = spaces.Box(np.array([-2.0, 0.125], np.float32), np.array([1.0, 5.5], np.float32))
NUMBERED, SQUASHED = ("PPO", "A2C", "DQN"), ("SAC", "TD3", "DDPG")


class World(Env[Any, Any]):
    def __init__(self, seen: Any = SEEN, actions: Any = TWO) -> None:
        self.observation_space, self.action_space = seen, actions

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, True, False, {}


def model(kind: str, actions: Any = None, seen: Any = SEEN, env: Any = None, **told: Any) -> Any:
    policy = told.pop("policy", "MlpPolicy")
    own = {k: told.pop(k) for k in ("use_sde",) if k in told}
    if actions is None:
        actions = TWO if kind in NUMBERED else REAL
    if kind in ("PPO", "A2C"):
        own |= {"n_steps": 8, **({"batch_size": 8} if kind == "PPO" else {})}
    else:
        own["buffer_size"] = 10
    world = World(seen, actions) if env is None else env
    return getattr(sb3, kind)(policy, world, seed=0, device="cpu", policy_kwargs=told, **own)


def kept(teacher: Any, folder: Path) -> Path:
    teacher.save(folder / "teacher.zip")
    return folder / "teacher.zip"


def changed(path: Path, change: Any) -> Path:
    """The same zip with other settings."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    settings = json.loads(parts["data"])
    change(settings)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {**parts, "data": json.dumps(settings).encode()}.items():
            file.writestr(name, content)
    return path


WAYS: list[dict[str, Any]] = [
    {}, {"net_arch": [8]}, {"net_arch": [9, 7, 5], "activation_fn": nn.ELU}, {"net_arch": []},
    {"activation_fn": nn.SiLU}, {"activation_fn": nn.LeakyReLU, "net_arch": [8]},
]  # fmt: skip
CASES = [(kind, actions, way)
         for kind, actions in [*[(k, TWO) for k in NUMBERED], ("PPO", REAL), ("A2C", REAL),
                               *[(k, REAL) for k in SQUASHED]]
         for way in WAYS]  # fmt: skip


@pytest.mark.parametrize(("kind", "actions", "way"), CASES)
def test_a_policy_read_says_what_the_library_says(
    kind: str, actions: Any, way: dict[str, Any], tmp_path: Path
) -> None:
    teacher = model(kind, actions, **way)
    if hasattr(teacher.policy, "log_std"):
        teacher.policy.log_std.data = torch.tensor([-0.5, 0.25])
    read = load_teacher(kept(teacher, tmp_path), normalize=False, temperature=0.5)
    seen = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said, there = read(seen), SB3Policy(teacher, normalize=False, temperature=0.5)(seen)
    assert set(said) == set(there) - {"value"} and not read.training
    for name, value in said.items():
        if name == "logits" and kind != "DQN":  # of logits only differences are told
            value, there = value.log_softmax(-1), {name: there[name].log_softmax(-1)}
        torch.testing.assert_close(value, there[name], rtol=1e-5, atol=1e-5)
    played = rl.spaces.legal(rl.act(said), actions)
    wanted, _ = teacher.predict(seen.numpy(), deterministic=True)
    assert np.allclose(played, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["PPO", "SAC", "DQN"])
def test_statistics_of_the_training_are_applied(kind: str, tmp_path: Path) -> None:
    actions = TWO if kind in NUMBERED else REAL
    venv: Any = VecNormalize(DummyVecEnv([lambda: World(SEEN, actions)]), clip_obs=1.5)
    venv.obs_rms.mean, venv.obs_rms.var = np.array([1.0, 0, -1, 2]), np.array([4.0, 1e-3, 1, 0])
    teacher = model(kind, env=venv)
    path = kept(teacher, tmp_path)
    seen = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = rl.act(load_teacher(path, normalize=venv)(seen))
        assert torch.allclose(said, rl.act(SB3Policy(teacher)(seen)), atol=1e-4)
        venv.norm_obs = False
        bare = rl.act(load_teacher(path, normalize=venv)(seen))
        assert torch.equal(bare, rl.act(load_teacher(path, normalize=False)(seen)))
    with pytest.warns(UserWarning, match="does not tell whether"):
        load_teacher(path)
    for wrong in (VecNormalize(DummyVecEnv([lambda: World(spaces.Box(0, 1, (3,)))])), "venv", 3):
        with pytest.raises((ValueError, TypeError), match=r"normalize|statistics"):
            load_teacher(path, normalize=wrong)


def test_an_actor_critic_is_a_policy_that_may_be_trained_on(tmp_path: Path) -> None:
    read = load_teacher(kept(model("PPO", REAL), tmp_path), normalize=False)
    assert isinstance(read, Policy) and all(p.requires_grad for p in read.parameters())
    assert rl.evaluate(read, lambda: World(SEEN, REAL), 3).lengths.tolist() == [1, 1, 1]


def test_it_needs_neither_the_library_nor_gymnasium(tmp_path: Path) -> None:
    path = kept(model("SAC"), tmp_path)
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("stable_baselines3", "gymnasium", "gym")))
import torch
from distill_lib.integrations.sb3 import load_teacher
print(tuple(load_teacher({str(path)!r}, normalize=False)(torch.ones(3, 4))["mean"].shape))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(3, 2)\n", done.stderr[-2000:]


class Bomb:
    def __reduce__(self) -> Any:
        return open, ("pickles-were-opened", "w")


def test_no_pickle_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64

    monkeypatch.chdir(tmp_path)
    path = kept(model("PPO", activation_fn=nn.ReLU), tmp_path)

    def change(settings: dict[str, Any]) -> None:
        bomb = base64.b64encode(pickle.dumps(Bomb())).decode()
        for value in settings.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = bomb

    load_teacher(changed(path, change), normalize=False)
    assert not Path("pickles-were-opened").exists()


class Other(ActorCriticPolicy):
    """Somebody's own: what it does with its weights is not known."""


IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
REFUSED: dict[str, Any] = {
    "convolutions": lambda: model("PPO", seen=IMAGE, policy="CnnPolicy"),
    "an image in a perceptron": lambda: model("PPO", seen=spaces.Box(-1, 1, (2, 3), np.float32)),
    "numbered observations": lambda: model("DQN", seen=spaces.Discrete(7)),
    "several actions": lambda: model("PPO", spaces.MultiDiscrete([3, 2])),
    "bits": lambda: model("PPO", spaces.MultiBinary(3)),
    "noise of the state": lambda: model("PPO", REAL, use_sde=True),
    "noise of the state, squashed": lambda: model("SAC", use_sde=True),
    "squashed noise": lambda: model("PPO", REAL, use_sde=True, squash_output=True),
    "another's policy": lambda: model("PPO", policy=Other),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_perceptron_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    path = kept(REFUSED[name](), tmp_path)
    for activation in (None, "tanh"):
        with pytest.raises(CheckpointError, match=r"SB3Policy\(model\)"):
            load_teacher(path, activation=activation, normalize=False)


def forget(*names: str) -> Any:
    return lambda settings: [settings.pop(name) for name in names]


def say(name: str, **what: Any) -> Any:
    return lambda settings: settings[name].update(what)


SQUEEZED = say("action_space", low="[-2.  ... 0.]")


@pytest.mark.parametrize(
    ("kind", "change", "told", "message"),
    [
        ("PPO", forget("policy_class"), {}, "pass activation="),
        ("PPO", forget("policy_kwargs"), {}, "pass activation="),
        ("PPO", forget("action_space"), {}, "does not tell its space of actions"),
        ("PPO", say("action_space", start="1"), {}, "from 1 on"),
        ("PPO", None, {"activation": "elu"}, "says that it is 'tanh'"),
        ("SAC", SQUEEZED, {}, "pass bounds="),
        ("SAC", forget("action_space"), {}, "pass bounds="),
        ("SAC", say("action_space", low="[inf 0.]"), {}, "low < high"),
        ("SAC", say("policy_class", __module__="stable_baselines3.td3.policies"), {}, "no plain"),
    ],
)
def test_what_nobody_tells_is_asked_for(
    kind: str, change: Any, told: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = kept(model(kind), tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_teacher(changed(path, change) if change else path, normalize=False, **told)


def test_what_is_told_by_hand_is_taken(tmp_path: Path) -> None:
    teacher = model("SAC", activation_fn=nn.ELU)
    path = kept(teacher, tmp_path)
    whole = load_teacher(path, normalize=False)
    changed(path, forget("policy_kwargs", "action_space"))
    low, high = REAL.low.tolist(), REAL.high.tolist()
    seen = torch.randn(9, 4)
    read = load_teacher(path, activation="elu", normalize=False, bounds=(low, high))
    assert torch.equal(read(seen)["mean"], whole(seen)["mean"])
    same = load_teacher(path, activation="elu", normalize=False, bounds=(-1, 1))(seen)["mean"]
    assert same.abs().max() <= 1
    for bounds in ((1, -1), (0, float("inf")), ([1, 2, 3], 4), ("a", "b"), (float("nan"), 1)):
        with pytest.raises(ValueError, match="bounds expected"):
            load_teacher(path, activation="elu", normalize=False, bounds=bounds)
    for wrong in ({"activation": "tann"}, {"temperature": 0.0}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match=r"is one of|above 0"):
            load_teacher(path, normalize=False, **wrong)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(nn.Linear(4, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match="no zip of Stable-Baselines3"):
        load_teacher(path)


def test_settings_of_any_shape_are_read_or_refused(tmp_path: Path) -> None:
    """What stands beside a pickle is a stranger's text."""
    rnd, found = random.Random(0), 0
    whole = kept(model("SAC"), tmp_path).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        settings, weights = json.loads(file.read("data")), file.read("policy.pth")
    names = ("action_space", "observation_space", "policy_class", "policy_kwargs", "use_sde")
    told = {name: settings[name] for name in names}
    path = tmp_path / "odd.zip"
    for _ in range(200):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("data", json.dumps(odd_json(told, rnd)))
            file.writestr("policy.pth", weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert load_teacher(path)(torch.ones(1, 4))["mean"].isfinite().all()
                found += 1
            except CheckpointError:
                pass
    assert 10 < found < 190
    assert load_checkpoint(path).kind == "sb3"
