r"""The theorems on divergences, checked in float64: T5 to T8, T17 and T19.

p is the teacher, q the student, m = βp + (1-β)q the mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib import losses

WEIGHT, LEFT, RIGHT, WIDTH = 0.6, -2.0, 2.0, 0.5
GRID = torch.linspace(-20, 20, 8001, dtype=torch.float64)


def answers(count: int = 2, classes: int = 10, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        2 * torch.randn(classes, generator=generator, dtype=torch.float64) for _ in range(count)
    ]


def log_normal(mean: Tensor, log_width: Tensor) -> Tensor:
    return -0.5 * ((GRID - mean) / log_width.exp()) ** 2 - log_width


def two_modes() -> Tensor:
    """Logits on the grid of w N(-2, ½²) + (1 - w) N(2, ½²)."""
    width = torch.tensor(WIDTH, dtype=torch.float64).log()
    left, right = (log_normal(torch.tensor(m, dtype=torch.float64), width) for m in (LEFT, RIGHT))
    return torch.logaddexp(left + math.log(WEIGHT), right + math.log(1 - WEIGHT))


def fit(loss: Callable[..., Tensor], mean: float, width: float) -> tuple[float, float, float]:
    """Mean, width and value of the normal distribution at the minimum that a start leads to."""
    at = torch.tensor([mean, math.log(width)], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [at],
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )
    teacher = two_modes()

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(student=log_normal(at[0], at[1]), teacher=teacher)
        value.backward()
        return value

    optimizer.step(step)
    return at[0].item(), at[1].exp().item(), step().item()


def least_near(distance: float, weight: float) -> tuple[bool, float]:
    """Around the right mode of (1 - w) N(0, 1) + w N(D, 1): is the reverse divergence's least
    value over a box of means and widths inside the box, and what is it?"""
    zero = torch.zeros((), dtype=torch.float64)
    modes = [log_normal(zero + mean, zero) for mean in (0.0, distance)]
    teacher = torch.logaddexp(modes[0] + math.log(1 - weight), modes[1] + math.log(weight))
    means = distance + torch.linspace(-2.5, 1.5, 41, dtype=torch.float64)
    widths = torch.linspace(-0.6, 0.9, 31, dtype=torch.float64)
    rows = [
        [losses.reverse_kl(student=log_normal(m, s), teacher=teacher) for s in widths]
        for m in means
    ]
    values = torch.tensor(rows)
    at = divmod(int(values.argmin()), len(widths))
    return 0 < at[0] < len(means) - 1 and 0 < at[1] < len(widths) - 1, values.min().item()


# T5: forward covers, reverse seeks


@pytest.mark.parametrize(("distance", "weight"), [(8, 0.05), (12, 0.05), (12, 1e-3), (8, 0.4)])
def test_t5_a_mode_that_is_far_enough_has_a_minimum_whatever_its_weight(
    distance: float, weight: float
) -> None:
    inside, value = least_near(distance, weight)
    assert inside
    assert value == pytest.approx(-math.log(weight), rel=1e-3)


@pytest.mark.parametrize(("distance", "weight"), [(6, 0.05), (5, 0.2), (4, 0.2)])
def test_t5_a_light_mode_that_is_near_has_none(distance: float, weight: float) -> None:
    """The quantifiers matter: six standard deviations are not enough for one in twenty."""
    assert not least_near(distance, weight)[0]


@pytest.mark.parametrize("start", [(-3.0, 1.0), (0.0, 1.0), (3.0, 0.7)])
def test_t5_forward_kl_matches_mean_and_variance(start: tuple[float, float]) -> None:
    """From any start: μ* = E x and σ*² = s² + w(1-w)(m₁-m₂)², between and across the modes."""
    mean, width, _ = fit(losses.kl, *start)
    assert mean == pytest.approx(WEIGHT * LEFT + (1 - WEIGHT) * RIGHT, abs=1e-6)
    variance = WIDTH**2 + WEIGHT * (1 - WEIGHT) * (LEFT - RIGHT) ** 2
    assert width == pytest.approx(math.sqrt(variance), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_t5_no_gaussian_beside_the_moments_is_nearer(seed: int) -> None:
    """For mixtures of three modes: the forward divergence grows in every direction."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(3, generator=generator).double() + 0.1
    weights, means = weights / weights.sum(), 2 * torch.randn(3, generator=generator).double()
    widths = 0.3 + torch.rand(3, generator=generator).double()
    parts = [
        log_normal(m, s.log()) + w.log() for m, s, w in zip(means, widths, weights, strict=True)
    ]
    teacher = torch.stack(parts).logsumexp(0)
    mean = (weights * means).sum()
    variance = (weights * (widths**2 + (means - mean) ** 2)).sum()

    def at(shift: float, factor: float) -> float:
        width = variance.log() / 2 + math.log(factor)
        return losses.kl(student=log_normal(mean + shift, width), teacher=teacher).item()

    best = at(0.0, 1.0)
    for shift in (-0.5, -0.01, 0.0, 0.01, 0.5):
        for factor in (0.7, 0.99, 1.0, 1.01, 1.4):
            assert at(shift, factor) > best or (shift, factor) == (0.0, 1.0)


