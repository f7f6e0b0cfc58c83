"""The same numbers as torchdistill where it is right, and its faults shown as such."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib import losses

pytestmark = pytest.mark.peers
T = 4.0
HEAD = ("head", "output", "head", "output")


def outputs(tensor: Tensor, name: str = "head") -> dict[str, dict[str, Tensor]]:
    return {name: {"output": tensor}}


def answers(items: int = 6, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    z, v = torch.randn(items, classes).double(), torch.randn(items, classes).double()
    return 2 * z, 2 * v, torch.randint(classes, (items,))


def maps(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape).double(), torch.randn(shape).double()


def gradients_agree(ours: Any, theirs: Any, student: Tensor) -> None:
    """Equal values, and equal gradients of the student."""
    student = student.clone().requires_grad_()
    one, other = ours(student), theirs(student)
    torch.testing.assert_close(one, other)
    grads = [torch.autograd.grad(value, student)[0] for value in (one, other)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-10)


# The same numbers


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_kd_with_labels(torchdistill: Any, alpha: float) -> None:
    z, v, y = answers()
    peer = torchdistill.KDLoss(*HEAD, temperature=T, alpha=alpha)

    def ours(student: Tensor) -> Tensor:
        soft = losses.kl(student=student, teacher=v, temperature=T).mean()
        return alpha * F.cross_entropy(student, y) + (1 - alpha) * T**2 * soft

    gradients_agree(ours, lambda student: peer(outputs(student), outputs(v), y), z)


def test_standardized_logits(torchdistill: Any) -> None:
    """Its ε of 10⁻⁷ is added to the deviation, ours is none: equal to seven digits."""
    z, v, y = answers()
    peer = torchdistill.LogitStdKDLoss(*HEAD, temperature=T, alpha=0.5, eps=0.0)

    def ours(student: Tensor) -> Tensor:
        both = {"student": losses.standardize(student), "teacher": losses.standardize(v)}
        soft = losses.kl(**both, temperature=T).mean()
        return 0.5 * F.cross_entropy(student, y) + 0.5 * T**2 * soft

    gradients_agree(ours, lambda student: peer(outputs(student), outputs(v), y), z)


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.5)])
def test_dist(torchdistill: Any, beta: float, gamma: float) -> None:
    """Its factor of T² is ours, which an objective applies."""
    z, v, _ = answers()
    peer = torchdistill.DISTLoss(*HEAD, beta=beta, gamma=gamma, tau=T)
    gradients_agree(
        lambda student: (
            T**2
            * losses.dist(student=student, teacher=v, beta=beta, gamma=gamma, temperature=T).mean()
        ),
        lambda student: peer(outputs(student), outputs(v)),
        z,
    )


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_attention_transfer(torchdistill: Any, mode: str) -> None:
    """In mode "code" it averages over positions, in mode "paper" it takes the root of an item."""
    s, t = maps(4, 3, 5, 2)
    pairs = {"a": {side: {"path": "head", "io": "output"} for side in ("student", "teacher")}}
    peer = torchdistill.ATLoss(pairs, mode=mode)

    def ours(student: Tensor) -> Tensor:
        squared = losses.attention_transfer(student=student, teacher=t)
        return squared.sqrt().mean() if mode == "paper" else squared.mean() / 10

    gradients_agree(ours, lambda student: peer(outputs(student), outputs(t)), s)


@pytest.mark.parametrize(("distance", "angle"), [(1.0, 0.0), (0.0, 1.0), (25.0, 50.0)])
def test_rkd(torchdistill: Any, distance: float, angle: float) -> None:
    s, t = maps(6, 8)
    peer = torchdistill.RKDLoss("head", "head", distance, angle, reduction="mean")

    def ours(student: Tensor) -> Tensor:
        values = distance * losses.rkd_distance(student=student, teacher=t)
        return (values + angle * losses.rkd_angle(student=student, teacher=t)).mean()

    gradients_agree(ours, lambda student: peer(outputs(student), outputs(t)), s)


# The known faults: should one of these fail, the library has mended it, and the page on it is old


def test_fault_the_factor_t_squared_is_lost_at_alpha_zero(torchdistill: Any) -> None:
    """KDLoss jumps by T² from alpha = 0 to alpha = 10⁻⁹: only the mixed path multiplies by it."""
    z, v, y = answers()
    at, beside = (
        torchdistill.KDLoss(*HEAD, temperature=T, alpha=a)(outputs(z), outputs(v), y)
        for a in (0.0, 1e-9)
    )
    assert (beside / at).item() == pytest.approx(T**2, rel=1e-6)
    ours = losses.kl(student=z, teacher=v, temperature=T).mean()
    assert at.item() == pytest.approx(ours.item())
    assert beside.item() == pytest.approx(T**2 * ours.item(), rel=1e-6)


def test_fault_a_temperature_alone_is_no_call(torchdistill: Any) -> None:
    """alpha has the default None, and the constructor computes 1 - alpha."""
    with pytest.raises(TypeError):
        torchdistill.KDLoss(*HEAD, temperature=T)


def test_fault_the_channel_term_of_dist_plus_has_the_wrong_sign(torchdistill: Any) -> None:
    """It is the correlation, not one minus it: equal features cost 1, opposite ones -1."""
    z, _, _ = answers()
    features = torch.randn(6, 4, 3, 3).double()
    peer = torchdistill.DISTPlusLoss(
        *HEAD, "features", "output", "features", "output", beta=0.0, gamma=0.0, kappa=0.0
    )

    def value(student: Tensor) -> float:
        return float(
            peer(
                {**outputs(z), **outputs(student, "features")},
                {**outputs(z), **outputs(features, "features")},
            )
        )

    assert value(features) == pytest.approx(1.0)
    assert value(-features) == pytest.approx(-1.0)


def test_fault_similarity_divides_rows_by_their_sum_of_absolute_values(torchdistill: Any) -> None:
    """Its normalize(G, 1) sets the exponent, not the axis; the paper's rows have L2 norm 1."""
    s, t = maps(6, 3, 2, 2)
    theirs = torchdistill.SPKDLoss("head", "head", reduction="batchmean")(outputs(s), outputs(t))
    grams = [x.flatten(1) @ x.flatten(1).T for x in (s, t)]

    def value(power: float) -> Tensor:
        rows = [g / torch.linalg.vector_norm(g, power, dim=1, keepdim=True) for g in grams]
        return (rows[0] - rows[1]).square().sum() / 36

    torch.testing.assert_close(theirs, value(1))
    torch.testing.assert_close(losses.similarity(student=s, teacher=t).mean(), value(2))
    assert (value(1) / value(2)).item() < 0.5


def test_fault_one_masked_class_gives_nan(torchdistill: Any) -> None:
    """Ours treats a class of -inf on both sides as absent."""
    masked = torch.tensor([[0.0, 1.0, -math.inf]])
    other = torch.tensor([[2.0, 0.0, -math.inf]])
    peer = torchdistill.KDLoss(*HEAD, temperature=1.0, alpha=0.0)
    assert peer(outputs(masked), outputs(other)).isnan()
    want = losses.kl(student=masked[:, :2], teacher=other[:, :2])
    torch.testing.assert_close(losses.kl(student=masked, teacher=other), want)
