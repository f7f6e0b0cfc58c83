"""Real actions as numbered ones: what rounding costs, several heads, masks."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import LENGTH, World

from distill_lib import KD, PPO, Stacked, distill, losses, rl
from distill_lib.models import Policy

BOX = spaces.Box(np.float32([-1, -2, 0]), np.float32([1, 2, 5]))
SEEN = spaces.Box(-1, 1, (4,), np.float32)


class Says(nn.Module):
    """A mean, whatever it sees."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean = self.mean.expand(*x.shape[:-1], -1)
        return {"mean": mean, "gaussian": torch.cat([mean, torch.zeros_like(mean)], -1)}


class Heads(nn.Module):
    """Logits for each head, from one linear layer."""

    def __init__(self, seen: int, heads: int, n: int) -> None:
        super().__init__()
        self.layer, self.shape = nn.Linear(seen, heads * n), (heads, n)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(x).unflatten(-1, self.shape)}


def world() -> World:
    return World(SEEN, BOX)


@given(st.integers(2, 40), st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3))
def test_a_bin_is_wrong_by_half_its_width_at_most(bins: int, wanted: list[float]) -> None:
    env, mean = rl.Discretized(world(), bins=bins, ends=False), torch.tensor(wanted)
    policy = rl.DiscretizedPolicy(Says(mean), BOX, bins=bins, ends=False)
    chosen = rl.act(policy(torch.zeros(1, 4)))[0]
    done = env.action(chosen.numpy())
    legal = np.clip(wanted, BOX.low, BOX.high)
    assert env.action_space.contains(chosen.numpy()) and BOX.contains(done)
    assert (np.abs(done - legal) <= (BOX.high - BOX.low) / bins / 2 + 1e-5).all()
    # and what was rounded once is rounded to itself
    again = rl.DiscretizedPolicy(Says(torch.from_numpy(done)), BOX, bins=bins, ends=False)
    assert torch.equal(rl.act(again(torch.zeros(1, 4)))[0], chosen)


@given(st.integers(2, 40))
def test_bins_with_ends_reach_the_bounds(bins: int) -> None:
    env = rl.Discretized(world(), bins=bins, ends=True)
    for wanted, number in ((BOX.low, 0), (BOX.high, bins - 1)):
        policy = rl.DiscretizedPolicy(Says(2 * torch.from_numpy(wanted)), BOX, bins=bins, ends=True)
        legal = np.clip(2 * wanted, BOX.low, BOX.high)
        done = env.action(rl.act(policy(torch.zeros(1, 4)))[0].numpy())
        assert np.allclose(done, legal, atol=1e-5)
        assert np.allclose(env.action(np.full(3, number)), wanted, atol=1e-5)


@given(st.integers(0, 999), st.integers(2, 9))
def test_a_code_is_the_nearest(seed: int, size: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    low, high = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)
    codes = low + torch.rand(size, 3, generator=draw) * (high - low)
    mean = 3 * torch.randn(3, generator=draw)
    chosen = rl.act(rl.DiscretizedPolicy(Says(mean), BOX, codes=codes)(torch.zeros(1, 4)))
    away = (mean.clamp(low, high) - codes).norm(dim=-1)
    assert away[chosen[0]].item() == pytest.approx(away.min().item(), abs=1e-5)
    env = rl.Discretized(world(), codes=codes)
    assert np.allclose(env.action(chosen.item()), codes[chosen[0]])


@given(st.integers(0, 999), st.integers(1, 3), st.integers(2, 4))
def test_the_divergence_of_independent_heads_is_the_sum(seed: int, heads: int, n: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, 5, heads, n, generator=draw, dtype=torch.float64)

    def joint(x: Tensor) -> Tensor:
        """Logits of all n^heads combinations."""
        total = x[:, 0]
        for head in range(1, heads):
            total = (total.unsqueeze(-1) + x[:, head].unsqueeze(-2)).flatten(1)
        return total

    whole = losses.kl(student=joint(z), teacher=joint(v))
    assert torch.allclose(losses.kl(student=z, teacher=v).sum(-1), whole)


