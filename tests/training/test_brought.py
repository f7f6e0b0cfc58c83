"""What users bring is kept, read early, and told apart: members that were found by attacks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from distill_lib import CE, EMA, KD, capture, distill, losses
from distill_lib.signals import pick

BATCH = (torch.randn(6, 4), torch.arange(6) % 3)


@given(at=st.integers(0, 40), size=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_a_teacher_shares_memory_when_a_byte_of_it_is_trained(at: int, size: int) -> None:
    flat = torch.zeros(64)
    student, teacher = nn.Linear(1, size, bias=False), nn.Linear(4, 3, bias=False)
    student.weight.data = flat[at : at + size].view(size, 1)
    teacher.weight.data = flat[20:32].view(3, 4)
    batch = {"inputs": torch.randn(2, 4)}

    def ask(model: nn.Module, batch: Any) -> Tensor:
        width = model.in_features  # type: ignore[attr-defined]
        return F.pad(model(batch["inputs"][:, :width]), (0, 12))[:, :3]

    if at < 32 and at + size > 20:
        with pytest.raises(ValueError, match="would change while it teaches: weight"):
            distill(student, teacher, [batch], KD(), steps=1, forward=ask)
    else:
        from distill_lib.training.before import check_separate

        check_separate(student, teacher, CE(), set())


@pytest.mark.parametrize("new", [{}, {"momentum": 0.5}, {"lr": 0.01, "weight_decay": 0.2}])
def test_what_a_new_optimizer_says_counts_when_training_goes_on(tmp_path: Path, new: Any) -> None:
    given, made = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, []

    def make(params: list[nn.Parameter], **more: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(params, **{**given, **more}))
        return made[-1]

    student = nn.Linear(4, 3)
    distill(student, None, [BATCH], CE(), steps=2, optimizer=make, checkpoint=tmp_path / "c")
    distill(
        *(student, None, [BATCH], CE()),
        steps=3,
        optimizer=lambda params: make(params, **new),
        checkpoint=tmp_path / "c",
    )
    (group,) = made[-1].param_groups
    assert {name: group[name] for name in given} == {**given, **new}


def test_a_gradient_of_before_is_of_no_step() -> None:
    one = nn.Linear(4, 3)
    other = copy.deepcopy(one)
    one(BATCH[0]).sum().backward()
    for model in (one, other):
        distill(model, None, [BATCH], CE(), steps=1, optimizer=lambda p: torch.optim.SGD(p, 1.0))
    assert torch.equal(one.weight, other.weight)


class Odd(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"path": Path("here")}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize("kind", ["state", "cycle", "looks", "gradients"])
def test_refused_before_the_first_batch(tmp_path: Path, kind: str) -> None:
    drawn = []

    class Batches(list[Any]):
        def __iter__(self) -> Any:
            drawn.append(1)
            return super().__iter__()

    given: dict[str, Any] = {
        "state": {"checkpoint": tmp_path / "c"},
        "cycle": {"lr": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=3)},
        "looks": {"each_epoch": lambda epoch: {}},
        "gradients": {},
    }[kind]
    with torch.set_grad_enabled(kind != "gradients"), pytest.raises((TypeError, ValueError)):
        distill(Odd(4, 3), None, Batches([BATCH]), CE(), epochs=5, **given)
    assert not drawn


@pytest.mark.parametrize("kind", [dict, list])
def test_a_layer_that_returns_several_is_kept_as_it_returned_them(kind: Any) -> None:
    class Layer(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return {"0": y, "1": y + 1} if kind is dict else [y, y + 1]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found = self.layer(x)
            both = [F.relu_(y) for y in (found.values() if kind is dict else found)]
            return both[0] * both[1]

    net = Net()
    said, right = capture(net, "layer")(BATCH[0]), F.linear(BATCH[0], *net.layer.parameters())
    for i in range(2):
        torch.testing.assert_close(pick(said, f"layer/{i}"), right + i)


def test_dist_takes_all_tokens_and_pixels_whether_or_not_a_mask_names_them() -> None:
    z, v, ids = torch.randn(2, 4, 5), torch.randn(2, 4, 5), torch.ones(2, 4).long()
    flat = losses.dist(student=z.flatten(0, 1), teacher=v.flatten(0, 1)).mean()
    for batch in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": ids}):
        torch.testing.assert_close(KD(losses.dist)(z, v, batch)[0], flat)
    images = [x.view(2, 2, 2, 5).movedim(-1, 1) for x in (z, v)]
    for labels in ({}, {"labels": ids.view(2, 2, 2)}):
        torch.testing.assert_close(KD(losses.dist, axis=1)(*images, labels)[0], flat)


def test_labels_of_another_size_than_the_pixels_are_refused() -> None:
    z, v = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    with pytest.raises(ValueError, match="say nothing of values"):
        KD(axis=1, ignore_index=255)(z, v, {"labels": torch.zeros(2, 8, 8).long()})


def test_an_average_of_a_student_with_a_state_of_its_own(tmp_path: Path) -> None:
    student = Odd(4, 3)
    assert EMA(student, 0.9).fingerprint() == EMA(student, 0.9).fingerprint()
    with pytest.raises(ValueError, match="lazy"):
        EMA(nn.LazyLinear(3), 0.9)


def test_objectives_are_divided_and_negated() -> None:
    z, batch = torch.randn(6, 3), {"labels": BATCH[1]}
    right = F.cross_entropy(z, BATCH[1])
    for objective, share in (((CE() + CE()) / 4, 0.5), (CE() / 2, 0.5), (-(CE() + CE()), -2.0)):
        torch.testing.assert_close(objective(z, batch=batch)[0], share * right)
