"""The linear students of rated sentences, against small cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from distill_lib.booktools.ratings import fit, hard, logits


def cloud(n: int = 40, d: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def targets(*certain: float, n: int = 40) -> torch.Tensor:
    side = torch.from_numpy(cloud(n)[:, 0] > 0).float()
    rows = [c * side + (1 - c) * (1 - side) for c in certain]
    return torch.stack([torch.stack([1 - p, p], -1) for p in rows])


def test_sparse_and_dense_texts_give_the_same_students() -> None:
    x = np.maximum(cloud(), 0)
    dense = logits(fit(x, targets(1.0, 0.7), lr=1.0), x)
    thin = logits(fit(sparse.csr_matrix(x), targets(1.0, 0.7), lr=1.0), sparse.csr_matrix(x))
    torch.testing.assert_close(dense, thin)
    assert dense.shape == (3, 2, 40, 2)


def test_a_fit_ends_where_the_penalized_loss_is_flat() -> None:
    x, p, ridge = torch.from_numpy(cloud()).double(), targets(0.8)[0].double(), 2.0
    students = fit(cloud(), targets(0.8), ridges=(ridge,), steps=400, lr=1.0)
    w = students.weights[0].detach().double()[:, 0].requires_grad_()
    s = x @ w
    loss = -(p * torch.stack([-s / 2, s / 2], -1).log_softmax(-1)).sum()
    (slope,) = torch.autograd.grad(loss + ridge / 2 * w.square().sum(), w)
    assert slope.abs().max() < 1e-3


def test_features_that_no_text_has_keep_their_weight_of_zero() -> None:
    x = cloud()
    x[:, [1, 4]] = 0
    weights = fit(x, targets(1.0), lr=1.0).weights[0]
    assert (weights[[1, 4]] == 0).all()
    assert (weights[[0, 2, 3, 5]] != 0).all()


def test_each_student_is_the_one_that_trains_alone() -> None:
    x, both = cloud(), targets(1.0, 0.6)
    weight = torch.tensor([[1.0] * 40, [0.5] * 40])
    together = logits(fit(x, both, weight=weight, lr=1.0), x)
    for i in range(2):
        alone = logits(fit(x, both[i : i + 1], weight=weight[i : i + 1], lr=1.0), x)
        torch.testing.assert_close(together[:, i : i + 1], alone)


def test_targets_of_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets are \[R, 40, 2\]"):
        fit(cloud(), targets(1.0, n=30))


def test_hard_targets_take_the_likelier_side_and_ties_as_told() -> None:
    p = torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
    told = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert hard(p).tolist() == [[0, 1], [1, 0], [1, 0]]
    assert hard(p, ties=told).tolist() == [[0, 1], [1, 0], [0, 1]]
