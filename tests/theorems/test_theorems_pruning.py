r"""What is removed, and what it costs, checked in float64: T14.

w are the weights, H is the Hessian of the loss at its minimum, q is a weight that is removed, and
the cost is that of the quadratic model, ½ δᵀ H δ.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.compress import mask_lowest, wanda

seeds = st.integers(0, 10_000)


def problem(seed: int, n: int = 6) -> tuple[Tensor, Tensor]:
    """Weights [n] and a positive definite Hessian [n, n] whose inputs differ in size."""
    g = torch.Generator().manual_seed(seed)
    size = torch.rand(n, generator=g, dtype=torch.float64) * 3 + 0.1
    x = torch.randn(4 * n, n, generator=g, dtype=torch.float64) * size
    return torch.randn(n, generator=g, dtype=torch.float64), x.T @ x / len(x)


def cost(h: Tensor, change: Tensor) -> float:
    return (0.5 * change @ h @ change).item()


def without(w: Tensor, gone: tuple[int, ...]) -> Tensor:
    """The change that sets some weights to zero and leaves the others."""
    change = torch.zeros_like(w)
    change[list(gone)] = -w[list(gone)]
    return change


def surgeon(w: Tensor, h: Tensor, gone: tuple[int, ...]) -> tuple[Tensor, float]:
    """The best change with which the weights vanish, and what it is said to cost."""
    inverse, q = torch.linalg.inv(h), list(gone)
    force = torch.linalg.solve(inverse[q][:, q], w[q])
    return -inverse[:, q] @ force, (0.5 * w[q] @ force).item()


# the projection


@given(seed=seeds, kept=st.integers(1, 5))
def test_t14_the_largest_weights_are_the_projection(seed: int, kept: int) -> None:
    """Among all vectors with at most k entries, that of the k largest weights is the nearest."""
    w, _ = problem(seed)
    removed = itertools.combinations(range(6), 6 - kept)
    best = min(removed, key=lambda gone: float(w[list(gone)].square().sum()))
    mask = mask_lowest({"w": w.square()}, 1 - kept / 6)["w"]
    assert set((~mask).nonzero().flatten().tolist()) == set(best)
    # for a given support the nearest vector keeps the weights as they are
    off = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * mask
    assert (w * mask + off - w).norm() >= (w * mask - w).norm()


@given(seed=seeds, scale=st.floats(0.1, 10))
def test_t14_magnitude_is_optimal_where_the_hessian_is_round(seed: int, scale: float) -> None:
    w, _ = problem(seed)
    h = scale * torch.eye(6, dtype=torch.float64)
    costs = {gone: surgeon(w, h, gone)[1] for gone in itertools.combinations(range(6), 3)}
    mask = mask_lowest({"w": w.abs()}, 0.5)["w"]
    assert min(costs, key=costs.__getitem__) == tuple((~mask).nonzero().flatten().tolist())


@given(seed=seeds)
def test_t14_and_where_it_is_not_round_some_weights_refute_it(seed: int) -> None:
    """Two unequal curvatures: the larger weight on the flatter axis should go, and stays."""
    a, b = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    flat, steep = min(a, b), max(a, b)
    if steep / flat < 1.001:
        return
    h = torch.stack([flat, steep]).diag()
    w = torch.tensor([(steep / flat).item() ** 0.25, 1.0], dtype=torch.float64)
    assert cost(h, without(w, (0,))) < cost(h, without(w, (1,)))
    assert mask_lowest({"w": w.abs()}, 0.5)["w"].tolist() == [True, False]


@given(seed=seeds, correlation=st.floats(0.05, 0.95))
def test_t14_and_where_inputs_are_correlated_some_weights_refute_it(
    seed: int, correlation: float
) -> None:
    """Equal curvatures that are not independent: what is kept should not stay as it was."""
    n = 2 + seed % 4
    h = torch.full((n, n), correlation, dtype=torch.float64).fill_diagonal_(1.0)
    w = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = mask_lowest({"w": w.abs()}, 1 / n)["w"]
    gone = tuple((~mask).nonzero().flatten().tolist())
    least = min(surgeon(w, h, (q,))[1] for q in range(n))
    assert cost(h, without(w, gone)) > least * (1 + 1e-6)


# optimal brain damage


@given(seed=seeds, count=st.integers(1, 5))
def test_t14_brain_damage_is_exact_and_optimal_for_a_diagonal_hessian(
    seed: int, count: int
) -> None:
    w, h = problem(seed)
    h = h.diagonal().diag()
    scores = 0.5 * h.diagonal() * w.square()
    costs = {gone: surgeon(w, h, gone)[1] for gone in itertools.combinations(range(6), count)}
    mask = mask_lowest({"w": scores}, count / 6)["w"]
    chosen = tuple((~mask).nonzero().flatten().tolist())
    assert costs[chosen] == pytest.approx(min(costs.values()))
    assert cost(h, without(w, chosen)) == pytest.approx(scores[~mask].sum().item())
    torch.testing.assert_close(surgeon(w, h, chosen)[0], without(w, chosen))


# optimal brain surgeon


@given(seed=seeds, count=st.integers(1, 4))
def test_t14_what_the_surgeon_predicts_is_what_it_costs(seed: int, count: int) -> None:
    w, h = problem(seed)
    for gone in itertools.combinations(range(6), count):
        change, predicted = surgeon(w, h, gone)
        assert cost(h, change) == pytest.approx(predicted, rel=1e-8)
        assert (w + change)[list(gone)].abs().max() < 1e-10
        # Lagrange: the gradient vanishes in all coordinates that are free
        free = [i for i in range(6) if i not in gone]
        assert (h @ change)[free].abs().max() < 1e-8


@given(seed=seeds)
def test_t14_a_single_removal_has_the_formula_of_the_paper(seed: int) -> None:
    w, h = problem(seed)
    inverse = torch.linalg.inv(h)
    for q in range(6):
        change, predicted = surgeon(w, h, (q,))
        assert predicted == pytest.approx((w[q] ** 2 / (2 * inverse[q, q])).item(), rel=1e-9)
        torch.testing.assert_close(change, -w[q] / inverse[q, q] * inverse[:, q])


@given(seed=seeds)
def test_t14_no_other_change_that_removes_the_weights_is_cheaper(seed: int) -> None:
    w, h = problem(seed)
    g = torch.Generator().manual_seed(seed)
    change, least = surgeon(w, h, (1, 4))
    for _ in range(20):
        other = torch.randn(6, generator=g, dtype=torch.float64)
        other[[1, 4]] = 0
        assert cost(h, change + other) >= least
    assert cost(h, without(w, (1, 4))) >= least - 1e-12


@given(seed=seeds)
def test_t14_one_after_the_other_is_the_same_as_at_once(seed: int) -> None:
    """Removing q and then r from what is left, with the Hessian of what is left."""
    w, h = problem(seed)
    together, predicted = surgeon(w, h, (1, 4))
    first, one = surgeon(w, h, (1,))
    left = [0, 2, 3, 4, 5]
    second, two = surgeon((w + first)[left], h[left][:, left], (3,))  # the place of weight 4
    change = first.clone()
    change[left] += second
    torch.testing.assert_close(change, together)
    assert one + two == pytest.approx(predicted)


@given(seed=seeds)
def test_t14_the_surgeon_never_costs_more_than_the_damage(seed: int) -> None:
    w, h = problem(seed)
    inverse = torch.linalg.inv(h).diagonal()
    assert (1 / inverse <= h.diagonal() * (1 + 1e-9)).all()
    for q in range(6):
        damage = (0.5 * h[q, q] * w[q] ** 2).item()
        assert surgeon(w, h, (q,))[1] <= damage * (1 + 1e-9)
        assert cost(h, without(w, (q,))) == pytest.approx(damage)


def test_t14_over_many_problems_the_order_is_magnitude_damage_surgeon() -> None:
    found = []
    for seed in range(200):
        w, h = problem(seed)
        damage = 0.5 * h.diagonal() * w.square()
        saved = torch.tensor([surgeon(w, h, (q,))[1] for q in range(6)])
        found.append(torch.stack([damage[w.abs().argmin()], damage.min(), saved.min()]))
    magnitude, damage_, surgeon_ = torch.stack(found).mean(0).tolist()
    assert magnitude > 3 * damage_ > 3 * surgeon_


# Wanda


def test_t14_wanda_is_brain_damage_for_the_squared_error_of_a_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    x = torch.randn(40, 5, dtype=torch.float64) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
    right = layer(x).detach()

    def error(weight: Tensor) -> Tensor:
        out = x @ weight.view(3, 5).T + layer.bias.detach()
        return 0.5 * (out - right).square().sum()

    w = layer.weight.detach().flatten()
    h = torch.autograd.functional.hessian(error, w)
    damage = (0.5 * h.diagonal() * w.square()).view(3, 5)
    score = layer.weight.detach().abs() * x.norm(dim=0)
    torch.testing.assert_close(damage, 0.5 * score.square())
    for scope in ("row", "layer"):
        mask = wanda(layer, [{"inputs": x}], 0.4, scope)["weight"]
        assert torch.equal(mask, mask_lowest({"w": damage}, 0.4, scope)["w"])


def test_t14_with_inputs_of_one_size_wanda_is_magnitude() -> None:
    w = torch.tensor([[0.3, -2.0, 0.1, 1.0]], dtype=torch.float64)
    x = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))[0]
    layer = nn.Linear(4, 1, bias=False).double()
    layer.weight.data.copy_(w)
    mask = wanda(layer, [{"inputs": x}], 0.5)["weight"]
    assert torch.equal(mask, mask_lowest({"w": w.abs()}, 0.5, "row")["w"])
