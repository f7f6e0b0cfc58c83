"""sharded: what distill cannot train rightly over several processes is refused with the way out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from distill_lib import CE
from distill_lib.training.sharded import gathered, laid_out, ready


def accelerator(kind: str, fsdp2: bool = False) -> Any:
    return SimpleNamespace(distributed_type=SimpleNamespace(value=kind), is_fsdp2=fsdp2)


def objective() -> nn.Module:
    return 1.0 * CE()


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM", "FSDP"])
def test_other_ways_to_spread_a_model_are_refused(kind: str) -> None:
    name = "FSDP 1" if kind == "FSDP" else kind
    with pytest.raises(ValueError, match=rf"and this is {name}: use .*fsdp_version=2"):
        ready(accelerator(kind), nn.Linear(4, 3), objective(), None, None)


def test_the_first_fsdp_around_a_student_is_refused() -> None:
    class FullyShardedDataParallel(nn.Sequential):
        """As torch calls it."""

    student = nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match="this is FSDP 1: use"):
        ready(accelerator("MULTI_GPU"), student, objective(), None, None)


def test_an_optimizer_of_parameters_that_fsdp2_replaces_is_refused() -> None:
    student = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(student.parameters())
    with pytest.raises(ValueError, match=r"pass a function from parameters to an optimizer"):
        ready(accelerator("FSDP", fsdp2=True), student, objective(), None, optimizer)


def test_what_is_whole_stays_as_it_is() -> None:
    student = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert ready(accelerator("NO"), student, objective(), None, None) is False
    optimizer = torch.optim.Adam(student.parameters())
    student(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    for part, other in (
        (student, nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))),
        (optimizer, torch.optim.Adam(student.parameters())),
    ):
        state = gathered(part.state_dict())
        assert repr(state) == repr(part.state_dict())
        laid_out(other, state)
        assert repr(other.state_dict()) == repr(part.state_dict())
    assert gathered(student.state_dict())._metadata == student.state_dict()._metadata
