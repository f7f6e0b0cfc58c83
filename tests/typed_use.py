"""What a type checker sees of the library, as its user: ``make.py types`` reads this file.

A line whose fault is not found is one too: its ``type: ignore`` is then unused.
"""

from __future__ import annotations

from typing import Any, assert_type

import torch
from torch import Tensor, nn

from distill_lib import (
    CE,
    DKD,
    KD,
    BaseOf,
    History,
    Match,
    Objective,
    Teacher,
    distill,
    evaluate,
    linear,
    losses,
)


def answers(z: Tensor, net: nn.Module) -> None:
    """Every call has a type, and a misspelled argument is found."""
    assert_type(CE()(z, batch={"labels": z}), tuple[Tensor, dict[str, Tensor]])
    objective = linear(0.9, 0.1) * CE() + 2 * KD(temperature=linear(8, 1)) - 0.5 * DKD()
    assert_type(objective, Objective)
    assert_type(1e3 * Match("layer1", project=nn.LazyLinear(3)), Objective)
    loss, parts = objective(z, z, {"labels": z}, progress=0.3)
    assert_type(loss, Tensor)
    assert_type(parts, dict[str, Tensor])
    assert_type(distill(net, Teacher(net), [], objective, epochs=3), History)
    assert_type(distill(net, BaseOf(net), [], CE(), steps=3), History)
    assert_type(losses.kl(student=z, teacher=z, temperature=2), Tensor)
    assert_type(linear(1, 0)(0.5), float)
    assert_type(evaluate(net, []), dict[str, Any])
    objective(z, z, progres=0.3)  # type: ignore[call-arg]
    distill(net, None, [], "CE", epochs=3)  # type: ignore[arg-type]
    distill(Teacher(net), net, [], CE(), epochs=3)  # type: ignore[arg-type]
    losses.kl(torch.zeros(2), z)  # type: ignore[call-arg]
