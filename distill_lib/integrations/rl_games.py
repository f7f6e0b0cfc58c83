r"""Policies in the checkpoints of rl_games, as Isaac Lab and IsaacGymEnvs write them.

A file ``nn/<name>.pth`` holds the network under ``model``, with these names:

=================  ====================================================
layers             ``a2c_network.actor_mlp.0.weight``, ``.2.weight``, …
mean, or logits    ``a2c_network.mu``, ``a2c_network.logits``
deviation          ``a2c_network.sigma``, a logarithm [A]
normalizer         ``running_mean_std.running_mean``, ``.running_var``
=================  ====================================================

Observations are normalized by :math:`(o - \mu)/\sqrt{\sigma^2 + 10^{-5}}` and cut at ±5.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import checked
from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.models.control import Policy

from .actors import assembled, bounds_of, layers_of, numbers
from .settings import agree, inside, settings_of

__all__ = ["load_teacher"]

EPS, CLIP = 1e-5, 5.0


@checked
def load_teacher(
    path: str | Path,
    activation: str | None = None,
    bounds: tuple[Any, Any] | None = None,
) -> Policy:
    """A checkpoint of rl_games as a policy, without running any of its code.

    What is checked, and the memory it may take: see
    :func:`distill_lib.checkpoints.load_checkpoint`.

    Args:
        path: A ``.pth`` of rl_games.
        activation: ``elu``, ``relu``, ``tanh``, … as in its training; weights do not tell. By
            default what Isaac Lab has written into ``params/agent.yaml`` beside its folder.
        bounds: Lowest and highest actions (numbers, or [A]), if the training had rl_games' own
            ``clip_actions: True``: its policies speak in units of [−1, 1] then, and their actions
            are stretched to these bounds. Isaac Lab's trainings say False, or have bounds of ±1.

    Returns:
        The policy in eval mode; it says ``logits``, or ``mean`` and ``gaussian``.

    Raises:
        CheckpointError: another layout; convolutions, memories or a deviation that depends on the
            state; settings that a policy cannot follow, or an activation that nobody tells.
        ValueError: bounds that are none, or of a policy with discrete actions.

    Warns:
        UserWarning: in the training, Isaac Lab cut the observations themselves.
    """
    found = load_checkpoint(path)
    weights = numbers(found.tensors, path, "a2c_network.", "running_mean_std.running")
    part = {k.removeprefix("a2c_network."): v for k, v in weights.items() if k.startswith("a2c_")}
    head = next((name for name in ("mu", "logits") if f"{name}.weight" in part), None)
    if head is None:
        raise CheckpointError(
            f"{path} holds no actor of rl_games: expected a2c_network.mu.weight or "
            f"a2c_network.logits.weight, found {', '.join(list(found.tensors)[:8]) or 'nothing'}"
        )
    _plain(part, head, path)
    file, written = settings_of(path, activation)
    name = None if written is None else _activation(written, file, bounds, head)
    layers = layers_of(part, "actor_mlp.", path)
    layers.append((part[f"{head}.weight"], part[f"{head}.bias"]))
    log_std = part["sigma"] if head == "mu" else None
    if bounds is not None and log_std is None:
        raise ValueError("bounds are of real actions, and this policy has discrete ones")
    mean, var = (weights.get(f"running_mean_std.running_{name}") for name in ("mean", "var"))
    if (mean is None) != (var is None):
        raise CheckpointError(f"{path} holds half of the statistics of its observations")
    scale = None if var is None else (var.double() + EPS).sqrt()
    known = agree(path, file, "actor", name, activation)
    policy = assembled("rl_games", layers, log_std, known, mean, scale, CLIP)
    return policy if bounds is None else _stretched(policy, bounds)


def _plain(part: dict[str, Tensor], head: str, path: str | Path) -> None:
    """Whether the actor is layers and a deviation that does not depend on the state."""
    odd = [k for k in part if k.split(".")[0] not in ("actor_mlp", "critic_mlp", "value", head)]
    odd = [k for k in odd if k != "sigma"]
    if odd or (head == "mu" and "sigma" not in part) or f"{head}.bias" not in part:
        raise CheckpointError(
            f"the network in {path} is more than layers, {head} and a deviation of its own: "
            f"{', '.join(odd[:8]) or 'a part is missing'}. Build it with rl_games, and wrap it: "
            "Teacher(module, adapter)"
        )


def _activation(written: Any, file: Path, bounds: Any, head: str) -> str | None:
    """Its name in the settings, if all the rest is what is read here."""
    params = inside(written, "params")
    usual = {
        ("model", "name"): "continuous_a2c_logstd" if head == "mu" else "discrete_a2c",
        ("network", "space", "continuous", "mu_activation"): "None",
        ("network", "space", "continuous", "sigma_activation"): "None",
        ("network", "normalization"): "None",
    }
    for place, wanted in usual.items():
        said = inside(params, *place)
        if said not in (None, wanted) and not (wanted == "None" and said in ("null", "")):
            raise CheckpointError(
                f"{file} says {place[-1]}: {str(said)[:40]}, which is not read here; build the "
                "network with rl_games, and wrap it: Teacher(module, adapter)"
            )
    clips = str(inside(params, "config", "clip_actions") or "true").lower() == "true"
    if head == "mu" and params is not None and clips != (bounds is not None):
        raise CheckpointError(
            f"{file} says clip_actions: {clips}, so that rl_games stretches [−1, 1] to the bounds "
            "of the actions: pass bounds=(low, high), those of the training's action space"
            if clips
            else f"{file} says clip_actions: False, so that nothing is stretched: leave bounds= out"
        )
    cut = inside(params, "env", "clip_observations")
    if isinstance(cut, str) and cut.lower() not in ("inf", ".inf", "null", "none", ""):
        warnings.warn(
            f"{file} says clip_observations: {cut[:20]}: Isaac Lab cut the observations themselves "
            "before this policy saw them. If they go beyond that, cut them for it too",
            stacklevel=4,
        )
    activation = inside(params, "network", "mlp", "activation")
    if not isinstance(activation, str):
        return None
    return {"none": "identity"}.get(activation.lower(), activation.lower())


@torch.no_grad()
def _stretched(policy: Policy, bounds: tuple[Any, Any]) -> Policy:
    """Actions in [−1, 1] as those between the bounds: the cut comes after, by the environment."""
    head: Any = policy.net[-1]
    low, high = bounds_of(bounds, len(head.bias))
    half = (high - low) / 2
    head.weight.mul_(half[:, None])
    head.bias.mul_(half).add_((low + high) / 2)
    if policy.log_std is not None:
        policy.log_std.add_(half.log())
    return policy
