r"""Policies in RSL-RL's checkpoints, from release 2 to 5, under the names of release 5.

Every release names the same weights differently. What is read here has the parts ``mlp`` (layers by
their number), the normalizer of the observations, and the standard deviation of the actions:

========  ======================  ==========================  ========================
release   layers                  normalizer                  deviation
========  ======================  ==========================  ========================
2         ``actor.0.weight``      a state dict of its own     ``std``, ``log_std``
3         ``actor.0.weight``      ``actor_obs_normalizer.*``  ``std``, ``log_std``
4         ``mlp.0.weight``        ``obs_normalizer.*``        ``std``, ``log_std``
5         ``mlp.0.weight``        ``obs_normalizer.*``        ``distribution.std_param``
========  ======================  ==========================  ========================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import checked
from distill_lib.checkpoints import Checkpoint, CheckpointError, from_state, load_checkpoint
from distill_lib.checkpoints.files import whole_file
from distill_lib.models.control import Policy

from .agent import activation_of, require_deviation, require_one_each
from .checks import (
    DEVIATIONS,
    EPS,
    acting,
    require_finite,
    require_one_deviation,
    require_plain,
    require_whole,
    same,
    weights_of,
)
from .envfile import require_sizes

__all__ = ["EPS", "SavedPolicy", "load_teacher", "read_policy", "upgrade"]

ROLES = ("actor", "student", "teacher", "critic")
NORMALIZER = ("_mean", "_var", "_std", "count")


@checked
@dataclass
class SavedPolicy:
    """One network of an RSL-RL checkpoint.

    Attributes:
        kind: The layout it was found in, such as ``rsl_rl-3/ppo``.
        role: ``actor``, ``critic``, ``student`` or ``teacher``.
        layers: ``0.weight`` [H, O], ``0.bias`` [H], ``2.weight``, ….
        normalizer: ``_mean``, ``_var``, ``_std`` [1, O] and ``count``, or None.
        std: Standard deviation of the actions [A], or None where the network has none.
    """

    kind: str
    role: str
    layers: dict[str, Tensor]
    normalizer: dict[str, Tensor] | None
    std: Tensor | None

    @property
    def sizes(self) -> list[int]:
        """Widths of all layers, from the observations to the output."""
        weights = weights_of(self.layers)
        return [weights[0].shape[1], *(len(w) for w in weights)]

    @checked
    def policy(self, activation: str, std: float | None = None) -> Policy:
        """The same function as a policy of the zoo, with its normalizer and without a bound.

        Args:
            activation: ``elu`` unless its training said otherwise; weights do not tell. Isaac Lab
                writes it into ``params/agent.yaml`` beside the checkpoint.
            std: Deviation of the actions, for a network that was saved without, such as the teacher
                of a distillation.

        Raises:
            CheckpointError: no deviation, neither saved nor given; an actor without, whose outputs
                are two numbers for each action; a critic; or numbers that nobody can act with, see
                :func:`read_policy`.
            ValueError: a deviation that is not above 0.
        """
        if std is not None and not 0 < std < torch.inf:
            raise ValueError(f"std expected a number > 0, got {std}")
        require_whole(self)
        if self.role == "critic":
            raise CheckpointError("a critic says a value and not what to do; read the actor")
        observations, *hidden, actions = self.sizes
        if self.std is None:
            require_deviation(self.kind, self.role, actions, std)
        policy = Policy(observations, actions, hidden, activation, continuous=True, clip=None)
        own = {f"net.{name}": w for name, w in self.layers.items()}
        own["log_std"] = torch.full((actions,), float(std)) if std is not None else self.std  # type: ignore[assignment]
        own["log_std"] = own["log_std"].log()
        own["obs_mean"], own["obs_var"] = torch.zeros(observations), torch.ones(observations)
        if self.normalizer is not None:
            own["obs_mean"] = self.normalizer["_mean"].flatten()
            own["obs_var"] = (self.normalizer["_std"].flatten() + EPS).square() - 1e-8
        own["obs_clip"] = torch.tensor(0)
        Checkpoint(self.kind, own).load_into(policy)
        return policy.eval()

    def state_dict(self, log: bool = False) -> dict[str, Tensor]:
        """The weights under the names of RSL-RL 5.

        Args:
            log: Name the deviation ``log_std_param``, for models with ``std_type="log"``.
        """
        state = {f"mlp.{name}": w for name, w in self.layers.items()}
        for name, w in (self.normalizer or {}).items():
            state[f"obs_normalizer.{name}"] = w
        if self.std is not None:
            name = "distribution.log_std_param" if log else "distribution.std_param"
            state[name] = self.std.log() if log else self.std
        return state


@checked
def read_policy(path: str | Path, role: str | None = None) -> SavedPolicy:
    """Read one network from a checkpoint of RSL-RL 2, 3, 4 or 5, without running any of its code.

    What is checked, and the memory it may take: see
    :func:`distill_lib.checkpoints.load_checkpoint`.

    Args:
        path: A ``model_*.pt`` of RSL-RL or Isaac Lab.
        role: ``actor`` or ``critic`` of a training by PPO, ``student`` or ``teacher`` of a
            distillation. The actor where it is there; a distillation has no default.

    Raises:
        CheckpointError: a pickle with more than weights, another layout, no such network, weights
            that are missing or that nobody expects; the message lists what was found and expected.
            Also numbers that are not finite, a deviation or a divisor of the observations that is
            not above 0, and two deviations or normalizers that differ.
    """
    return policy_of(load_checkpoint(path), role, path)


@checked
def load_teacher(
    path: str | Path,
    activation: str | None = None,
    role: str | None = None,
    std: float | None = None,
) -> Policy:
    """A checkpoint of RSL-RL 2 to 5 as a policy of the zoo: widths from its shapes, normalizer too.

    Args:
        path: A ``model_*.pt`` of RSL-RL or Isaac Lab.
        activation: ``elu``, ``relu``, ``tanh``, … as in its training; weights do not tell. By
            default what Isaac Lab has written into ``params/agent.yaml`` beside the checkpoint.
        role: See :func:`read_policy`.
        std: Deviation of the actions, for a network that was saved without.

    Returns:
        The policy in eval mode; it says ``mean`` and ``gaussian``.

    Raises:
        CheckpointError: see :func:`read_policy`; an activation that nobody tells, or of which two
            things are told; a ``params/agent.yaml`` that cannot be read; a network whose deviation
            depends on the state, or with a Beta distribution; a ``params/env.yaml`` that tells
            other numbers of observations or actions.

    Warns:
        UserWarning: in the training, RSL-RL's wrapper cut the actions; see :func:`read_env`.
    """
    saved = read_policy(path, role)
    if saved.std is None:
        require_one_each(path, saved.role, saved.sizes[-1])
    require_sizes(path, saved.role, saved.sizes[0], saved.sizes[-1])
    return saved.policy(activation_of(path, saved.role, activation), std)


@checked
def upgrade(path: str | Path, out: str | Path) -> Path:
    """Write the actor of an older checkpoint in the layout of RSL-RL 5, for ``runner.load``.

    Only a runner that distils can load the file: the critic and the optimizer are left out.

    Args:
        path: A checkpoint of RSL-RL 2 to 5.
        out: The file to write.

    Raises:
        CheckpointError: see :func:`read_policy`.
        OSError: the file cannot be written; an older one is whole.
    """
    saved = read_policy(path)
    with whole_file(out) as file:
        torch.save({"actor_state_dict": saved.state_dict(), "iter": 0, "infos": None}, file)
    return Path(out)


def saved_of(policy: Policy) -> SavedPolicy:
    """A policy of the zoo as a network of RSL-RL, the other way of :meth:`SavedPolicy.policy`."""
    if policy.log_std is None:
        raise CheckpointError("the policy has discrete actions, and RSL-RL's have real ones")
    if policy.clip < torch.inf:
        raise CheckpointError(
            f"the policy bounds its normalized observations by {policy.clip:g}, and RSL-RL does "
            "not: train it with clip=None, or normalize_as a teacher that was read from there"
        )
    state = {name: value.detach().clone() for name, value in policy.net.state_dict().items()}
    std = (policy.obs_var + 1e-8).sqrt().reshape(1, -1)
    normalizer = {"_mean": policy.obs_mean.reshape(1, -1).clone(), "_std": std - EPS,
                  "_var": (std - EPS).square(), "count": torch.tensor(1)}  # fmt: skip
    return SavedPolicy("rsl_rl-5/ppo", "actor", state, normalizer, policy.log_std.detach().exp())


def checkpoint_of(state: Any) -> Checkpoint:
    """A checkpoint that has been read from its file by others."""
    return from_state(state, "the checkpoint")


def policy_of(found: Checkpoint, role: str | None, path: str | Path) -> SavedPolicy:
    """As :func:`read_policy`, of a checkpoint that has been read."""
    role, named = named_of(found, role, path)
    return _sorted(found.kind, role, named)


def named_of(found: Checkpoint, role: str | None, path: Any) -> tuple[str, dict[str, Tensor]]:
    """A role, and its weights under the names of release 5, whatever the network is."""
    if not found.kind.startswith("rsl_rl-"):
        raise CheckpointError(
            f"{path} is no checkpoint of RSL-RL but of kind {found.kind}; expected "
            "model_state_dict with iter, actor_state_dict, or student_state_dict"
        )
    task = found.kind.partition("/")[2]
    roles = ("actor", "critic") if task == "ppo" else ("student", "teacher")
    if role is None and task == "ppo":
        role = "actor"
    if role not in roles:
        raise CheckpointError(
            f"this {found.kind} checkpoint holds {' and '.join(roles)}; "
            + ("say which with role=" if role is None else f"there is no {role!r} in it")
        )
    old = found.kind[7] in "23"
    named = _of_old(found, role, roles) if old else found.part(role)
    require_one_deviation(role, named)
    return role, {DEVIATIONS.get(name, name): tensor for name, tensor in named.items()}


def _of_old(found: Checkpoint, role: str, roles: tuple[str, str]) -> dict[str, Tensor]:
    """Releases 2 and 3 keep all networks in one state dict."""
    named = {f"mlp.{k}": v for k, v in found.part(role).items()}
    others = tuple(f"{r}{end}" for r in ROLES for end in (".", "_obs_normalizer."))
    memory, memories = f"memory_{role[0]}.", tuple(f"memory_{r[0]}." for r in ROLES)
    for name, tensor in found.tensors.items():
        if name.startswith(f"{role}_obs_normalizer."):
            named["obs_normalizer." + name.partition(".")[2]] = tensor
        elif name in ("std", "log_std"):
            if role in ("actor", "student"):  # the exploration noise is theirs
                named[name] = tensor
        elif name.startswith(memory):
            named["rnn." + name.partition(".")[2]] = tensor
        elif not name.startswith(others + memories):
            named[name] = tensor
    beside = "obs_norm_state_dict" if role == roles[0] else "privileged_obs_norm_state_dict"
    own = {f"obs_normalizer.{k}": v for k, v in found.meta.get(beside, {}).items()}
    within = {k: v for k, v in named.items() if k.startswith("obs_normalizer.")}
    if own and within and not same(own, within):
        raise CheckpointError(
            f"the {role} has two normalizers that differ, {role}_obs_normalizer and {beside}: "
            "which one acted nobody tells; take the other out of the file"
        )
    return {**named, **own}


def _sorted(kind: str, role: str, named: Mapping[str, Tensor]) -> SavedPolicy:
    """The parts of a network, with an error that names every weight that fits nowhere."""
    require_plain(role, named)
    require_finite(role, named)
    layers: dict[str, Tensor] = {}
    normalizer: dict[str, Tensor] = {}
    std: Tensor | None = None
    extra = []
    for name, tensor in named.items():
        start, _, rest = name.partition(".")
        if start == "mlp" and re.fullmatch(r"\d+\.(weight|bias)", rest):
            layers[rest] = tensor
        elif start == "obs_normalizer" and rest in NORMALIZER:
            normalizer[rest] = tensor
        elif name in DEVIATIONS.values():
            std = acting(kind, tensor, log=name == DEVIATIONS["log_std"])
        else:
            extra.append(name)
    missing = [] if layers else ["mlp.0.weight", "mlp.0.bias"]
    missing += [f"mlp.{n}" for n in _gaps(layers)]
    if normalizer:
        missing += [f"obs_normalizer.{n}" for n in NORMALIZER[:3] if n not in normalizer]
    if extra or missing:
        raise CheckpointError(_complaint(kind, role, missing, extra, named))
    found = SavedPolicy(kind, role, layers, normalizer or None, std)
    require_whole(found)
    return found


def _complaint(
    kind: str, role: str, missing: list[str], extra: list[str], named: Mapping[str, Any]
) -> str:
    words = f"the {role} of this {kind} checkpoint is no plain network of layers."
    if missing:
        words += f" Missing: {', '.join(missing)}."
    if extra:
        words += f" Unexpected: {', '.join(extra[:8])}{', …' if len(extra) > 8 else ''}."
    if any("rnn" in name or "memory" in name for name in extra):
        words += (
            " It is recurrent, and needs RSL-RL's RNNModel, which keeps its state between steps: "
            "give_teacher(runner, path) loads it into one."
        )
    return words + (
        " Expected: mlp.0.weight, mlp.0.bias, mlp.2.weight, …, and optionally obs_normalizer._mean,"
        f" ._var, ._std, .count and std; found: {', '.join(list(named)[:20])}"
    )


def _gaps(layers: Mapping[str, Tensor]) -> list[str]:
    """Layers stand at even places, activations between them; each has weight and bias."""
    last = max((int(name.split(".")[0]) for name in layers), default=-1)
    wanted = [f"{i}.{part}" for i in range(0, last + 1, 2) for part in ("weight", "bias")]
    return [name for name in wanted if name not in layers]
