"""The fused divergence against the chunked loss of TRL's stable distillation trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import losses

pytestmark = pytest.mark.peers
Peer = Callable[..., Any]
CASES: dict[str, tuple[float, Any, dict[str, Any]]] = {
    "forward": (0.0, losses.kl, {}),
    "reverse": (1.0, losses.reverse_kl, {}),
    **{f"jsd {b}": (b, losses.jsd, {"beta": b}) for b in (0.1, 0.5, 0.9)},
}


@pytest.fixture(scope="module")
def trl_chunked() -> Peer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pytest.importorskip("trl.trainer.distillation_trainer", exc_type=ImportError)
    function: Peer = trainer._chunked_divergence_loss
    return function


def sides(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, 9, 8), (3, 9, 12), (700, 8), (700, 12), (700,), (700,)]
    return [torch.randn(*shape, generator=draw).to(dtype) for shape in shapes]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(trl_chunked: Peer, name: str, temperature: float) -> None:
    beta, loss, options = CASES[name]
    h, taught, w, u, b, c = sides()
    wanted = [x.requires_grad_() for x in (h, w, b)]
    mask = torch.rand(3, 9) < 0.7
    peer, _, count = trl_chunked(
        h, taught, w, u, mask.long(), beta,
        student_lm_head_bias=b, teacher_lm_head_bias=c, temperature=temperature,
    )  # fmt: skip
    ours = losses.fused_divergence(
        student=h, teacher=taught, student_head=w, teacher_head=u, student_bias=b, teacher_bias=c,
        loss=loss, temperature=temperature, mask=mask, **options,
    ).sum() / mask.sum()  # fmt: skip
    assert count == mask.sum()
    torch.testing.assert_close(ours, peer, rtol=2e-6, atol=1e-7)
    grads = [torch.autograd.grad(x, wanted) for x in (ours, peer)]
    torch.testing.assert_close(*grads, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_ours_is_as_near_to_double_precision(trl_chunked: Peer, name: str) -> None:
    beta, loss, options = CASES[name]
    h, taught, w, u, _, _ = sides()
    exact = loss(
        student=h.double() @ w.double().T, teacher=taught.double() @ u.double().T, **options
    ).mean()
    peer = trl_chunked(h, taught, w, u, torch.ones(3, 9), beta)[0]
    ours = losses.fused_divergence(
        student=h, teacher=taught, student_head=w, teacher_head=u, loss=loss, **options
    ).mean()
    assert abs(ours.item() - exact.item()) <= 1e-6 * exact.item()
    assert abs(peer.item() - exact.item()) <= 1e-5 * exact.item()


def test_difference_masked_positions_are_computed_there(trl_chunked: Peer) -> None:
    """On a CPU its kernel projects every position: nan under the mask is nan in the gradient."""
    h, taught, w, u, _, _ = sides()
    h[0, 0] = torch.nan
    h.requires_grad_(), w.requires_grad_()
    mask = torch.ones(3, 9)
    mask[0, 0] = 0
    ours = losses.fused_divergence(
        student=h, teacher=taught, student_head=w, teacher_head=u, mask=mask.bool()
    ).sum()
    (grad,) = torch.autograd.grad(ours, w)
    assert grad.isfinite().all()
    peer = trl_chunked(h, taught, w, u, mask, 0.0)[0]
    (grad,) = torch.autograd.grad(peer, w)
    assert not grad.isfinite().all()
