r"""Policies in zips of Stable-Baselines3, without that library and without their pickles.

Such a zip holds the weights in ``policy.pth``, with these names, and the settings in ``data``:
pickles, and beside each what was in it as text.

==============  ========================================================
PPO, A2C        ``mlp_extractor.policy_net.0.weight``, …, ``action_net``
DQN             ``q_net.q_net.0.weight``, ``.2.weight``, …
SAC             ``actor.latent_pi.0.weight``, …, ``actor.mu``
TD3, DDPG       ``actor.mu.0.weight``, ``.2.weight``, …
==============  ========================================================
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.checkpoints import SB3_TEXTS, Checkpoint, CheckpointError, load_checkpoint
from distill_lib.models.control import ACTIVATIONS, Policy

from .actors import Linear, assembled, bounds_of, layers_of, numbers

__all__ = ["load_teacher"]

WAY_OUT = (
    "open it with Stable-Baselines3 itself, which can run code of the file, and wrap the model: "
    "teachers.SB3Policy(model)"
)
# where their layers are, the last one, and the activation that Stable-Baselines3 takes by itself
KINDS = {
    "actor-critic": ("mlp_extractor.policy_net.", "action_net", "tanh"),
    "SAC": ("actor.latent_pi.", "actor.mu", "relu"),
    "TD3": ("actor.mu.", None, "relu"),
    "DQN": ("q_net.q_net.", None, "relu"),
}
HOMES = {
    "stable_baselines3.common.policies": "actor-critic",
    "stable_baselines3.sac.policies": "SAC",
    "stable_baselines3.td3.policies": "TD3",
    "stable_baselines3.dqn.policies": "DQN",
}
NAMES = {kind.__name__: name for name, kind in ACTIVATIONS.items() if name != "crelu"}


class Squashed(nn.Module):
    r"""A policy whose answer :math:`u` is squashed between the bounds of its actions.

    .. math:: a = l + (h - l)\,(\tanh(u) + 1)/2

    It says ``mean`` [..., A].
    """

    def __init__(self, policy: Policy, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.policy = policy
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """The deterministic action, in the units of the environment."""
        share = 0.5 * (self.policy(observation)["logits"].tanh() + 1.0)
        return {"mean": self.low + share * (self.high - self.low)}


@checked
def load_teacher(
    path: str | Path,
    activation: str | None = None,
    normalize: Any = None,
    bounds: tuple[Any, Any] | None = None,
    temperature: float = 1.0,
) -> nn.Module:
    r"""The policy in a zip of Stable-Baselines3, where that library need not be installed.

    Nothing in the file is unpickled but tensors. The widths are read from the weights; activation,
    spaces and bounds from the texts that stand beside the pickles of the settings. What is checked,
    and the memory it may take: see :func:`distill_lib.checkpoints.load_checkpoint`.

    - PPO, A2C: a :class:`distill_lib.zoo.Policy` that says ``logits``, or ``mean`` and
      ``gaussian``. The critic is left out.
    - DQN: one that says ``logits`` :math:`Q(s, \cdot)/\tau`.
    - SAC, TD3, DDPG: a module that says ``mean``, the deterministic action
      :math:`l + (h - l)(\tanh(u) + 1)/2`.

    Args:
        path: A zip that ``model.save`` wrote.
        activation: ``tanh``, ``relu``, … as in its training. By default what the file tells, or
            what Stable-Baselines3 takes where the file says that nothing else was asked for.
        normalize: The ``VecNormalize`` of its training, or anything with its ``obs_rms.mean``,
            ``obs_rms.var``, ``epsilon`` and ``clip_obs``: the statistics lie in a file of their
            own. ``False`` says that there was none.
        bounds: Lowest and highest actions of SAC, TD3 and DDPG (numbers, or [A]), where the file
            does not tell them.
        temperature: τ > 0 of the values of DQN.

    Returns:
        The policy in eval mode.

    Raises:
        CheckpointError: no zip of Stable-Baselines3; convolutions, memories, noise that depends on
            the state (gSDE) or policies of other packages; spaces that are no vector, or of other
            sizes than the layers; an activation or bounds that nobody tells, or of which two things
            are told.
        ValueError: statistics or bounds of another shape, a bound of the normalized observations or
            a τ that is not positive.

    Warns:
        UserWarning: ``normalize`` was not given, and no file tells whether there were statistics.

    Reference:
        Raffin et al., *Stable-Baselines3: reliable reinforcement learning implementations*, 2021.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is above 0, got {temperature}; 0.01 is usual for DQN")
    found = load_checkpoint(path)
    if found.kind != "sb3":
        raise CheckpointError(
            f"{path} is no zip of Stable-Baselines3 but of kind {found.kind}: expected policy.pth "
            "in it"
        )
    texts = _texts(found)
    if found.meta.get("use_sde") not in (None, False):
        raise CheckpointError(f"{path} has noise that depends on the state (gSDE): {WAY_OUT}")
    weights = numbers(found.tensors, path, "")
    kind = _kind(weights, texts, path)
    start, head, _ = KINDS[kind]
    layers = layers_of(weights, "mlp_extractor.shared_net.", path) if kind == "actor-critic" else []
    layers += layers_of(weights, start, path)
    if head is not None:
        if not {f"{head}.weight", f"{head}.bias"} <= set(weights):
            raise CheckpointError(f"{path} has no {head}.weight and .bias: {WAY_OUT}")
        layers.append((weights[f"{head}.weight"], weights[f"{head}.bias"]))
    if not layers:
        raise CheckpointError(f"{path} has no layer {start}0.weight: {WAY_OUT}")
    log_std = weights.get("log_std") if kind == "actor-critic" else None
    _check_spaces(texts, layers, kind, log_std is not None, path)
    if kind == "DQN":
        layers[-1] = (layers[-1][0] / temperature, layers[-1][1] / temperature)
    known = _activation(texts, kind, activation, path)
    mean, scale, clip = _statistics(normalize, layers[0][0].shape[-1], path)
    policy = assembled("sb3", layers, log_std, known, mean, scale, clip)
    if kind not in ("SAC", "TD3"):
        return policy
    return Squashed(policy, *_bounds(texts, len(layers[-1][1]), bounds, path)).eval()


