"""Policies: small networks that look at a normalized observation and say what to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked, told
from distill_lib.losses._common import full_precision

__all__ = ["PixelPolicy", "Policy"]

# those that RSL-RL knows, under its names
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "selu": nn.SELU, "crelu": nn.CELU,
    "lrelu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "gelu": nn.GELU,
    "swish": nn.SiLU, "mish": nn.Mish, "identity": nn.Identity,
}  # fmt: skip
CLIP = 10.0  # standard deviations, as in Stable-Baselines3
LARGEST = 3e38  # a bound beyond it cuts no number of float32, and is none


@checked
class Policy(nn.Module):
    r"""A multilayer perceptron over a normalized observation.

    .. math:: \bar o = \mathrm{clip}\left(\frac{o - \mu}{\sqrt{\sigma^2 + 10^{-8}}}, -c, c\right)

    Discrete actions: it says ``logits`` [..., A]. Continuous actions: ``mean`` [..., A] and
    ``gaussian`` [..., 2A], the mean and the logarithm of the standard deviation, one after the
    other. With ``critic`` it also says ``value`` [...], for learning by reinforcement.

    The statistics of the observations travel with the weights, and so does a bound that is not 10:
    a student begins with those of its teacher by :meth:`normalize_as`, or, where it sees other
    observations, with those of its own by :meth:`normalize_to`.

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
        ValueError: an activation that is not known, a bound that is not positive; later,
            observations of another width, or a state whose bound is none.
        TypeError: later, observations that are no tensor.

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
        self.clip: float = math.inf if clip is None or clip > LARGEST else float(clip)
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
        # without this, an observation of one number would be spread over all
        mean = self.obs_mean
        if not isinstance(observation, Tensor):
            raise TypeError(f"a Policy expected a tensor of observations, got {told(observation)}")
        if observation.shape[-1:] != mean.shape:
            raise ValueError(
                f"a Policy of {len(mean)} numbers could not be asked about observations "
                f"{list(observation.shape)}, expected [..., {len(mean)}]: give it what it was "
                "trained on; where teacher and student see different things, each has its own "
                "group (rl.Privileged)"
            )
        x = (observation - mean) * (full_precision(self.obs_var) + 1e-8).rsqrt()
        x = x.clamp(-self.clip, self.clip) if self.clip < math.inf else x
        x = x.to(mean.dtype)  # of other widths: float64, as environments say them, or half of ours
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

    @checked
    def normalize_to(self, observations: Tensor, plus: float = 0.0) -> Policy:
        r"""Normalize by the mean and the variance of observations from now on; returns itself.

        .. math:: \mu = \frac1N \sum_n o_n, \qquad
           \sigma^2 = \frac1{N-1} \sum_n (o_n - \mu)^2 + \text{plus}

        Args:
            observations: [N, D], such as those of a first round, N at least 2.
            plus: Added to all variances: a number that has not moved yet may move later, and is
                then at the bound of the normalized observations at once.

        Raises:
            ValueError: observations of another size, less than two of them, or some that are not
                finite, or whose variance is not; a negative ``plus``.

        Example:
            >>> seen = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
            >>> policy = Policy(2, 3).normalize_to(seen, plus=1e-4)
            >>> policy.obs_mean
            tensor([1., 5.])
        """
        size = len(self.obs_mean)
        if observations.ndim != 2 or observations.shape[1] != size or len(observations) < 2:
            raise ValueError(
                f"observations are [N, {size}] with N at least 2, got {list(observations.shape)}"
            )
        if not 0 <= plus < math.inf:
            raise ValueError(f"plus expected a number of at least 0, got {plus}")
        seen = observations.to(self.obs_mean)
        if not seen.isfinite().all():
            raise ValueError(f"some of the {len(seen)} observations are not finite")
        mean, var = seen.mean(0), seen.var(0) + plus
        if not (mean.isfinite() & var.isfinite()).all():
            raise ValueError("observations so large that their variance is not finite")
        self.obs_mean.copy_(mean)
        self.obs_var.copy_(var)
        return self

    # A bound that is not the usual one is saved beside the statistics, 0 for none. It is no buffer:
    # files that do not name it mean the usual one, unless they have no statistics either.

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
        usual = CLIP if f"{prefix}obs_mean" in state_dict else self.clip
        told_bound = torch.as_tensor(state_dict.pop(f"{prefix}obs_clip", usual))
        bound = float(told_bound) if told_bound.numel() == 1 else math.nan
        if not bound >= 0:
            raise ValueError(
                f"{prefix}obs_clip expected a number > 0, or 0 for no bound, got {told(told_bound)}"
                f" {bound:g}: the state is broken, or of another model"
            )
        self.clip = bound if 0 < bound <= LARGEST else math.inf
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@checked
class PixelPolicy(nn.Module):
    r"""A convolutional policy that passes a picture through a few features.

    .. math:: [C, H, W] \to 8 \times 8 \text{ (stride 4)} \to 4 \times 4 \text{ (stride 2)} \to
       \text{features} \to \text{actions}

    It says what :class:`distill_lib.zoo.Policy` says, and ``features`` [..., F] in (-1, 1), all
    that the layers after them know of the picture. Pictures of uint8 are 0 to 255, those of real
    numbers 0 to 1.
    Show it some by :meth:`normalize_to` before it learns: most of a rendered picture is a bright
    background that never changes, and drowns what does.

    Args:
        shape: Channels (of all frames together), height and width; 20 pixels at least.
        actions: Number of actions, or of their coordinates.
        features: F.
        width: Channels of the first convolution; the second has twice as many.
        hidden: Widths of the layers between features and actions.
        continuous: Whether actions are vectors of real numbers.
        critic: Whether a second head on the features says the value.
        std: Standard deviation of the actions before training.

    Raises:
        ValueError: a shape that is no picture, or a picture that is too small; later, pictures of
            another shape or kind.
        TypeError: later, pictures that are no tensor.

    Example:
        >>> policy = PixelPolicy((2, 84, 84), actions=3, features=32)
        >>> policy(torch.zeros(5, 2, 84, 84, dtype=torch.uint8))["features"].shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        shape: Sequence[int],
        actions: int,
        features: int = 32,
        width: int = 8,
        hidden: Sequence[int] = (64,),
        continuous: bool = False,
        critic: bool = False,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        check_counts(actions=actions, features=features, width=width)
        check_counts(**{f"hidden[{i}]": number for i, number in enumerate(hidden)})
        if len(shape) != 3 or not shape[0] >= 1 or not min(shape[1:]) >= 20:
            raise ValueError(
                "shape is that of a picture, (channels, height, width) with at least 20 pixels a "
                f"side; got {tuple(shape)}"
            )
        if not 0 < std < float("inf"):
            raise ValueError(f"std expected a number > 0, got {std}")
        self.shape: tuple[int, ...] = tuple(shape)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("scale", torch.ones(()))
        channels, height, wide = self.shape
        cells = ((height - 4) // 4 - 2) // 2 * (((wide - 4) // 4 - 2) // 2)
        self.encoder: nn.Sequential = nn.Sequential(
            nn.Conv2d(channels, width, 8, 4), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(2 * width * cells, features), nn.Tanh(),
        )  # fmt: skip
        self.net: nn.Sequential = _mlp([features, *hidden, actions], "tanh", last=0.01)
        self.critic: nn.Sequential | None = (
            _mlp([features, *hidden, 1], "tanh", last=1.0) if critic else None
        )
        self.log_std: nn.Parameter | None = (
            nn.Parameter(torch.full((actions,), float(std)).log()) if continuous else None
        )

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """What to do, by name."""
        if not isinstance(picture, Tensor):
            raise TypeError(f"PixelPolicy expected a tensor of pictures, got {told(picture)}")
        if picture.shape[-3:] != self.shape:
            raise ValueError(
                f"PixelPolicy expected pictures {list(self.shape)}, got {list(picture.shape)}"
            )
        x = ((self._real(picture) - self.mean) / self.scale).to(self.mean.dtype)
        found = self.encoder(x.reshape(-1, *self.shape))
        found = found.reshape(*x.shape[:-3], found.shape[-1])
        out = self.net(found)
        if self.log_std is None:
            said = {"logits": out, "features": found}
        else:
            spread = self.log_std.expand_as(out)
            said = {"mean": out, "gaussian": torch.cat([out, spread], -1), "features": found}
        if self.critic is not None:
            said["value"] = self.critic(found).squeeze(-1)
        return said

    def _real(self, picture: Tensor) -> Tensor:
        if picture.is_floating_point():
            return picture
        if picture.dtype != torch.uint8:
            raise ValueError(f"pictures are of uint8 or of real numbers, got {picture.dtype}")
        return picture.to(self.mean.dtype) / 255

    @checked
    def normalize_to(self, pictures: Tensor) -> PixelPolicy:
        """Subtract the mean picture from now on, and divide by the size of what is left.

        Args:
            pictures: [N, C, H, W], such as those of a first round.

        Raises:
            ValueError: pictures of another shape, or that are all alike.
        """
        if pictures.shape[1:] != self.shape or not len(pictures):
            raise ValueError(
                f"pictures are [N, {', '.join(map(str, self.shape))}], got {list(pictures.shape)}"
            )
        x = self._real(pictures)
        mean = x.mean(0)
        scale = (x - mean).square().mean().sqrt()
        if not 0 < scale.item() < math.inf:
            raise ValueError(
                f"{len(pictures)} pictures are all alike, or not finite: there is nothing to see"
            )
        self.mean.copy_(mean)
        self.scale.copy_(scale)
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