@pytest.mark.parametrize("weight", [0.05, 0.2, 0.6])
def test_t5_a_copy_of_a_mode_pays_at_most_the_logarithm_of_its_weight(weight: float) -> None:
    """However near the other mode is."""
    zero = torch.zeros((), dtype=torch.float64)
    for distance in (0.5, 2.0, 6.0):
        mode, other = (log_normal(zero + mean, zero) for mean in (distance, 0.0))
        teacher = torch.logaddexp(mode + math.log(weight), other + math.log(1 - weight))
        paid = losses.reverse_kl(student=mode, teacher=teacher).item()
        assert paid <= -math.log(weight) + 1e-12


@pytest.mark.parametrize(("start", "mode", "weight"), [(-2.5, LEFT, 0.6), (2.5, RIGHT, 0.4)])
def test_t5_reverse_kl_settles_on_the_mode_where_it_started(
    start: float, mode: float, weight: float
) -> None:
    """Each mode is a local minimum, of value about -log of its weight."""
    mean, width, value = fit(losses.reverse_kl, start, 0.6)
    assert mean == pytest.approx(mode, abs=2e-3)
    assert width == pytest.approx(WIDTH, abs=2e-3)
    assert value == pytest.approx(-math.log(weight), abs=1e-3)


# T6: generalized JSD


def test_t6_near_the_ends_beta_is_a_step_size() -> None:
    """D_β / β → KL(p ‖ q) for β → 0, and D_β / (1-β) → KL(q ‖ p) for β → 1; D_β itself → 0."""
    z, v = answers()
    forward, reverse = (f(student=z, teacher=v) for f in (losses.kl, losses.reverse_kl))
    low = losses.jsd(student=z, teacher=v, beta=1e-7)
    high = losses.jsd(student=z, teacher=v, beta=1 - 1e-7)
    assert (low / 1e-7 / forward).item() == pytest.approx(1, abs=1e-4)
    assert (high / 1e-7 / reverse).item() == pytest.approx(1, abs=1e-4)
    assert max(low.item(), high.item()) < 1e-5


def test_t6_the_limit_is_slow() -> None:
    """The quotient rises as β falls, and at β = 0.1 it is still a tenth below its limit."""
    z, v = answers()
    quotients = [
        losses.jsd(student=z, teacher=v, beta=b).item() / b for b in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    assert quotients == sorted(quotients)
    assert quotients[0] < 0.9 * losses.kl(student=z, teacher=v).item()


def test_t6_the_normalized_form_joins_both_divergences() -> None:
    """D_β / β(1-β) is continuous on [0, 1], where D_β with special-cased ends jumps."""
    z, v = answers()
    ends = {0.0: losses.kl, 1.0: losses.reverse_kl}
    for end, limit in ends.items():
        near = abs(end - 1e-7)
        at, beside = (
            losses.jsd(student=z, teacher=v, beta=b, normalized=True).item() for b in (end, near)
        )
        assert at == limit(student=z, teacher=v).item()
        assert beside == pytest.approx(at, rel=1e-4)
        plain = losses.jsd(student=z, teacher=v, beta=near).item()
        assert plain < 1e-4 * at


def test_t6_the_gradients_join_too() -> None:
    """The student's gradient of the normalized form at β = 10⁻⁷ is that of KL(p ‖ q)."""
    z, v = answers()
    z.requires_grad_()
    grads = [
        torch.autograd.grad(losses.jsd(student=z, teacher=v, beta=b, normalized=True), z)[0]
        for b in (0.0, 1e-7)
    ]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-6)