@given(st.integers(0, 999), st.integers(1, 6))
def test_k_means_ends_where_each_code_is_the_mean_of_its_actions(seed: int, size: int) -> None:
    actions = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))
    book = rl.codebook(actions, size, seed=seed, steps=100)
    nearest = torch.cdist(actions, book).argmin(-1)
    for k in nearest.unique():
        assert torch.allclose(book[k], actions[nearest == k].mean(0), atol=1e-5)
    assert torch.equal(book, rl.codebook(actions, size, seed=seed, steps=100))


@pytest.mark.parametrize("bins", [5, None])
@pytest.mark.parametrize("seeds", [None, 2])
def test_students_of_numbered_actions_are_taught_and_play(
    bins: int | None, seeds: int | None
) -> None:
    torch.manual_seed(0)
    codes = None if bins else torch.rand(6, 3)
    how: dict[str, Any] = {"bins": bins} if bins else {"codes": codes}
    env = lambda: rl.Discretized(world(), **how)  # noqa: E731
    teacher = rl.DiscretizedPolicy(Policy(4, 3, continuous=True), BOX, std=0.3, **how)
    nets = [Heads(4, 3, 5) if bins else Policy(4, 6, hidden=()) for _ in range(seeds or 1)]
    student = Stacked(nets, ndim=2) if seeds else nets[0]
    rollouts = rl.Rollouts(env, teacher, student, beta=0.5, episodes=2, noise=(0.0, 1.0),
                           batch_size=4, updates=2)  # fmt: skip
    history = distill(student, rollouts.teacher, rollouts, KD(axis=-1), epochs=1)
    assert len(history) == 2
    if bins:
        assert rollouts.buffer["actions"].shape[1:] == (3,)
        assert rollouts.buffer["actions"].max() < bins
    assert (rl.evaluate(student, env, 2, noise=1.0).lengths == LENGTH).all()
    rl.evaluate(teacher, env, 2)


def test_heads_of_different_sizes_are_masked() -> None:
    space = spaces.MultiDiscrete([2, 4], start=[5, -1])
    made: list[World] = []

    def env() -> World:
        made.append(World(SEEN, space))
        return made[-1]

    free = lambda batch: {"logits": torch.zeros(len(batch["inputs"]), 2, 4)}  # noqa: E731
    with pytest.raises(ValueError, match=r"chance to actions that are not there.*-inf"):
        rl.evaluate(free, env, 2)
    mask = torch.tensor([[0.0, 0.0, -math.inf, -math.inf], [0.0] * 4])
    masked = lambda batch: {"logits": mask.expand(len(batch["inputs"]), 2, 4)}  # noqa: E731
    rl.evaluate(masked, env, 8, noise=1.0)
    done = np.concatenate([np.stack(one.done) for one in made[-8:]])
    assert set(done[:, 0]) == {5, 6} and set(done[:, 1]) == {-1, 0, 1, 2}
    with pytest.raises(ValueError, match=r"expected 'logits' of shape \[2, 2, 4\], the policy"):
        rl.evaluate(Policy(4, 6), env, 2)
    with pytest.raises(ValueError, match="not above that of chance"):
        rl.sanity(masked, env, episodes=2)


@settings(max_examples=20)
@given(st.integers(0, 3), st.floats(0, 30))
def test_a_masked_action_is_never_taken(hidden: int, noise: float) -> None:
    logits = torch.tensor([5.0, 4.0, 3.0, 2.0]).repeat(50, 1)
    logits[:, hidden] = -math.inf
    assert not bool((rl.act(logits, noise) == hidden).any())


def test_one_action_is_left() -> None:
    for wrong in ([-math.inf] * 2, [math.nan, 0.0], [math.inf, 0.0]):
        with pytest.raises(ValueError, match="answer is not finite"):
            rl.act(torch.tensor([wrong]))


# ---- reinforcement with several heads ----


