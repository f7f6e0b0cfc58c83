"""Numbers in checkpoints of RSL-RL that nobody can act with, and things that are told twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations.rsl_rl.layouts import load_teacher, read_policy, saved_of
from distill_lib.models import Policy


def normalizer(**changed: Tensor) -> dict[str, Tensor]:
    own = {"_mean": torch.zeros(1, 4), "_var": torch.ones(1, 4), "_std": torch.ones(1, 4)}
    return {**own, "count": torch.tensor(9), **changed}


def actor(release: int = 5, norm: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    state = {
        "mlp.0.weight": torch.ones(3, 4), "mlp.0.bias": torch.ones(3),
        "mlp.2.weight": torch.ones(2, 3), "mlp.2.bias": torch.ones(2),
    }  # fmt: skip
    state["distribution.std_param" if release == 5 else "std"] = torch.ones(2)
    return state | {f"obs_normalizer.{k}": v for k, v in (norm or {}).items()}


def file(folder: Path, state: dict[str, Tensor], **beside: Any) -> Path:
    path = folder / "model_1.pt"
    torch.save({"actor_state_dict": state, "iter": 1, **beside}, path)
    return path


WEIGHTS = sorted(k for k in actor(norm=normalizer()) if not k.endswith("count"))


@given(
    st.sampled_from(WEIGHTS),
    st.integers(0, 11),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e300]),
    st.sampled_from([4, 5]),
)
def test_a_number_that_is_not_finite_is_named(tmp_path_factory, name, place, number, release):
    state = actor(release, normalizer())
    name = name if name in state else "std"
    state[name] = state[name].double()
    state[name].view(-1)[place % state[name].numel()] = number
    path = file(tmp_path_factory.mktemp("n"), state)
    with pytest.raises(CheckpointError, match=r"of the actor is not finite.*an earlier model"):
        read_policy(path)


@pytest.mark.parametrize(
    ("name", "said", "wanted"),
    [
        ("distribution.log_std_param", 200.0, math.log(1e6)),
        ("distribution.log_std_param", -200.0, math.log(1e-6)),
        ("distribution.log_std_param", 0.5, 0.5),
        ("distribution.std_param", -0.1, math.log(1e-6)),
        ("distribution.std_param", 1e9, math.log(1e6)),
        ("log_std", -0.5, -0.5),
    ],
)
def test_a_deviation_is_the_one_that_acts(tmp_path, name, said, wanted):
    state = {k: v for k, v in actor().items() if not k.startswith("distribution")}
    path = file(tmp_path, state | {name: torch.full((2,), said)})
    found = load_teacher(path, "elu")(torch.ones(1, 4))["gaussian"][0, 2:]
    torch.testing.assert_close(found, torch.full((2,), wanted))


@pytest.mark.parametrize(
    ("name", "said"), [("std", 0.0), ("std", -1.0), ("log_std", 200.0), ("log_std", -200.0)]
)
def test_releases_that_cut_nothing_need_a_deviation_above_0(tmp_path, name, said):
    state = {k: v for k, v in actor(4).items() if k != "std"} | {name: torch.full((2,), said)}
    with pytest.raises(CheckpointError, match=r"std of the actor is not finite|is not above 0"):
        read_policy(file(tmp_path, state))


NAMES = ["std", "log_std", "distribution.std_param", "distribution.log_std_param"]


@given(st.permutations(NAMES), st.floats(0.1, 3), st.floats(0.1, 3))
def test_two_deviations_agree_or_are_refused(tmp_path_factory, names, one, other):
    state = {k: v for k, v in actor().items() if not k.startswith("distribution")}
    for name, said in zip(names[:2], (one, other), strict=True):
        state[name] = torch.full((2,), math.log(said) if "log" in name else said)
    path = file(tmp_path_factory.mktemp("t"), state)
    if math.isclose(one, other, rel_tol=1e-6):
        read_policy(path)
    elif not math.isclose(one, other, rel_tol=1e-3):
        with pytest.raises(CheckpointError, match=r"two deviations that differ.*take the other"):
            read_policy(path)


def test_a_deviation_told_twice_alike_is_read(tmp_path):
    state = actor() | {"distribution.log_std_param": torch.zeros(2)}
    assert read_policy(file(tmp_path, state)).std.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (normalizer(_std=-torch.ones(1, 4)), r"divides by its _std plus 0\.01.*not above 0"),
        (normalizer(_std=3 * torch.ones(1, 4)), r"_var that is not the square of its _std"),
        (normalizer(_var=-torch.ones(1, 4)), r"_var that is not the square of its _std"),
        (normalizer(_std=torch.ones(1, 1)), r"normalizer \(_std\) of the actor has 1 entries"),
        (normalizer(_var=torch.ones(1, 1)), r"normalizer \(_var\) of the actor has 1 entries"),
    ],
)
def test_a_normalizer_that_contradicts_itself_is_refused(tmp_path, norm, words):
    with pytest.raises(CheckpointError, match=words):
        read_policy(file(tmp_path, actor(norm=norm)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_normalizers_of_every_precision_are_read(tmp_path, dtype):
    var = torch.rand(1, 4).double() * 10
    var[0, 0] = 0.0  # a number that never moved
    norm = {k: v.to(dtype) for k, v in {"_var": var, "_std": var.sqrt()}.items()}
    read_policy(file(tmp_path, actor(norm=normalizer(**norm))))


def two(within: dict[str, Tensor], beside: Any) -> dict[str, Any]:
    flat = {k.replace("mlp", "actor"): v for k, v in actor(3).items()}
    flat |= {"critic.0.weight": torch.ones(1, 4), "critic.0.bias": torch.ones(1)}
    flat |= {f"actor_obs_normalizer.{k}": v for k, v in within.items()}
    return {"model_state_dict": flat, "iter": 1, "obs_norm_state_dict": beside}


def test_two_normalizers_agree_or_are_refused(tmp_path):
    path, one = tmp_path / "m.pt", normalizer()
    torch.save(two(one, normalizer()), path)
    assert load_teacher(path, "elu").obs_mean.tolist() == [0.0] * 4
    for other in (normalizer(_mean=torch.full((1, 4), 7.0)), {"_mean": torch.zeros(1, 4)}):
        torch.save(two(one, other), path)
        with pytest.raises(CheckpointError, match="two normalizers that differ"):
            read_policy(path)
    for nothing in (None, {}):
        torch.save(two(one, nothing), path)
        read_policy(path)
    for odd in (3, "mean", {"_mean": 3}, torch.ones(2)):
        torch.save(two({}, odd), path)
        with pytest.raises(CheckpointError, match=r"obs_norm_state_dict in .* is no normalizer"):
            read_policy(path)


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), st.floats(1e-3, 1e3))
def test_what_a_policy_of_ours_becomes_is_read_back(var, std):
    policy = Policy(3, 2, hidden=(4,), continuous=True, clip=None, std=std)
    policy.obs_var.copy_(torch.tensor(var))
    again = saved_of(policy).policy("tanh")
    x = torch.randn(5, 3)
    torch.testing.assert_close(again(x)["gaussian"], policy(x)["gaussian"], rtol=1e-2, atol=1e-3)


def test_what_was_changed_by_hand_is_looked_at_too(tmp_path):
    saved = read_policy(file(tmp_path, actor(norm=normalizer())))
    with pytest.raises(ValueError, match="std expected a number > 0, got -1"):
        saved.policy("elu", std=-1.0)
    saved.layers["2.bias"] = torch.full((2,), math.nan)
    with pytest.raises(CheckpointError, match=r"mlp\.2\.bias of the actor is not finite"):
        saved.policy("elu")
    models = pytest.importorskip("distill_lib.integrations.rsl_rl.models")
    good = models.load_model(file(tmp_path, actor(norm=normalizer())), "elu")
    with pytest.raises(CheckpointError, match=r"mlp\.2\.bias of the actor is not finite"):
        models.fill(good, saved)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_a_reward_that_is_not_finite_stops_the_training(bad: float) -> None:
    rsl_helpers = pytest.importorskip("rsl_helpers")
    env = rsl_helpers.env(2)
    inner = env.env.step

    def step(actions: Any) -> Any:
        seen, reward, *rest = inner(actions)
        reward[1] = bad
        return seen, reward, *rest

    env.env.step = step
    with pytest.raises(ValueError, match="environment 1 gave a reward that is not finite"):
        env.step(torch.zeros(2, 2))
