"""What is known of a loss that a user gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from distill_lib.signals import accepts

__all__ = ["ALIKE", "reduces", "takes"]

# of torch, of answers and labels in one shape
ALIKE = {
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss"),
    *("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "BCEWithLogitsLoss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "BCELoss"),
}


def takes(loss: Callable[..., Any], name: str) -> bool:
    """Whether a loss can be given a keyword of that name."""
    found = inspect.signature(loss).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in found)


def reduces(loss: Callable[..., Any]) -> bool:
    """Whether a function can be told how to average."""
    return not isinstance(loss, nn.Module) and accepts(loss, "reduction")
