"""The same numbers as TextBrewer where its losses are what they say, and where they are not."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import losses

pytestmark = pytest.mark.peers
LENGTHS = torch.tensor([5, 3, 2])
MASK = torch.arange(5) < LENGTHS[:, None]


@pytest.fixture(scope="module")
def textbrewer() -> Any:
    """Its losses by name, from the folder where make.py puts it without its dependencies."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.syspath_prepend(str(Path(sys.prefix) / "peers" / "textbrewer"))
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "textbrewer.losses",
            reason="TextBrewer is not installed: pip install --no-deps textbrewer==0.2.1.post1",
            exc_type=ImportError,
        )


def states(width: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 5, width).double(), torch.randn(3, 5, width).double()


def scores() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 2, 5, 5).double(), torch.randn(3, 2, 5, 5).double()


def test_hidden_states(textbrewer: Any) -> None:
    s, t = states()
    ours = losses.hint(student=s, teacher=t)
    torch.testing.assert_close(ours.mean(), textbrewer.hid_mse_loss(s, t))
    torch.testing.assert_close(ours[MASK].mean(), textbrewer.hid_mse_loss(s, t, MASK))


def test_cosine_of_states(textbrewer: Any) -> None:
    s, t = states()
    ours = losses.cosine(student=s, teacher=t)
    torch.testing.assert_close(ours.mean(), textbrewer.cos_loss(s, t))
    torch.testing.assert_close(ours[MASK].mean(), textbrewer.cos_loss(s, t, MASK))


def test_answers(textbrewer: Any) -> None:
    """Its temperature is not undone: no T²."""
    z, v = torch.randn(4, 2).double(), torch.randn(4, 2).double()
    ours = losses.soft_cross_entropy(student=z, teacher=v, temperature=3.0).mean()
    torch.testing.assert_close(ours, textbrewer.kd_ce_loss(z, v, temperature=3.0))


def test_maps_of_texts_without_padding(textbrewer: Any) -> None:
    s, t = (x.softmax(-1) for x in scores())
    ours = losses.attention(student=s, teacher=t).mean()
    torch.testing.assert_close(ours, textbrewer.att_mse_loss(s, t))


def test_with_a_mask_a_text_counts_by_the_square_of_its_length(textbrewer: Any) -> None:
    """It divides by all pairs of all texts, where ours is a mean over the tokens."""
    hidden = ~MASK[:, None, None, :]
    s, t = (x.masked_fill(hidden, -torch.inf).softmax(-1) for x in scores())
    values = losses.attention(student=s, teacher=t, mask=MASK)
    pairs = (values * LENGTHS[:, None])[MASK].sum() / LENGTHS.square().sum()
    torch.testing.assert_close(textbrewer.att_mse_loss(s, t, MASK), pairs)
    assert abs(values[MASK].mean() / pairs - 1) > 1e-3


def test_without_a_mask_every_negative_score_is_taken_for_padding(textbrewer: Any) -> None:
    """Below -0.001 a score is set to 0, on both sides: half of what there is to learn is gone."""
    s, t = -scores()[0].abs() - 0.01, -scores()[1].abs() - 0.01
    assert textbrewer.att_mse_loss(s, t) == 0
    assert (s - t).square().mean() > 0.1