def test_t6_swapped_coefficients_are_another_objective() -> None:
    """(1-β) KL(p ‖ m) + β KL(q ‖ m) tends to the divergences by itself, and differs between."""
    z, v = answers()
    q, p = z.softmax(-1), v.softmax(-1)

    def swapped(beta: float) -> Tensor:
        log_m = (beta * p + (1 - beta) * q).log()
        both = ((x * (x.log() - log_m)).sum() for x in (p, q))
        return (1 - beta) * next(both) + beta * next(both)

    assert swapped(1e-7).item() == pytest.approx(losses.kl(student=z, teacher=v).item(), rel=1e-4)
    assert swapped(1 - 1e-7).item() == pytest.approx(
        losses.reverse_kl(student=z, teacher=v).item(), rel=1e-4
    )
    assert abs(swapped(0.2) - losses.jsd(student=z, teacher=v, beta=0.2)) > 0.1


def test_t6_half_is_bounded_by_log_two() -> None:
    """Even for answers that exclude each other."""
    z, v = torch.tensor([500.0, 0]).double(), torch.tensor([0, 500.0]).double()
    assert losses.jsd(student=z, teacher=v).item() == pytest.approx(math.log(2))
    for seed in range(20):
        z, v = answers(seed=seed)
        assert losses.jsd(student=z, teacher=v).item() < math.log(2)


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 0.9])
def test_t6_the_bound_is_the_entropy_of_the_weights(beta: float) -> None:
    """-β log β - (1-β) log (1-β), reached when the two exclude each other."""
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    z, v = torch.tensor([500.0, 0]).double(), torch.tensor([0, 500.0]).double()
    assert losses.jsd(student=z, teacher=v, beta=beta).item() == pytest.approx(bound)
    for seed in range(20):
        z, v = (5 * x for x in answers(seed=seed))
        assert losses.jsd(student=z, teacher=v, beta=beta).item() <= bound + 1e-12


def test_t6_the_average_of_logarithms_is_no_mixture() -> None:
    """log m is not β log p + (1-β) log q: that has mass far below 1."""
    z, v = torch.tensor([10.0, 0]).double(), torch.tensor([0, 10.0]).double()
    mass = (0.5 * z.log_softmax(-1) + 0.5 * v.log_softmax(-1)).exp().sum().item()
    assert mass < 0.02


# T7: the identity behind DKD