def _texts(found: Checkpoint) -> dict[str, Mapping[str, Any]]:
    """What is told of spaces and settings, whether it was pickled or plain."""
    beside = found.meta.get("told")
    beside = beside if isinstance(beside, Mapping) else {}
    texts = {}
    for name in SB3_TEXTS:
        said = beside.get(name, found.meta.get(name))
        if isinstance(said, Mapping):
            texts[name] = said
    return texts


def _name(text: object) -> str:
    """``Box`` of ``<class 'gymnasium.spaces.box.Box'>``."""
    words: list[str] = re.findall(r"\w+", str(text))
    return words[-1] if words else ""


def _kind(weights: Mapping[str, Tensor], texts: Mapping[str, Any], path: str | Path) -> str:
    """By the names of the weights, if the class of the policy says the same."""
    kind = next(
        (name for name, (start, head, _) in KINDS.items()
         if f"{start}0.weight" in weights or (head is not None and f"{head}.weight" in weights)),
        None,
    )  # fmt: skip
    odd = [k for k in weights if re.search(r"features_extractor\.|lstm|quantile_net", k)]
    home = str(texts.get("policy_class", {}).get("__module__", ""))
    settings = texts.get("policy_kwargs", {})
    reads = _name(settings.get("features_extractor_class", "FlattenExtractor"))
    other = bool(home) and HOMES.get(home) != kind
    if kind is None or odd or other or reads != "FlattenExtractor":
        listed = ", ".join((odd or list(weights))[:6])
        raise CheckpointError(
            f"the policy in {path} is no plain multilayer perceptron of PPO, A2C, DQN, SAC, TD3 or "
            f"DDPG{f' ({home})' if home else ''}: it has {listed or 'no weights'}; {WAY_OUT}"
        )
    if kind == "actor-critic" and settings.get("squash_output"):
        raise CheckpointError(f"{path} squashes the noise of its policy: {WAY_OUT}")
    return kind


