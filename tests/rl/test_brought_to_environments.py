"""What people bring to environments: numbers of NumPy, one environment for all, other kinds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import Line

from distill_lib import PPO, Stacked, rl
from distill_lib.rl.environments import seed_to_evaluate, seed_to_learn
from distill_lib.zoo import Policy

SEEDS = [np.int64(3), np.uint8(3), np.int32(3)]


def rollouts(**how: Any) -> rl.Rollouts:
    how = {"episodes": 3, "updates": 2, "batch_size": 4, **how}
    return rl.Rollouts(Line, Policy(2, 2), **how)


def on_policy(student: nn.Module | None = None, env: Any = Line, **how: Any) -> rl.OnPolicy:
    how = {"envs": 2, "steps": 8, "batch_size": 4, "epochs": 1, **how}
    return rl.OnPolicy(env, student or Policy(2, 2, critic=True), **how)


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(a[k], b[k]) for a, b in zip(one, two, strict=True) for k in a)


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_of_numpy_are_seeds(seed: Any) -> None:
    torch.manual_seed(0)
    policy, teacher = Policy(2, 2, critic=True), Policy(2, 2)
    played = [rl.evaluate(policy, Line, 3, seed=s, noise=1.0).returns for s in (seed, 3)]
    assert torch.equal(*played)
    walks = [list(rl.Rollouts(Line, teacher, episodes=2, updates=2, seed=s)) for s in (seed, 3)]
    assert same(*walks)
    assert same(*(list(on_policy(copy.deepcopy(policy), seed=s)) for s in (seed, 3)))
    points = torch.randn(30, 2)
    assert torch.equal(*(rl.codebook(points, 4, seed=s) for s in (seed, 3)))
    assert {type(call(seed)) for call in (seed_to_evaluate, seed_to_learn)} == {int}


def one_for_all() -> Any:
    made = Line()
    return lambda: gym.wrappers.TimeLimit(made, 9)


@pytest.mark.parametrize(
    "call",
    [
        lambda env: rl.make(env, 2),
        lambda env: rl.evaluate(Policy(2, 2), env, 3),
        lambda env: rl.sanity(Policy(2, 2), env, episodes=2),
        lambda env: list(rl.Rollouts(env, Policy(2, 2), episodes=2, updates=1)),
        lambda env: on_policy(env=env),
        lambda env: rl.evaluate(Policy(2, 2), gym.vector.SyncVectorEnv([env] * 2)),
    ],
)
def test_one_environment_is_not_several(call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="are one and the same Line"):
        call(one_for_all())


def test_one_environment_plays_one_episode() -> None:
    assert rl.evaluate(Policy(2, 2), one_for_all(), 1).lengths.tolist() == [5]


@pytest.mark.parametrize("said", ["logits", "gaussian"])
@pytest.mark.parametrize("noise", [math.inf, math.nan, torch.tensor([0.0, math.inf])])
def test_a_noise_that_is_not_finite_is_refused(said: str, noise: Any) -> None:
    """Of infinite noise the first of the best would be taken, and infinite real actions."""
    with pytest.raises(ValueError, match=r"noise expected numbers ≥ 0, got (inf|nan)"):
        rl.act({said: torch.zeros(2, 4)}, noise)


SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@settings(max_examples=100)
@given(SHAPES, SHAPES)
def test_noise_is_one_number_an_item_also_where_lengths_coincide(
    items: tuple[int, ...], brought: tuple[int, ...]
) -> None:
    logits = torch.tensor([0.0, 5.0]).expand(*items, 2)
    if brought not in ((), items):
        with pytest.raises(ValueError, match="noise expected a number an item"):
            rl.act(logits, torch.zeros(brought))
    else:
        assert rl.act(logits, torch.zeros(brought)).eq(1).all()


class Says(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: {"logits": [[0.0, 1.0]] * len(x)},
        lambda x: {"logits": np.zeros((len(x), 2), np.float32)},
        lambda x: {"logits": None},
        lambda x: (x, x),
    ],
)
def test_answers_that_are_no_tensors_are_refused(answer: Any) -> None:
    for call in (
        lambda policy: rl.evaluate(policy, Line, 2),
        lambda policy: list(rl.Rollouts(Line, policy, episodes=2, updates=1)),
    ):
        with pytest.raises(TypeError, match=r"expected a tensor|the model returned a tuple"):
            call(Says(answer))


def test_two_views_leave_the_batch_as_it_is() -> None:
    policy, seen = Policy(2, 2), torch.zeros(3, 2)
    ways = (lambda o: o.add_(1), lambda o: o + 1)
    for batch in ({"inputs": seen}, (seen, None)):
        said = [rl.two_views(way)(policy, batch) for way in ways]
        assert torch.equal(said[0]["view"]["logits"], said[1]["view"]["logits"])
        assert torch.equal(said[0]["logits"], policy(seen)["logits"]) and not seen.any()
    with pytest.raises(TypeError, match="the model returned a tuple"):
        rl.two_views(lambda o: o)(Says(lambda x: (x, x)), {"inputs": seen})


def test_a_segment_needs_a_standard_deviation() -> None:
    students = Stacked([Policy(2, 2, critic=True) for _ in range(2)], ndim=2)
    for student in (None, students):
        with pytest.raises(ValueError, match="a segment of one step has no standard deviation"):
            on_policy(student, envs=1, steps=1, batch_size=1)
        for batch in on_policy(student, envs=2, steps=1, batch_size=2):
            assert batch["advantages"].isfinite().all()


@pytest.mark.parametrize("every", [0, -1])
def test_a_probe_is_asked_every_so_often(every: int) -> None:
    with pytest.raises(ValueError, match=f"every is at least 1, got {every}"):
        on_policy(every=every, probe=len)


def test_what_was_saved_does_not_go_on() -> None:
    for make in (on_policy, lambda: rollouts(rounds=3)):
        first, second = make(), make()
        list(first)
        kept = first.state_dict()
        list(first)
        second.load_state_dict(kept)
        assert len(second.log) == 1 and len(first.log) == 2


class OneArray(Line):
    """Writes every observation into the same array."""

    def _see(self) -> np.ndarray:
        self.array = getattr(self, "array", np.zeros(2, np.float32))
        self.array[:] = super()._see()
        return self.array


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_an_environment_may_write_into_its_own_array(cut: bool, groups: bool) -> None:
    def wrapped(kind: type[Line]) -> Any:
        made = kind(length=3, cut=cut)
        return rl.Privileged(made) if groups else made

    torch.manual_seed(0)
    policy = Policy(2, 2, critic=True)
    for weight in policy.parameters():
        nn.init.normal_(weight)
    found = [list(on_policy(policy, lambda kind=kind: wrapped(kind))) for kind in (Line, OneArray)]
    assert same(*found)
    walks = [
        list(rl.Rollouts(lambda kind=kind: wrapped(kind), Policy(2, 2), episodes=2, updates=2))
        for kind in (Line, OneArray)
    ]
    assert [b["inputs"].sum() for b in walks[0]] == [b["inputs"].sum() for b in walks[1]]


class Drip(gym.Env[Any, Any]):
    """A tenth each step, for thousands of steps."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(2, np.float32), 0.1, self.steps >= 3000, False, {}


