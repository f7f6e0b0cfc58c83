r"""The invariances of the losses, checked in float64: T18."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ON_ANSWERS = (
    losses.kl,
    losses.reverse_kl,
    losses.jsd,
    losses.soft_cross_entropy,
    losses.tvd,
    losses.dist,
)


@pytest.mark.parametrize("loss", ON_ANSWERS, ids=lambda f: f.__name__)
@given(shift=st.floats(-100, 100))
def test_t18_softmax_does_not_see_a_common_shift(loss: Callable[..., Tensor], shift: float) -> None:
    """Each item may have its own."""
    z, v = draw(4, 6), draw(4, 6, seed=1)
    shifts = shift * torch.arange(4).double().unsqueeze(-1)
    moved = loss(student=z + shifts, teacher=v)
    torch.testing.assert_close(moved, loss(student=z, teacher=v))


def test_t18_so_a_divergence_on_the_means_of_actions_is_blind_to_a_common_shift() -> None:
    """Means of a Gaussian policy are no logits: an action that is off by 3 everywhere costs 0."""
    actions = draw(4, 6)
    assert losses.kl(student=actions + 3, teacher=actions).abs().max() < 1e-12
    assert losses.mse_logits(student=actions + 3, teacher=actions).min() == pytest.approx(9.0)


@given(a=st.floats(1e-2, 1e2), b=st.floats(-10, 10))
def test_t18_standardized_logits_do_not_see_scale_or_shift(a: float, b: float) -> None:
    """Then neither does any loss on them."""
    z, v = draw(4, 6), draw(4, 6, seed=1)
    plain = losses.kl(student=losses.standardize(z), teacher=losses.standardize(v))
    moved = losses.kl(student=losses.standardize(a * z + b), teacher=losses.standardize(v))
    torch.testing.assert_close(moved, plain, rtol=1e-6, atol=1e-9)
    # the plain divergence does see it
    seen = losses.kl(student=3 * z, teacher=v) - losses.kl(student=z, teacher=v)
    assert seen.abs().min() > 1e-3


@given(seed=st.integers(0, 1000), scale=st.floats(1e-2, 1e2), shift=st.floats(-10, 10))
def test_t18_relations_do_not_see_where_a_batch_lies(seed: int, scale: float, shift: float) -> None:
    """Distances in units of their mean, and angles, survive rotations, scale and shifts."""
    s, t = draw(5, 6), draw(5, 3, seed=1)
    turn = torch.linalg.qr(draw(6, 6, seed=seed))[0]
    for loss in (losses.rkd_distance, losses.rkd_angle):
        moved = loss(student=scale * s @ turn + shift, teacher=t)
        torch.testing.assert_close(moved, loss(student=s, teacher=t), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("loss", [losses.rkd_distance, losses.rkd_angle], ids=lambda f: f.__name__)
def test_t18_they_do_see_a_scale_of_one_axis(loss: Callable[..., Tensor]) -> None:
    """An affine map that is no similarity changes distances and angles."""
    s = draw(5, 6)
    stretched = s * torch.tensor([5.0, 1, 1, 1, 1, 1]).double()
    assert loss(student=stretched, teacher=s).min() > 1e-3


def test_t18_attention_maps_do_not_see_rotations_of_the_channels() -> None:
    """The sum of squares over channels is a squared length."""
    s, t = draw(3, 4, 5, 5), draw(3, 4, 5, 5, seed=1)
    turn = torch.linalg.qr(draw(4, 4, seed=2))[0]
    turned = torch.einsum("bchw,cd->bdhw", s, turn)
    torch.testing.assert_close(
        losses.attention_transfer(student=turned, teacher=t),
        losses.attention_transfer(student=s, teacher=t),
    )
    hints = [losses.hint(student=x, teacher=t) for x in (s, turned)]
    assert (hints[0] - hints[1]).abs().max() > 1e-3
