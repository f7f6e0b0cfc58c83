r"""Why distillation works, checked in float64: T8 to T10.

p is the teacher, q the student, p* the true distribution of the answer, n the number of texts.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import CE, KD, distill, losses

seeds = st.integers(0, 10_000)
classes = st.integers(2, 7)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), at)[0]


# T8 (a): label smoothing


@given(seed=seeds, count=classes, share=st.floats(0, 0.99))
def test_t8_label_smoothing_is_a_second_teacher_that_knows_nothing(
    seed: int, count: int, share: float
) -> None:
    """CE against (1-ε)y + εu = (1-ε) CE + ε [KL(u ‖ q) + log N]."""
    z = 3 * normal(count, seed=seed)
    y = torch.tensor(seed % count)
    smoothed, _ = CE(label_smoothing=share)(z[None], None, {"labels": y[None]})
    ignorant = losses.kl(student=z, teacher=torch.zeros(count, dtype=torch.float64))
    expected = (1 - share) * F.cross_entropy(z, y) + share * (ignorant + math.log(count))
    torch.testing.assert_close(smoothed, expected)


@given(seed=seeds, count=classes, share=st.floats(0, 0.99))
def test_t8_a_smoothed_label_is_a_target_like_any_other(
    seed: int, count: int, share: float
) -> None:
    """KD from log((1-ε)y + ε/N) has the gradient of CE(label_smoothing=ε), also for ε = 0."""
    z = (3 * normal(4, count, seed=seed)).requires_grad_()
    y = torch.arange(4) % count
    target = (1 - share) * F.one_hot(y, count).double() + share / count
    taught, _ = KD()(z, target.log())
    labeled, _ = CE(label_smoothing=share)(z, None, {"labels": y})
    torch.testing.assert_close(gradient(taught, z), gradient(labeled, z), rtol=0, atol=1e-12)


# T8 (b): reweighting


def summands(z: Tensor, v: Tensor, y: int) -> tuple[Tensor, Tensor, float]:
    """The weighted label, the dark knowledge, and the weight."""
    q, p = z.softmax(-1), v.softmax(-1)
    hot = F.one_hot(torch.tensor(y), len(z)).double()
    weight = (p[y] - q[y]) / (1 - q[y])
    rest_q, rest_p = (a * (1 - hot) / (1 - a[y]) for a in (q, p))
    return weight * (q - hot), (1 - p[y]) * (rest_q - rest_p), weight.item()


@given(seed=seeds, count=classes)
def test_t8_distillation_is_a_reweighted_label_plus_dark_knowledge(seed: int, count: int) -> None:
    """∇KL(p ‖ q) = w ∇CE + (1 - p_y)(q̂ - p̂), and the second has no entry at the label."""
    z, v, y = (2 * normal(count, seed=seed)).requires_grad_(), normal(count, seed=seed + 1), 0
    whole = gradient(losses.kl(student=z, teacher=v), z)
    label, dark, weight = summands(z.detach(), v, y)
    torch.testing.assert_close(whole, label + dark, rtol=0, atol=1e-12)
    assert dark[y] == 0
    assert dark.sum().item() == pytest.approx(0, abs=1e-12)
    assert weight <= v.softmax(-1)[y].item() + 1e-12


@given(seed=seeds)
def test_t8_with_two_classes_nothing_but_the_weight_is_left(seed: int) -> None:
    z, v = 2 * normal(2, seed=seed), 2 * normal(2, seed=seed + 1)
    label, dark, _ = summands(z, v, seed % 2)
    assert dark.abs().max() < 1e-12
    assert label.abs().max() > 1e-9


def test_t8_the_weight_is_the_teachers_only_for_a_student_that_is_wrong() -> None:
    """p_y at q_y = 0; 2 p_y - 1 for two classes at the start; negative beyond the teacher."""
    v = torch.tensor([0.8, 0.2], dtype=torch.float64).log()

    def weight(q_y: float) -> float:
        return summands(torch.tensor([q_y, 1 - q_y]).double().log(), v, 0)[2]

    assert weight(1e-9) == pytest.approx(0.8, abs=1e-6)
    assert weight(0.5) == pytest.approx(2 * 0.8 - 1)
    assert weight(0.8) == pytest.approx(0, abs=1e-6)
    assert weight(0.9) == pytest.approx(-1, abs=1e-5)


@given(seed=seeds)
def test_t8_permuting_the_other_classes_leaves_the_weight_alone(seed: int) -> None:
    """The control of Furlanello et al. changes the second summand and nothing else."""
    z, v = normal(6, seed=seed), 2 * normal(6, seed=seed + 1)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed)) + 1
    permuted = torch.cat([v[:1], v[order]])
    one, dark, w = summands(z, v, 0)
    two, other, w_permuted = summands(z, permuted, 0)
    assert w == pytest.approx(w_permuted)
    torch.testing.assert_close(one, two)
    moved = (order != torch.arange(1, 6)).any()
    assert moved == ((dark - other).abs().max() > 1e-12)


# T9: variance and bias


def population(seed: int, texts: int = 5, answers: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """p* and the losses of a student on equally likely texts, and a teacher that is wrong."""
    p, q, t = (normal(texts, answers, seed=seed + k).mul(1.5) for k in range(3))
    return p.softmax(-1), -q.log_softmax(-1), t.softmax(-1)


def moments(values: Tensor, weights: Tensor) -> tuple[float, float]:
    mean = (weights * values).sum()
    return mean.item(), (weights * (values - mean) ** 2).sum().item()


@given(seed=seeds)
def test_t9_a_soft_target_saves_the_variance_of_the_label(seed: int) -> None:
    """Exactly, over all ways to draw two texts and their labels: Var gap = E Var[ℓ | x] / 2."""
    p, loss, _ = population(seed)
    texts, answers = p.shape
    one, soft, chance = [], [], []
    items = list(itertools.product(range(texts), range(answers)))
    for (i, a), (j, b) in itertools.product(items, items):
        one.append((loss[i, a] + loss[j, b]) / 2)
        soft.append(((p[i] * loss[i]).sum() + (p[j] * loss[j]).sum()) / 2)
        chance.append(p[i, a] * p[j, b] / texts**2)
    chances = torch.stack(chance)
    mean_one, var_one = moments(torch.stack(one), chances)
    mean_soft, var_soft = moments(torch.stack(soft), chances)
    within = ((p * loss**2).sum(-1) - (p * loss).sum(-1) ** 2).mean().item()
    risk = (p * loss).sum(-1).mean().item()
    assert mean_one == pytest.approx(risk)
    assert mean_soft == pytest.approx(risk)
    assert var_one - var_soft == pytest.approx(within / 2)
    assert within > 0


@given(seed=seeds, raters=st.integers(1, 30), budget=st.integers(30, 1000))
def test_t9_for_a_fixed_number_of_answers_one_for_each_text_is_best(
    seed: int, raters: int, budget: int
) -> None:
    """(V_x + V_y / k) / n with n = B / k grows with k."""
    p, loss, _ = population(seed)
    mean = (p * loss).sum(-1)
    between = mean.var(correction=0)
    within = ((p * loss**2).sum(-1) - mean**2).mean()
    one, more = ((between + within / k) * k / budget for k in (raters, raters + 1))
    assert more > one


@given(seed=seeds, price=st.floats(0.1, 100))
def test_t9_if_a_text_costs_something_the_best_number_of_answers_is_a_square_root(
    seed: int, price: float
) -> None:
    """(V_x + V_y / k)(c + k) / B is smallest at k = sqrt(c V_y / V_x)."""
    p, loss, _ = population(seed)
    mean = (p * loss).sum(-1)
    between = mean.var(correction=0).item()
    within = ((p * loss**2).sum(-1) - mean**2).mean().item()

    def variance(k: float) -> float:
        return (between + within / k) * (price + k)

    best = math.sqrt(price * within / between)
    assert all(variance(best) <= variance(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))


@given(seed=seeds, n=st.integers(1, 1000))
def test_t9_the_error_of_a_wrong_teacher_is_below_its_bound(seed: int, n: int) -> None:
    """Var / n + bias², and |bias| ≤ E ‖p - p*‖ ‖ℓ - mean ℓ‖, with centered losses."""
    p, loss, teacher = population(seed)
    said = (teacher * loss).sum(-1)
    bias = (said - (p * loss).sum(-1)).mean()
    centered = loss - loss.mean(-1, keepdim=True)
    bound = ((teacher - p).norm(dim=-1) * centered.norm(dim=-1)).mean()
    plain = ((teacher - p).norm(dim=-1) * loss.norm(dim=-1)).mean()
    variance = said.var(correction=0) / n
    assert variance + bias**2 <= variance + bound**2 + 1e-12
    assert bound <= plain + 1e-12


@given(seed=seeds)
def test_t9_with_one_text_and_two_classes_the_bound_is_exact(seed: int) -> None:
    """What is lost in the bound is lost between texts, where errors of opposite sign cancel."""
    p, loss, teacher = population(seed, texts=1, answers=2)
    bias = ((teacher - p) * loss).sum()
    centered = loss - loss.mean(-1, keepdim=True)
    bound = (teacher - p).norm() * centered.norm()
    assert bias.abs().item() == pytest.approx(bound.item())


# T10: the linear student


class Sided(nn.Module):
    """Two logits ∓ wᵀx / 2 of a linear student that begins at a given point."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        s = inputs @ self.w / 2
        return torch.stack([-s, s], -1)