def test_long_sums_of_small_rewards_are_right() -> None:
    """In float32, 3,000 tenths are 300.009."""
    assert rl.evaluate(Policy(2, 2), Drip, 1).returns.item() == 300.0
    played = rl.Rollouts(Drip, Policy(2, 2), episodes=1, updates=1)
    list(played)
    assert played.played["return"].tolist() == [300.0]
    lessons = on_policy(env=Drip, envs=1, steps=3000)
    list(lessons)
    assert math.isclose(lessons.log[0]["return"], 300.0, rel_tol=1e-7)


@settings(max_examples=30)
@given(st.sampled_from([torch.bfloat16, torch.float16]), st.integers(0, 99))
def test_half_precision_is_summed_in_full(dtype: torch.dtype, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    rough = torch.rand(3, 500, 2, generator=draw).to(dtype)
    done = torch.rand(500, 2, generator=draw) < 0.01
    found, wanted = (rl.advantages(*x, done) for x in (rough, rough.double()))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    points = (100 * rough[0] + 900).to(dtype)
    books = [rl.codebook(x, 3, seed=seed) for x in (points, points.float())]
    torch.testing.assert_close(*books)


def test_bounds_beyond_all_numbers_are_none() -> None:
    most = float(np.finfo(np.float32).max)
    space = spaces.Box(-most, most, (2,), np.float32)
    with pytest.raises(ValueError, match="is too wide; give codes instead"):
        rl.DiscretizedPolicy(Policy(2, 2, continuous=True), space, bins=3)


@pytest.mark.parametrize("bring", [list, tuple, np.array, torch.tensor])
@pytest.mark.parametrize("numbers", [[1, 2, 4], [1.0, 2.0, 4.0]])
def test_returns_of_ones_own_may_be_lists(bring: Any, numbers: list[float]) -> None:
    found = rl.Returns(bring(numbers), bring(numbers))
    wanted = rl.Returns(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 4.0]))
    assert (found.mean, found.std, found.share(2), repr(found)) == (
        wanted.mean, wanted.std, wanted.share(2), repr(wanted),
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan])
def test_a_film_takes_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds expected a number > 0"):
        rl.video(Policy(2, 2), Line, seconds=seconds)


def test_an_objective_of_these_batches_learns() -> None:
    student = Policy(2, 2, critic=True)
    for batch in on_policy(student):
        loss, _ = PPO(entropy=0.01)(student(batch["inputs"]), None, batch)
        assert loss.isfinite()
