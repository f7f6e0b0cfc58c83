"""The formulas of the two well-known collections for CIFAR-100, written again from the papers.

RepDistiller (Tian et al. 2020) and mdistiller (Zhao et al. 2022) are no packages. What their files
compute is stated here in plain torch, each as the batch mean that they train with, and compared
with the mean of ours.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib import losses

pytestmark = pytest.mark.peers


def answers(items: int = 6, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    z, v = (2 * torch.randn(items, classes, dtype=torch.float64) for _ in range(2))
    return z, v, torch.randint(classes, (items,))


# RepDistiller's side


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_kd(T: float) -> None:
    """Sum over classes and items, over the number of items, times T²."""
    z, v, _ = answers()
    p = (v / T).softmax(1)
    theirs = T**2 * (p * (p.log() - (z / T).log_softmax(1))).sum() / len(z)
    ours = T**2 * losses.kl(student=z, teacher=v, temperature=T).mean()
    torch.testing.assert_close(ours, theirs)


def test_hint() -> None:
    """The mean squared error over everything."""
    s, t = (torch.randn(4, 3, 5, 5, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(losses.hint(student=s, teacher=t).mean(), ((s - t) ** 2).mean())


def test_attention_transfer() -> None:
    """Mean over channels, unit length, mean over items and positions."""
    s, t = (torch.randn(4, c, 5, 5, dtype=torch.float64) for c in (3, 8))
    a, b = (F.normalize((x**2).mean(1).reshape(4, 25)) for x in (s, t))
    theirs = ((a - b) ** 2).mean()
    torch.testing.assert_close(losses.attention_transfer(student=s, teacher=t).mean() / 25, theirs)


def test_similarity() -> None:
    """Rows of the Gram matrix at unit length, summed squares over B²."""
    s, t = (torch.randn(4, c, 5, 5, dtype=torch.float64) for c in (3, 8))
    a, b = (F.normalize(x.reshape(4, -1) @ x.reshape(4, -1).T, dim=1) for x in (s, t))
    theirs = ((a - b) ** 2).sum() / 16
    torch.testing.assert_close(losses.similarity(student=s, teacher=t).mean(), theirs)


def test_relational() -> None:
    """25 distances and 50 angles, each averaged over all pairs or triples."""
    s, t = (torch.randn(6, d, dtype=torch.float64) for d in (4, 9))

    def table(x: Tensor) -> Tensor:
        d = torch.stack([(x - row).norm(dim=1) for row in x])
        return d / d[d > 0].mean()

    def angles(x: Tensor) -> Tensor:
        sides = torch.stack([F.normalize(x - row, dim=1) for row in x])
        return torch.einsum("bid,bjd->bij", sides, sides)

    theirs = 25 * F.smooth_l1_loss(table(s), table(t)) + 50 * F.smooth_l1_loss(angles(s), angles(t))
    ours = 25 * losses.rkd_distance(student=s, teacher=t)
    ours = ours + 50 * losses.rkd_angle(student=s, teacher=t)
    torch.testing.assert_close(ours.mean(), theirs)


# mdistiller's side


def dkd_in_probabilities(
    z: Tensor, v: Tensor, y: Tensor, alpha: float, beta: float, T: float
) -> Tensor:
    """Binary answers from sums of probabilities; the label pushed down by 1000 for the rest."""
    is_label = F.one_hot(y, z.shape[1]).bool()

    def binary(logits: Tensor) -> Tensor:
        p = (logits / T).softmax(1)
        return torch.stack([(p * is_label).sum(1), (p * ~is_label).sum(1)], 1)

    b_q, b_p = binary(z), binary(v)
    target = (b_p * (b_p.log() - b_q.log())).sum() / len(z)
    q_hat, p_hat = ((x / T - 1000.0 * is_label).log_softmax(1) for x in (z, v))
    others = (p_hat.exp() * (p_hat - q_hat)).sum() / len(z)
    return T**2 * (alpha * target + beta * others)


@pytest.mark.parametrize("T", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (1.0, 8.0)])
def test_dkd(alpha: float, beta: float, T: float) -> None:
    z, v, y = answers()
    z.requires_grad_()
    options = {"alpha": alpha, "beta": beta, "temperature": T}
    ours = T**2 * losses.dkd(student=z, teacher=v, labels=y, **options).mean()
    theirs = dkd_in_probabilities(z, v, y, alpha, beta, T)
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(x, z)[0] for x in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 450.0), (torch.float16, 80.0)])
def test_fault_dkd_in_probabilities_breaks_for_a_sure_student(
    dtype: torch.dtype, gap: float
) -> None:
    """log of a sum of probabilities that are all 0; ours stays in log space."""
    z = torch.tensor([[gap, 1.0, 0.0]], dtype=dtype, requires_grad=True)
    v = torch.tensor([[2.0, 1.0, 0.0]], dtype=dtype)
    y = torch.tensor([0])
    theirs = dkd_in_probabilities(z, v, y, 1.0, 8.0, 1.0)
    assert not theirs.isfinite()
    ours = losses.dkd(student=z, teacher=v, labels=y, temperature=1.0).mean()
    ours.backward()
    assert ours.isfinite() and z.grad is not None and z.grad.isfinite().all()


def test_fault_dkd_of_two_classes_has_an_empty_second_part() -> None:
    """It is computed all the same, as 0: weight 8 on nothing. Ours refuses."""
    z, v = (torch.randn(4, 2, dtype=torch.float64) for _ in range(2))
    y = torch.tensor([0, 1, 0, 1])
    assert dkd_in_probabilities(z, v, y, 0.0, 8.0, 1.0).item() == 0
    with pytest.raises(ValueError, match="at least 3 classes"):
        losses.dkd(student=z, teacher=v, labels=y)


def test_standardized_logits() -> None:
    """The authors of logit standardization build on mdistiller: deviation with C - 1."""
    z, v, _ = answers()
    base, weight = 2.0, 9.0
    a, b = ((x - x.mean(1, keepdim=True)) / (1e-7 + x.std(1, keepdim=True)) for x in (z, v))
    p = (b / base).softmax(1)
    theirs = weight * base**2 * (p * (p.log() - (a / base).log_softmax(1))).sum(1).mean()
    both = {"student": losses.standardize(z), "teacher": losses.standardize(v)}
    ours = weight * base**2 * losses.kl(**both, temperature=base).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
