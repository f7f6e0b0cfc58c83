"""Weights of any release into the models and runners of RSL-RL 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict

from distill_lib.arguments import check_counts, checked, told
from distill_lib.checkpoints import CheckpointError
from distill_lib.rl.evaluation import Returns

from .env import GymVecEnv
from .layouts import EPS, SavedPolicy, read_policy

__all__ = ["fill", "give_teacher", "load_model", "play"]


@checked
def fill(model: MLPModel, saved: SavedPolicy) -> None:
    """Copy a saved network into a model of RSL-RL 5 that may keep its deviation and normalizer
    differently.

    The mean action comes out the same in every case. A deviation is stored as the model wants it,
    as such or as its logarithm, and dropped where the model has none; a model with a deviation
    keeps its own where none was saved. A normalizer that the model lacks is folded into its first
    layer; where the model has one and the checkpoint has none, it becomes the identity.

    Args:
        model: An ``MLPModel``.
        saved: From :func:`read_policy`.

    Raises:
        CheckpointError: layers of other sizes, with both sizes; a recurrent model.
    """
    own = model.state_dict()
    state = saved.state_dict(log="distribution.log_std_param" in own)
    wanted = {k: tuple(v.shape) for k, v in own.items() if k.startswith("mlp.")}
    found = {k: tuple(v.shape) for k, v in state.items() if k.startswith("mlp.")}
    strange = [k for k in own if not k.startswith(("mlp.", "obs_normalizer.", "distribution."))]
    if wanted != found or strange:
        raise CheckpointError(
            f"the {saved.role} of this {saved.kind} checkpoint has layers {_arrows(found)}, the "
            f"model {_arrows(wanted)}{' and ' + strange[0] if strange else ''}. Give the model "
            f"hidden_dims={saved.sizes[1:-1]}, {saved.sizes[0]} observations and "
            f"{saved.sizes[-1]} outputs"
        )
    normalized = "obs_normalizer._mean" in own
    if saved.normalizer is not None and not normalized:
        _fold(state, saved.normalizer)
    if saved.normalizer is None and normalized:
        state |= {k: v for k, v in own.items() if k.startswith("obs_normalizer.")}
        state["obs_normalizer._mean"] = torch.zeros_like(own["obs_normalizer._mean"])
        state["obs_normalizer._std"] = torch.full_like(own["obs_normalizer._std"], 1 - EPS)
        state["obs_normalizer._var"] = state["obs_normalizer._std"].square()
    deviations = [k for k in own if k.startswith("distribution.")]
    state |= {k: own[k] for k in deviations if k not in state}
    model.load_state_dict({k: state[k].reshape(own[k].shape) for k in own if k in state})


@checked
def load_model(
    path: str | Path, activation: str, role: str | None = None, group: str = "policy"
) -> MLPModel:
    """A checkpoint of RSL-RL 2 to 5 as an ``MLPModel`` of release 5, made to fit.

    Args:
        path: A ``model_*.pt`` of RSL-RL or Isaac Lab.
        activation: As in its training; weights do not tell.
        role: See :func:`read_policy`.
        group: Name of the observation group that it will read.

    Raises:
        CheckpointError: see :func:`read_policy`.
        ValueError: an activation that RSL-RL does not know.
    """
    saved = read_policy(path, role)
    observations, *hidden, outputs = saved.sizes
    seen = TensorDict({group: torch.zeros(1, observations)}, batch_size=[1])
    gaussian = {"class_name": "GaussianDistribution", "init_std": 1.0}
    try:
        model = MLPModel(
            seen,
            {saved.role: [group]},
            saved.role,
            outputs,
            hidden_dims=hidden,
            activation=activation,
            obs_normalization=saved.normalizer is not None,
            distribution_cfg=None if saved.std is None else gaussian,
        )
    except ValueError as error:
        raise ValueError(f"RSL-RL makes no such model: {error}") from error
    fill(model, saved)
    return model.eval()


@checked
def give_teacher(runner: Any, path: str | Path, role: str | None = None) -> None:
    """Load the teacher of a ``DistillationRunner`` from a checkpoint of RSL-RL 2 to 5.

    ``runner.load`` reads release 4 and 5, wants the same kind of deviation and normalizer on both
    sides, and unpickles whatever is in the file; this does not.

    Args:
        runner: RSL-RL's, with its own ``Distillation`` or ours.
        path: A ``model_*.pt`` of RSL-RL or Isaac Lab.
        role: See :func:`read_policy`.

    Raises:
        CheckpointError: see :func:`read_policy` and :func:`fill`.
        TypeError: a runner that distils nothing.
    """
    if not hasattr(getattr(runner, "alg", None), "_raw_teacher"):
        raise TypeError(f"runner expected a DistillationRunner of RSL-RL, got {told(runner)}")
    fill(runner.alg._raw_teacher, read_policy(path, role))
    runner.alg.teacher_loaded = True


@checked
@torch.inference_mode()
def play(policy: Any, env: Any, seed: int = 1_000_000) -> Returns:
    """Whole episodes of a policy of RSL-RL, greedily; the first of each environment counts.

    The memory of a recurrent policy is emptied before and where episodes end, and comes back after:
    a training can be looked at without being disturbed.

    Args:
        policy: What ``runner.get_inference_policy()`` gives.
        env: A Gymnasium vector environment, one episode for each.
        seed: Of its reset.

    Returns:
        As :func:`distill_lib.rl.evaluate`.

    Raises:
        TypeError: a policy of another library.
        ValueError: a negative seed; an environment that RSL-RL cannot see.
    """
    has_memory = hasattr(policy, "get_hidden_state") and isinstance(policy, torch.nn.Module)
    if not has_memory:
        raise TypeError(
            f"policy expected a model of RSL-RL, got {told(policy)}; others play in rl.evaluate"
        )
    check_counts(0, seed=seed)
    world = GymVecEnv(env, seed=seed, device=str(next(policy.parameters()).device))
    total, length = torch.zeros(2, env.num_envs, device=world.device)
    alive = torch.ones(env.num_envs, dtype=torch.bool, device=world.device)
    memory = policy.get_hidden_state()
    policy.reset()
    while alive.any():
        _, reward, done, _ = world.step(policy(world.get_observations()))
        policy.reset(done)
        total += alive * reward
        length += alive
        alive &= ~done.bool()
    policy.reset(hidden_state=memory)
    return Returns(total.cpu(), length.cpu())


def _fold(state: dict[str, torch.Tensor], normalizer: dict[str, torch.Tensor]) -> None:
    """The first layer of normalized observations as a layer of raw ones."""
    scale = 1 / (normalizer["_std"] + EPS)
    weight = state["mlp.0.weight"] * scale
    state["mlp.0.bias"] = state["mlp.0.bias"] - (weight * normalizer["_mean"]).sum(1)
    state["mlp.0.weight"] = weight
    for name in ("_mean", "_var", "_std", "count"):
        state.pop(f"obs_normalizer.{name}", None)


def _arrows(shapes: dict[str, tuple[int, ...]]) -> str:
    weights = [shapes[k] for k in sorted(shapes, key=_number) if len(shapes[k]) == 2]
    return "→".join(map(str, [weights[0][1], *(w[0] for w in weights)])) if weights else "none"


def _number(name: str) -> int:
    return int(name.split(".")[1])
