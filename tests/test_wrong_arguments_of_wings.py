"""Whatever is passed by mistake to fusion, rl and integrations: an error of ours that says so."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from isaac_helpers import games_file, sb3_file, skrl_file
from test_wrong_calls import ALL, Call, fault_of
from torch import nn

from distill_lib import KD, fusion, rl
from distill_lib.integrations import rl_games, rsl_rl, sb3, skrl, transformers
from distill_lib.models import Policy

gym = pytest.importorskip("gymnasium")
pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed: python make.py setup")

WINGS = (fusion, rl, rl_games, rsl_rl, sb3, skrl, transformers)
# Results that only the library makes.
ELSEWHERE = {
    *("fusion.Barrier", "rl.Video", "rl.Returns"),
    *("rsl_rl.ActionTerm", "rsl_rl.Command", "rsl_rl.EnvSettings", "rsl_rl.ObservationTerm"),
    # RSL-RL's runner makes these, of its own classes
    *("rsl_rl.Distillation", "rsl_rl.Kickstarting"),
}
METHODS = {
    *("fusion.Concatenate.forward", "fusion.Vote.call", "fusion.Vote.to"),
    *("rl.Returns.share", "rl.Returns.interval"),
    *("rsl_rl.Adapter.of_teacher", "rsl_rl.GymVecEnv.step", "rsl_rl.SavedPolicy.policy"),
}
ASKED = {"policy", "student", "teacher"}
# What a user's own function or module does with its arguments is its own affair.
FUNCTIONS = {"score", "loss", "forward", "probe", "priority", "augment", "change", "env"}


def net(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def pole(**kwargs: Any) -> Any:
    return gym.make("CartPole-v1", max_episode_steps=3, **kwargs)


def swing() -> Any:
    return gym.make("Pendulum-v1")


def longer(**kwargs: Any) -> Any:
    return gym.make("CartPole-v1", max_episode_steps=40, **kwargs)


def saved() -> Any:
    layers = {"0.weight": torch.zeros(8, 3), "0.bias": torch.zeros(8)}
    layers |= {"2.weight": torch.zeros(1, 8), "2.bias": torch.zeros(1)}
    return rsl_rl.SavedPolicy("rsl_rl-5/ppo", "actor", layers, None, torch.ones(1))


class Runner:
    """What give_teacher needs of a runner."""

    def __init__(self) -> None:
        self.alg = self
        self.teacher, self.teacher_loaded = mlp(), False

    def get_policy(self) -> Any:
        return self.teacher

    def save(self) -> dict[str, Any]:
        return {"actor_state_dict": self.teacher.state_dict()}


def mlp() -> Any:
    from rsl_rl.models import MLPModel
    from tensordict import TensorDict

    seen = TensorDict({"policy": torch.zeros(1, 3)}, batch_size=[1])
    gaussian = {"class_name": "GaussianDistribution", "init_std": 1.0}
    return MLPModel(
        seen,
        {"actor": ["policy"]},
        "actor",
        1,
        hidden_dims=[8],
        activation="elu",
        obs_normalization=False,
        distribution_cfg=gaussian,
    )


def pendula() -> Any:
    mode = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    return gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync", vector_kwargs=mode)


def described(folder: Path) -> Path:
    """A run of Isaac Lab whose settings say nothing of interest."""
    (folder / "run" / "params").mkdir(parents=True)
    (folder / "run" / "params" / "env.yaml").write_text("decimation: 4")
    return folder / "run" / "model.pt"


def robots(folder: Path) -> dict[str, Call]:
    path, student = folder / "model.pt", Policy(2, 1, hidden=(4,), continuous=True)
    torch.save({"actor_state_dict": saved().state_dict(), "iter": 0, "infos": None}, path)
    short = {"max_episode_steps": 3}
    vector = gym.vector.SyncVectorEnv(
        [lambda: gym.make("Pendulum-v1", **short)] * 2,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    return {
        "rsl_rl.Adapter": (
            rsl_rl.Adapter,
            {"student": student, "observations": 3, "takes": 2, "actions": [0]},
        ),
        "rsl_rl.Adapter.of_teacher": (
            rsl_rl.Adapter(student, actions=[0]).of_teacher,
            {"signals": {"mean": torch.zeros(5, 2), "gaussian": torch.zeros(5, 4)}},
        ),
        "rsl_rl.GymVecEnv": (
            rsl_rl.GymVecEnv,
            {"env": pendula(), "seed": 0, "device": "cpu", "max_episode_length": 5},
        ),
        "rsl_rl.GymVecEnv.step": (rsl_rl.GymVecEnv(vector).step, {"actions": torch.zeros(2, 1)}),
        "rsl_rl.Pendula": (
            lambda **k: rsl_rl.Pendula(**k).reset(seed=0),
            {"num_envs": 2, "keep": [0, 1], "noise": 0.1},
        ),
        "rsl_rl.SavedPolicy": (rsl_rl.SavedPolicy, vars(saved())),
        "rsl_rl.SavedPolicy.policy": (saved().policy, {"activation": "elu", "std": 0.1}),
        "rsl_rl.check_spaces": (
            rsl_rl.check_spaces,
            {"policy": Policy(3, 1, continuous=True), "env": pendula(), "group": None},
        ),
        "rsl_rl.fill": (rsl_rl.fill, {"model": mlp(), "saved": saved()}),
        "rsl_rl.give_teacher": (
            rsl_rl.give_teacher,
            {"runner": Runner(), "path": path, "role": "actor"},
        ),
        "rsl_rl.load_model": (
            rsl_rl.load_model,
            {"path": path, "activation": "elu", "role": "actor", "group": "policy"},
        ),
        "rsl_rl.load_teacher": (
            rsl_rl.load_teacher,
            {"path": path, "activation": "elu", "role": "actor", "std": 0.1},
        ),
        "rl_games.load_teacher": (
            rl_games.load_teacher,
            {"path": games_file(folder), "activation": "elu", "bounds": (-1, 1)},
        ),
        "skrl.load_teacher": (
            skrl.load_teacher,
            {"path": skrl_file(folder), "activation": "elu", "inputs": "states"},
        ),
        "sb3.load_teacher": (
            sb3.load_teacher,
            {
                "path": sb3_file(folder),
                "activation": "relu",
                "normalize": False,
                "bounds": (-1, 1),
                "temperature": 1.0,
            },
        ),
        "rsl_rl.play": (rsl_rl.play, {"policy": mlp(), "env": vector, "seed": 0}),
        "rsl_rl.read_policy": (rsl_rl.read_policy, {"path": path, "role": "actor"}),
        "rsl_rl.read_env": (rsl_rl.read_env, {"path": described(folder), "role": "actor"}),
        "rsl_rl.write_policy": (
            rsl_rl.write_policy,
            {"policy": saved().policy("elu"), "runner": Runner(), "path": folder / "s.pt"},
        ),
        "rsl_rl.upgrade": (rsl_rl.upgrade, {"path": path, "out": folder / "out.pt"}),
    }


def trainer(folder: Path, **given: Any) -> Any:
    from transformers import TrainingArguments

    settings = TrainingArguments(str(folder / "t"), use_cpu=True, report_to=[], max_steps=1)
    return transformers.DistillationTrainer(policy(), settings, **given)


def words_of(*known: str) -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = models.WordLevel({word: i for i, word in enumerate(("?", *known))}, unk_token="?")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary))


def trainings(folder: Path) -> dict[str, Call]:
    return {
        "transformers.check_tokenizers": (
            transformers.check_tokenizers,
            {"student": words_of("a"), "teacher": words_of("a")},
        ),
        "transformers.first_pieces": (
            transformers.first_pieces,
            {"student": words_of("a"), "teacher": words_of("a")},
        ),
        "transformers.two_tokenizers": (
            transformers.two_tokenizers,
            {"texts": ["a a", "a"], "student": words_of("a"), "teacher": words_of("a")},
        ),
        "transformers.DistillationTrainer": (
            lambda **k: trainer(folder, **k),
            {"teacher": policy(), "objective": KD(), "teacher_tokenizer": None},
        ),
    }


def policy(critic: bool = False) -> Policy:
    return Policy(4, 2, hidden=(4,), critic=critic)


def rollouts(**others: Any) -> rl.Rollouts:
    good = {"env": pole, "teacher": policy(), "student": policy()}
    return rl.Rollouts(**{**good, "episodes": 2, "updates": 1, "batch_size": 2, **others})


def walked(source: Any) -> list[Any]:
    return list(source)


def returns() -> rl.Returns:
    return rl.Returns(torch.rand(2, 3), torch.ones(2, 3))


def score(model: nn.Module) -> float:
    return float(next(model.parameters()).sum())


def calls(folder: Path) -> dict[str, Call]:
    """A good call of each."""
    x, a, b = torch.randn(5, 4), net(), net()
    groups = fusion.symmetries(a.eval(), x)
    heads = ["3", "3"]
    batches = [{"inputs": x}]
    codes = torch.tensor([[-1.0], [0.0], [1.0]])
    acted = {"logits": torch.randn(6, 5)}
    once = {"beta": 0.5, "rounds": 1, "episodes": 2, "batch_size": 2, "updates": 1, "keep": 1}
    once |= {"noise": 0.5, "student_noise": 0.5, "labels": 4, "priority": None, "augment": None}
    once |= {"seeds": None, "max_steps": 10, "seed": 0}
    segment = {"envs": 2, "steps": 4, "epochs": 1, "batch_size": 2, "gamma": 0.9, "lam": 0.9}
    segment |= {"probe": None, "every": 1, "seed": 0}
    fusing: dict[str, Call] = {
        "fusion.Axes": (fusion.Axes, {"size": 3, "places": (("0.weight", 0, 1),)}),
        "fusion.align": (
            fusion.align,
            {"model": a, "reference": b, "example": x, "rounds": 2, "generator": None},
        ),
        "fusion.barrier": (
            fusion.barrier,
            {"a": a, "b": b, "loss": score, "points": 3, "refresh": batches},
        ),
        "fusion.Concatenate": (
            fusion.Concatenate,
            {"models": [a, b], "heads": heads, "num_classes": 3},
        ),
        "fusion.Concatenate.forward": (
            lambda inputs: fusion.Concatenate([net(), net()], "3", 3)(inputs),
            {"inputs": x},
        ),
        "fusion.Vote": (fusion.Vote, {"teachers": [a, b], "weights": [1.0, 2.0], "epsilon": 0.1}),
        "fusion.Vote.call": (fusion.Vote([a, b]), {"batch": batches[0]}),
        "fusion.Vote.to": (fusion.Vote([a, b]).to, {"device": "cpu"}),
        "fusion.fold_batchnorm": (fusion.fold_batchnorm, {"model": a, "pairs": [("0", "1")]}),
        "fusion.greedy_soup": (fusion.greedy_soup, {"models": [a, b], "score": score}),
        "fusion.permute": (
            fusion.permute,
            {"model": a, "groups": groups, "orders": [torch.arange(8)]},
        ),
        "fusion.refresh_batchnorm": (
            fusion.refresh_batchnorm,
            {"model": a, "batches": batches, "forward": None},
        ),
        "fusion.soup": (fusion.soup, {"models": [a, b], "weights": [1.0, 2.0]}),
        "fusion.symmetries": (fusion.symmetries, {"model": a, "example": x}),
    }
    acting: dict[str, Call] = {
        "rl.OnPolicy": (
            lambda **k: walked(rl.OnPolicy(k.pop("env"), k.pop("student"), **k)),
            {"env": pole, "student": policy(critic=True), **segment},
        ),
        "rl.Pixels": (
            lambda **k: rl.Pixels(**k).reset(seed=0),
            {"env": gym.make("Acrobot-v1", render_mode="rgb_array"), "size": 20, "frames": 2},
        ),
        "rl.Discretized": (
            rl.Discretized,
            {"env": swing(), "bins": None, "codes": codes, "ends": False},
        ),
        "rl.DiscretizedPolicy": (
            rl.DiscretizedPolicy,
            {"policy": Policy(3, 1, continuous=True), "space": swing().action_space}
            | {"bins": None, "codes": codes, "std": 0.1, "ends": False},
        ),
        "rl.codebook": (
            rl.codebook,
            {"actions": torch.rand(9, 1), "size": 3, "seed": 0, "steps": 2},
        ),
        "rl.Privileged": (
            lambda **k: rl.Privileged(**k).reset(seed=0),
            {"env": pole(), "keep": [0, 2], "frames": 2, "noise": 0.1},
        ),
        "rl.Returns.share": (returns().share, {"at_least": 0.5}),
        "rl.Returns.interval": (returns().interval, {"level": 0.9, "draws": 10, "seed": 0}),
        "rl.Rollouts": (
            lambda **k: walked(rl.Rollouts(k.pop("env"), k.pop("teacher"), **k)),
            {"env": pole, "teacher": policy(), "student": policy(), **once},
        ),
        "rl.Tasks": (rl.Tasks, {"rollouts": {"a": rollouts(), "b": rollouts()}}),
        "rl.act": (rl.act, {"signals": acted, "noise": 1.0, "generator": None}),
        "rl.advantages": (
            rl.advantages,
            {
                **{name: torch.rand(6, 5) for name in ("rewards", "values", "following")},
                "done": torch.zeros(6, 5, dtype=torch.bool),
                "gamma": 0.9,
                "lam": 0.9,
            },
        ),
        "rl.ask": (rl.ask, {"policy": policy(), "observations": torch.zeros(6, 4), "index": None}),
        "rl.evaluate": (
            rl.evaluate,
            {
                **{"policy": policy(), "env": pole, "episodes": 2, "seed": 0, "noise": 0.5},
                **{"sees": "student", "max_steps": 10},
            },
        ),
        "rl.make": (
            lambda **k: rl.make(**k).reset(seed=0),
            {"env": "CartPole-v1", "num_envs": 2, "autoreset": "same step"},
        ),
        "rl.sanity": (
            rl.sanity,
            {
                **{"teacher": Balances(), "env": longer, "at_least": 1.0, "episodes": 2},
                **{"sees": "teacher", "max_steps": 50},
            },
        ),
        "rl.two_views": (rl.two_views, {"change": torch.neg}),
        "rl.video": (
            rl.video,
            {
                **{"policy": policy(), "env": pole, "seconds": 0.2, "fps": 10, "size": 32},
                **{"seed": 0, "noise": 0.5, "alt": "a pole", "sees": "student"},
            },
        ),
    }
    return {**fusing, **acting, **robots(folder), **trainings(folder)}


class Balances(nn.Module):
    """Better than chance."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        leans = x[:, 2:].sum(-1)
        return torch.stack([-leans, leans], -1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    return calls(tmp_path_factory.mktemp("calls"))


def names() -> list[str]:
    public = {f"{wing.__name__.split('.')[-1]}.{name}" for wing in WINGS for name in wing.__all__}
    return sorted({*public, *METHODS} - ELSEWHERE)


def test_every_public_name_is_walked(table: dict[str, Call]) -> None:
    assert {*table} == {*names()}


@pytest.mark.parametrize("name", names())
def test_each_argument_of_each_call(
    name: str, table: dict[str, Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a string is a good path
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call, good = copy.deepcopy(table[name])
        call(**good)
        for argument, (wrong, value) in itertools.product(table[name][1], ALL.items()):
            if (callable(value) and argument in FUNCTIONS) or (value is len and argument in ASKED):
                continue
            call, good = copy.deepcopy(table[name])
            some = {**good, argument: copy.deepcopy(value)}
            # what a model cannot take is its own error
            asks = "batches" if argument in ("inputs", "batch") else argument
            fault = fault_of(lambda: call(**some), value, asks)  # noqa: B023
            faults += [] if fault is None else [f"{argument} = {wrong}: {fault}"]
    assert not faults, "\n".join(faults)
