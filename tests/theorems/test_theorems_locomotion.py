"""What a student that is not told can reach: more frames lose less, a code loses what bends."""

from __future__ import annotations

import pytest
import torch


def world(seed: int, bend: float):
    """Equally likely triples: h what is seen of long, g of short (a part of it), z what is hidden;
    the teacher's action is head(h, z)."""
    draw = torch.Generator().manual_seed(seed)
    h = torch.arange(6).repeat_interleave(4)
    z = torch.randn(24, 3, generator=draw, dtype=torch.float64)
    a, b = torch.randn(2, 6, 3, generator=draw, dtype=torch.float64)

    def head(h, z):
        return ((z * a[h]).sum(-1) + bend * (z * b[h]).sum(-1).tanh()).double()

    return h, h // 2, z, head


def mean_given(what, x):
    """The conditional mean of x, at each item."""
    return torch.stack([x[what == w].mean(0) for w in what])


@pytest.mark.parametrize("seed", range(10))
def test_who_sees_more_loses_no_more(seed):
    h, g, z, head = world(seed, 1.0)
    action = head(h, z)
    long, short = mean_given(h, action), mean_given(g, action)
    lost_long, lost_short = ((action - m).square().mean() for m in (long, short))
    gap = (long - short).square().mean()
    torch.testing.assert_close(lost_short, lost_long + gap)
    for _ in range(5):  # no other function of h is better
        other = long + torch.randn(6, dtype=torch.float64)[h]
        assert (action - other).square().mean() > lost_long


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("bend", [0.0, 1.0])
def test_a_code_loses_what_bends(seed, bend):
    h, _, z, head = world(seed, bend)
    action = head(h, z)
    by_action, by_code = mean_given(h, action), head(h, mean_given(h, z))
    lost_action, lost_code = ((action - m).square().mean() for m in (by_action, by_code))
    gap = (by_action - by_code).square().mean()
    torch.testing.assert_close(lost_code, lost_action + gap)
    assert gap < 1e-20 if bend == 0 else gap > 1e-4
