"""Layouts of files that several libraries write, by the names in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["is_weights", "numbers", "rsl_rl", "skrl"]


def is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def numbers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without what a pickle can hang on a tensor, hooks of any kind among it."""
    return {name: tensor.detach() for name, tensor in weights.items()}


def joined(state: Mapping[str, Any], *names: str) -> dict[str, Tensor]:
    parts = {n: state.get(f"{n}_state_dict") for n in names}
    found = {f"{n}.{k}": v for n, p in parts.items() if is_weights(p) for k, v in (p or {}).items()}
    return numbers(found)


def rsl_rl(state: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]] | None:
    """RSL-RL split one state dict into one a model at 4.0, and renamed ``std`` at 5.0."""
    task: str | None
    for task, names in (("distillation", ("student", "teacher")), ("ppo", ("actor", "critic"))):
        if is_weights(state.get(f"{names[0]}_state_dict")):
            tensors = joined(state, *names)
            old = any(k.rpartition(".")[2] in ("std", "log_std") for k in tensors)
            return f"rsl_rl-{4 if old else 5}/{task}", tensors
    inner = state.get("model_state_dict")
    if not is_weights(inner) or "iter" not in state:
        return None
    assert inner is not None
    owners = {k.split(".")[0] for k in inner}
    task = "distillation" if "student" in owners else "ppo" if "actor" in owners else None
    if task is None:
        return None
    new = any("obs_normalizer" in owner for owner in owners)
    return f"rsl_rl-{3 if new else 2}/{task}", numbers(inner)


def skrl(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """skrl keeps a state dict for each module of an agent."""
    parts = {k: v for k, v in state.items() if k != "optimizer" and is_weights(v)}
    return numbers({f"{k}.{name}": w for k, part in parts.items() for name, w in part.items()})
