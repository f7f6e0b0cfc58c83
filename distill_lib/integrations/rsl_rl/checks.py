"""What a network that was read has to be: plain finite numbers, of which none is told twice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill_lib.checkpoints import CheckpointError

if TYPE_CHECKING:
    from .layouts import SavedPolicy

__all__ = [
    "acting",
    "require_finite",
    "require_one_deviation",
    "require_plain",
    "require_whole",
    "same",
    "weights_of",
]

EPS = 1e-2  # RSL-RL divides by the standard deviation plus this, in all releases
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEVIATIONS = {"std": "distribution.std_param", "log_std": "distribution.log_std_param"}
LEAST, MOST = 1e-6, 1e6  # between which RSL-RL 5 cuts a deviation, unless told otherwise
BROKEN = "(a training that diverged, or a changed file): take an earlier model_*.pt"


def require_plain(role: str, named: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are sparse, quantized, complex, of integers or without numbers.

    Raises:
        CheckpointError: the first such, by name.
    """
    for name, tensor in named.items():
        plain = tensor.layout == torch.strided and not tensor.is_meta and tensor.dtype in FLOATS
        if not plain and not name.endswith("count"):
            what = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise CheckpointError(f"{name} of the {role} holds no plain floats but {what}")


def require_finite(role: str, named: Mapping[str, Tensor]) -> None:
    """Refuse real numbers that are not finite in float32, as models hold them.

    Raises:
        CheckpointError: the first such, by name.
    """
    for name, tensor in named.items():
        real = tensor.layout == torch.strided and not tensor.is_meta and tensor.dtype in FLOATS
        if real and not bool(tensor.float().isfinite().all()):
            raise CheckpointError(f"{name} of the {role} is not finite everywhere {BROKEN}")


def require_one_deviation(role: str, named: Mapping[str, Tensor]) -> None:
    """Refuse a network of which two deviations are told, in any release's names.

    Raises:
        CheckpointError: both, by name, unless they agree.
    """
    told = {n: w for n, w in named.items() if n in DEVIATIONS or n in DEVIATIONS.values()}
    if len(told) < 2:
        return
    require_plain(role, told)
    first, *others = (w.double().exp() if "log" in n else w.double() for n, w in told.items())
    if any(one.shape != first.shape or not torch.allclose(one, first) for one in others):
        raise CheckpointError(
            f"the {role} has two deviations that differ, {' and '.join(told)}: which one acted "
            "nobody tells; take the other out of the file"
        )


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of plain numbers are equal."""
    kinds = (*FLOATS, torch.int64)
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and a.dtype in kinds and a.layout == b.layout == torch.strided
        and not a.is_meta and not b.is_meta and torch.equal(a, b)
        for a, b in ((one[name], other[name]) for name in one)
    )  # fmt: skip


def acting(kind: str, deviation: Tensor, log: bool) -> Tensor:
    """The deviation that acts, of what a model holds: itself, or its logarithm."""
    wide = deviation.to(torch.promote_types(deviation.dtype, torch.float32))
    if kind.startswith("rsl_rl-5"):
        wide = wide.clamp(*((math.log(LEAST), math.log(MOST)) if log else (LEAST, MOST)))
    return wide.exp() if log else wide


def weights_of(layers: Mapping[str, Tensor]) -> list[Tensor]:
    """The matrices of ``0.weight``, ``2.weight``, …, in order."""
    named = sorted(layers.items(), key=lambda one: (int(one[0].split(".")[0]), one[0]))
    return [w for _, w in named if w.ndim == 2]


def require_whole(found: SavedPolicy) -> None:
    """Refuse parts that do not fit each other, and numbers that nobody can act with.

    Raises:
        CheckpointError: the first such, by name.
    """
    role = found.role
    named = {f"mlp.{name}": w for name, w in found.layers.items()}
    named |= {f"obs_normalizer.{n}": w for n, w in (found.normalizer or {}).items() if n != "count"}
    named |= {} if found.std is None else {"std": found.std}
    for name, tensor in named.items():
        rank = 2 if name.endswith(("weight", "_mean", "_var", "_std")) else 1
        if tensor.ndim != rank or tensor.numel() == 0:
            shape = list(tensor.shape)
            raise CheckpointError(f"{name} of the {role} has shape {shape}, no {rank} axes")
    weights = weights_of(found.layers)
    for name, bias in found.layers.items():
        if name.endswith("bias") and len(bias) != len(found.layers[f"{name[:-4]}weight"]):
            raise CheckpointError(f"mlp.{name} of the {role} does not fit its weight")
    for below, above in pairwise(weights):
        if len(below) != above.shape[1]:
            raise CheckpointError(
                f"the layers of the {role} do not fit each other: one says {len(below)} "
                f"numbers, the next takes {above.shape[1]}"
            )
    sizes = {f"normalizer ({n[15:]})": w for n, w in named.items() if n.startswith("obs_norm")}
    wanted = dict.fromkeys(sizes, found.sizes[0]) | {"standard deviation": found.sizes[-1]}
    sizes |= {} if found.std is None else {"standard deviation": found.std}
    for what, tensor in sizes.items():
        if tensor.numel() != wanted[what]:
            raise CheckpointError(
                f"the {what} of the {role} has {tensor.numel()} entries, its layers expect "
                f"{wanted[what]}"
            )
    require_plain(role, named)
    require_finite(role, named)
    if found.std is not None and not bool((found.std > 0).all()):
        raise CheckpointError(f"the standard deviation of the {role} is not above 0 {BROKEN}")
    if found.normalizer is not None:
        _require_spread(role, found.normalizer["_std"].double(), found.normalizer["_var"].double())


def _require_spread(role: str, std: Tensor, var: Tensor) -> None:
    """What RSL-RL divides by is above 0, and the root of what it would go on learning from."""
    if not bool((std + EPS > 0).all()):
        raise CheckpointError(
            f"the normalizer of the {role} divides by its _std plus {EPS}, which is not above 0 "
            f"everywhere {BROKEN}"
        )
    # those of a file in half precision differ by a hundredth
    if not torch.allclose(std.square(), var, rtol=2e-2, atol=1e-6):
        raise CheckpointError(
            f"the normalizer of the {role} has a _var that is not the square of its _std, and so "
            "tells two things: set both to those of its training"
        )