class Masked(Heads):
    """Heads of different sizes, a value, and actions that the observation forbids."""

    def __init__(self, seen: int, counts: list[int], states: bool = False) -> None:
        super().__init__(seen, len(counts), max(counts))
        self.value, self.states = nn.Linear(seen, 1), states
        there = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(-1)
        self.free = torch.where(there, 0.0, -math.inf)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = super().forward(x)["logits"] + self.free
        if self.states:  # the first action of the first head is forbidden where x is negative
            closed = torch.where(x[..., 0] < 0, -math.inf, 0.0)
            logits = logits + nn.functional.pad(
                closed[..., None, None], (0, logits.shape[-1] - 1, 0, logits.shape[-2] - 1)
            )
        return {"logits": logits, "value": self.value(x).squeeze(-1)}


COUNTS = st.lists(st.integers(2, 5), min_size=1, max_size=4)


@settings(max_examples=25)
@given(COUNTS, st.integers(0, 99), st.booleans())
def test_a_segment_of_heads_has_the_probability_of_whole_actions(
    counts: list[int], seed: int, states: bool
) -> None:
    torch.manual_seed(seed)
    policy = Masked(4, counts, states)
    space = spaces.MultiDiscrete(counts, start=[7] * len(counts))
    segment = rl.OnPolicy(lambda: World(SEEN, space), policy, envs=2, steps=5, batch_size=10)
    batch = next(iter(segment))
    said = policy(batch["inputs"])
    heads = [
        torch.distributions.Categorical(logits=said["logits"][:, i, :n])
        for i, n in enumerate(counts)
    ]
    actions = batch["actions"].unbind(-1)
    wanted = sum(d.log_prob(a) for d, a in zip(heads, actions, strict=True))
    torch.testing.assert_close(batch["log_prob"], wanted)
    if states:
        assert not bool(((batch["inputs"][:, 0] < 0) & (actions[0] == 0)).any())
    # before the first update the ratio is 1, and the entropy is that of all heads
    parts = PPO(value=0.5, entropy=1.0)(said, None, batch)[1]
    assert parts["surrogate"].item() == pytest.approx(-batch["advantages"].mean().item(), abs=1e-5)
    entropy = sum(d.entropy() for d in heads).mean()  # type: ignore[union-attr]
    assert abs(parts["entropy"].item()) == pytest.approx(entropy.item(), rel=1e-4)