def _check_spaces(
    texts: Mapping[str, Any], layers: list[Linear], kind: str, real: bool, path: str | Path
) -> None:
    """That observations are a vector, and actions numbered from 0 or real ones."""
    seen, done = (texts.get(f"{name}_space", {}) for name in ("observation", "action"))
    sees, acts = (_name(space.get(":type:", "")) for space in (seen, done))
    width, shape = layers[0][0].shape[-1], seen.get("_shape")
    if sees not in ("", "Box") or (shape is not None and shape != [width]):
        raise CheckpointError(
            f"{path} reads observations of a {sees[:40]} of shape {str(shape)[:40]}, and its first "
            f"layer {width} numbers: {WAY_OUT}"
        )
    numbered = not real and kind in ("actor-critic", "DQN")
    if numbered and not acts:
        raise CheckpointError(f"{path} does not tell its space of actions: {WAY_OUT}")
    start = str(done.get("start", "0"))
    if acts not in ("", "Discrete" if numbered else "Box") or (numbered and start != "0"):
        raise CheckpointError(
            f"{path} acts in a {acts[:40]} from {start[:20]} on, and is read as "
            f"{'numbered actions from 0' if numbered else 'real actions'}: {WAY_OUT}"
        )
    says = layers[-1][1].numel()
    size = done.get("n" if numbered else "_shape")
    sides = [int(x) for x in re.findall(r"\d{1,9}", re.sub(r"int\d+", "", str(size)))]
    if size is not None and math.prod(sides) != says:
        raise CheckpointError(
            f"{path} tells of actions of size {str(size)[:40]}, and its last layer says {says} "
            f"numbers: {WAY_OUT}"
        )


def _activation(texts: Mapping[str, Any], kind: str, given: str | None, path: str | Path) -> str:
    """As the file tells, as was given, or Stable-Baselines3's own."""
    settings = texts.get("policy_kwargs")
    said = None
    if settings is not None and "activation_fn" in settings:
        said = NAMES.get(_name(settings["activation_fn"]))
    elif settings is not None and "policy_class" in texts:
        said = KINDS[kind][2]
    if given is not None and given not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, got {given!r}")
    if given is None and said is None:
        raise CheckpointError(
            f"{path} does not tell an activation that is known here: pass activation=, one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    if given is not None and said is not None and given != said:
        raise CheckpointError(
            f"activation={given!r}, but {path} says that it is {said!r}: leave it out"
        )
    return str(said if given is None else given)


def _statistics(
    given: Any, width: int, path: str | Path
) -> tuple[Tensor | None, Tensor | None, float | None]:
    """Mean and scale [O] of the observations, and their bound, or three times None."""
    if given is None:
        warnings.warn(
            f"{path} does not tell whether its observations were normalized in training: the "
            "statistics of VecNormalize lie in a file of their own. Pass normalize=, or False if "
            "there were none",
            stacklevel=4,
        )
    if given is None or given is False or getattr(given, "norm_obs", True) is False:
        return None, None, None
    try:
        mean, var = (
            torch.as_tensor(getattr(given.obs_rms, name), dtype=torch.float64)
            for name in ("mean", "var")
        )
        clip, epsilon = float(given.clip_obs), float(given.epsilon)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            "normalize expected False, or what has the obs_rms, epsilon and clip_obs of a "
            f"VecNormalize, got {told(given)}"
        ) from error
    if list(mean.shape) != [width] or mean.shape != var.shape or not (var >= 0).all():
        raise ValueError(
            f"statistics of {list(mean.shape)} numbers and {list(var.shape)} variances of at least "
            f"0: the policy reads {width}"
        )
    if not clip > 0 or not epsilon >= 0:
        raise ValueError(
            f"a VecNormalize cuts at clip_obs > 0 (inf: nowhere) and adds an epsilon ≥ 0, got "
            f"clip_obs={clip:g} and epsilon={epsilon:g}"
        )
    return mean, (var + epsilon).sqrt(), clip


def _bounds(
    texts: Mapping[str, Any], width: int, given: tuple[Any, Any] | None, path: str | Path
) -> tuple[Tensor, Tensor]:
    """Lowest and highest actions [A], as given, and as the file tells where it does."""
    asked = None if given is None else bounds_of(given, width)
    space = texts.get("action_space", {})
    try:
        pair = [[float(x) for x in str(space[k]).strip("[] ").split()] for k in ("low", "high")]
    except (KeyError, ValueError):
        pair = [[], []]
    if any(len(side) != width for side in pair):  # a long array is printed with dots
        if asked is not None:
            return asked
        raise CheckpointError(
            f"{path} does not tell the bounds of its {width} actions: pass bounds=(low, high)"
        )
    try:
        said = bounds_of((pair[0], pair[1]), width)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    # the text has eight digits
    agree = asked is None or all(map(torch.allclose, asked, said))
    if not agree:
        raise CheckpointError(
            f"bounds={told(given)}, but {path} says that they are {said[0].tolist()} and "
            f"{said[1].tolist()}: leave bounds= out"
        )
    return said if asked is None else asked