@pytest.mark.parametrize("T", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("y", [0, 3, 9])
def test_t7_kl_is_the_label_part_plus_the_weighted_rest(y: int, T: float) -> None:
    """KL(p ‖ q) = KL(b_p ‖ b_q) + (1 - p_y) KL(p̂ ‖ q̂)."""
    z, v = answers()
    label = torch.tensor(y)
    target, others = (
        losses.dkd(student=z, teacher=v, labels=label, alpha=a, beta=b, temperature=T)
        for a, b in ((1.0, 0.0), (0.0, 1.0))
    )
    p_y = (v / T).softmax(-1)[y]
    whole = losses.kl(student=z, teacher=v, temperature=T)
    torch.testing.assert_close(whole, target + (1 - p_y) * others, rtol=1e-13, atol=1e-14)


def test_t7_a_sure_teacher_switches_the_dark_knowledge_off() -> None:
    """As p_y → 1 the rest keeps its divergence, and its weight 1 - p_y goes to 0."""
    z, v = answers()
    label = torch.tensor(0)
    shares, parts = [], []
    for boost in (0.0, 5.0, 10.0, 20.0):
        sure = v.clone()
        sure[0] = v.max() + boost
        others = losses.dkd(
            student=z, teacher=sure, labels=label, alpha=0.0, beta=1.0, temperature=1.0
        )
        parts.append(others.item())
        shares.append((1 - sure.softmax(-1)[0]).item() * others.item())
    assert max(parts) == pytest.approx(min(parts))
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1e-6 < 0.01 < shares[0]


# T8: distillation as label smoothing, and as weights on examples


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_t8_label_smoothing_is_a_uniform_teacher(epsilon: float) -> None:
    """CE_smooth = (1-ε) CE + ε [KL(u ‖ q) + log N]: a teacher that knows nothing."""
    z, v = answers()
    y = torch.tensor(3)
    smooth = F.cross_entropy(z, y, label_smoothing=epsilon)
    uniform = losses.kl(student=z, teacher=torch.zeros_like(v)) + math.log(len(z))
    plain = F.cross_entropy(z, y)
    torch.testing.assert_close(smooth, (1 - epsilon) * plain + epsilon * uniform)


@pytest.mark.parametrize("y", range(4))
def test_t8_on_the_label_the_gradient_is_a_reweighted_cross_entropy(y: int) -> None:
    """At T = 1: g_y = w (q_y - 1) with w = (p_y - q_y) / (1 - q_y)."""
    z, v = answers()
    z.requires_grad_()
    of_kl = torch.autograd.grad(losses.kl(student=z, teacher=v), z)[0]
    of_ce = torch.autograd.grad(F.cross_entropy(z, torch.tensor(y)), z)[0]
    q, p = z.softmax(-1)[y], v.softmax(-1)[y]
    torch.testing.assert_close(of_kl[y], (p - q) / (1 - q) * of_ce[y])
    # the other coordinates are no multiple of it: these carry the dark knowledge
    rest = torch.arange(len(z)) != y
    factors = of_kl[rest] / of_ce[rest]
    assert factors.std() > 0.1


# T17: several teachers


def test_t17_the_mean_of_forward_divergences_is_the_one_to_the_mean_teacher() -> None:
    """mean_k KL(p_k ‖ q) = KL(p̄ ‖ q) + JS(p_1 … p_K): the arithmetic mean teaches."""
    z, *teachers = answers(4)
    each = torch.stack([losses.kl(student=z, teacher=v) for v in teachers]).mean()
    mean = torch.stack([v.softmax(-1) for v in teachers]).mean(0).log()
    spread = torch.stack([losses.kl(student=mean, teacher=v) for v in teachers]).mean()
    torch.testing.assert_close(each, losses.kl(student=z, teacher=mean) + spread)
    assert spread > 0.1


def test_t17_so_the_gradient_is_that_of_the_mean_teacher() -> None:
    """The spread of the teachers is a constant for the student."""
    z, *teachers = answers(4)
    z.requires_grad_()
    mean = torch.stack([v.softmax(-1) for v in teachers]).mean(0).log()
    each = sum(losses.kl(student=z, teacher=v) for v in teachers) / 3
    one, other = (torch.autograd.grad(x, z)[0] for x in (each, losses.kl(student=z, teacher=mean)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_t17_the_mean_of_reverse_divergences_is_the_one_to_the_geometric_mean() -> None:
    """mean_k KL(q ‖ p_k) = KL(q ‖ g) + const, g ∝ ∏ p_k^{1/K}: the mean of the logits teaches."""
    teachers = answers(3, seed=1)
    geometric = torch.stack(teachers).mean(0)
    offsets = []
    for seed in range(5):
        (z,) = answers(1, seed=100 + seed)
        each = torch.stack([losses.reverse_kl(student=z, teacher=v) for v in teachers]).mean()
        offsets.append((each - losses.reverse_kl(student=z, teacher=geometric)).item())
    assert max(offsets) == pytest.approx(min(offsets), abs=1e-13)
    log_mass = torch.stack([v.log_softmax(-1) for v in teachers]).mean(0).logsumexp(-1)
    assert offsets[0] == pytest.approx(-log_mass.item())
    assert offsets[0] > 0.1


def test_t17_the_two_means_can_disagree_on_the_class() -> None:
    """One very sure teacher outvotes two others in logits, and not in probabilities."""
    teachers = torch.tensor([[9.0, 0, 0], [0, 3, 0], [0, 3, 0]]).double()
    assert teachers.softmax(-1).mean(0).argmax().item() == 1
    assert teachers.mean(0).argmax().item() == 0


# T19: Pinsker


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_t19_total_variation_is_at_most_the_root_of_half_the_divergence(
    seed: int, scale: float
) -> None:
    """TV ≤ √(KL / 2), in both directions."""
    z, v = (scale * x for x in answers(seed=seed))
    tv = losses.tvd(student=z, teacher=v).item()
    for divergence in (losses.kl, losses.reverse_kl):
        assert tv <= math.sqrt(divergence(student=z, teacher=v).item() / 2) + 1e-12


def test_t19_the_constant_cannot_be_improved() -> None:
    """For two nearly even classes the two sides meet."""
    z, v = torch.tensor([0.0, 0]).double(), torch.tensor([1e-3, 0]).double()
    tv = losses.tvd(student=z, teacher=v).item()
    assert tv / math.sqrt(losses.kl(student=z, teacher=v).item() / 2) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("divergence", [losses.kl, losses.reverse_kl])
def test_t19_a_small_divergence_forces_agreement_where_the_teacher_is_clear(
    divergence: Callable[..., Tensor],
) -> None:
    """If the teacher's lead p₁ - p₂ exceeds √(2 KL), the student has the same argmax."""
    decided = 0
    for seed in range(200):
        noise, v = answers(classes=4, seed=seed)
        z = v + 0.15 * noise
        lead = torch.topk(v.softmax(-1), 2).values
        if lead[0] - lead[1] > math.sqrt(2 * divergence(student=z, teacher=v).item()):
            decided += 1
            assert z.argmax() == v.argmax()
    assert decided > 50
