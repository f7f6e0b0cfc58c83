"""Student and teacher are asked about the same batch, or the one that changes it is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import CE, KD, Ensemble, distill


class Double(nn.Module):
    """Twice the input, which is left as it was or not."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) if self.inplace else 2 * x


FIRST = {
    "relu": nn.ReLU,
    "leaky": lambda inplace: nn.LeakyReLU(0.1, inplace=inplace),
    "tanh": lambda inplace: nn.Hardtanh(inplace=inplace),
    "double": Double,
}


def net(first: str, inplace: bool, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(FIRST[first](inplace=inplace), nn.Linear(4, 3))


def data() -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(3)
    return [
        {"inputs": torch.randn(6, 4, generator=g), "labels": torch.arange(6) % 3} for _ in range(2)
    ]


class Bare:
    """A teacher of the user's own, which knows nothing of batches that must not be changed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, batch: Any) -> Any:
        return self.model(batch["inputs"])

    def fingerprint(self) -> str:
        return "bare"


def trained(student: nn.Module, teacher: Any, **options: Any) -> list[float]:
    return distill(student, teacher, data(), CE() + KD(), epochs=2, lr=0.1, **options)["loss"]


kinds = st.tuples(st.sampled_from(sorted(FIRST)), st.booleans())


@given(kinds, kinds, st.sampled_from(["module", "bare", "ensemble"]))
def test_training_is_right_or_refused(
    mine: tuple[str, bool], theirs: tuple[str, bool], kind: str
) -> None:
    right = trained(net(mine[0], False, 1), net(theirs[0], False, 2))
    student, model = net(*mine, 1), net(*theirs, 2)
    wrap = {"module": lambda m: m, "bare": Bare, "ensemble": lambda m: Ensemble([m, m], [1, 0])}
    changes = mine[1] or theirs[1]
    try:
        found = trained(student, wrap[kind](model))
    except ValueError as error:
        who = "student" if mine[1] else "teacher"
        assert changes and f"the {who}" in str(error) and "inplace=False" in str(error)
        return
    assert not changes and found == pytest.approx(right, rel=1e-4)


def test_the_way_out_leads_out() -> None:
    right = trained(net("double", False, 1), net("relu", False, 2))
    batches = data()
    before = copy.deepcopy(batches)
    found = distill(
        net("double", True, 1),
        net("relu", False, 2),
        batches,
        CE() + KD(),
        epochs=2,
        lr=0.1,
        forward=lambda model, batch: model(batch["inputs"].clone()),
    )["loss"]
    assert found == pytest.approx(right)
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(batches, before, strict=True))


def test_a_student_without_a_teacher_leaves_the_batch_for_the_next_epoch() -> None:
    with pytest.raises(ValueError, match="the student, a Sequential, changes batch"):
        distill(net("double", True, 1), None, data(), CE(), epochs=2)


def test_a_forward_that_fills_in_the_batch_is_refused() -> None:
    def forward(model: nn.Module, batch: Any) -> Any:
        batch["inputs"] = 2 * batch["inputs"]
        return model(batch["inputs"])

    with pytest.raises(ValueError, match="the student, a Sequential, replaces entries"):
        trained(net("relu", False, 1), net("relu", False, 2), forward=forward)
