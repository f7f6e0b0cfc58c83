r"""The theorems on policies, checked in float64: T11, whose states, and T13, reward on a leash.

H is the length of an episode; rewards lie in [0, 1]. T12 is in ``test_missing_term.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill_lib import losses

DOUBLE = {"dtype": torch.float64}


# T11: the teacher's states and the student's


class World:
    """A finite environment: moves [S, A, S], rewards [S, A] in [0, 1], starts in state 0."""

    def __init__(self, seed: int, states: int = 6, actions: int = 3, H: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(states, actions, states, generator=generator, **DOUBLE)
        self.moves = (8 * draw).softmax(-1)
        self.rewards = torch.rand(states, actions, generator=generator, **DOUBLE)
        self.best = torch.randint(actions, (states,), generator=generator)
        self.H = H
        self.generator = generator

    def teacher(self) -> Tensor:
        return torch.nn.functional.one_hot(self.best, self.rewards.shape[1]).double()

    def student(self, mistakes: float) -> Tensor:
        """[S, A]: the teacher with some probability elsewhere, different in every state."""
        noise = torch.rand(self.rewards.shape, generator=self.generator, **DOUBLE)
        noise = noise / noise.sum(-1, keepdim=True)
        share = mistakes * torch.rand(len(noise), 1, generator=self.generator, **DOUBLE)
        return (1 - share) * self.teacher() + share * noise

    def visits(self, policy: Tensor) -> Tensor:
        """[H, S], the distribution of the state at each step."""
        d = torch.zeros(len(policy), **DOUBLE)
        d[0] = 1
        path = []
        for _ in range(self.H):
            path.append(d)
            d = torch.einsum("s,sa,sat->t", d, policy, self.moves)
        return torch.stack(path)

    def J(self, policy: Tensor) -> float:
        return torch.einsum("hs,sa,sa->", self.visits(policy), policy, self.rewards).item()

    def error(self, student: Tensor, states_of: Tensor) -> float:
        """How often the student's action is not the teacher's, on the states of a policy."""
        wrong = 1 - (student * self.teacher()).sum(-1)
        return (self.visits(states_of).mean(0) @ wrong).item()

    def gaps(self) -> Tensor:
        """[H, S, A]: what one action costs if the teacher takes over afterwards."""
        value = torch.zeros(len(self.best), **DOUBLE)
        gaps = []
        for _ in range(self.H):
            Q = self.rewards + self.moves @ value
            value = (Q * self.teacher()).sum(-1)
            gaps.append(value[:, None] - Q)
        return torch.stack(gaps[::-1])


CASES = [(seed, mistakes) for seed in range(8) for mistakes in (0.01, 0.1, 1.0)]


@pytest.mark.parametrize(("seed", "mistakes"), CASES)
def test_t11_cloning_never_loses_more_than_the_square(seed: int, mistakes: float) -> None:
    """J(π) ≥ J(π*) - H² ε, with ε on the teacher's states; also for a poor teacher."""
    world = World(seed)
    teacher, student = world.teacher(), world.student(mistakes)
    epsilon = world.error(student, states_of=teacher)
    assert world.J(teacher) - world.J(student) <= world.H**2 * epsilon + 1e-12


def cliff(first: list[float], repair: float) -> float:
    """Return lost, exactly: on the way a reward of 1 a step; after a wrong action none."""
    off, lost = 0.0, 0.0
    for wrong in first:
        fell = (1 - off) * wrong
        lost += off + fell
        off = off * (1 - repair) + fell
    return lost


def test_t11_the_square_is_reached() -> None:
    """All mistakes in the first step, and no way back: exactly H² ε."""
    H, wrong = 50, 0.03
    lost = cliff([wrong] + [0.0] * (H - 1), repair=0.0)
    assert lost == pytest.approx(H**2 * (wrong / H), rel=1e-12)


@pytest.mark.parametrize(("seed", "mistakes"), CASES)
def test_t11_the_difference_of_two_returns_is_a_sum_over_the_students_states(
    seed: int, mistakes: float
) -> None:
    """J(π*) - J(π) = Σ_t E_{s ~ d_π} [V*(s) - Q*(s, a)]."""
    world = World(seed)
    student = world.student(mistakes)
    total = torch.einsum("hs,sa,hsa->", world.visits(student), student, world.gaps()).item()
    assert world.J(world.teacher()) - world.J(student) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("seed", "mistakes"), CASES)
def test_t11_on_its_own_states_a_student_pays_once(seed: int, mistakes: float) -> None:
    """J(π) ≥ J(π*) - u H ε', with ε' on the student's states and u ≤ H."""
    world = World(seed)
    student = world.student(mistakes)
    u = world.gaps().max().clamp_min(0).item()
    assert u <= world.H
    own = world.error(student, states_of=student)
    assert world.J(world.teacher()) - world.J(student) <= u * world.H * own + 1e-12


