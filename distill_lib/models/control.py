"""Policies: small networks that look at a normalized observation and say what to do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked

__all__ = ["Policy"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


@checked
class Policy(nn.Module):
    r"""A multilayer perceptron over a normalized observation.

    .. math:: \bar o = \mathrm{clip}\left(\frac{o - \mu}{\sqrt{\sigma^2 + 10^{-8}}}, -10, 10\right)

    Discrete actions: it says ``logits`` [..., A]. Continuous actions: ``mean`` [..., A] and
    ``gaussian`` [..., 2A], the mean and the logarithm of the standard deviation, one after the
    other. With ``critic`` it also says ``value`` [...], for learning by reinforcement.

    The statistics of the observations are buffers, so that they travel with the weights: a student
    begins with those of its teacher by :meth:`normalize_as`.

    Args:
        observations: Numbers in an observation.
        actions: Number of actions, or of their coordinates.
        hidden: Widths of the hidden layers; empty for a linear policy.
        activation: ``tanh``, ``relu`` or ``elu``.
        continuous: Whether actions are vectors of real numbers.
        critic: Whether there is a second network of the same widths that says the value.
        std: Standard deviation of the actions before training.

    Raises:
        ValueError: an activation that is not known.

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
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        check_counts(observations=observations, actions=actions)
        check_counts(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        if not 0 < std < float("inf"):
            raise ValueError(f"std expected a number > 0, got {std}")
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
        x = x.clamp(-10, 10)
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
        """Take over the statistics of the observations; returns itself.

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
        return self


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
