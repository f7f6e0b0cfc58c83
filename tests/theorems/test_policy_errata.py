"""What the second errata museum shows failing, kept failing; and its repairs, kept."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from distill_lib import KD, Match, distill, losses, rl, zoo

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "book" / name for name in ("errata_policies.md", "proofs.md")]


def grad(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at, retain_graph=True)[0]


# Loading a teacher


def test_asking_leaves_the_teacher_alone() -> None:
    """A distillation from start to end, the student's states included: no tensor has changed."""
    torch.manual_seed(0)
    teacher = zoo.Policy(4, 2, hidden=(8,))
    teacher.train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = zoo.Policy(4, 2, hidden=(4,)).normalize_as(teacher)
    rollouts = rl.Rollouts(
        "CartPole-v1", teacher, student, beta=0.5, rounds=2, episodes=2, updates=3, batch_size=8
    )
    distill(student, rollouts.teacher, rollouts, KD(), epochs=2)
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_layer_put_into_a_teacher_makes_another_policy() -> None:
    """Even one of the right shape: the answers have nothing to do with each other."""
    torch.manual_seed(0)
    teacher = zoo.Policy(4, 3, hidden=(16,))
    nn.init.orthogonal_(teacher.net[-1].weight, 2.0)
    x = torch.randn(500, 4)
    said = teacher(x)["logits"].argmax(-1)
    shares = []
    for _ in range(20):
        *below, last = teacher.net
        teacher.net = nn.Sequential(*below, nn.Linear(16, 16), nn.ReLU(), last)
        shares.append((teacher(x)["logits"].argmax(-1) == said).float().mean())
        teacher.net = nn.Sequential(*below, last)
    assert torch.stack(shares).mean() < 0.6


# Losses for actions

SURE = torch.tensor([0.0, 30.0], dtype=torch.float64)


def lost() -> Tensor:
    return torch.tensor([30.0, 0.0], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "loss", [losses.kl, losses.soft_cross_entropy, losses.nll, losses.policy_kl]
)
def test_a_sure_and_wrong_student_is_corrected(loss: Callable[..., Tensor]) -> None:
    """Forward losses have their largest gradient, √2, where the student is most wrong."""
    z = lost()
    assert grad(loss(student=z, teacher=SURE), z).norm().item() == pytest.approx(2**0.5, rel=1e-6)


@pytest.mark.parametrize("loss", [losses.reverse_kl, losses.jsd, losses.tvd])
def test_others_do_not_reach_a_student_that_is_lost(loss: Callable[..., Tensor]) -> None:
    """They contain the slope of the student's softmax, which is flat there."""
    z = lost()
    assert grad(loss(student=z, teacher=SURE), z).norm() < 1e-9


def test_the_root_of_a_square_has_no_gradient_at_its_goal() -> None:
    """0 / 0, where the divergence has 0."""
    z = torch.tensor([1.0, 0.0], requires_grad=True)
    distance = (z.softmax(-1) - z.detach().softmax(-1)).square().sum().sqrt()
    assert bool(grad(distance, z).isnan().all())
    assert grad(losses.kl(student=z, teacher=z.detach()), z).abs().max() == 0


def test_a_learned_map_of_actions_hides_a_policy_that_does_the_opposite() -> None:
    """Logits with the wrong sign and a map that turns them round: no loss, no agreement."""
    v = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    own, W = -v, -torch.eye(2)
    assert losses.kl(student=own @ W, teacher=v).max() < 1e-6
    assert not bool((own.argmax(-1) == v.argmax(-1)).any())


def test_a_policy_for_other_actions_is_refused_and_not_mapped() -> None:
    with pytest.raises(ValueError, match="learned layer"):
        rl.evaluate(zoo.Policy(4, 3), "CartPole-v1", episodes=1)


