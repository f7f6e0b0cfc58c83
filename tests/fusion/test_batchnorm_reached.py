"""Statistics are measured where batches come, and stay as they were elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.fusion import refresh_batchnorm


class Two(nn.Module):
    """A head beside the answer, that only trainings ask."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.side = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        for number, norm in enumerate((self.bn, self.side), 2):
            torch.nn.init.constant_(norm.running_mean, number)  # type: ignore[arg-type]
            torch.nn.init.constant_(norm.running_var, 2 * number)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.bn(x)
        return said


@given(st.lists(st.integers(2, 6), min_size=1, max_size=4))
def test_a_norm_that_no_batch_reaches_stays_and_is_named(sizes: list[int]) -> None:
    net, batches = Two(), [torch.randn(size, 3) for size in sizes]
    before = {k: v.clone() for k, v in net.side.state_dict().items()}
    with pytest.warns(UserWarning, match="side"):
        refresh_batchnorm(net, [{"inputs": x} for x in batches])
    assert all(torch.equal(v, before[k]) for k, v in net.side.state_dict().items())
    mean = torch.stack([x.mean(0) for x in batches]).mean(0)
    var = torch.stack([x.var(0) for x in batches]).mean(0)
    assert torch.allclose(net.bn.running_mean, mean, atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(net.bn.running_var, var, atol=1e-5)  # type: ignore[arg-type]


def test_a_batch_of_one_item_is_named() -> None:
    net = nn.BatchNorm1d(3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"batch 1 has one item.*drop_last"):
        refresh_batchnorm(net, [{"inputs": torch.randn(n, 3)} for n in (4, 1)])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
