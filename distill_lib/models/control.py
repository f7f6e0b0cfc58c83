"""Policies: small networks that look at a normalized observation and say what to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked

__all__ = ["Policy"]

# those that RSL-RL knows, under its names
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "selu": nn.SELU, "crelu": nn.CELU,
    "lrelu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "gelu": nn.GELU,
    "swish": nn.SiLU, "mish": nn.Mish, "identity": nn.Identity,
}  # fmt: skip
CLIP = 10.0  # standard deviations, as in Stable-Baselines3


@checked
class Policy(nn.Module):
    r"""A multilayer perceptron over a normalized observation.

    .. math:: \bar o = \mathrm{clip}\left(\frac{o - \mu}{\sqrt{\sigma^2 + 10^{-8}}}, -c, c\right)

    Discrete actions: it says ``logits`` [..., A]. Continuous actions: ``mean`` [..., A] and
    ``gaussian`` [..., 2A], the mean and the logarithm of the standard deviation, one after the
    other. With ``critic`` it also says ``value`` [...], for learning by reinforcement.

    The statistics of the observations travel with the weights, and so does a bound that is not 10:
    a student begins with those of its teacher by :meth:`normalize_as`.

    Args:
        observations: Numbers in an observation.
        actions: Number of actions, or of their coordinates.
        hidden: Widths of the hidden layers; empty for a linear policy.
        activation: ``tanh``, ``relu``, ``elu``, or another name of RSL-RL's: ``selu``, ``crelu``,
            ``lrelu``, ``sigmoid``, ``softplus``, ``gelu``, ``swish``, ``mish``, ``identity``.
        continuous: Whether actions are vectors of real numbers.
        critic: Whether there is a second network of the same widths that says the value.
        std: Standard deviation of the actions before training.
        clip: The bound :math:`c` of the normalized observations; None: there is none, as in RSL-RL.

    Raises:
        ValueError: an activation that is not known, a bound that is not positive.

    Example:
        >>> Policy(8, 4, hidden=(18, 18))(torch.zeros(5, 8))["logits"].shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        continuous: bool = False,
        critic: bool = False,
        std: float = 1.0,
        clip: float | None = CLIP,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        check_counts(observations=observations, actions=actions)
        check_counts(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        if not 0 < std < float("inf"):
            raise ValueError(f"std expected a number > 0, got {std}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip expected a number > 0 or None, got {clip}")
        self.clip: float = math.inf if clip is None else float(clip)
        self.obs_mean: Tensor
        self.obs_var: Tensor
        self.register_buffer("obs_mean", torch.zeros(observations))
        self.register_buffer("obs_var", torch.ones(observations))
        self.net: nn.Sequential = _mlp([observations, *hidden, actions], activation, last=0.01)
        self.critic: nn.Sequential | None = (
            _mlp([observations, *hidden, 1], activation, last=1.0) if critic else None
        )
        self.log_std: nn.Parameter | None = (
            nn.Parameter(torch.full((actions,), float(std)).log()) if continuous else None
        )

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """What to do, by name."""
        x = (observation - self.obs_mean) * (self.obs_var + 1e-8).rsqrt()
        x = x.clamp(-self.clip, self.clip) if self.clip < math.inf else x
        out = self.net(x)
        if self.log_std is None:
            said = {"logits": out}
        else:
            said = {"mean": out, "gaussian": torch.cat([out, self.log_std.expand_as(out)], -1)}
        if self.critic is not None:
            said["value"] = self.critic(x).squeeze(-1)
        return said

    @checked
    def normalize_as(self, other: Policy) -> Policy:
        """Take over the statistics of the observations and their bound; returns itself.

        Raises:
            ValueError: the other policy sees other observations.
        """
        if other.obs_mean.shape != self.obs_mean.shape:
            raise ValueError(
                f"this policy sees {len(self.obs_mean)} numbers, the other {len(other.obs_mean)}: "
                "their statistics cannot be shared"
            )
        self.obs_mean.copy_(other.obs_mean)
        self.obs_var.copy_(other.obs_var)
        self.clip = other.clip
        return self

    # A bound that is not the usual one is saved beside the statistics, 0 for none. It is no buffer:
    # files that do not name it mean the usual one.

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.clip != CLIP:
            bound = self.clip if self.clip < math.inf else 0
            destination[f"{prefix}obs_clip"] = torch.tensor(bound)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self.clip = float(state_dict.pop(f"{prefix}obs_clip", CLIP)) or math.inf
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _mlp(sizes: Sequence[int], activation: str, last: float) -> nn.Sequential:
    """Orthogonal weights, zero biases: the usual start of a policy."""
    layers: list[nn.Module] = []
    for i, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(wide, narrow)
        final = i == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, last if final else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if final else [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)
