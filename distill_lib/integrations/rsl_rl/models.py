"""Weights of any release into the models and runners of RSL-RL 5."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict
from torch import Tensor

from distill_lib.arguments import check_counts, checked, told
from distill_lib.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from distill_lib.checkpoints.files import whole_file
from distill_lib.models.control import Policy
from distill_lib.rl.environments import seed_to_evaluate
from distill_lib.rl.evaluation import Returns

from .agent import activation_of, distribution_of, require_deviation, require_one_each
from .checks import require_finite, require_whole
from .env import GymVecEnv
from .layouts import EPS, SavedPolicy, named_of, policy_of, read_policy, saved_of

OR_TWO = (
    ", or the distribution_cfg of its training: a Beta distribution, or a deviation that depends "
    "on the state, has two outputs for each action"
)

__all__ = ["fill", "give_teacher", "load_model", "play", "write_policy"]


def raw(model: Any) -> MLPModel:
    """The model inside what ``torch.compile`` made of it."""
    return getattr(model, "_orig_mod", model)


def two_each(model: MLPModel) -> bool:
    """Whether the network says two numbers for each action, and not its mean alone."""
    return model.distribution is not None and not isinstance(model.distribution.input_dim, int)


def fits(model: MLPModel, state: Any) -> bool:
    """Whether a state dict has the names and shapes of a model."""
    own = model.state_dict()
    return (
        isinstance(state, Mapping)
        and state.keys() == own.keys()
        and all(isinstance(v, Tensor) and v.shape == own[k].shape for k, v in state.items())
    )


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
        CheckpointError: layers of other sizes, with both sizes; a recurrent model; a deviation that
            the model's network would have to say; numbers that nobody can act with.
    """
    require_whole(saved)
    if saved.std is not None and two_each(model):
        raise CheckpointError(
            f"the model's {type(model.distribution).__name__} wants two numbers for each action, "
            f"the {saved.role} of this {saved.kind} checkpoint says one and has a deviation beside "
            "it: give the model a distribution_cfg with 'GaussianDistribution'"
        )
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
            f"{OR_TWO if saved.std is None and not two_each(model) else ''}"
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
    path: str | Path, activation: str | None = None, role: str | None = None, group: str = "policy"
) -> MLPModel:
    """A checkpoint of RSL-RL 2 to 5 as an ``MLPModel`` of release 5, made to fit.

    Args:
        path: A ``model_*.pt`` of RSL-RL or Isaac Lab.
        activation: See :func:`load_teacher`.
        role: See :func:`read_policy`.
        group: Name of the observation group that it will read.

    Raises:
        CheckpointError: see :func:`read_policy`; a network whose deviation depends on the state, or
            with a Beta distribution.
        ValueError: an activation that RSL-RL does not know.
    """
    saved = read_policy(path, role)
    if saved.std is None and saved.role != "critic":
        require_one_each(path, saved.role, saved.sizes[-1])
        require_deviation(saved.kind, saved.role, saved.sizes[-1], std=0.0)
    activation = activation_of(path, saved.role, activation)
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

    A teacher with a memory (``RNNModel``) or one that sees images (``CNNModel``) is loaded where
    the configuration gives the teacher the same layers; release 3's names are translated.
    ``runner.load`` reads release 4 and 5, wants the same kind of deviation and normalizer on both
    sides, and unpickles whatever is in the file; this does not.

    Args:
        runner: RSL-RL's, with its own ``Distillation`` or ours.
        path: A ``model_*.pt`` of RSL-RL or Isaac Lab.
        role: See :func:`read_policy`.

    Raises:
        CheckpointError: see :func:`read_policy` and :func:`fill`; for a teacher with a memory or
            with images, a model of other layers; another distribution than ``params/agent.yaml``
            names.
        TypeError: a runner that distils nothing.
    """
    if not isinstance(teacher := raw(getattr(_alg(runner), "teacher", None)), MLPModel):
        raise TypeError(f"runner expected a DistillationRunner of RSL-RL, got {told(runner)}")
    give(teacher, load_checkpoint(path), role, path)
    runner.alg.teacher_loaded = True


def give(model: MLPModel, found: Checkpoint, role: str | None, path: Any) -> None:
    """Load one network of a checkpoint: as it is where all layers agree, else as a plain one."""
    role, named = named_of(found, role, path)
    told_of, has = distribution_of(path, role), type(model.distribution).__name__
    whole = any(k.startswith("distribution.") for k in named)
    if told_of not in (None, has) and not whole:
        raise CheckpointError(
            f"params/agent.yaml beside {path} says that the {role} has a {told_of}, the model has "
            f"{'none' if model.distribution is None else has}: give it the same distribution_cfg"
        )
    if model.distribution is None:
        named = {k: v for k, v in named.items() if not k.startswith("distribution.")}
    if fits(model, named):
        require_finite(role, named)
        model.load_state_dict(named)
    else:
        fill(model, policy_of(found, role, path))


@checked
def write_policy(policy: Policy, runner: Any, path: str | Path) -> Path:
    """Write a policy of the zoo as a checkpoint that a runner of RSL-RL loads.

    So a student that was taught here plays in Isaac Lab by its ``play.py``. The other networks of
    the file, and its optimizer, are the runner's; the runner itself is left as it was.

    Args:
        policy: It says real actions, has the activation and the widths of the runner's policy, and
            no bound on its normalized observations (``clip=None``), as RSL-RL has none.
        runner: Of the configuration that will load it, an ``OnPolicyRunner`` or a
            ``DistillationRunner``.
        path: The file to write.

    Raises:
        CheckpointError: layers of other widths or another activation; a bound; discrete actions.
        TypeError: a runner that has no policy.
        OSError: the file cannot be written; an older one is whole.
    """
    if not isinstance(made := raw(_of_runner(runner)), MLPModel):
        raise TypeError(f"runner expected one of RSL-RL, got {told(runner)}")
    model = copy.deepcopy(made)
    fill(model, saved_of(policy))
    _says_the_same(model.eval(), policy)
    state = dict(runner.alg.save())
    key = next(k for k in ("student_state_dict", "actor_state_dict") if k in state)
    state[key] = model.state_dict()
    with whole_file(path) as file:
        torch.save({**state, "iter": 0, "infos": None}, file)
    return Path(path)


@torch.no_grad()
def _says_the_same(model: MLPModel, policy: Policy) -> None:
    """The weights fit also where the activation does not."""
    noise = torch.randn(64, policy.obs_mean.numel(), generator=torch.Generator().manual_seed(0))
    seen = policy.obs_mean + 2 * policy.obs_var.sqrt() * noise.to(policy.obs_mean)
    said = model.mlp(model.obs_normalizer(seen.to(next(model.parameters()).device)))
    wanted = policy(seen)["mean"]
    if (said.to(wanted) - wanted).abs().max() > 1e-3 * (1 + wanted.abs().max()):
        raise CheckpointError(
            "with the same weights, the runner's policy does other things than this one: give both "
            "the same activation"
        )


def _of_runner(runner: Any) -> Any:
    get = getattr(_alg(runner), "get_policy", None)
    return get() if callable(get) else None


def _alg(runner: Any) -> Any:
    return getattr(runner, "alg", None)


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
    first = seed_to_evaluate(seed)
    world = GymVecEnv(env, seed=first, device=str(next(policy.parameters()).device))
    total, length = torch.zeros(2, env.num_envs, device=world.device, dtype=torch.float64)
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
    return Returns(total.float().cpu(), length.float().cpu())


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