def taught(points: Tensor, teacher: Tensor, start: Tensor, steps: int = 800) -> Tensor:
    """What gradient descent makes of the teacher's probabilities, in the library's loop."""
    student = Sided(start)
    descent = torch.optim.SGD(student.parameters(), lr=1.0, momentum=0.95, nesterov=True)
    batch = {"inputs": points}
    distill(student, Sided(teacher), [batch], KD(), steps=steps, optimizer=descent)
    return student.w.detach()


def on_sphere(n: int, d: int, seed: int) -> Tensor:
    return F.normalize(normal(n, d, seed=seed), dim=-1) * 1.5


@pytest.mark.parametrize("n", [1, 3, 5])
def test_t10_left_of_the_cliff_the_student_is_a_projection(n: int) -> None:
    d = 8
    x, w = on_sphere(n, d, seed=n), normal(d, seed=99)
    found = taught(x, w, torch.zeros(d, dtype=torch.float64))
    visible = torch.linalg.pinv(x) @ (x @ w)
    assert (found - visible).norm() < 1e-4
    assert (found - w).norm() > 0.1


def test_t10_right_of_the_cliff_it_is_the_teacher() -> None:
    d = 4
    x, w = on_sphere(16, d, seed=1), normal(d, seed=99)
    assert (taught(x, w, torch.zeros(d, dtype=torch.float64)) - w).norm() < 1e-4


def test_t10_what_the_start_has_outside_of_the_span_stays() -> None:
    d = 8
    x, w, start = on_sphere(3, d, seed=3), normal(d, seed=99), normal(d, seed=7)
    project = torch.linalg.pinv(x) @ x
    expected = project @ w + start - project @ start
    assert (taught(x, w, start) - expected).norm() < 1e-4


@given(seed=seeds, d=st.integers(2, 12))
def test_t10_more_texts_never_turn_the_student_away(seed: int, d: int) -> None:
    """cos θ = ‖P w*‖ / ‖w*‖ does not fall as rows are added, and is 1 at the d-th."""
    x, w = normal(d + 2, d, seed=seed), normal(d, seed=seed + 1)
    cosines = [0.0]
    for n in range(1, d + 3):
        visible = torch.linalg.lstsq(x[:n], x[:n] @ w, driver="gelsd").solution
        cosine = (visible @ w / visible.norm() / w.norm()).item()
        assert cosine == pytest.approx((visible.norm() / w.norm()).item(), abs=1e-6)
        assert cosine >= cosines[-1] - 1e-6
        cosines.append(cosine)
    assert cosines[d] == pytest.approx(1, abs=1e-6)