def test_the_squared_error_of_means_is_the_divergence_with_fixed_deviations() -> None:
    """Match("mean") for real actions: the same gradient up to a factor."""
    g = torch.Generator().manual_seed(0)
    z, mean = (torch.randn(8, 3, generator=g, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    log_std = torch.full_like(mean, -0.5)
    kl = losses.gaussian_kl(
        student=torch.cat([z, log_std], -1), teacher=torch.cat([mean, log_std], -1)
    ).mean()
    mse, _ = Match("mean")({"mean": z}, {"mean": mean})
    one, other = grad(kl, z), grad(mse, z)
    torch.testing.assert_close(one / one.norm(), other / other.norm())


# Data


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_noise_on_labels_takes_from_the_teachers_action(share: float) -> None:
    """The best student of perturbed labels says (1 - p) π + p · uniform over the others."""
    kept = torch.full((4,), share / 3, dtype=torch.float64)
    kept[0] = 1 - share
    z = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(3000):
        slope = grad(losses.soft_cross_entropy(student=z, teacher=kept.log()), z)
        with torch.no_grad():
            z -= 2.0 * slope
    torch.testing.assert_close(z.softmax(-1).detach(), kept, rtol=0, atol=1e-6)


# Arithmetic


def descend(low: float, high: float, rate: float, steps: int = 4000) -> list[float]:
    """Gradient descent on x² / 2, the gradient's length forced into [low, high]."""
    x, path = 2.003, []
    for _ in range(steps):
        x -= rate * math.copysign(min(max(abs(x), low), high), x)
        path.append(abs(x))
    return path[-20:]


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_a_floor_under_the_gradient_keeps_away_from_the_goal(rate: float) -> None:
    """It ends between two points that are one step, rate times floor, apart."""
    floor = 0.1
    last = descend(floor, 1.0, rate)
    for one, other in itertools.pairwise(last):
        assert one + other == pytest.approx(rate * floor)
    assert max(descend(0.0, 1.0, rate)) < 1e-12


def scaled_step(unscale: bool) -> float:
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu")
    before = net.weight.detach().clone()
    scaler.scale(0.1 * net(torch.randn(64, 4)).square().mean()).backward()
    if unscale:
        scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    scaler.step(optimizer)
    return (net.weight - before).norm().item()


def test_clipping_a_scaled_gradient_leaves_next_to_nothing() -> None:
    """At most one over the scale, whatever the gradient was."""
    assert scaled_step(unscale=False) <= 1 / 65536 * 1.001
    assert scaled_step(unscale=True) > 0.01


def test_a_constant_changes_the_ratio_of_losses_and_no_gradient() -> None:
    """Divergence and cross-entropy differ by the teacher's entropy."""
    g = torch.Generator().manual_seed(0)
    z, v = (torch.randn(16, 4, generator=g, dtype=torch.float64) for _ in range(2))
    z.requires_grad_()
    kl = losses.kl(student=z, teacher=v).mean()
    ce = losses.soft_cross_entropy(student=z, teacher=v).mean()
    assert (ce / kl).item() > 1.3
    torch.testing.assert_close(grad(kl, z), grad(ce, z), rtol=0, atol=1e-14)


# Claims


def test_fewer_heads_are_not_fewer_parameters() -> None:
    """They divide the width between them, and their maps have other shapes."""
    x = torch.randn(1, 5, 24)
    nets = [nn.MultiheadAttention(24, heads, batch_first=True) for heads in (12, 4)]
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    maps = [net(x, x, x, average_attn_weights=False)[1].shape for net in nets]
    assert counts[0] == counts[1]
    assert maps == [(1, 12, 5, 5), (1, 4, 5, 5)]


def test_the_robots_trainer_imitates_and_does_not_reinforce() -> None:
    """RSL-RL's distillation has two losses on actions, no divergence, and reads no rewards."""
    algorithms = pytest.importorskip("rsl_rl.algorithms")
    storage = SimpleNamespace(num_transitions_per_env=15)

    def build(loss: str) -> object:
        return algorithms.Distillation(
            nn.Linear(4, 2), nn.Linear(4, 2), storage, loss_type=loss, gradient_length=15
        )

    for loss in ("mse", "huber"):
        assert build(loss).compute_returns(None) is None
    with pytest.raises(ValueError, match="kl"):
        build("kl")


# The pages


def test_every_erratum_has_its_place() -> None:
    """S0-1 to S0-15 and S1-1 to S1-16, each in the table at the end of the page."""
    table = PAGES[0].read_text(encoding="utf-8").partition("## Where each is treated")[2]
    named = set(re.findall(r"S[01]-\d+", table))
    wanted = {f"S0-{i}" for i in range(1, 16)} | {f"S1-{i}" for i in range(1, 17)}
    assert named == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """A guard that has been renamed guards nothing."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\{src\}`(test_\w+)(?:\.py)? <(tests/[\w/]+\.py)(?:::\w+)?>`", text)
    assert links
    for name, file in links:
        source = ROOT / file
        assert source.is_file(), file
        assert source.stem == name or f"def {name}(" in source.read_text(encoding="utf-8"), name
