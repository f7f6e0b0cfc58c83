"""Who drives, who labels, what is kept, what is drawn; and going on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import Always, Line

from distill_lib import KD, Stacked, Teacher, distill, linear, losses, rl, zoo


def rollouts(beta: Any = 1.0, student: nn.Module | None = None, **settings: Any) -> rl.Rollouts:
    settings = {"episodes": 3, "updates": 4, "batch_size": 8, **settings}
    return rl.Rollouts(lambda: Line(6), Always(1), student, beta=beta, **settings)


def column(found: rl.Rollouts, name: str) -> Tensor:
    return found.buffer[name]


# ---- who drives ----


@pytest.mark.parametrize(("beta", "action"), [(1.0, 1), (0.0, 0)])
def test_beta_says_who_drives(beta: float, action: int) -> None:
    found = rollouts(beta, Always(0))
    found.collect()
    assert (column(found, "actions") == action).all()
    assert len(column(found, "actions")) == 3 * 6
    # the teacher labels, whoever drove
    assert (column(found, "answer/logits").argmax(-1) == 1).all()


def test_between_them_each_step_tosses_a_coin() -> None:
    found = rollouts(0.3, Always(0), episodes=300)
    found.collect()
    assert column(found, "actions").float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_a_schedule_goes_from_teacher_to_student_over_the_rounds() -> None:
    found = rollouts(linear(1, 0), Always(0), rounds=3, episodes=100)
    for _ in range(3):
        found.collect()
    assert [row["beta"] for row in found.log] == [1.0, 0.5, 0.0]
    shares = [row["return"] / 6 for row in found.log]
    assert shares[0] == 1 and 0.4 < shares[1] < 0.6 and shares[2] == 0


def test_the_student_is_not_asked_while_the_teacher_drives() -> None:
    student, teacher = Always(0), Always(1)
    rl.Rollouts(lambda: Line(4), teacher, student, beta=1.0, episodes=2).collect()
    assert not student.asked
    alone = rl.Rollouts(lambda: Line(4), teacher := Always(1), student, beta=0.0, episodes=2)
    alone.collect()
    # once for the labels of all that was visited
    assert len(teacher.asked) == 1 and len(teacher.asked[0]) == 8


def test_noise_takes_turns_over_the_episodes() -> None:
    found = rollouts(noise=(0.0, 30.0), episodes=40)
    found.collect()
    actions, episode = column(found, "actions"), column(found, "episode")
    assert (actions[episode % 2 == 0] == 1).all()
    assert 0.3 < actions[episode % 2 == 1].float().mean() < 0.8
    # targets are greedy all the same
    assert (column(found, "answer/logits").argmax(-1) == 1).all()


# ---- what is kept ----


def test_rounds_are_aggregated_and_then_only_drawn_from() -> None:
    found = rollouts(0.0, Always(0), rounds=2)
    assert [len(list(found)) for _ in range(4)] == [4, 4, 4, 4]
    assert found.round == 2 and found.labels_used == 2 * 18
    assert column(found, "episode").unique().tolist() == list(range(6))


def test_old_rounds_can_be_forgotten() -> None:
    found = rollouts(0.0, Always(0), rounds=4, keep=1)
    for _ in range(3):
        found.collect()
    assert column(found, "round").unique().tolist() == [2]
    assert set(column(found, "episode").tolist()) == {6, 7, 8}


def test_few_labels_are_drawn_from_all_that_was_visited() -> None:
    found = rollouts(episodes=50, labels=30, student=None)
    found.collect()
    assert found.labels_used == 30
    assert set(column(found, "inputs")[:, 0].tolist()) == set(range(6))


def test_the_places_of_an_episode_are_all_there_but_the_last() -> None:
    found = rollouts()
    found.collect()
    for episode in range(3):
        mine = column(found, "inputs")[column(found, "episode") == episode]
        assert mine[:, 0].tolist() == list(range(6))
        assert len(mine[:, 1].unique()) == 1


# ---- batches ----


def test_a_batch_finds_its_own_answers() -> None:
    teacher = zoo.Policy(4, 2, hidden=(8,))
    nn.init.normal_(teacher.net[2].weight)
    found = rl.Rollouts("CartPole-v1", teacher, episodes=3, batch_size=16)
    batch = next(iter(found))
    assert set(batch) == {"inputs", "actions", "index"}
    torch.testing.assert_close(found.teacher(batch)["logits"], teacher(batch["inputs"])["logits"])


def test_several_seeds_draw_from_the_same_states() -> None:
    found = rollouts(seeds=5)
    batch = next(iter(found))
    assert batch["inputs"].shape == (5, 8, 2)
    assert not torch.equal(batch["index"][0], batch["index"][1])
    assert found.teacher(batch)["logits"].shape == (5, 8, 2)
    assert found.labels_used == 18


def test_stacked_students_see_their_own_states_alone() -> None:
    students = Stacked([Always(0), Always(1)], ndim=2)
    found = rollouts(0.0, students)
    batch = next(iter(found))
    assert batch["inputs"].shape == (2, 8, 2)
    assert (batch["actions"][0] == 0).all() and (batch["actions"][1] == 1).all()
    assert found.labels_used == 18 and len(column(found, "owner")) == 36


def test_teacher_and_student_see_their_groups() -> None:
    def env() -> gym.Env[Any, Any]:
        return rl.Privileged(Line(5), keep=[0], frames=2)

    teacher, student = zoo.Policy(2, 2), zoo.Policy(2, 2)
    found = rl.Rollouts(env, teacher, student, beta=0.5, episodes=4, batch_size=8)
    batch = next(iter(found))
    assert batch["inputs"].shape == (8, 2) and batch["privileged"].shape == (8, 2)
    assert torch.equal(batch["inputs"][:, 1], batch["privileged"][:, 0])
    wanted = teacher(batch["privileged"])["logits"]
    torch.testing.assert_close(found.teacher(batch)["logits"], wanted)


def test_heavy_episodes_are_drawn_more_often_and_the_weights_correct_for_it() -> None:
    def last_thrice(episodes: Any) -> Tensor:
        return torch.tensor([1.0, 1.0, 3.0])

    found = rollouts(priority=last_thrice, batch_size=20_000)
    batch = next(iter(found))
    episode = column(found, "episode")[batch["index"]]
    shares = torch.bincount(episode) / len(episode)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.6]), atol=0.02, rtol=0)
    start = batch["inputs"][:, 1]
    plain = column(found, "inputs")[:, 1].mean()
    torch.testing.assert_close((batch["weight"] * start).mean(), plain, atol=0.01, rtol=0)
    assert (start.mean() - plain).abs() > 0.012


@given(
    weights=st.lists(st.floats(1e-3, 1e3), min_size=40, max_size=40),
    correction=st.floats(0, 1),
)
def test_a_state_is_drawn_by_its_weight_and_corrected_by_a_power_of_it(
    weights: list[float], correction: float
) -> None:
    def heavy(played: Any) -> Tensor:
        return torch.tensor(weights)[: len(played["owner"])]

    found = rollouts(priority=heavy, correction=correction, batch_size=50)
    batch = next(iter(found))
    p = heavy(found.buffer).double()
    assert len(p) == len(column(found, "owner")) <= 40
    wanted = (len(p) * (p / p.sum())[batch["index"]]) ** -correction
    torch.testing.assert_close(batch["weight"], wanted.float())


def test_the_weight_of_a_state_may_come_from_the_teachers_answer() -> None:
    """The heaviest state of twenty is nearly all that is drawn."""

    def sure(played: Any) -> Tensor:
        certain = played["answer/logits"].softmax(-1).amax(-1)
        return (certain == certain.max()).double() + 1e-9

    found = rollouts(priority=sure, batch_size=200)
    batch = next(iter(found))
    certain = found.buffer["answer/logits"].softmax(-1).amax(-1)
    drawn = certain[batch["index"]]
    assert torch.equal(drawn, certain.max().expand(200))


def test_priority_is_asked_once_a_round_and_kept_in_a_checkpoint() -> None:
    asked = []

    def falling(played: Any) -> Tensor:
        asked.append(len(played["owner"]))
        return torch.rand(len(played["owner"])) + 0.1

    found = rollouts(priority=falling, rounds=2, updates=5)
    for _ in range(2):
        list(found)
    assert len(asked) == 2 and asked[0] < asked[1]
    other = rollouts(priority=falling, rounds=2, updates=5)
    other.load_state_dict(found.state_dict())
    assert torch.equal(other.draw()["index"], found.draw()["index"])
    assert len(asked) == 2


def test_the_weights_reach_the_loss() -> None:
    found = rollouts(priority=lambda e: e["length"] + torch.tensor([0.0, 3.0, 30.0]))
    batch = next(iter(found))
    z = torch.randn(8, 2)
    loss, _ = KD()(z, found.teacher(batch), batch)
    each = losses.kl(student=z, teacher=found.teacher(batch)["logits"])
    torch.testing.assert_close(loss, (batch["weight"] * each).mean())
    with pytest.raises(ValueError, match=r"weights \[8\] do not fit values \[5\]"):
        KD()(z[:5], found.teacher(batch)["logits"][:5], {"weight": batch["weight"]})


def test_changed_states_are_labeled_anew() -> None:
    teacher = zoo.Policy(2, 2, hidden=())
    nn.init.normal_(teacher.net[0].weight)

    def shake(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.randn(x.shape, generator=generator)

    for seeds in (None, 3):
        found = rl.Rollouts(
            lambda: Line(5), teacher, episodes=4, batch_size=8, augment=shake, seeds=seeds
        )
        batch = next(iter(found))
        assert not torch.equal(batch["inputs"], column(found, "inputs")[batch["index"]])
        wanted = teacher(batch["inputs"])["logits"]
        torch.testing.assert_close(found.teacher(batch)["logits"], wanted)


# ---- learning ----


@pytest.mark.parametrize("hidden_velocity", [False, True])
def test_the_students_own_states_matter_where_something_is_hidden(hidden_velocity: bool) -> None:
    def env() -> gym.Env[Any, Any]:
        plain = gym.make("CartPole-v1")
        if not hidden_velocity:
            return rl.Privileged(plain)
        return rl.Privileged(plain, [0, 2], frames=3, noise=0.01)

    teacher = zoo.load_teacher("cartpole_ppo")
    shown = rl.Rollouts(env, teacher, episodes=2)
    shown.collect()
    seen = column(shown, "inputs")

    def learn(beta: Any, rounds: int, episodes: int) -> float:
        torch.manual_seed(0)
        student = zoo.Policy(6 if hidden_velocity else 4, 2, (32, 32))
        student.obs_mean.copy_(seen.mean(0))
        student.obs_var.copy_(seen.var(0))
        found = rl.Rollouts(env, teacher, student, beta=beta, rounds=rounds, episodes=episodes,
                            batch_size=64, updates=600 // rounds)  # fmt: skip
        distill(student, found.teacher, found, KD(), epochs=rounds, lr=3e-3)
        return rl.evaluate(student, env, 10).mean

    cloned, own = learn(1.0, 1, 4), learn(linear(1, 0), 8, 1)
    if hidden_velocity:
        assert cloned < 60 and own > 200
    else:
        assert cloned > 400 and own > 400


# ---- going on ----


def train(path: Path | None, epochs: int, **settings: Any) -> tuple[dict[str, Tensor], rl.Rollouts]:
    torch.manual_seed(0)
    student = zoo.Policy(4, 2, hidden=(8,))
    teacher = zoo.Policy(4, 2, hidden=(8,))
    nn.init.normal_(teacher.net[2].weight)
    found = rl.Rollouts("CartPole-v1", teacher, student, beta=linear(1, 0), rounds=3, episodes=2,
                        updates=5, batch_size=8, student_noise=1.0)  # fmt: skip
    distill(student, found.teacher, found, KD(), lr=0.01, checkpoint=path, **settings)
    return student.state_dict(), found


@pytest.mark.parametrize("steps", [3, 5, 7, 10])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, steps: int) -> None:
    whole, one = train(None, 3, steps=15)
    train(tmp_path / "a.pt", 3, steps=steps)
    parts, two = train(tmp_path / "a.pt", 3, steps=15)
    assert one.log == two.log
    assert torch.equal(one.buffer["inputs"], two.buffer["inputs"])
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "a.pt", 3, steps=3)
    student = zoo.Policy(4, 2, hidden=(8,))
    found = rl.Rollouts("CartPole-v1", Teacher(zoo.Policy(4, 2)), student)
    with pytest.raises(ValueError, match="was made with another teacher"):
        distill(student, found.teacher, found, KD(), steps=5, checkpoint=tmp_path / "a.pt")


# ---- bad input ----


def test_numbers_out_of_range_are_named() -> None:
    for name in ("rounds", "episodes", "batch_size", "updates", "keep", "labels", "seeds"):
        with pytest.raises(ValueError, match=f"{name} is at least 1, got 0"):
            rollouts(**{name: 0})
    with pytest.raises(ValueError, match=r"beta is a share of steps, in \[0, 1\]"):
        rollouts(1.5)
    with pytest.raises(ValueError, match="beta falls to 0: pass the student that drives then"):
        rollouts(linear(1, 0), rounds=3)
    with pytest.raises(ValueError, match="nothing was played yet"):
        rollouts().draw()
    for bad in (torch.zeros(3), torch.ones(2), torch.ones(3, 1), torch.full((3,), torch.inf)):
        with pytest.raises(ValueError, match="priority gives a positive weight to each of 3 ep"):
            next(iter(rollouts(priority=lambda e, bad=bad: bad)))
    with pytest.raises(ValueError, match="correction is from 0 to 1, got 2"):
        rollouts(correction=2.0)
    with pytest.raises(ValueError, match="the teacher sees a group of its own"):
        env = lambda: rl.Privileged(Line(3), keep=[0])  # noqa: E731
        next(iter(rl.Rollouts(env, zoo.Policy(2, 2), augment=lambda x, g: x)))


def test_an_empty_rollout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rollouts()
    nothing = {k: torch.zeros(0) for k in ("inputs", "index", "owner")}
    monkeypatch.setattr(found, "_play", lambda beta: dict(nothing))
    with pytest.raises(ValueError, match="the rollout is empty"):
        found.collect()


def test_policies_for_other_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="the teacher says 'logits' for 3"):
        rl.Rollouts("CartPole-v1", zoo.Policy(4, 3)).collect()
    with pytest.raises(ValueError, match="the student says 'logits' for 3"):
        rl.Rollouts("CartPole-v1", zoo.Policy(4, 2), zoo.Policy(4, 3), beta=0.0).collect()
    with pytest.raises(ValueError, match="not finite"):
        rl.Rollouts(lambda: Line(5, broken=2), Always(1), episodes=2).collect()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_student_on_the_gpu_learns_from_environments_on_the_cpu() -> None:
    torch.manual_seed(0)
    student = Stacked([zoo.Policy(4, 2, (16,)) for _ in range(2)], ndim=2).cuda()
    teacher = zoo.load_teacher("cartpole_ppo")
    found = rl.Rollouts("CartPole-v1", teacher, student, beta=linear(1, 0), rounds=2, episodes=2,
                        updates=300, batch_size=64)  # fmt: skip
    distill(student, found.teacher, found, KD(), epochs=2, lr=3e-3)
    assert next(student.parameters()).is_cuda
    assert rl.evaluate(student, "CartPole-v1", 5).mean > 400