def test_t11_the_two_error_rates_are_different_numbers() -> None:
    """Perfect where the teacher goes, lost elsewhere: ε' is a multiple of ε."""
    world = World(0, states=3, actions=2)
    world.best = torch.tensor([0, 0, 0])
    world.moves = torch.zeros(3, 2, 3, **DOUBLE)
    world.moves[0, 0, 0] = world.moves[0, 1, 1] = 1  # the wrong action leaves the way
    world.moves[1, 0, 0] = world.moves[1, 1, 1] = 1  # and the right one leads back
    world.moves[2, :, 2] = 1
    student = torch.tensor([[0.99, 0.01], [0.0, 1.0], [1.0, 0.0]], **DOUBLE)
    on_the_teachers = world.error(student, states_of=world.teacher())
    on_its_own = world.error(student, states_of=student)
    assert on_the_teachers == pytest.approx(0.01)
    assert on_its_own > 5 * on_the_teachers


def test_t11_the_cliff_has_slopes_two_and_one() -> None:
    """Lost return against H, on logarithmic axes: slope 2 without a way back, 1 with it."""
    lengths, epsilon = [10, 20, 40, 80, 160], 1e-3
    x = torch.tensor(lengths, **DOUBLE).log()

    def slope(repair: float) -> float:
        y = torch.tensor([cliff([epsilon] * H, repair) for H in lengths], **DOUBLE).log()
        return (((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()).item()

    assert slope(0.0) == pytest.approx(2, abs=0.1)
    assert slope(1 - epsilon) == pytest.approx(1, abs=0.05)
    H = lengths[-1]
    assert cliff([epsilon] * H, 0.0) == pytest.approx(epsilon * H * (H + 1) / 2, rel=0.1)


@pytest.mark.parametrize("beta", [0.0, 0.001, 0.01, 0.05, 0.3, 1.0])
def test_t11_a_short_share_of_the_teacher_changes_little(beta: float) -> None:
    """With the teacher driving a share β of the steps, error rates move by at most H β."""
    for seed in range(8):
        world = World(seed)
        student = world.student(1.0)
        mixed = beta * world.teacher() + (1 - beta) * student
        own, seen = world.error(student, student), world.error(student, mixed)
        assert abs(own - seen) <= min(1.0, world.H * beta) + 1e-12


def test_t11_following_the_leader_regrets_little() -> None:
    """Each student the best one on what was collected: regret ≤ (G²/μ)(2 + log 2N) / N.

    Quadratic losses (μ/2)‖θ - c_i‖² whose centers answer to the student, against it.
    """
    mu, radius = 0.5, 1.0
    theta, centers = torch.zeros(2, **DOUBLE), []
    paid = []
    for i in range(1, 201):
        away = -theta / theta.norm() if theta.norm() > 0 else torch.tensor([1.0, 0.0]).double()
        turn = torch.tensor([math.cos(i), math.sin(i)], **DOUBLE)
        center = radius * (away + 0.3 * turn) / (away + 0.3 * turn).norm()
        paid.append(0.5 * mu * (theta - center).square().sum())
        centers.append(center)
        theta = torch.stack(centers).mean(0)
    N, G = len(paid), mu * 2 * radius
    best = 0.5 * mu * (torch.stack(centers) - theta).square().sum(-1).mean()
    regret = (torch.stack(paid).mean() - best).item()
    assert 0 < regret <= G**2 / mu * (2 + math.log(2 * N)) / N


# T13: reward on a leash

LEASHES = (0.05, 0.3, 1.0, 4.0)


def bandit(seed: int = 0, actions: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(actions, generator=generator, **DOUBLE)
    return A, (1.5 * torch.randn(actions, generator=generator, **DOUBLE)).softmax(-1)


def tilted(A: Tensor, teacher: Tensor, leash: float) -> Tensor:
    """argmax Σ π A - λ KL(π ‖ π_T)."""
    return (teacher.log() + A / leash).softmax(-1)


def hyperbola(A: Tensor, teacher: Tensor, leash: float) -> Tensor:
    """argmax Σ π A - λ KL(π_T ‖ π): λ π_T / (μ - A), with μ by bisection."""
    low, high = A.max().item(), A.max().item() + leash
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if (leash * teacher / (mu - A)).sum() > 1 else (low, mu)
    return leash * teacher / (high - A)


def value(pi: Tensor, A: Tensor, teacher: Tensor, leash: float, forward: bool) -> Tensor:
    kl = (teacher * (teacher / pi).log()) if forward else (pi * (pi / teacher).log())
    return (pi * A).sum() - leash * kl.sum()


def others(pi: Tensor, count: int = 200) -> Tensor:
    """[count, A] distributions, many of them near ``pi``."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(count, len(pi), generator=generator, **DOUBLE)
    size = torch.logspace(-3, 1, count, dtype=torch.float64)[:, None]
    return (pi.log() + size * noise).softmax(-1)


@pytest.mark.parametrize("leash", LEASHES)
def test_t13_reverse_tilts_the_teacher(leash: float) -> None:
    """∝ π_T exp(A/λ), of value λ log Σ π_T exp(A/λ); any other π falls short by λ KL(π ‖ π_λ)."""
    A, teacher = bandit()
    pi = tilted(A, teacher, leash)
    best = value(pi, A, teacher, leash, forward=False)
    closed = leash * torch.logsumexp(teacher.log() + A / leash, -1)
    torch.testing.assert_close(best, closed)
    for other in others(pi):
        short = leash * (other * (other / pi).log()).sum()
        torch.testing.assert_close(best - value(other, A, teacher, leash, forward=False), short)


@pytest.mark.parametrize("leash", LEASHES)
def test_t13_forward_has_a_hyperbola(leash: float) -> None:
    """λ π_T / (μ - A) sums to one with max A < μ ≤ max A + λ, and nothing is as good."""
    A, teacher = bandit()
    pi = hyperbola(A, teacher, leash)
    assert pi.sum().item() == pytest.approx(1, abs=1e-10)
    mu = leash * teacher / pi + A
    torch.testing.assert_close(mu, mu[:1].expand_as(mu))
    assert A.max() < mu[0] <= A.max() + leash
    best = value(pi, A, teacher, leash, forward=True)
    for other in others(pi):
        assert value(other, A, teacher, leash, forward=True) < best


@pytest.mark.parametrize("leash", LEASHES)
def test_t13_the_library_goes_to_the_hyperbola(leash: float) -> None:
    """Minimizing -Σ π A + λ losses.kl, which is what kickstarting with KD does."""
    A, teacher = bandit()
    z = teacher.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -(z.softmax(-1) * A).sum() + leash * losses.kl(student=z, teacher=teacher.log())
        loss.backward()
        return loss

    optimizer.step(closure)
    wanted = hyperbola(A, teacher, leash)
    torch.testing.assert_close(z.softmax(-1).detach(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solve", [tilted, hyperbola])
def test_t13_a_strong_leash_copies_and_a_weak_one_is_greedy(
    solve: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    """λ → ∞ gives the teacher, λ → 0 the best action."""
    A, teacher = bandit()
    torch.testing.assert_close(solve(A, teacher, 1e6), teacher, rtol=0, atol=1e-5)
    assert solve(A, teacher, 1e-4)[A.argmax()] > 0.999


@pytest.mark.parametrize("solve", [tilted, hyperbola])
def test_t13_always_above_the_teacher_and_the_more_so_the_weaker_the_leash(
    solve: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    """Σ π_λ A falls with λ and stays above Σ π_T A, for any teacher."""
    for seed in range(20):
        A, teacher = bandit(seed)
        gains = [(solve(A, teacher, leash) @ A).item() for leash in (0.05, 0.2, 1.0, 5.0, 25.0)]
        assert gains == sorted(gains, reverse=True)
        assert gains[-1] > (teacher @ A).item()


@pytest.mark.parametrize("leash", LEASHES)
def test_t13_forward_keeps_a_floor_under_every_action(leash: float) -> None:
    """λ/(λ+Δ) ≤ π/π_T ≤ λ/Δ forward; reverse lets go exponentially."""
    for seed in range(20):
        A, teacher = bandit(seed)
        gap, best = A.max() - A, A.argmax()
        worse = gap > 0
        forward = hyperbola(A, teacher, leash)
        assert bool((forward >= leash / (leash + gap) * teacher - 1e-10).all())
        assert bool((forward <= leash / gap * teacher + 1e-10)[worse].all())
        reverse = tilted(A, teacher, leash)
        bound = (-gap / leash).exp() * teacher / teacher[best]
        assert bool((reverse <= bound * (1 + 1e-12))[worse].all())


@pytest.mark.parametrize("leash", [0.3, 1.0])
def test_t13_over_an_episode_the_divergence_is_a_reward(leash: float) -> None:
    """Backward with V = λ log Σ π_T exp(Q/λ): the optimum of return minus λ Σ KL; tilting by the
    advantages of the plain return, step by step, is not."""
    world = World(5, H=6)
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(6, 3, generator=generator, **DOUBLE).softmax(-1)

    def score(policies: list[Tensor]) -> float:
        d, total = torch.eye(6, **DOUBLE)[0], 0.0
        for pi in policies:
            kl = (pi * (pi / teacher).log()).sum(-1)
            total += (d @ ((pi * world.rewards).sum(-1) - leash * kl)).item()
            d = torch.einsum("s,sa,sat->t", d, pi, world.moves)
        return total

    soft, plain, V, W = [], [], torch.zeros(6, **DOUBLE), torch.zeros(6, **DOUBLE)
    for _ in range(world.H):
        Q, R = world.rewards + world.moves @ V, world.rewards + world.moves @ W
        soft.append((teacher.log() + Q / leash).softmax(-1))
        V = leash * (teacher.log() + Q / leash).logsumexp(-1)
        plain.append((teacher.log() + R / leash).softmax(-1))
        W = (plain[-1] * R).sum(-1)
    soft, plain = soft[::-1], plain[::-1]
    best = score(soft)
    assert best == pytest.approx(V[0].item(), abs=1e-12)
    assert score(plain) < best - 1e-6
    for _ in range(50):
        noise = torch.randn(world.H, 6, 3, generator=generator, **DOUBLE)
        assert (
            score([(p.log() + 0.1 * n).softmax(-1) for p, n in zip(soft, noise, strict=True)])
            < best
        )