@settings(max_examples=25)
@given(COUNTS, st.integers(0, 99))
def test_heads_say_what_the_list_of_all_combinations_says(counts: list[int], seed: int) -> None:
    """One head of all combinations is the same policy: same losses, same gradients."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, len(counts), max(counts), generator=draw, dtype=torch.float64)
    for i, n in enumerate(counts):
        logits[:, i, n:] = -math.inf
    found = logits.clone().requires_grad_()
    listed = logits.clone().requires_grad_()
    flat = listed[:, 0, : counts[0]]
    for i, n in enumerate(counts[1:], 1):
        flat = (flat.unsqueeze(-1) + listed[:, i, None, :n]).flatten(1)
    number = torch.randint(flat.shape[-1], (6,), generator=draw)
    actions = torch.stack(torch.unravel_index(number, tuple(counts)), -1)
    old, gain = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    rest = {"log_prob": old - 2, "advantages": gain}
    both = [
        (PPO(value=0, entropy=0.3)({"logits": z}, None, {**rest, "actions": a})[0], leaf)
        for z, a, leaf in ((found, actions, found), (flat, number, listed))
    ]
    torch.testing.assert_close(both[0][0], both[1][0])
    (one, two) = (torch.autograd.grad(loss, leaf)[0] for loss, leaf in both)
    torch.testing.assert_close(one.nan_to_num(), two.nan_to_num())
    assert bool(one[logits.isfinite()].isfinite().all())


class Copy(gym.Env[Any, Any]):
    """Shows two numbers, one-hot; a point for each head that repeats its number."""

    observation_space = spaces.Box(0, 1, (5,), np.float32)
    action_space = spaces.MultiDiscrete([2, 3])

    def _see(self) -> np.ndarray:
        self.wanted = np.array([self.np_random.integers(2), self.np_random.integers(3)])
        return np.concatenate([np.eye(2)[self.wanted[0]], np.eye(3)[self.wanted[1]]]).astype("f4")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        points = float((action == self.wanted).sum())
        return self._see(), points, False, self.steps >= 8, {}


@pytest.mark.parametrize("size", [None, 2])
def test_several_heads_learn_by_reinforcement(size: int | None) -> None:
    made = [Masked(5, [2, 3]) for _ in range(size or 1)]
    student: Any = made[0] if size is None else Stacked(made, ndim=2)
    lessons = rl.OnPolicy(Copy, student, envs=8, steps=32, epochs=4, batch_size=64, gamma=0.5)
    distill(student, None, lessons, PPO(entropy=0.001), epochs=25, lr=1e-2)
    last = torch.tensor(lessons.log[-1]["return"])
    assert bool((last > 15).all())  # of 16; by chance 6.7


def test_heads_that_are_no_logits_are_named_before_the_first_step() -> None:
    env = lambda: World(SEEN, spaces.MultiDiscrete([3, 4]))  # noqa: E731
    for policy, says in (
        (Policy(4, 7, critic=True), r"expected 'logits' of shape \[2, 2, 4\], the student says"),
        (Masked(4, [4, 4]), "gives a chance to actions that are not there"),
    ):
        with pytest.raises(ValueError, match=says):
            rl.OnPolicy(env, policy, envs=2, steps=4, batch_size=4).collect()
    with pytest.raises(ValueError, match="one number for each of"):
        losses.policy.whole(torch.zeros(3, 2), torch.zeros(2))


def test_what_cannot_be_discretized_is_refused() -> None:
    codes = torch.zeros(2, 3)
    for how, says in (
        ({}, "give bins"),
        ({"bins": 4, "codes": codes}, "give bins"),
        ({"bins": 1}, "at least 2, got 1"),
        ({"codes": torch.zeros(2, 2)}, r"\[K, 3\]"),
        ({"codes": torch.full((2, 3), torch.nan)}, "finite"),
    ):
        with pytest.raises(ValueError, match=says):
            rl.Discretized(world(), **how)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=says):
            rl.DiscretizedPolicy(Policy(4, 3, continuous=True), BOX, **how)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="flat Box"):
        rl.Discretized(gym.make("CartPole-v1"), bins=4)
    with pytest.raises(ValueError, match="bounded"):
        rl.Discretized(World(SEEN, spaces.Box(-np.inf, np.inf, (2,))), bins=4)
    with pytest.raises(KeyError, match="says 'gaussian'"):
        rl.DiscretizedPolicy(Policy(4, 3), BOX, bins=4)(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="std"):
        rl.DiscretizedPolicy(Policy(4, 3), BOX, bins=4, std=0.0)
    with pytest.raises(ValueError, match="9 codes"):
        rl.codebook(torch.zeros(20, 2), 9)
    with pytest.raises(ValueError, match=r"\[N, A\]"):
        rl.codebook(torch.zeros(20), 2)


@pytest.mark.parametrize(
    "action", [np.array([-1, 0, 0]), np.array([4, 0, 0]), np.array(2), np.array([1, 2]),
               np.array([0.5, 1, 1]), np.array([True, False, True]), None],
)  # fmt: skip
def test_what_is_no_action_of_bins_is_refused(action: Any) -> None:
    with pytest.raises(ValueError, match="an action of MultiDiscrete"):
        rl.Discretized(world(), bins=4).action(action)


@pytest.mark.parametrize("action", [-1, 5, 2.7, True, np.array([1]), "1"])
def test_what_is_no_code_is_refused(action: Any) -> None:
    codes = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="an action of Discrete"):
        rl.Discretized(world(), codes=codes).action(action)


def test_a_code_is_a_copy_within_the_bounds() -> None:
    env = rl.Discretized(world(), codes=torch.tensor([[9.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    first = env.action(0)
    assert BOX.contains(first)
    first += 9
    assert env.action(0).tolist() == [1, 0, 1]
