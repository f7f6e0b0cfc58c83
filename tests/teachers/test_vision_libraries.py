"""Models of timm and torchvision teach and learn as they are: no wrapper, layers by their names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import KD, Match, Teacher, capture, distill
from distill_lib.teachers import fingerprint

Make = Callable[[], nn.Module]
MISSING = "{0} is not installed, or for another torch: pip install {0}"


def library(name: str) -> Any:
    """The library, or a skip: one that is built for another torch raises a RuntimeError."""
    try:
        return pytest.importorskip(name, reason=MISSING.format(name), exc_type=ImportError)
    except RuntimeError as error:
        pytest.skip(f"{MISSING.format(name)} ({error})")


def of_timm() -> tuple[Make, str, Make, str]:
    make = library("timm").create_model
    big = {"num_classes": 5, "pretrained": False}
    return (
        lambda: make("resnet18", **big), "layer3",
        lambda: make("mobilenetv3_small_050", **big), "blocks.3",
    )  # fmt: skip


def of_torchvision() -> tuple[Make, str, Make, str]:
    models = library("torchvision").models
    return (
        lambda: models.resnet18(num_classes=5), "layer3",
        lambda: models.shufflenet_v2_x0_5(num_classes=5), "stage3",
    )  # fmt: skip


@pytest.mark.parametrize("of", [of_timm, of_torchvision])
def test_a_layer_of_such_a_model_is_matched(of: Callable[[], tuple[Make, str, Make, str]]) -> None:
    torch.manual_seed(0)
    big, theirs, small, ours = of()
    teacher, student, images = big(), small(), torch.rand(4, 3, 64, 64)

    captured = capture(copy.deepcopy(teacher).eval(), theirs)
    said = captured(images)
    assert said["logits"].shape == (4, 5) and said[theirs].shape == (4, 256, 4, 4)

    source = Teacher(teacher)
    before, weights = source.fingerprint(), copy.deepcopy(student.state_dict())
    assert before == fingerprint(copy.deepcopy(teacher)) != fingerprint(student)
    batches: list[tuple[Tensor, Tensor]] = [(images, torch.arange(4))]
    pull = Match(ours, theirs, project=nn.LazyConv2d(256, 1))
    done = distill(student, source, batches, KD() + 0.1 * pull, epochs=1, lr=1e-3)
    assert source.fingerprint() == before
    changed = [k for k, v in student.state_dict().items() if not torch.equal(v, weights[k])]
    assert any(k.startswith(ours) for k in changed), changed
    assert done is not None and not any(module._forward_hooks for module in student.modules())
