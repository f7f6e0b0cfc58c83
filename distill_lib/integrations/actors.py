"""An actor of another library, as its parts are named there, as a policy of ours."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import told
from distill_lib.checkpoints import Checkpoint, CheckpointError
from distill_lib.models.control import LARGEST, Policy

__all__ = ["assembled", "bounds_of", "layers_of", "numbers"]

OURS = 1e-8  # what Policy adds to the variance
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Linear = tuple[Tensor, Tensor]


def numbers(tensors: Mapping[str, Tensor], path: str | Path, *starts: str) -> dict[str, Tensor]:
    """Those whose names start so, without the mark of ``torch.compile``, if all are plain numbers.

    Raises:
        CheckpointError: one is sparse, quantized, of integers, or without numbers.
    """
    named = {k.replace("_orig_mod.", ""): v for k, v in tensors.items()}
    kept = {k: v for k, v in named.items() if k.startswith(starts)}
    for name, value in kept.items():
        if value.dtype not in FLOATS or value.layout != torch.strided or value.is_meta:
            raise CheckpointError(
                f"{name} in {path} is no dense tensor of real numbers: {value.dtype}"
            )
    return kept


def layers_of(weights: Mapping[str, Tensor], start: str, path: str | Path) -> list[Linear]:
    """The linear layers ``<start>0.weight``, ``<start>2.weight``, … and their biases, in order.

    Raises:
        CheckpointError: something else stands there: convolutions, memories, normalizations.
    """
    named = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
    places = sorted({k.split(".")[0] for k in named}, key=lambda k: (len(k), k))
    wanted = [str(2 * i) for i in range(len(places))]  # an activation between two of them
    found = {f"{i}.{kind}" for i in wanted for kind in ("weight", "bias")}
    if set(named) != found or any(named[f"{i}.weight"].ndim != 2 for i in wanted):
        listed = ", ".join(f"{start}{k} {list(v.shape)}" for k, v in list(named.items())[:8])
        raise CheckpointError(
            f"the actor in {path} is no plain multilayer perceptron: {listed or 'no layer'}. "
            "Build it with its own library, and wrap it: Teacher(module, adapter)"
        )
    return [(named[f"{i}.weight"], named[f"{i}.bias"]) for i in wanted]


def bounds_of(bounds: tuple[Any, Any], width: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest actions [A], from two numbers or two lists of them.

    Raises:
        ValueError: something else, or bounds that are not finite and in order.
    """
    try:
        low, high = (torch.as_tensor(x, dtype=torch.float32).expand(width) for x in bounds)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"bounds expected two numbers, or two lists of {width}, got {told(bounds)}"
        ) from error
    if not bool((low < high).all() and (high - low).isfinite().all()):
        raise ValueError(f"bounds expected low < high, finite, got {low.tolist()}, {high.tolist()}")
    return low.clone(), high.clone()


def assembled(
    kind: str,
    layers: list[Linear],
    log_std: Tensor | None,
    activation: str,
    mean: Tensor | None,
    scale: Tensor | None,
    clip: float | None,
) -> Policy:
    r"""A policy that divides :math:`o - \mu` by ``scale``, cuts at ``clip`` and answers.

    None, or infinity, is no ``clip``.

    Raises:
        CheckpointError: parts that do not fit together.
    """
    shapes = [list(w.shape) for w, _ in layers]
    fits = all(len(shape) == 2 and min(shape) > 0 for shape in shapes)
    fits = fits and all(before[0] == after[1] for before, after in pairwise(shapes))
    if not fits or any(
        list(b.shape) != shape[:1] for shape, (_, b) in zip(shapes, layers, strict=True)
    ):
        raise CheckpointError(f"layers of a {kind} checkpoint do not follow each other: {shapes}")
    widths = [shapes[0][1], *(shape[0] for shape in shapes)]
    observations, *hidden, actions = widths
    own = {f"net.{2 * i}.{k}": v for i, pair in enumerate(layers)
           for k, v in zip(("weight", "bias"), pair, strict=True)}  # fmt: skip
    own["obs_mean"] = torch.zeros(observations) if mean is None else mean
    own["obs_var"] = torch.ones(observations)
    if scale is not None:
        # at least as much as float32 can tell from what Policy adds; what never changed is 0
        own["obs_var"] = scale.double().square().clamp_min(1e-13).sub(OURS)
    if log_std is not None:
        own["log_std"] = log_std
    own["obs_clip"] = torch.tensor(0)
    own = {name: value.float() for name, value in own.items()}
    for name, value in own.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{name} of a {kind} checkpoint is not finite everywhere")
    policy = Policy(
        observations, actions, hidden, activation, continuous=log_std is not None, clip=None
    )
    Checkpoint(kind, own).load_into(policy)
    if clip is not None and clip <= LARGEST and mean is not None:
        policy.clip = float(clip)
    return policy.eval()
