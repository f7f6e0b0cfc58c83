"""Segments for reinforcement: advantages, ends and cuts, order, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import Always, Line

from distill_lib import KD, PPO, Stacked, distill, linear, rl, zoo


@given(st.integers(1, 12), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_advantages_are_the_sum_of_the_paper(T: int, gamma: float, lam: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    r, v, w = torch.randn(3, T, dtype=torch.float64, generator=g)
    done = torch.rand(T, generator=g) < 0.3
    found = rl.advantages(r, v, w, done, gamma, lam)
    delta = r + gamma * w - v
    for t in range(T):
        total, factor = 0.0, 1.0
        for k in range(t, T):
            total += factor * delta[k].item()
            factor *= gamma * lam
            if done[k]:
                break
        assert found[t].item() == pytest.approx(total, abs=1e-9)


def segment(cut: bool, value: float = 10.0, steps: int = 6, **settings: Any) -> rl.OnPolicy:
    student = Always(1, value)
    student.bias.data = torch.tensor([-50.0, 50.0])  # explores nothing
    settings = {"envs": 2, "epochs": 1, "batch_size": 4, "gamma": 0.5, "lam": 1.0, **settings}
    found = rl.OnPolicy(lambda: Line(3, cut=cut), student, steps=steps, **settings)
    found.collect()
    return found


def test_an_episode_that_ended_has_no_future() -> None:
    # rewards 1 three times: 1 + 0.5 + 0.25
    returns = segment(cut=False).flat["returns"].view(6, 2)[:, 0]
    assert returns.tolist() == pytest.approx([1.75, 1.5, 1.0] * 2)


def test_an_episode_that_was_cut_has_the_value_of_where_it_was_cut() -> None:
    returns = segment(cut=True).flat["returns"].view(6, 2)[:, 0]
    assert returns.tolist() == pytest.approx([1.75 + 1.25, 1.5 + 2.5, 1.0 + 5.0] * 2)


def test_the_value_asked_at_a_cut_is_of_the_last_state_not_of_the_next_first() -> None:
    student = Always(1, 0.0)
    student.bias.data = torch.tensor([-50.0, 50.0])
    found = rl.OnPolicy(lambda: Line(3, cut=True), student, envs=2, steps=3, batch_size=2)
    found.collect()
    assert any((x[..., 0] == 3).all() for x in student.asked)


def test_a_segment_that_stops_in_mid_episode_goes_on_in_the_next() -> None:
    found = segment(cut=False, steps=2)
    assert found.flat["inputs"].view(2, 2, 2)[:, 0, 0].tolist() == [0, 1]
    found.collect()
    assert found.flat["inputs"].view(2, 2, 2)[:, 0, 0].tolist() == [2, 0]
    assert found.log[1]["steps"] == 4 and found.log[1]["return"] == 3.0


def test_advantages_are_standardized_over_the_segment() -> None:
    a = segment(cut=False).flat["advantages"]
    assert a.mean().item() == pytest.approx(0, abs=1e-6)
    assert a.std().item() == pytest.approx(1, abs=1e-4)


def test_each_epoch_goes_through_all_steps_once() -> None:
    found = segment(cut=False, epochs=3)
    batches = list(found)
    assert len(batches) == len(found) == 9
    for epoch in range(3):
        index = torch.cat([b["index"] for b in batches[3 * epoch : 3 * epoch + 3]])
        assert index.sort().values.tolist() == list(range(12))
    assert batches[0].keys() == {"inputs", "actions", "log_prob", "advantages", "returns", "index"}
    one = batches[0]
    assert torch.equal(one["inputs"], found.flat["inputs"][one["index"]])


def test_old_and_new_policy_agree_before_the_first_update() -> None:
    student = zoo.Policy(4, 2, critic=True)
    found = rl.OnPolicy("CartPole-v1", student, envs=2, steps=8, batch_size=16)
    batch = next(iter(found))
    now = torch.log_softmax(student(batch["inputs"])["logits"], -1)
    now = now.gather(-1, batch["actions"].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(now, batch["log_prob"])


def test_stacked_students_live_in_their_own_environments() -> None:
    torch.manual_seed(0)
    students = [zoo.Policy(4, 2, critic=True) for _ in range(3)]
    found = rl.OnPolicy("CartPole-v1", Stacked(students, ndim=2), envs=2, steps=8, batch_size=8)
    batch = next(iter(found))
    assert batch["inputs"].shape == (3, 8, 4) and batch["advantages"].shape == (3, 8)
    assert found.flat["advantages"].mean(-1).abs().max() < 1e-5
    for i, student in enumerate(students):
        said = student(batch["inputs"][i])["logits"].log_softmax(-1)
        mine = said.gather(-1, batch["actions"][i].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(mine, batch["log_prob"][i])


def test_real_actions_and_groups() -> None:
    student = zoo.Policy(1, 1, continuous=True, critic=True)
    env = lambda: rl.Privileged(Line(4, cut=True, real=True), keep=[1])  # noqa: E731
    found = rl.OnPolicy(env, student, envs=2, steps=8, batch_size=8)
    batch = next(iter(found))
    assert batch["inputs"].shape == (8, 1) and batch["privileged"].shape == (8, 2)
    assert batch["actions"].shape == (8, 1)
    loss, _ = PPO(on="gaussian")(student(batch["inputs"]), None, batch)
    assert loss.isfinite()


def test_the_probe_is_asked_now_and_then() -> None:
    student = zoo.Policy(4, 2, critic=True)
    found = rl.OnPolicy("CartPole-v1", student, envs=2, steps=8, batch_size=8,
                        probe=lambda s: s is student, every=2)  # fmt: skip
    for _ in range(4):
        found.collect()
    assert [row.get("probe") for row in found.log] == [True, None, True, None]
    assert [row["steps"] for row in found.log] == [0, 16, 32, 48]


def test_a_policy_learns_by_reinforcement_and_faster_with_a_teacher() -> None:
    teacher = zoo.load_teacher("cartpole_ppo")

    def learn(objective: Any) -> float:
        torch.manual_seed(0)
        students = Stacked([zoo.Policy(4, 2, (16, 16), critic=True) for _ in range(2)], ndim=2)
        found = rl.OnPolicy("CartPole-v1", students, envs=8, steps=64, batch_size=128,
                            gamma=0.98, lam=0.9)  # fmt: skip
        distill(students, teacher, found, objective, epochs=16, lr=2e-3)
        return rl.evaluate(students, "CartPole-v1", 5).mean

    alone, taught = learn(PPO(entropy=0.01)), learn(PPO(entropy=0.01) + linear(2, 0) * KD())
    assert alone > 60  # chance has 22
    assert taught > 400


def test_going_on_after_a_kill(tmp_path: Path) -> None:
    def run(steps: int) -> rl.OnPolicy:
        torch.manual_seed(0)
        student = zoo.Policy(4, 2, critic=True)
        found = rl.OnPolicy("CartPole-v1", student, envs=2, steps=8, epochs=2, batch_size=8)
        distill(student, None, found, PPO(), steps=steps, checkpoint=tmp_path / "a.pt")
        return found

    first = run(6)
    second = run(12)
    assert second.segments == 3 and len(second.log) == 3
    # as text: where no episode has ended yet, the return is no number and equals nothing
    assert repr(second.log[0]) == repr(first.log[0])
    assert second.flat["inputs"].shape == (16, 4)


def test_numbers_out_of_range_are_named() -> None:
    student = zoo.Policy(4, 2, critic=True)
    for name in ("envs", "steps", "epochs", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} is at least 1, got 0"):
            rl.OnPolicy("CartPole-v1", student, **{name: 0})
    with pytest.raises(ValueError, match="a segment has 16 steps, a batch wants 17"):
        rl.OnPolicy("CartPole-v1", student, envs=2, steps=8, batch_size=17)
    with pytest.raises(ValueError, match=r"gamma lies in \[0, 1\], got 1.1"):
        rl.OnPolicy("CartPole-v1", student, gamma=1.1)
    with pytest.raises(ValueError, match=r"but no 'value': give it a critic"):
        rl.OnPolicy("CartPole-v1", zoo.Policy(4, 2), envs=2, steps=8, batch_size=8).collect()
    with pytest.raises(ValueError, match="the student says 'logits' for 3"):
        wrong = zoo.Policy(4, 3, critic=True)
        rl.OnPolicy("CartPole-v1", wrong, envs=2, steps=8, batch_size=8).collect()
    with pytest.raises(ValueError, match="an observation that is not finite"):
        student = zoo.Policy(2, 2, critic=True)
        rl.OnPolicy(lambda: Line(9, broken=3), student, envs=2, steps=8, batch_size=8).collect()
