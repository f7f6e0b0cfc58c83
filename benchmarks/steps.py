"""One KD step of a ResNet-20 in three other ways, each beside the usual one.

The ratio is the usual way's time over the other's, so that above 1 the switch pays here. No bound:
which one pays is a property of the machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch

from distill_lib import CE, KD, distill
from distill_lib.models import DepthwiseNet, ResNet

from .side_by_side import Result, compare

STEPS, BATCH = 10, 64


def training(
    layout: torch.memory_format = torch.contiguous_format,
    forward: Callable[..., Any] | None = None,
    compiled: bool = False,
) -> Callable[[], object]:
    """A ResNet-20 that learns from a depthwise network, ten steps a call."""
    torch.manual_seed(0)
    student: Any = ResNet()
    student.to(memory_format=layout)
    if compiled:
        student = torch.compile(student)
    images = torch.randn(BATCH, 1, 28, 28).to(memory_format=layout)
    batches = [(images, torch.randint(10, (BATCH,)))] * STEPS
    objective = CE() + KD(temperature=4)
    return lambda: distill(student, DepthwiseNet(), batches, objective, epochs=1, forward=forward)


def in_16_bits(student: Any, batch: Mapping[str, Any]) -> Any:
    """The student's answer; its weights stay in 32."""
    x = batch["inputs"]
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return student(x)


def side_by_side(name: str, other: Callable[[], object]) -> Result:
    return compare(
        f"KD step of a ResNet-20 {name} against the usual",
        other,
        training(),
        version=f"torch {version('torch')}",
    )


def channels_last() -> Result:
    """Channels that lie side by side in memory."""
    return side_by_side("in channels-last", training(layout=torch.channels_last))


def bfloat16() -> Result:
    """Products in 16 bits."""
    return side_by_side("in bfloat16", training(forward=in_16_bits))


def compiler() -> Result | None:
    """:func:`torch.compile`, which takes a compiler of C++ on a CPU."""
    if not (torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++", "cl")))):
        print("no C++ compiler, so torch.compile was not timed", flush=True)
        return None
    return side_by_side("compiled", training(compiled=True))


ALL = (channels_last, bfloat16, compiler)
